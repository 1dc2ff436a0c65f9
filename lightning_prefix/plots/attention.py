"""How much attention goes to a prefix."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from lightning_prefix.backbone import PrefixedModel, measure
from lightning_prefix.errors import InputError
from lightning_prefix.plots.figure import by_kind, heat_map, subplots
from lightning_prefix.prefix import AttentionSite
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.tasks.heads import NO_LABEL

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from numpy.typing import NDArray

Batches = Iterable[Mapping[str, Any]]
"""What the model takes: a task what its data module's loaders make, a `PrefixedModel` its keyword arguments."""


def attention_shares(model: PrefixedModel | PrefixTask, batches: Batches) -> dict[AttentionSite, Tensor]:
    """The share of its attention that each head gives to the prefix, in the mean over the tokens of texts.

    It is the sum of the softmax weights of the prefix's positions; padding does not count. A gated prefix has a softmax
    of its own, whose output is added to the text's with the weight tanh(gate): its share is
    |tanh(gate)| / (1 + |tanh(gate)|), whatever the texts.

    Args:
        model: with the prefix that is measured; what it computes outside is not changed.
        batches: the texts.

    Returns:
        For each site of the prefix (heads,), float32, in [0, 1].

    Raises:
        InputError: if the prefix has no keys, or there are no texts.
    """
    return measure.attention_shares(_prefixed(model), (_pass(model, batch) for batch in batches))


def text_norms(model: PrefixedModel | PrefixTask, batches: Batches) -> dict[AttentionSite, tuple[float, float]]:
    """The mean L2 norms of the frozen model's own keys, and values, over the heads and the tokens of texts.

    Args:
        model: no prefix is in place.
        batches: the texts; padding does not count.

    Raises:
        InputError: if there are no texts.
    """
    return measure.text_norms(_prefixed(model), (_pass(model, batch) for batch in batches))


def plot_attention_shares(shares: Mapping[AttentionSite, Tensor]) -> "tuple[Figure, NDArray[Any]]":
    """Heat maps of the share of attention that goes to the prefix, layer by head.

    Args:
        shares: of `attention_shares`.

    Returns:
        The figure and its axes, (1, kinds of attention).
    """
    kinds = by_kind(list(shares))
    depth = max(site.layer for site in shares) + 1
    figure, axes = subplots(1, len(kinds), 1 + 4.2 * len(kinds), 2.2 + 0.12 * depth)
    high = max(float(share.max()) for share in shares.values())
    for panel, (kind, sites) in zip(axes[0], kinds.items(), strict=True):
        mean = sum(float(shares[site].mean()) for site in sites) / len(sites)
        heat_map(
            panel,
            {site.layer: shares[site].tolist() for site in sites},
            "share to the prefix",
            0,
            high,
            title=f"{kind} attention, mean {mean:.2f}",
            xlabel="head",
            ylabel="layer",
        )
    return figure, axes


def _prefixed(model: PrefixedModel | PrefixTask) -> PrefixedModel:
    if isinstance(model, PrefixedModel):
        return model
    if model.model is None:
        raise InputError("the task has no weights yet; fit it or load a prefix before looking inside.")
    return model.model


def _pass(model: PrefixedModel | PrefixTask, batch: Mapping[str, Any]) -> measure.Pass:
    device = next(_prefixed(model).parameters()).device
    batch = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in batch.items()}
    run = partial(model, **batch) if isinstance(model, PrefixedModel) else partial(model, batch)
    return measure.Pass(run, batch.get("attention_mask"), _decoder_text(batch))


def _decoder_text(batch: Mapping[str, Any]) -> Tensor | None:
    """Which tokens of an encoder-decoder's decoder are text: it reads its labels, or else what the encoder reads."""
    if "decoder_input_ids" in batch:
        return batch.get("decoder_attention_mask")
    labels = batch.get("labels")
    if isinstance(labels, Tensor) and labels.dim() == 2 and not labels.is_floating_point():
        return labels != NO_LABEL
    return batch.get("attention_mask")
