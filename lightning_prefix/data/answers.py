"""Answers in a cell, and where they stand in their context."""

import reprlib
from collections.abc import Mapping
from typing import Any

from lightning_prefix.data.checks import row_error, text_of

__all__ = ["Answer", "answer_span", "has_answer", "read_answers"]

Answer = tuple[str, int | None]
"""Its text, and where it starts in the context, in characters, if that is known."""


def read_answers(value: Any) -> list[Answer]:
    """The right answers in a cell, those without text left out.

    Args:
        value: SQuAD's dict of two lists, a text, a list of texts, or None for no answer.

    Raises:
        ValueError: if it is something else.

    Examples:
        >>> read_answers({"text": ["in Paris"], "answer_start": [7]}), read_answers("Paris"), read_answers("")
        ([('in Paris', 7)], [('Paris', None)], [])
    """
    starts: Any = None
    if isinstance(value, Mapping):
        texts, starts = value.get("text"), value.get("answer_start")
    else:
        texts = value if isinstance(value, list) else [value]
    starts = [None] * len(texts or ()) if starts is None else starts
    if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
        raise ValueError(
            'it is no answer. Give a text, a list of texts, or {"text": [...], "answer_start": [...]} with two lists '
            "of one length; empty where there is no answer."
        )
    try:
        read = [(text_of(text), start) for text, start in zip(texts, starts, strict=True)]
    except TypeError:
        raise ValueError("an answer is a text. Correct the row.") from None
    return [(text, start) for text, start in read if text is not None]


def has_answer(value: Any) -> bool:
    """Whether there is an answer in a cell, right or wrong."""
    try:
        return bool(read_answers(value))
    except ValueError:
        return True  # its row is named when it is encoded


def answer_span(text: str, start: int | None, context: str, split: str, index: int) -> tuple[int, int]:
    """Start and end of an answer in characters of the context, without white space around it.

    Args:
        text: of the answer.
        start: its first character, from 0; None for its first occurrence.
        context: where it stands.
        split: name of the split, for the message.
        index: position of the row in it.

    Raises:
        InputError: if it does not stand there.
    """
    place = context.find(text) if start is None else start
    if place < 0 or not context.startswith(text, place):
        there = "not" if start is None else f"not at character {start}"
        raise row_error(
            split,
            index,
            f"has the answer {reprlib.repr(text)}, which is {there} in its context {_around(context, start)}",
            "Copy the answer from the context letter by letter"
            + ("" if start is None else " and count characters from 0")
            + "; leave it empty where there is none.",
        )
    return place + len(text) - len(text.lstrip()), place + len(text.rstrip())


def _around(context: str, start: int | None) -> str:
    first = max(0, (start or 0) - 20)
    shown = context[first : first + 60]
    return repr(("..." if first else "") + shown + ("..." if first + 60 < len(context) else ""))
