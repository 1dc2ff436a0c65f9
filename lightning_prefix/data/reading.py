"""`Reading`: how the rows of a split are read."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.errors import InputError

__all__ = ["LABEL", "Reading", "cells_of"]

LABEL = "__label__"
"""Name of the label column in the rows to encode: "labels" would hand its type on to the numbers of the same name."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """What the encoders of all tasks know of a split, as plain data: its content is the key of `datasets`' cache.

    Args:
        split: its name, for messages.
        tokenizer: name of the tokenizer.
        text_columns: the text, or the text and its pair, or the columns of the template.
        max_length: tokens a row may have, special ones included.
        template: "Review: {text}", or None.
        preprocess: what is done to each text first.
        drop_empty: leave rows without text out, rather than raise.
        label_column: the user's name of the column that is `LABEL` in the rows; None to read no labels.
        read_label: a cell of it to what is trained on; None to read no labels. It raises `ValueError` with what is
            wrong with the cell, a full stop, and what to do.
        fingerprint: of the code, the tokenizer and the libraries that preprocess; not used but as part of the key.
    """

    split: str
    tokenizer: str
    text_columns: list[str]
    max_length: int
    template: str | None = None
    preprocess: Preprocessing = Preprocessing()
    drop_empty: bool = False
    label_column: str | None = None
    read_label: Callable[[Any], Any] | None = None
    fingerprint: str = ""


def cells_of(given: Any, columns: Sequence[str]) -> dict[str, Any]:
    """The columns of one input of a `Predictor`.

    Args:
        given: a text, a pair of texts, or a dict with the columns.
        columns: those that are read.

    Raises:
        InputError: if it lacks one.
    """
    if not isinstance(given, Mapping):
        values = [given] if isinstance(given, str) else list(given)
        if len(values) != len(columns):
            raise InputError(f"{given!r} is given; this prefix reads {' and '.join(columns)} per input.")
        given = dict(zip(columns, values, strict=True))
    if missing := [column for column in columns if column not in given]:
        raise InputError(f"{given!r} is given; it lacks {', '.join(missing)}.")
    return {column: given[column] for column in columns}
