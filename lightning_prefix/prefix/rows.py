"""States of several prefixes for one batch, in which each row may have another one."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from lightning_prefix.prefix.site import AttentionSite, PrefixStates


class RowStates(NamedTuple):
    """What one attention call receives.

    Attributes:
        keys: (prefixes, kv_heads, length, key_dim), the shorter ones padded.
        values: (prefixes, kv_heads, length, value_dim).
        is_real: (prefixes, length), bool, false for padding; None where nothing is padded.
        gates: (prefixes, heads) of prefixes with a softmax of their own, or None.
    """

    keys: Tensor
    values: Tensor
    is_real: Tensor | None = None
    gates: Tensor | None = None

    def to(self, device: torch.device) -> "RowStates":
        """The same on this device: the layers of one model may lie on several."""
        return RowStates(*(None if tensor is None else tensor.to(device) for tensor in self))  # type: ignore[arg-type]


class SiteStates(NamedTuple):
    """The two ways in which a prefix can stand at one site; a mixed batch may have both."""

    joined: RowStates | None
    gated: RowStates | None


def one_prefix(state: PrefixStates) -> SiteStates:
    """All rows have the same prefix; no copy."""
    keys, values = state.keys[None], state.values[None]
    if state.gate is None:
        return SiteStates(RowStates(keys, values), None)
    return SiteStates(None, RowStates(keys, values, gates=state.gate[None]))


def many_prefixes(
    site: AttentionSite, states: Sequence[PrefixStates | None], padding: dict[tuple[int, ...], Tensor]
) -> SiteStates:
    """The states of several prefixes at one site.

    Args:
        site: where they stand.
        states: one per prefix; None for a prefix that does not stand there.
        padding: lengths of the prefixes -> `RowStates.is_real`; filled here, so that sites with the same lengths share
            one tensor.
    """
    joined = [state if state is not None and state.gate is None else None for state in states]
    gated = [state if state is not None and state.gate is not None else None for state in states]
    return SiteStates(_padded(site, joined, padding), _padded(site, gated, padding))


def _padded(
    site: AttentionSite, states: Sequence[PrefixStates | None], padding: dict[tuple[int, ...], Tensor]
) -> RowStates | None:
    real = [state for state in states if state is not None]
    if not real:
        return None
    empty = PrefixStates(
        real[0].keys.new_zeros(site.kv_heads, 0, site.key_dim),
        real[0].values.new_zeros(site.kv_heads, 0, site.value_dim),
    )
    filled = [empty if state is None else state for state in states]
    length = max(state.keys.shape[1] for state in filled)

    def stack(tensors: list[Tensor]) -> Tensor:
        return torch.stack([pad(t, (0, 0, 0, length - t.shape[1])) for t in tensors])

    gates = None
    ends = [state.keys.shape[1] for state in filled]
    if real[0].gate is not None:
        closed = torch.zeros_like(real[0].gate)
        gates = torch.stack([closed if state.gate is None else state.gate for state in filled])
        ends = [end or length for end in ends]  # a softmax over nothing is no number; the closed gate takes it out
    if min(ends) < length and tuple(ends) not in padding:
        device = real[0].keys.device
        padding[tuple(ends)] = torch.arange(length, device=device) < torch.tensor(ends, device=device)[:, None]
    is_real = padding.get(tuple(ends))
    return RowStates(stack([state.keys for state in filled]), stack([state.values for state in filled]), is_real, gates)
