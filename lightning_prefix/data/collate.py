"""Rows to a batch: a plain dict of tensors, padded at the right to the longest row."""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch.utils.data import Dataset

if TYPE_CHECKING:
    import datasets

__all__ = ["Collator", "IndexedRows"]


class IndexedRows(Dataset[dict[str, Any]]):
    """Tokenised rows, each with its position as "index".

    Args:
        rows: a split as `encode_rows` returns it.
    """

    def __init__(self, rows: "datasets.Dataset") -> None:
        self.rows = rows.remove_columns(["row", "cut"])

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.rows[index], "index": index}

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The rows of one batch, read together."""
        return [{**row, "index": index} for index, row in zip(indices, self.rows.__getitems__(indices), strict=True)]


@dataclass(frozen=True)
class Collator:
    """Makes a batch of rows.

    Args:
        padding: key -> number that fills the end of shorter rows; 0 for keys that are not named.

    Examples:
        >>> rows = [{"input_ids": [5, 6], "labels": 1, "index": 0}]
        >>> rows.append({"input_ids": [7], "labels": 0, "index": 1})
        >>> Collator({"input_ids": 9})(rows)
        {'input_ids': tensor([[5, 6],
                [7, 9]]), 'labels': tensor([1, 0]), 'index': tensor([0, 1])}
    """

    padding: dict[str, int] = field(default_factory=dict)

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Pad and stack.

        Args:
            rows: lists of ints (tokens) per key; "labels" an int, a float or a list; "index" an int.

        Returns:
            `input_ids` and its likes (batch, tokens), long; `labels` (batch,) long or float, or
            (batch, num_labels) float; `index` (batch,) long.
        """
        batch: dict[str, torch.Tensor] = {}
        for key in rows[0]:
            values = [row[key] for row in rows]
            if key == "index":
                batch[key] = torch.tensor(values)
            elif key == "labels":
                is_class = isinstance(values[0], int)
                batch[key] = torch.tensor(values, dtype=torch.long if is_class else torch.float32)
            else:
                longest = max(len(value) for value in values)
                fill = self.padding.get(key, 0)
                batch[key] = torch.tensor([[*value, *[fill] * (longest - len(value))] for value in values])
        return batch
