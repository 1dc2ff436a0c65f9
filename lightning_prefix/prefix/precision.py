"""Trained tensors keep their 32 bits, whatever dtype the frozen model is given."""

from collections.abc import Callable

import torch
from torch import Tensor, nn


class Float32Module(nn.Module):
    """A module that `.to(dtype)`, `.half()` and `.bfloat16()` move but never round.

    Updates of a trained value are often smaller than half precision can show, and would be lost in it.

    Example:
        >>> module = Float32Module()
        >>> module.linear = nn.Linear(2, 2)
        >>> module.to(torch.bfloat16).linear.weight.dtype
        torch.float32
    """

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "Float32Module":
        """What all of these methods call, for each tensor."""
        super()._apply(lambda tensor: unrounded(fn, tensor), recurse)  # type: ignore[no-untyped-call]
        return self


def unrounded(change: Callable[[Tensor], Tensor], tensor: Tensor) -> Tensor:
    """What `change` makes of a tensor, but in the tensor's own dtype where it would be rounded to 16 bits."""
    changed = change(tensor)
    return tensor.to(changed.device) if changed.dtype in (torch.bfloat16, torch.float16) else changed
