"""Checks of options and rows; each failure says what was given, what is allowed, and what to do."""

import difflib
import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, TypeVar

from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = [
    "MOST_ERRORS",
    "RowError",
    "check_at_least",
    "check_columns",
    "check_fraction",
    "check_label_is_no_text",
    "check_labelled",
    "check_overfitting",
    "check_packing",
    "check_source",
    "is_unlabelled",
    "read_each",
    "row_error",
    "text_of",
]

MOST_ERRORS = 5
"""Bad rows that one message names."""

Row = TypeVar("Row")
Read = TypeVar("Read")


def check_at_least(name: str, value: int | None, least: int) -> None:
    """Raise `InputError` unless `value` >= `least`, or None."""
    if value is not None and value < least:
        raise InputError(f"{name}={value} was given; it must be at least {least}. Give a larger {name}.")


def check_fraction(name: str, value: float) -> None:
    """Raise `InputError` unless `value` lies between 0 and 1, both excluded."""
    if not 0 < value < 1:
        raise InputError(
            f"{name}={value} was given; it must lie between 0 and 1, both excluded. Give the share of the "
            "train split that is cut off, such as 0.1."
        )


def check_source(source: Any) -> None:
    """Raise `InputError` unless there is one."""
    if source is None:
        raise InputError(
            "no source was given; it is needed for everything but predicting with `predict`. Give "
            "source=, such as 'stanfordnlp/sst2', a folder, or a file."
        )


def check_columns(rows: "datasets.Dataset", columns: Iterable[str], split: str, options: str) -> None:
    """Raise `InputError` for the first of `columns` that the rows do not have.

    Args:
        rows: one split.
        columns: names that must be there.
        split: name of the split, for the message.
        options: the options that name the columns, for the message: "text_column".
    """
    for column in columns:
        if column not in rows.column_names:
            near = difflib.get_close_matches(column, rows.column_names, n=1)
            raise InputError(
                f"{split!r} has no column {column!r}; its columns are "
                f"{', '.join(map(repr, rows.column_names))}. "
                + (f"Did you mean {near[0]!r}? Set {options}." if near else f"Set {options} to one of these.")
            )


class RowError(InputError):
    """One row of a split cannot be read; made by `row_error`.

    Attributes:
        row: what is wrong with which row.
        advice: what to do.
    """

    row: str
    advice: str


def row_error(split: str, index: int, problem: str, advice: str) -> RowError:
    """The error for one bad row.

    Args:
        split: name of the split.
        index: position of the row in its split, from 0; the message counts from 1.
        problem: what is wrong, as in "row 7 of 'train' <problem>".
        advice: what to do.
    """
    row = f"row {index + 1} of {split!r} {problem}"
    error = RowError(f"{row}. {advice}")
    error.row, error.advice = row, advice
    return error


def read_each(read: Callable[[Row], Read], rows: Iterable[Row]) -> list[Read]:
    """What a function makes of each row; the first five rows that it refuses are one error.

    Args:
        read: of one row.
        rows: of a split.

    Raises:
        RowError: if the function raises it.
    """
    made: list[Read] = []
    errors: list[RowError] = []
    for row in rows:
        try:
            made.append(read(row))
        except RowError as error:  # noqa: PERF203  # the error is per row
            errors.append(error)
            if len(errors) == MOST_ERRORS:
                break
    if len(errors) == 1:
        raise errors[0]
    if errors:
        more = "There may be more. " if len(errors) == MOST_ERRORS else ""
        raise RowError(f"{'; '.join(error.row for error in errors)}. {more}{errors[0].advice}")
    return made


def text_of(value: Any) -> str | None:
    """The value as text; None if it is missing, empty or blank.

    Raises:
        TypeError: if the value is a list or dict.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list | dict | bytes):
        raise TypeError(type(value).__name__)
    text = str(value)
    return text if text.strip() else None


def is_unlabelled(rows: "datasets.Dataset", label_column: str, labels: tuple[str, ...]) -> bool:
    """Whether every label is missing, or -1 as in the hidden test sets of the hub.

    Args:
        rows: one split.
        label_column: must be one of its columns.
        labels: names of the classes, in case "-1" is one.
    """
    if isinstance(rows[0][label_column], list):
        return False
    values = {None if value is None else str(value) for value in rows.unique(label_column)}
    missing = {None} if "-1" in labels else {None, "-1", "-1.0"}
    return values <= missing


def check_labelled(
    rows: "datasets.Dataset", label_column: str, labels: tuple[str, ...], split: str, option: str
) -> None:
    """Raise `InputError` if the split has no labels; `option` is the one that names the split."""
    if is_unlabelled(rows, label_column, labels):
        raise InputError(
            f"the split {split!r} has no labels: every {label_column!r} is -1 or missing, as in hidden test "
            f"sets. Name another split with {option}, such as 'validation'."
        )


def check_label_is_no_text(label_column: str, text_columns: list[str]) -> None:
    """Raise `InputError` if the label is part of the text."""
    if label_column in text_columns:
        raise InputError(
            f"the label column {label_column!r} is part of the text {text_columns}; the answer would be read "
            "off. Set label_column, or take the column out of the text."
        )


def check_packing(
    name: str,
    can_pack: bool,
    packing: bool,
    packed_length: int | None,
    max_batch_tokens: int | None,
    streaming: bool = False,
) -> None:
    """Raise `InputError` unless the options of training batches go together.

    Args:
        name: of the class of the data.
        can_pack: whether several of its examples may share a row.
        packing: as in `TextDataModule`.
        packed_length: as in `TextDataModule`.
        max_batch_tokens: as in `TextDataModule`.
        streaming: as in `TextDataModule`.
    """
    if packing and streaming:
        raise InputError("packing and streaming are given; rows of a stream are not packed. Use one of the two.")
    if packing and not can_pack:
        raise InputError(
            f"packing is given, but {name} reads one example a row. Leave it out; group_by_length and "
            "max_batch_tokens save padding."
        )
    if packing and max_batch_tokens is not None:
        raise InputError(
            f"packing and max_batch_tokens {max_batch_tokens} are given; packed batches have batch_size rows of "
            "packed_length tokens. Leave max_batch_tokens out."
        )
    if packed_length is not None and not packing:
        raise InputError(f"packed_length {packed_length} is given without packing; set packing=True.")
    check_at_least("packed_length", packed_length, 1)


def check_overfitting(trainer: Any, packing: bool, max_batch_tokens: int | None) -> None:
    """Raise `InputError` where Lightning would take rows one by one of a loader whose batches are made of lengths."""
    given = getattr(trainer, "overfit_batches", 0)
    if given and (packing or max_batch_tokens is not None):
        raise InputError(
            f"trainer.overfit_batches {given} is given with "
            f"{'packing' if packing else 'max_batch_tokens'}; it takes rows in their order, a fixed "
            "number for each batch. Leave one of the two out."
        )
