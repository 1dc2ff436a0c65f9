"""A split of raw rows to a split of tokens, through `datasets`' cache."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from lightning_prefix.data.checks import check_columns
from lightning_prefix.data.preprocess import Preprocessing, library_versions
from lightning_prefix.data.tokenize import VERSION, encode_rows, tokenizer_fingerprint
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["describe_changes", "encode_split"]

_LABEL = "__label__"  # a column named "labels" would hand its type on to the numbers of the same name


def encode_split(
    rows: "datasets.Dataset",
    *,
    split: str,
    tokenizer: str,
    max_length: int,
    text_columns: list[str],
    template: str | None,
    drop_empty: bool,
    preprocess: Preprocessing = Preprocessing(),
    label_column: str | None = None,
    function: Callable[..., dict[str, list[Any]]] = encode_rows,
    more_columns: Sequence[str] = (),
    **more: Any,
) -> "datasets.Dataset":
    """Tokenise a split and read its labels; the arguments are those of `encode_rows`, or of another top-level function.

    `more_columns` are handed to the function with the texts and labels.

    Raises:
        InputError: for a column that is not there, the first bad row, or if no row is left.
    """
    check_columns(rows, text_columns, split, "text_column" if template is None else "template")
    if label_column is not None:
        rows = rows.select_columns([*text_columns, *more_columns, label_column]).rename_column(label_column, _LABEL)
    else:
        rows = rows.select_columns([*text_columns, *more_columns])
    arguments = {
        "split": split,
        "tokenizer": tokenizer,
        "fingerprint": f"{tokenizer_fingerprint(tokenizer)} {library_versions(preprocess)}",
        "version": VERSION,
        "text_columns": text_columns,
        "preprocess": preprocess,
        "template": template,
        "max_length": max_length,
        "drop_empty": drop_empty,
        "label_column": None if label_column is None else _LABEL,
        "label_name": label_column,
        **more,
    }
    encoded = rows.map(
        function,
        batched=True,
        with_indices=True,
        remove_columns=rows.column_names,
        fn_kwargs=arguments,
        desc=f"Tokenizing {split}",
    )
    if len(encoded) == 0:
        raise InputError(
            f"all {len(rows)} rows of {split!r} are without text in {text_columns}"
            + (". " if preprocess == Preprocessing() else ", or preprocessing removed it. ")
            + "Name the column that holds the text."
        )
    return encoded


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
