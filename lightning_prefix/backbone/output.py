"""Where an `OutputPrefix` acts: the module that puts out the last hidden state."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.sites import config_of, run_body, sample_tokens
from lightning_prefix.backbone.slot import StateSlot
from lightning_prefix.errors import InputError


def change_output(backbone: nn.Module, slot: StateSlot) -> Callable[[], None]:
    """Let the prefixes that `slot` serves scale and shift the last hidden state, before any pooler or head reads it.

    Returns:
        A function that undoes it.
    """
    return last_hidden_state(backbone)[0].register_forward_hook(partial(_change, slot)).remove


@torch.no_grad()
def last_hidden_state(backbone: nn.Module) -> tuple[nn.Module, Tensor]:
    """The last hidden state of a sample, and the first module to put it out that is called once per pass.

    Found by running the model once; ALBERT calls its layer several times, hence the second condition.

    Raises:
        InputError: if there is none.
    """
    seen: list[tuple[nn.Module, Tensor]] = []  # holds the tensors, else memory is used again

    def note(module: nn.Module, _: Any, output: Any) -> None:
        if (tensor := _first_tensor(output)) is not None:
            seen.append((module, tensor))

    is_encoder_decoder = config_of(backbone).is_encoder_decoder
    body = cast("Any", backbone).get_decoder() if is_encoder_decoder else backbone.base_model
    handles = [module.register_forward_hook(note) for module in backbone.modules()]
    try:
        ids = sample_tokens(backbone, 3)
        run_body(backbone, ids, ids if is_encoder_decoder else None)
    finally:
        for handle in handles:
            handle.remove()
    modules = [module for module, _ in seen]
    last = next((tensor.data_ptr() for module, tensor in seen if module is body), None)
    for module, tensor in seen:
        if tensor.data_ptr() == last and modules.count(module) == 1 and module not in (body, backbone):
            return module, tensor
    raise InputError(
        f"{type(backbone).__name__} has no module of its own that puts out the last hidden state, which an output "
        "prefix needs; use another variant, such as FlatPrefixConfig."
    )


def _change(slot: StateSlot, _: nn.Module, __: Any, output: Any) -> Any:
    parameters, hidden = slot.served.output, _first_tensor(output)
    if parameters is None or hidden is None:
        return output
    rows = slot.served.rows_of(hidden)
    scale, shift = (p.to(hidden.device, hidden.dtype) for p in parameters)
    if rows is not None:
        scale, shift = scale[rows][:, None], shift[rows][:, None]
    changed = hidden * scale + shift
    if isinstance(output, Tensor):
        return changed
    if isinstance(output, tuple):
        return (changed, *output[1:])
    output[next(iter(output))] = changed
    return output


def _first_tensor(output: Any) -> Tensor | None:
    first = output if isinstance(output, Tensor) else None
    if isinstance(output, (tuple, dict)) and len(output):
        first = output[0] if isinstance(output, tuple) else next(iter(output.values()))
    return first if isinstance(first, Tensor) else None
