"""`TextRegressionDataModule`: texts with a number."""

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from lightning_prefix.data.base import TextDataModule

if TYPE_CHECKING:
    import datasets

__all__ = ["TextRegressionDataModule", "read_number"]


class TextRegressionDataModule(TextDataModule):
    """Texts, or pairs of texts, each with a number: ratings, similarity.

    `labels` of a batch are float, (batch,).
    """

    def find_labels(self) -> tuple[str, ...]:
        """No names: the labels are numbers."""
        return ()

    def label_statistics(self) -> tuple[float, float]:
        """Mean and standard deviation of the train labels; 0 and 1 of streamed ones, which nobody has read yet."""
        if self.streaming:
            return 0.0, 1.0
        labels = torch.tensor(list(self._rows("train", "fit")["labels"]), dtype=torch.float64)
        return labels.mean().item(), labels.std(correction=0).item() or 1.0

    def label_reader(self, rows: "datasets.Dataset") -> Callable[[Any], float]:
        """`read_number`, for every split."""
        return read_number


def read_number(value: Any) -> float:
    """The number in a cell.

    Raises:
        ValueError: if it is no finite number.

    Examples:
        >>> read_number("3.5")
        3.5
    """
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError("it must be a finite number. Correct the row, or remove it.")
    return number
