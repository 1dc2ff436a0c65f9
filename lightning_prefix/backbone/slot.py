"""How the states of the running forward pass reach the attention calls."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from lightning_prefix.prefix import PrefixStates

_ATTRIBUTE = "lightning_prefix_slot"


class StateSlot:
    """The states of one forward pass, shared by all attention modules of one backbone.

    The states are served while a forward pass of the `PrefixedModel` runs, and in a backward pass, when gradient
    checkpointing repeats parts of it. A direct call of the backbone is the frozen model.
    """

    def __init__(self) -> None:
        self.calls: dict[nn.Module, list[int]] = {}
        self.states: Mapping[int, PrefixStates] = {}
        self._is_running = False
        self._counts: dict[nn.Module, int] = {}

    def attach(self, modules: Sequence[nn.Module]) -> None:
        """Serve these modules; call i of a forward pass is made by `modules[i]`, and a module may recur."""
        for index, module in enumerate(modules):
            self.calls.setdefault(module, []).append(index)
            setattr(module, _ATTRIBUTE, self)

    def detach(self) -> None:
        """Serve nobody any more."""
        for module in self.calls:
            delattr(module, _ATTRIBUTE)
        self.calls.clear()

    @contextmanager
    def serve(self, states: Mapping[int, PrefixStates]) -> Iterator[None]:
        """Serve `states` (by call index) inside; with gradients on, they stay for the backward pass."""
        outer, self._is_running, self.states = self._is_running, True, states
        self._counts.clear()
        try:
            yield
        finally:
            self._is_running = outer
            if not torch.is_grad_enabled():
                self.states = {}

    def take(self, module: nn.Module) -> PrefixStates | None:
        """The states for this call of `module`, if any."""
        if not self.states or not (self._is_running or _in_backward()):
            return None
        calls = self.calls[module]
        if len(calls) == 1:
            return self.states.get(calls[0])
        count = self._counts.get(module, 0)
        self._counts[module] = count + 1
        return self.states.get(calls[count % len(calls)])

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no states: those belong to a running pass and to its graph."""
        return {"calls": self.calls, "states": {}, "_is_running": False, "_counts": {}}


def slot_of(module: nn.Module) -> StateSlot | None:
    """The slot that serves this attention module."""
    return getattr(module, _ATTRIBUTE, None)


def _in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1  # type: ignore[attr-defined,no-any-return,unused-ignore]
