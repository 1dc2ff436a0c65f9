"""One backbone in memory for many runs, one after the other."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

Loaded = tuple[Any, Sequence[str]]
"""A model, and the names of its parameters that the checkpoint did not bring."""


@dataclass
class _Shelf:
    """The backbone that was loaded last.

    Args:
        key: what it was loaded by, the random numbers at that time included.
        loaded: the backbone.
        start: start values of the parameters that the checkpoint did not bring.
        random_state: of torch's generator, after loading.
    """

    key: Any = None
    loaded: Loaded = (None, ())
    start: dict[str, Tensor] = field(default_factory=dict)
    random_state: Tensor | None = None

    def put(self, key: Any, loaded: Loaded) -> None:
        """Keep this one in place of the last."""
        model, missing = loaded
        state = model.state_dict()
        self.key, self.loaded = key, loaded
        self.start = {name: state[name].clone() for name in missing}
        self.random_state = torch.get_rng_state()

    @torch.no_grad()
    def take(self) -> Loaded:
        """The backbone, and the random numbers, as they were after loading."""
        state = self.loaded[0].state_dict()
        for name, value in self.start.items():
            state[name].copy_(value)
        assert self.random_state is not None  # noqa: S101
        torch.set_rng_state(self.random_state)
        return self.loaded


_shelf: _Shelf | None = None


@contextmanager
def sharing_backbone() -> Iterator[None]:
    """Inside, a backbone is loaded once for many runs, one after the other.

    The next run with the same options and the same random numbers gets the backbone of the last one, with the start
    values and random numbers that loading would have given. The last run must have taken its prefix off (`unload`).
    """
    global _shelf
    outer, _shelf = _shelf, _shelf or _Shelf()
    try:
        yield
    finally:
        _shelf = outer


def take_or_load(key: Any, load: Callable[[], Loaded]) -> Loaded:
    """What `load` returns; inside `sharing_backbone` the last one, where it is the same.

    Args:
        key: everything but the random numbers on which it depends.
        load: makes it.
    """
    if _shelf is None:
        return load()
    key = key, torch.get_rng_state().numpy().tobytes()
    if _shelf.key != key:
        _shelf.key, _shelf.loaded = None, (None, ())  # two at a time might not fit
        _shelf.put(key, load())
    return _shelf.take()
