"""Several prefixes made into one."""

from collections.abc import Sequence

import torch

from lightning_prefix.errors import InputError
from lightning_prefix.prefix.base import Prefix
from lightning_prefix.prefix.flat import FlatPrefix
from lightning_prefix.prefix.gated import GatedPrefix
from lightning_prefix.prefix.site import PrefixStates


@torch.no_grad()
def average_prefixes(prefixes: Sequence[Prefix], weights: Sequence[float] | None = None) -> Prefix:
    """The weighted mean of the flattened keys, values and gates (model soups, Wortsman et al. 2022).

    Args:
        prefixes: of one variant, at the same sites, with the same lengths.
        weights: one per prefix, which add up to one; equal ones when None.

    Raises:
        InputError: if they do not fit together.

    Example:
        >>> from lightning_prefix import average_prefixes, concatenate_prefixes
        >>> average_prefixes([])
        Traceback (most recent call last):
        ...
        lightning_prefix.errors.InputError: no prefix is given; give one or more.
    """
    flat = _flattened(prefixes)
    weights = [1 / len(flat)] * len(flat) if weights is None else list(weights)
    if len(weights) != len(flat) or abs(sum(weights) - 1) > 1e-6:
        raise InputError(f"weights {weights} are given for {len(flat)} prefixes; give one each, adding up to 1.")
    states = []
    for several in zip(*(prefix.states() for prefix in flat), strict=True):
        if len({state.keys.shape for state in several}) > 1:
            raise InputError(
                f"prefixes of lengths {[s.keys.shape[1] for s in several]} are given; an average needs equal lengths."
            )
        names = [name for name, tensor in several[0]._asdict().items() if tensor is not None]
        mean = {n: sum(w * getattr(s, n) for w, s in zip(weights, several, strict=True)) for n in names}
        states.append(PrefixStates(**mean))
    return type(flat[0])(flat[0].sites, states)


@torch.no_grad()
def concatenate_prefixes(prefixes: Sequence[Prefix]) -> FlatPrefix:
    """All positions of all prefixes, one after another, at the sites that all have.

    Args:
        prefixes: flat ones, or ones that flatten to it, at the same sites; lengths may differ.

    Raises:
        InputError: if they stand at different sites or are gated (each has a softmax of its own).
    """
    flat = _flattened(prefixes)
    if isinstance(flat[0], GatedPrefix):
        raise InputError("gated prefixes are given; each has a gate and a softmax of its own, so they do not join.")
    states = [
        PrefixStates(torch.cat([s.keys for s in several], 1), torch.cat([s.values for s in several], 1))
        for several in zip(*(prefix.states() for prefix in flat), strict=True)
    ]
    return FlatPrefix(flat[0].sites, states)


def _flattened(prefixes: Sequence[Prefix]) -> list[FlatPrefix] | list[GatedPrefix]:
    if not prefixes:
        raise InputError("no prefix is given; give one or more.")
    flat = [prefix.flatten() for prefix in prefixes]
    kinds = {type(prefix) for prefix in flat}
    if len(kinds) > 1 or not isinstance(flat[0], (FlatPrefix, GatedPrefix)):
        raise InputError(
            f"prefixes of the variants {sorted(p.variant for p in flat)} are given; give all flat or all gated."
        )
    if len({prefix.sites for prefix in flat}) > 1:
        raise InputError("the prefixes stand at different sites; give ones of one backbone with the same layers.")
    return flat  # type: ignore[return-value]
