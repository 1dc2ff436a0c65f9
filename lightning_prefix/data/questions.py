"""Rows of questions to windows of tokens with the places of their answers."""

from typing import Any

from lightning_prefix.data.answers import Answer, answer_span
from lightning_prefix.data.reading import Reading
from lightning_prefix.data.tokenize import labels_of_rows, load_tokenizer, texts_of_rows
from lightning_prefix.data.windows import context_windows, model_inputs, span_labels

__all__ = ["encode_questions"]

Place = tuple[int, int]


def encode_questions(
    rows: dict[str, list[Any]],
    indices: list[int],
    reading: Reading,
    *,
    stride: int,
    is_training: bool,
    answer_start_column: str | None = None,
) -> dict[str, list[Any]]:
    """Windows of a batch of questions, and where their answers are.

    Beyond the arguments of `encode_rows`, `text_columns` being the question and the context: `stride`, tokens of the
    context that a window shares with the one before; `is_training`, for one row a window rather than one a question;
    `answer_start_column`, of the answer's first character.

    Returns:
        For training what the tokenizer returns, "labels" (first and last token of the first answer), "row" and "cut"
        (never). For evaluation the same with a list of windows in each column, and "offsets", "null" (see
        `context_windows`), "context", "references" and "length" (tokens of all windows).

    Raises:
        InputError: for the first row without text, without room for its context, or with a bad answer.
    """
    kept, texts = texts_of_rows(rows, indices, reading)
    places = [indices[position] for position in kept]
    questions, contexts = ([text[column] for text in texts] for column in reading.text_columns)
    loaded = load_tokenizer(reading.tokenizer)
    windows = context_windows(
        loaded, questions, contexts, indices=places, split=reading.split, max_length=reading.max_length, stride=stride
    )
    columns: dict[str, list[Any]] = {
        name: [[window[name] for window in found] for found in windows]
        for name in (*model_inputs(loaded), *(() if is_training else ("offsets", "null")))
    }
    answers = []
    if (cells := labels_of_rows(rows, indices, kept, reading)) is not None:
        if answer_start_column is not None:
            cells = [_with_start(cell, rows[answer_start_column][n]) for cell, n in zip(cells, kept, strict=True)]
        answers = [_found(*row, reading.split) for row in zip(cells, contexts, places, strict=True)]
        columns["labels"] = [
            span_labels(found, answer[0][1] if answer else None) for found, answer in zip(windows, answers, strict=True)
        ]
    if is_training:
        columns["row"] = [[place] * len(found) for place, found in zip(places, windows, strict=True)]
        flat = {name: [window for found in values for window in found] for name, values in columns.items()}
        return {**flat, "cut": [False] * len(flat["row"])}
    if "labels" in columns:
        # an empty text for no answer: a first batch of empty lists would have no type
        columns["references"] = [[text for text, _ in answer] or [""] for answer in answers]
    lengths = [sum(len(window["input_ids"]) for window in found) for found in windows]
    return {**columns, "context": contexts, "row": places, "cut": [False] * len(places), "length": lengths}


def _with_start(answers: list[Answer], start: Any) -> list[Answer]:
    """The answer of a table, with the number in its column of starts, if there is one."""
    return [(text, int(start)) for text, _ in answers] if start not in (None, "") else answers


def _found(answers: list[Answer], context: str, index: int, split: str) -> list[tuple[str, Place]]:
    return [(text, answer_span(text, start, context, split, index)) for text, start in answers]
