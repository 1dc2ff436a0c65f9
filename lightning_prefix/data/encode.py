"""A split of raw rows to a split of tokens, through `datasets`' cache."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lightning_prefix.data.checks import check_columns
from lightning_prefix.data.preprocess import Preprocessing, library_versions
from lightning_prefix.data.reading import LABEL, Reading
from lightning_prefix.data.tokenize import VERSION, encode_rows, tokenizer_fingerprint
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["as_rows", "check_text_columns", "cut_off", "describe_changes", "encode_split"]


def encode_split(
    rows: "datasets.Dataset",
    reading: Reading,
    *,
    function: Callable[..., dict[str, list[Any]]] = encode_rows,
    more_columns: Sequence[str] = (),
    **more: Any,
) -> "datasets.Dataset":
    """Tokenise a split and read its labels.

    Args:
        rows: as they are.
        reading: how; its fingerprint is made here.
        function: a top-level function with the first arguments of `encode_rows`.
        more_columns: handed to the function with the texts and labels.
        **more: the function's further arguments.

    Raises:
        InputError: for a column that is not there, the first five bad rows, or if no row is left.
    """
    texts, label = reading.text_columns, reading.label_column
    check_text_columns(rows, reading)
    rows = rows.select_columns([*texts, *more_columns, *([] if label is None else [label])])
    if label is not None:
        rows = rows.rename_column(label, LABEL)
    versions = f"{VERSION} {tokenizer_fingerprint(reading.tokenizer)} {library_versions(reading.preprocess)}"
    encoded = rows.map(
        function,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        fn_kwargs={"reading": replace(reading, fingerprint=versions), **more},
        desc=f"Tokenizing {reading.split}",
    )
    if len(encoded) == 0:
        raise InputError(
            f"all {len(rows)} rows of {reading.split!r} are without text in {texts}"
            + (". " if reading.preprocess == Preprocessing() else ", or preprocessing removed it. ")
            + "Name the column that holds the text."
        )
    return encoded


def check_text_columns(rows: Any, reading: Reading) -> None:
    """Raise `InputError` for the first column of texts that the rows, or the stream, do not have."""
    option = "text_column" if reading.template is None else "template"
    check_columns(rows, reading.text_columns, reading.split, option)


def as_rows(columns: Mapping[str, list[Any]], without: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of what an encoder returned.

    Example:
        >>> as_rows({"input_ids": [[5], [6, 7]], "cut": [False, True]}, without=["cut"])
        [{'input_ids': [5]}, {'input_ids': [6, 7]}]
    """
    kept = {name: values for name, values in columns.items() if name not in without}
    return [dict(zip(kept, row, strict=True)) for row in zip(*kept.values(), strict=True)]


def cut_off(rows: "datasets.Dataset", fraction: float, seed: int) -> "tuple[datasets.Dataset, datasets.Dataset]":
    """The rows without a random share of them, and the share.

    Raises:
        InputError: if one would be empty.
    """
    try:
        parts = rows.train_test_split(test_size=fraction, seed=seed)
    except ValueError as error:
        raise InputError(
            f"{len(rows)} train rows are too few to cut {fraction:g} off for validation. "
            "Give a validation split, more rows, or another validation_fraction."
        ) from error
    return parts["train"], parts["test"]


def describe_changes(encoded: "datasets.Dataset", total: int, split: str, max_length: int) -> list[str]:
    """One line for rows that were left out, and one for rows that were cut.

    Args:
        encoded: what `encode_split` returned.
        total: rows before.
        split: name of the split.
        max_length: tokens a row may have.
    """
    lines = []
    if (left_out := total - len(set(encoded["row"][:]))) > 0:
        lines.append(f"{left_out} of {total} rows of {split!r} have no text and were left out.")
    cut = sum(encoded["cut"][:])
    if cut:
        lines.append(f"{cut} of {len(encoded)} texts of {split!r} were cut to max_length={max_length} tokens.")
    return lines
