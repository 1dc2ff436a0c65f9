"""The start-up check: a prefix that changes nothing is an error, not a slow training."""

from collections.abc import Sequence

import torch
from torch import nn

from lightning_prefix.backbone.attention import serving
from lightning_prefix.backbone.served import Served
from lightning_prefix.backbone.sites import config_of, run_body, sample_tokens
from lightning_prefix.backbone.slot import StateSlot
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, PrefixStates
from lightning_prefix.prefix.rows import one_prefix


def probe(backbone: nn.Module, sites: Sequence[AttentionSite], slot: StateSlot) -> None:
    """Check that the output depends on the keys and on the values of every site: one forward, one backward.

    Raises:
        InputError: naming the sites whose prefix has no gradient.
    """
    device = next(backbone.parameters()).device
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator).to(device).requires_grad_()

    states = [
        PrefixStates(random(site.kv_heads, 2, site.key_dim), random(site.kv_heads, 2, site.value_dim)) for site in sites
    ]
    tensors = [tensor for state in states for tensor in (state.keys, state.values)]
    ids = sample_tokens(backbone, 3)
    decoder_ids = ids if config_of(backbone).is_encoder_decoder else None
    with torch.enable_grad():
        with serving(slot, Served({index: one_prefix(state) for index, state in enumerate(states)})):
            output = run_body(backbone, ids, decoder_ids).float()
        weights = torch.randn(output.shape, generator=generator).to(device)
        gradients = torch.autograd.grad((output * weights).sum(), tensors, allow_unused=True)
    dead = [
        sites[index // 2].name
        for index, gradient in enumerate(gradients)
        if gradient is None or not gradient.abs().sum() > 0
    ]
    if dead:
        raise InputError(
            f"a prefix at {', '.join(dict.fromkeys(dead))} does not change the output of "
            f"{type(backbone).__name__}; it could not be trained. Leave these layers out with the prefix's `layers` "
            "or `sites`, and please report the model."
        )
