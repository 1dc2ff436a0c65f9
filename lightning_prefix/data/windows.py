"""Questions with their contexts as windows of tokens, with the place of every token in the context."""

from collections.abc import Sequence
from typing import Any

from lightning_prefix.data.checks import row_error
from lightning_prefix.errors import InputError

__all__ = ["NOT_IN_CONTEXT", "context_windows", "model_inputs", "span_labels"]

NOT_IN_CONTEXT = (-1, -1)
"""The offsets of a token of the question, of a special token, and of white space."""

Window = dict[str, Any]


def model_inputs(tokenizer: Any) -> list[str]:
    """Names of what the tokenizer returns for a question with its context."""
    return list(tokenizer("a", "a"))


def context_windows(
    tokenizer: Any,
    questions: list[str],
    contexts: list[str],
    *,
    indices: list[int],
    split: str,
    max_length: int,
    stride: int,
) -> list[list[Window]]:
    """The windows of each row: the whole question, then as much of the context as there is room for.

    Where the tokenizer has neither a classification nor a separator token (decoders), a line break follows the
    question; where it also ends no text by itself, its end token stands at the end of each window.

    Args:
        tokenizer: a fast one.
        questions: one per row.
        contexts: one per row.
        indices: positions of the rows in their split, for messages.
        split: its name, for messages.
        max_length: tokens of a window.
        stride: tokens of the context that a window shares with the one before, >= 0.

    Returns:
        Per row its windows: what the tokenizer returns; "offsets", (start, end) in characters of the context for each
        token, without white space, `NOT_IN_CONTEXT` elsewhere; "null", the position that stands for "no answer": the
        classification token, or the last one.

    Raises:
        InputError: for a slow tokenizer, a question that leaves no room, or a context without tokens.
    """
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer {tokenizer.name_or_path!r} ({type(tokenizer).__name__}) is a slow one, which does not "
            "tell where a token stands in the text; extractive question answering needs that. Give one with a "
            "tokenizer.json."
        )
    if not questions:
        return []
    if tokenizer.cls_token_id is None and tokenizer.sep_token_id is None:
        questions = [f"{question}\n" for question in questions]
    end = _end_token(tokenizer)
    free = max_length - len(end) - tokenizer.num_special_tokens_to_add(pair=True)
    _check_room(tokenizer, questions, contexts, indices, split, max_length, free, stride)
    encoded = tokenizer(
        questions,
        contexts,
        truncation="only_second",
        max_length=max_length - len(end),
        stride=min(stride, free - 1),  # a larger one is allowed where no row is cut
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        verbose=False,
    )
    names = model_inputs(tokenizer)
    windows: list[list[Window]] = [[] for _ in questions]
    for number, row in enumerate(encoded["overflow_to_sample_mapping"]):
        window = {name: list(encoded[name][number]) for name in names}
        places = zip(encoded.sequence_ids(number), encoded["offset_mapping"][number], strict=True)
        window["offsets"] = [
            _trimmed(contexts[row], *place) if sequence == 1 else NOT_IN_CONTEXT for sequence, place in places
        ]
        windows[row].append(_closed(window, end, names, tokenizer.cls_token_id))
    for row, found in enumerate(windows):
        if all(place == NOT_IN_CONTEXT for window in found for place in window["offsets"]):
            problem = f"has the context {contexts[row][:60]!r}, of which the tokenizer makes no token"
            raise row_error(split, indices[row], problem, "Give it a context of words.")
    return windows


def span_labels(windows: list[Window], answer: tuple[int, int] | None) -> list[list[int]]:
    """The first and the last token of the answer in each window; twice the null position where it is not whole.

    Args:
        windows: of one row.
        answer: its start and end in characters of the context; None where there is none.
    """
    start, end = answer or (0, 0)
    touched = [
        [n for n, place in enumerate(window["offsets"]) if place[0] < end and place[1] > start and place[0] >= 0]
        for window in windows
    ]
    places = [window["offsets"][n] for window, numbers in zip(windows, touched, strict=True) for n in numbers]
    labels = []
    for window, numbers in zip(windows, touched, strict=True):
        inside = [window["offsets"][n] for n in numbers]
        is_whole = inside and min(inside)[0] == min(places)[0] and inside[-1][1] == max(e for _, e in places)
        labels.append([numbers[0], numbers[-1]] if is_whole else [window["null"]] * 2)
    return labels


def _end_token(tokenizer: Any) -> list[int]:
    """The token to be put at the end of a window, if any."""
    end = tokenizer.eos_token_id
    has_null = tokenizer.cls_token_id is not None or end is None
    return [] if has_null or tokenizer("a", "a")["input_ids"][-1] == end else [end]


def _check_room(
    tokenizer: Any,
    questions: list[str],
    contexts: list[str],
    indices: list[int],
    split: str,
    max_length: int,
    free: int,
    stride: int,
) -> None:
    def count(text: str | list[str]) -> Any:
        return tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]

    for index, context, tokens in zip(indices, contexts, count(questions), strict=True):
        room = free - len(tokens)
        has = f"has a question of {len(tokens)} tokens, which leaves {max(room, 0)} of max_length {max_length} for"
        if room < 1:
            raise row_error(split, index, f"{has} the context", "Shorten the question or raise max_length.")
        if stride >= room and len(count(context)) > room:
            problem = f"{has} each window of the context; stride {stride} must be smaller than that"
            raise row_error(split, index, problem, f"Give a stride such as {room // 2}, or raise max_length.")


def _trimmed(context: str, start: int, end: int) -> tuple[int, int]:
    """Without white space at both ends, which some tokenizers count to a token."""
    text = context[start:end]
    if not text.strip():
        return NOT_IN_CONTEXT
    return start + len(text) - len(text.lstrip()), end - len(text) + len(text.rstrip())


def _closed(window: Window, end: list[int], names: Sequence[str], classification: int | None) -> Window:
    """The window with its end token and its null position."""
    if end:
        for name in names:
            window[name].append(end[0] if name == "input_ids" else window[name][-1])
        window["offsets"].append(NOT_IN_CONTEXT)
    ids = window["input_ids"]
    window["null"] = ids.index(classification) if classification in ids else len(ids) - 1
    return window
