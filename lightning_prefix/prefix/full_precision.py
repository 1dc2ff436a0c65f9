"""What is trained stays in float32, whatever the precision of the frozen model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_HALF = (torch.float16, torch.bfloat16)

Apply = Callable[[Tensor], Tensor]


def without_halving(apply: Apply, *, only_trained: bool = False) -> Apply:
    """The function that `nn.Module._apply` calls with each tensor, which moves a tensor but does not make it half.

    `module.to(torch.bfloat16)` and Lightning's `bf16-true` call it. Steps of Adam on a prefix in bfloat16 would be lost
    in its 8 bits.

    Args:
        apply: what was asked for.
        only_trained: leave frozen tensors to `apply` alone.
    """

    def applied(tensor: Tensor) -> Tensor:
        result = apply(tensor)
        if result.dtype in _HALF and tensor.dtype not in _HALF and (tensor.requires_grad or not only_trained):
            return tensor.to(result.device)
        return result

    return applied


class FullPrecision(nn.Module):
    """A module whose tensors are never made half."""

    def _apply(self, fn: Apply, recurse: bool = True) -> Any:
        return super()._apply(without_halving(fn), recurse)  # type: ignore[no-untyped-call]


def train_in_full_precision(model: nn.Module, name: str) -> list[Callable[[], None]]:
    """Let a parameter of a frozen model be trained, in float32; its module then takes inputs of any precision.

    Args:
        model: half or not.
        name: of the parameter.

    Returns:
        Functions that undo it.
    """
    owner, _, own = name.rpartition(".")
    module = model.get_submodule(owner)
    parameter: nn.Parameter = getattr(module, own)
    parameter.requires_grad_(True)
    if parameter.dtype in _HALF:
        parameter.data = parameter.data.float()
    return [module.register_forward_pre_hook(_with_its_precision).remove, partial(_as_the_frozen, model, parameter)]


def _as_the_frozen(model: nn.Module, parameter: nn.Parameter) -> None:
    frozen = (p for p in model.parameters() if p.is_floating_point() and not p.requires_grad)
    parameter.data = parameter.data.to(next(frozen, parameter).dtype)


def _with_its_precision(module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...]:
    dtype = next(module.parameters()).dtype
    return tuple(a.to(dtype) if isinstance(a, Tensor) and a.is_floating_point() else a for a in args)


@contextmanager
def made_in_full_precision() -> Iterator[None]:
    """Inside, new tensors are float32, also where Lightning's `bf16-true` has set another default."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
