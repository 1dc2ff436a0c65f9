"""Norms of the keys and values of a prefix, beside those of texts."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_prefix.errors import InputError
from lightning_prefix.plots.figure import by_kind, heat_map, subplots
from lightning_prefix.prefix import AttentionSite, Prefix

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray


@torch.no_grad()
def prefix_norms(prefix: Prefix) -> dict[AttentionSite, tuple[Tensor, Tensor]]:
    """The L2 norm of the keys, and of the values, of each position, in the mean over the heads.

    Returns:
        For each site two tensors (length,), float32.

    Raises:
        InputError: if the prefix has no keys and values.
    """
    if not prefix.sites:
        raise InputError(f"a prefix of variant {prefix.variant!r} has no keys and values, so it has no norms.")
    states = zip(prefix.sites, prefix.states(), strict=True)
    return {
        s: (state.keys.float().norm(dim=-1).mean(0), state.values.float().norm(dim=-1).mean(0)) for s, state in states
    }


def plot_norms(
    norms: Mapping[AttentionSite, tuple[Tensor, Tensor]],
    text: Mapping[AttentionSite, tuple[float, float]] | None = None,
) -> "tuple[Figure, NDArray[Any]]":
    """Heat maps of the norms of keys and values, layer by position.

    Args:
        norms: of `prefix_norms`.
        text: of `text_norms`: a column at the right, for comparison; none when None.

    Returns:
        The figure and its axes, (kinds of attention, 2): keys at the left, values at the right.
    """
    kinds = by_kind(list(norms))
    depth = max(site.layer for site in norms) + 1
    figure, axes = subplots(len(kinds), 2, 10, len(kinds) * (1.8 + 0.12 * depth))
    for line, (kind, sites) in zip(axes, kinds.items(), strict=True):
        for number, (panel, what) in enumerate(zip(line, ("keys", "values"), strict=True)):
            rows = {site.layer: norms[site][number].tolist() for site in sites}
            length = max(map(len, rows.values()))
            if text is not None:
                filled = {layer: row + [float("nan")] * (length - len(row) + 1) for layer, row in rows.items()}
                rows = {site.layer: [*filled[site.layer], text[site][number]] for site in sites}
            shown = [value for row in rows.values() for value in row if not math.isnan(value)]
            heat_map(
                panel,
                rows,
                "mean L2 norm over heads",
                min(shown),
                max(shown),
                title=f"{kind} attention: {what}",
                xlabel="position of the prefix",
                ylabel="layer",
            )
            if text is not None:
                ticks = [tick for tick in panel.get_xticks() if 0 <= tick < length]
                panel.set_xticks([*ticks, length + 1], [*(f"{tick:g}" for tick in ticks), "text"])
    return figure, axes
