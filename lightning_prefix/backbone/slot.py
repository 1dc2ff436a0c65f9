"""How the states of the running forward pass reach the attention calls."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.served import NOTHING, Served
from lightning_prefix.prefix import PrefixStates
from lightning_prefix.prefix.rows import SiteStates

_ATTRIBUTE = "lightning_prefix_calls"
_KEPT = 8
"""Different masks of one pass: full and sliding, of encoder, decoder and cross-attention."""


class StateSlot:
    """The states of the running forward pass, shared by all attention modules of one backbone.

    Args:
        configs: the configurations that name the attention implementation.
        modules: call i of a forward pass is made by `modules[i]`, and a module may recur.
    """

    def __init__(self, configs: Sequence[Any], modules: Sequence[nn.Module]) -> None:
        self.configs = configs
        self.modules: list[AttentionCalls] = []
        self.served = NOTHING
        self.recorded: list[PrefixStates] | None = None
        self.shares: list[tuple[int, Tensor]] | None = None
        self._made: dict[Any, tuple[Any, Any]] = {}
        for module in dict.fromkeys(modules):
            calls = AttentionCalls(self, module, [i for i, other in enumerate(modules) if other is module])
            self.modules.append(calls)
            setattr(module, _ATTRIBUTE, calls)

    def detach(self) -> None:
        """Serve nobody any more."""
        for calls in self.modules:
            delattr(calls.module, _ATTRIBUTE)
        self.modules.clear()

    @contextmanager
    def serve(self, served: Served, counts: Sequence[int] | None = None) -> Iterator[None]:
        """Serve these states inside.

        Args:
            served: for all calls inside.
            counts: how often each of `modules` was called before; never when None.
        """
        outer, self.served, self._made = (self.served, self._made), served, {}
        self.counts = [0] * len(self.modules) if counts is None else counts
        try:
            yield
        finally:
            self.served, self._made = outer

    def once(self, make: Callable[[], Any], tensors: Sequence[Tensor | None], sizes: Sequence[int]) -> Any:
        """What `make` returns, made once for all layers of a pass that have the same tensors and sizes."""
        if torch.compiler.is_compiling():  # which finds by itself what is computed twice
            return make()
        key = (*map(id, tensors), *sizes)
        if key not in self._made:
            if len(self._made) > _KEPT:  # `generate` makes new ones at every step
                self._made.clear()
            self._made[key] = tensors, make()  # the tensors are kept, so that their ids stay theirs
        return self._made[key][1]

    @property
    def counts(self) -> list[int]:
        """How often each of `modules` was called in this pass."""
        return [calls.count for calls in self.modules]

    @counts.setter
    def counts(self, counts: Sequence[int]) -> None:
        for calls, count in zip(self.modules, counts, strict=True):
            calls.count = count

    @contextmanager
    def recording(self) -> Iterator[list[PrefixStates]]:
        """Record keys and values of the first row of each call made inside, with their graph; serve nothing."""
        outer = self.served, self.counts
        recorded: list[PrefixStates] = []
        self.served, self.recorded = NOTHING, recorded
        try:
            yield recorded
        finally:
            self.served, self.counts = outer
            self.recorded = None

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no states: those belong to a running pass and to its graph."""
        return {**vars(self), "served": NOTHING, "recorded": None, "shares": None, "_made": {}}


class AttentionCalls:
    """The calls that one attention module makes in a forward pass.

    Args:
        slot: what it is served from.
        module: the attention module.
        indices: which calls of the pass it makes.
    """

    def __init__(self, slot: StateSlot, module: nn.Module, indices: Sequence[int]) -> None:
        self.slot, self.module, self.indices = slot, module, indices
        self.count = 0

    def take(self) -> SiteStates | None:
        """The states for this call, if any."""
        served = self.slot.served
        if not served.sites:
            return None
        index = self.next_index
        if len(self.indices) > 1:
            self.count += 1
        return served.sites.get(index)

    @property
    def next_index(self) -> int:
        """Which call of the pass the next one is."""
        return self.indices[self.count % len(self.indices)]


def calls_of(module: nn.Module) -> AttentionCalls | None:
    """The calls of this attention module, if it is served."""
    return getattr(module, _ATTRIBUTE, None)
