"""The check that every metric makes of its rows."""

from collections.abc import Sequence

from lightning_prefix.errors import InputError

__all__ = ["check_rows"]


def check_rows(predictions: Sequence[object], references: Sequence[Sequence[str]], least: int = 1) -> None:
    """Raise `InputError` unless there is one row of references for each prediction.

    Args:
        predictions: one per row.
        references: texts or tags, a list of them per row.
        least: references that each row must have, >= 0.
    """
    if len(predictions) != len(references):
        raise InputError(
            f"{len(predictions)} predictions and {len(references)} rows of references are given; there is one row "
            "for each prediction. Give both for the same examples."
        )
    for index, row in enumerate(references):
        if isinstance(row, str):
            raise InputError(
                f"references {row!r} of row {index + 1} is one text; a list of texts is needed: [{row!r}]."
            )
        if len(row) < least:
            raise InputError(f"row {index + 1} has no reference; one or more are needed. Leave such rows out.")
