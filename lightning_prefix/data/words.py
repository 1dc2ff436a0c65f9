"""Words and their tags to token numbers: a top-level function with plain arguments, as `encode_rows`."""

import reprlib
from typing import Any

from lightning_prefix.data.checks import row_error, text_of
from lightning_prefix.data.collate import NO_LABEL
from lightning_prefix.data.preprocess import preprocess_text
from lightning_prefix.data.reading import LABEL, Reading
from lightning_prefix.data.tokenize import label_of_row, load_tokenizer
from lightning_prefix.errors import InputError

__all__ = ["encode_words", "first_tokens", "tags_of"]


def tags_of(cell: Any) -> list[Any]:
    """The tags in a cell: a list, a text with blanks, or none.

    Raises:
        InputError: if it is a list that was printed, as pandas writes lists to csv.

    Example:
        >>> tags_of("B-PER O"), tags_of([1, 0]), tags_of(None)
        (['B-PER', 'O'], [1, 0], [])
    """
    if not isinstance(cell, str):
        return list(cell or ())
    if cell.startswith("["):
        raise InputError(
            f"the tags {reprlib.repr(cell)} are a list written as text; words and tags in csv and tsv files have "
            "blanks between them: O B-PER O. Write them so, or as lists to a jsonl file."
        )
    return cell.split()


def first_tokens(word_ids: list[int | None], words: int) -> list[int]:
    """The position of each word's first token, -1 for a word without one.

    Args:
        word_ids: per token the number of its word, None for special tokens.
        words: how many there are.

    Example:
        >>> first_tokens([None, 0, 0, 2, None], 4)
        [1, -1, 3, -1]
    """
    firsts = {word: position for position, word in reversed([*enumerate(word_ids)])}
    return [firsts.get(word, -1) for word in range(words)]


def encode_words(
    rows: dict[str, list[Any]],
    indices: list[int],
    reading: Reading,
    *,
    labels: tuple[str, ...],
) -> dict[str, list[Any]]:
    """Tokenise the words of a batch of rows, and put each tag at its word's first token.

    Args:
        rows: column -> values.
        indices: position of each row in its split, from 0.
        reading: how; its steps and `read_label` are for one word and its tag.
        labels: names of the tags in the order of their numbers.

    Returns:
        What the tokenizer returns, "word_positions", "labels" and "tags" or "words", "row" (position in the split) and
        "cut" (whether the row was too long).

    Raises:
        InputError: for the first row without words, or whose tags do not fit.
    """
    (column,), split = reading.text_columns, reading.split
    sentences = [_words(cell, index, column, split) for cell, index in zip(rows[column], indices, strict=True)]
    tokens = _tokenise(sentences, reading)
    positions = [first_tokens(tokens.word_ids(i), len(words)) for i, words in enumerate(sentences)]
    kept = [i for i in range(len(indices)) if max(positions[i], default=-1) >= 0]
    if not reading.drop_empty and len(kept) < len(indices):
        index = indices[next(i for i in range(len(indices)) if i not in kept)]
        raise row_error(
            split,
            index,
            f"has no word in the column {column!r} that the tokenizer {reading.tokenizer!r} makes tokens of",
            "Every row needs one that is not blank. Correct it, or set drop_empty=True to leave such rows out.",
        )
    columns = {name: [values[i] for i in kept] for name, values in tokens.items()}
    columns["word_positions"] = [positions[i] for i in kept]
    columns |= {"row": [indices[i] for i in kept], "cut": [bool(tokens.encodings[i].overflowing) for i in kept]}
    if reading.label_column is None or reading.read_label is None:
        return {**columns, "words": [sentences[i] for i in kept]}
    columns["labels"], columns["tags"] = [], []
    for i in kept:
        tags = tags_of(rows[LABEL][i])
        if len(tags) != len(sentences[i]):
            raise row_error(
                split,
                indices[i],
                f"has {len(sentences[i])} words in {column!r} and {len(tags)} tags in {reading.label_column!r}",
                "Each word has one tag; correct the row.",
            )
        numbers = [label_of_row(tag, indices[i], reading.label_column, split, reading.read_label) for tag in tags]
        at = dict(zip(positions[i], numbers, strict=True))
        columns["labels"].append([at.get(token, NO_LABEL) for token in range(len(tokens["input_ids"][i]))])
        columns["tags"].append([labels[number] for number in numbers])
    return columns


def _words(cell: Any, index: int, column: str, split: str) -> list[str]:
    """As they are, but for white space around them."""
    try:
        return cell.split() if isinstance(cell, str) else [(text_of(word) or "").strip() for word in cell or ()]
    except TypeError:
        raise row_error(
            split,
            index,
            f"has {reprlib.repr(cell)} in the column {column!r}, which is no list of words",
            "Name a column of lists of texts, or of texts with blanks between the words.",
        ) from None


def _tokenise(sentences: list[list[str]], reading: Reading) -> Any:
    loaded = load_tokenizer(reading.tokenizer)
    if not loaded.is_fast:
        raise InputError(
            f"the tokenizer {reading.tokenizer!r} has no fast version, which alone tells the word of each token. Give "
            "a backbone with one, or tokenizer=."
        )
    # GPT-2's kind gives "film" other tokens than " film"; only the second is how a word looks in running text
    alone = loaded.tokenize("a")
    blank = "" if loaded.tokenize("a a")[-len(alone) :] == alone else " "
    processed = [[preprocess_text(word, reading.preprocess) for word in words] for words in sentences]
    spaced = [[blank + word if word else "" for word in words] for words in processed]
    return loaded(spaced, is_split_into_words=True, truncation=True, max_length=reading.max_length, verbose=False)
