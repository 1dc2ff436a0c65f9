"""One batch of several."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_prefix.data.collate import NO_LABEL
from lightning_prefix.tasks.base import Batch


def join(batches: Sequence[Batch], padding: Mapping[str, int]) -> Batch:
    """One batch of several, padded at the right to the widest.

    Args:
        batches: with the same keys.
        padding: key -> number that fills the end of shorter rows; -100 for `labels` and 0 for others.

    Example:
        >>> join([{"input_ids": torch.tensor([[5, 6]])}, {"input_ids": torch.tensor([[7]])}], {"input_ids": 9})
        {'input_ids': tensor([[5, 6],
                [7, 9]])}
    """
    joined: Batch = {}
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
