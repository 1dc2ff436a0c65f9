"""Parameters of the backbone that stay trained, such as those of a new head: in float32 under any backbone dtype."""

from collections.abc import Callable, Collection
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map


def train_in_float32(backbone: nn.Module, names: Collection[str]) -> list[Callable[[], None]]:
    """Turn on the gradients of these parameters; modules that own one compute in float32, also in a rounded model.

    Modules of the body then hand on the body's dtype; the outputs of a head stay in float32.

    Args:
        backbone: with everything else frozen.
        names: of its parameters.

    Returns:
        Functions that give the modules back as they were.
    """
    named = dict(backbone.named_parameters())
    for name in names:
        named[name].requires_grad_(True)
    undo: list[Callable[[], None]] = [partial(_round_as_the_rest, backbone)]
    for parameter in unrounded_parameters(backbone):
        if parameter.dtype in (torch.bfloat16, torch.float16):
            parameter.data = parameter.data.float()
    body = set(backbone.base_model.modules())  # type: ignore[union-attr]
    for module in _owners(backbone):
        undo.append(module.register_forward_pre_hook(_cast_inputs, with_kwargs=True).remove)
        if module in body:
            undo.append(module.register_forward_hook(partial(_cast_output, backbone)).remove)
    return undo


def unrounded_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    """All parameters of the modules that own a trained one."""
    return [parameter for module in _owners(backbone) for parameter in module.parameters(recurse=False)]


def _owners(backbone: nn.Module) -> list[nn.Module]:
    return [m for m in backbone.modules() if any(p.requires_grad for p in m.parameters(recurse=False))]


def _round_as_the_rest(backbone: nn.Module) -> None:
    dtype = _frozen_dtype(backbone)
    for parameter in unrounded_parameters(backbone):
        parameter.data = parameter.data.to(dtype)


def _cast_inputs(module: nn.Module, args: Any, kwargs: Any) -> Any:
    dtype = next(module.parameters(recurse=False)).dtype  # all of them are float32, or what a caller put in their place
    return tree_map(partial(_cast, dtype), (args, kwargs))


def _cast_output(backbone: nn.Module, _: nn.Module, __: Any, output: Any) -> Any:
    return tree_map(partial(_cast, _frozen_dtype(backbone)), output)


def _frozen_dtype(backbone: nn.Module) -> torch.dtype | None:
    """None where nothing is frozen."""
    return next((p.dtype for p in backbone.parameters() if p.is_floating_point() and not p.requires_grad), None)


def _cast(dtype: torch.dtype | None, value: Any) -> Any:
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value
