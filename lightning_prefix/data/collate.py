"""Rows to a batch: a plain dict of tensors, padded at the right to the longest row."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.data import Dataset

if TYPE_CHECKING:
    import datasets

__all__ = ["NO_LABEL", "Collator", "IndexedRows", "join"]

NO_LABEL = -100
"""A label that the loss leaves out, as everywhere in transformers."""


class IndexedRows(Dataset[dict[str, Any]]):
    """Tokenised rows, each with its place in the raw split as "index".

    Args:
        rows: a split as `encode_split` returns it.
    """

    def __init__(self, rows: "datasets.Dataset") -> None:
        self.rows = rows.remove_columns(["cut", *({"length"} & set(rows.column_names))]).rename_column("row", "index")

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int | list[int]) -> Any:
        return self.__getitems__(index) if isinstance(index, list) else dict(self.rows[index])

    def __getitems__(self, indices: list[int]) -> list[dict[str, Any]]:
        """The rows of one batch, read together."""
        return list(self.rows.__getitems__(indices))


@dataclass(frozen=True)
class Collator:
    """Makes a batch of rows.

    Args:
        padding: key -> number that fills the end of shorter rows; 0 for keys that are not named.
        kept: keys whose values are handed on as they are.

    Examples:
        >>> rows = [{"input_ids": [5, 6], "labels": 1, "index": 0}]
        >>> rows.append({"input_ids": [7], "labels": 0, "index": 1})
        >>> Collator({"input_ids": 9})(rows)
        {'input_ids': tensor([[5, 6],
                [7, 9]]), 'labels': tensor([1, 0]), 'index': tensor([0, 1])}
    """

    padding: dict[str, int] = field(default_factory=dict)
    kept: tuple[str, ...] = ()

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Pad and stack.

        Args:
            rows: lists of ints (tokens) per key; "labels" an int, a float, a list of floats or one of ints (a number
                for every token); "index" an int. Values of other types are handed on as they are.

        Returns:
            `input_ids` and its likes (batch, tokens), long; `labels` (batch,) long or float, (batch, num_labels)
            float, or (batch, tokens) long with -100 where there is no label; `index` (batch,) long.
        """
        return {key: self._stack(key, [row[key] for row in rows]) for key in rows[0]}

    def _stack(self, key: str, values: list[Any]) -> Any:
        first = values[0][0] if isinstance(values[0], list) and values[0] else values[0]
        if key in self.kept or not isinstance(first, int | float):
            return values
        if isinstance(first, float) or not isinstance(values[0], list):
            return torch.tensor(values, dtype=torch.float32 if isinstance(first, float) else torch.long)
        longest = max(len(value) for value in values)
        fill = self.padding.get(key, NO_LABEL if key == "labels" else 0)
        return torch.tensor([[*value, *[fill] * (longest - len(value))] for value in values])


def join(batches: Sequence[dict[str, Any]], padding: Mapping[str, int]) -> dict[str, Any]:
    """One batch of several, padded at the right to the widest.

    Args:
        batches: with the same keys.
        padding: key -> number that fills the end of shorter rows; -100 for `labels` and 0 for others.

    Example:
        >>> join([{"input_ids": torch.tensor([[5, 6]])}, {"input_ids": torch.tensor([[7]])}], {"input_ids": 9})
        {'input_ids': tensor([[5, 6],
                [7, 9]])}
    """
    joined: dict[str, Any] = {}
    for name, first in batches[0].items():
        values = [batch[name] for batch in batches]
        if not isinstance(first, Tensor):
            joined[name] = [value for one in values for value in one]
        elif first.dim() < 2:
            joined[name] = torch.cat(values)
        else:
            width = max(value.shape[1] for value in values)
            fill = padding.get(name, NO_LABEL if name == "labels" else 0)
            joined[name] = torch.cat([pad(value, (0, width - value.shape[1]), value=fill) for value in values])
    return joined
