"""What happens inside of the attention calls of a model, measured in passes of their own."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_prefix.backbone.attention import recording, recording_shares
from lightning_prefix.backbone.model import PrefixedModel
from lightning_prefix.backbone.sites import config_of
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite

_NO_TEXT = "no text was read; give one or more, in which some tokens are no padding."


class Pass(NamedTuple):
    """One forward pass of a `PrefixedModel`, and which of its tokens count.

    Attributes:
        run: makes the pass.
        text: (batch, tokens), true for text and false for padding; of the encoder in an encoder-decoder. None where
            all is text.
        decoder_text: the same for the tokens of the decoder in an encoder-decoder.
    """

    run: Callable[[], object]
    text: Tensor | None = None
    decoder_text: Tensor | None = None


def attention_shares(model: PrefixedModel, passes: Iterable[Pass]) -> dict[AttentionSite, Tensor]:
    """The share of its attention that each head gives to the set prefix, in the mean over the queries that are text.

    It is the sum of the softmax weights, over prefix and text, of the positions of the prefix. A gated prefix has a
    softmax of its own, whose output is added to the text's with the weight tanh(gate): its share is
    |tanh(gate)| / (1 + |tanh(gate)|), whatever the texts.

    Args:
        model: its set prefix is measured.
        passes: of this model; none is made for a gated prefix.

    Returns:
        For each site of the prefix (heads,), float32, in [0, 1].

    Raises:
        InputError: if the prefix has no keys and values, or there is no pass.
    """
    states = dict(zip(model.sites, model.prefix.states(), strict=True))
    if not states:
        raise InputError(f"a prefix of variant {model.prefix.variant!r} has no keys, so no attention goes to it.")
    gates = {site: state.gate.detach().tanh().abs() for site, state in states.items() if state.gate is not None}
    if gates:
        return {site: (gate / (1 + gate)).cpu() for site, gate in gates.items()}
    is_encoder_decoder = config_of(model.backbone).is_encoder_decoder
    sums, counts = dict.fromkeys(states, torch.zeros(())), dict.fromkeys(states, 0)
    for one in passes:
        with _measuring(model), recording_shares(model._slot) as shares:
            one.run()
        for index, share in shares:  # (batch, heads, queries)
            site = model.all_sites[index]
            kept = _kept(one, site.kind != "encoder" and is_encoder_decoder, share[:, 0])
            sums[site] = sums[site] + (share * kept[:, None]).sum((0, 2)).cpu()
            counts[site] += int(kept.sum())
    if not all(counts.values()):
        raise InputError(_NO_TEXT)
    return {site: total / counts[site] for site, total in sums.items()}


def text_norms(model: PrefixedModel, passes: Iterable[Pass]) -> dict[AttentionSite, tuple[float, float]]:
    """The mean L2 norms of the frozen model's own keys and values, over the heads and the tokens that are text.

    Args:
        model: no prefix is in place.
        passes: of this model.

    Returns:
        For each attention site of the model the norm of keys, and of values.

    Raises:
        InputError: if there is no pass.
    """
    is_encoder_decoder = config_of(model.backbone).is_encoder_decoder
    sums, counts = {site: torch.zeros(2) for site in model.all_sites}, dict.fromkeys(model.all_sites, 0)
    for one in passes:
        with _measuring(model), model.disabled(), recording(model.backbone) as calls:
            one.run()
        for site, call in zip(model.all_sites, calls, strict=True):
            norms = torch.stack([t.float().norm(dim=-1).mean(1) for t in (call.keys, call.values)])  # (2, batch, keys)
            kept = _kept(one, site.kind == "decoder" and is_encoder_decoder, norms[0])
            sums[site] += (norms * kept).sum((1, 2)).cpu()
            counts[site] += int(kept.sum())
    if not all(counts.values()):
        raise InputError(_NO_TEXT)
    means = {site: (total / counts[site]).tolist() for site, total in sums.items()}
    return {site: (keys, values) for site, (keys, values) in means.items()}


@contextmanager
def _measuring(model: PrefixedModel) -> Iterator[None]:
    was_training = model.training
    model.eval().is_measured = True
    try:
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            yield
    finally:
        model.train(was_training).is_measured = False


def _kept(one: Pass, is_decoder: bool, like: Tensor) -> Tensor:
    """(batch, tokens), true for text, of the encoder, or of the only stack, or of the decoder."""
    text = one.decoder_text if is_decoder else one.text
    return torch.ones(like.shape, dtype=torch.bool, device=like.device) if text is None else text.bool().to(like.device)
