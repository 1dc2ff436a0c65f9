"""States of the random generators of all processes, so that dropout goes on as if a run had not been stopped."""

from typing import Any

import torch
from torch import Tensor, distributed

RandomState = list[dict[str, Tensor]]
"""One dict per process: `cpu`, and `cuda` where it computes on a GPU."""


def random_state(device: torch.device) -> RandomState:
    """Of all processes; each of them must call this.

    Args:
        device: on which this process computes.
    """
    own = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        own["cuda"] = torch.cuda.get_rng_state(device)
    if not distributed.is_initialized():
        return [own]
    gathered: list[Any] = [None] * distributed.get_world_size()
    distributed.all_gather_object(gathered, own)
    return gathered


def set_random_state(state: RandomState, device: torch.device) -> None:
    """Go on with these numbers; with another number of processes, each goes on with those of the first one."""
    processes = distributed.get_world_size() if distributed.is_initialized() else 1
    own = state[distributed.get_rank() if processes == len(state) > 1 else 0]
    torch.set_rng_state(own["cpu"].cpu())
    if device.type == "cuda" and "cuda" in own:
        torch.cuda.set_rng_state(own["cuda"].cpu(), device)


def is_random_state(state: Any) -> bool:
    """Whether generators take it."""
    if not isinstance(state, list) or not state:
        return False
    return all(isinstance(own, dict) and "cpu" in own and all(map(_fits, own, own.values())) for own in state)


def _fits(kind: Any, tensor: Any) -> bool:
    try:
        if kind == "cpu":
            torch.Generator().set_state(tensor.cpu())
        elif torch.cuda.is_available():
            torch.Generator("cuda").set_state(tensor.cpu())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return kind in ("cpu", "cuda")
