"""Checks at the start: a prefix that changes nothing, or texts that are mixed up, are errors, not bad trainings."""

import inspect
from collections.abc import Sequence

import torch
from torch import nn

from lightning_prefix.backbone.attention import serving
from lightning_prefix.backbone.packing import packed
from lightning_prefix.backbone.served import NOTHING, Served
from lightning_prefix.backbone.sites import config_of, run_body, run_in_eval_mode, sample_tokens
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


@torch.no_grad()
def check_packing(backbone: nn.Module, slot: StateSlot) -> None:
    """Check that two texts in one row give what they give alone: three short passes of the frozen model.

    Hidden states may differ by 1e-4 of their norm in float32, by 5e-2 in narrower numbers.

    Raises:
        InputError: if the model is no decoder, or what it keeps of a text reaches the next one.
    """
    name = f"{type(backbone).__name__} (model type {config_of(backbone).model_type!r})"
    advice = "Train without data.packing; data.group_by_length and data.max_batch_tokens save padding too."
    if config_of(backbone).is_encoder_decoder or "position_ids" not in inspect.signature(backbone.forward).parameters:
        raise InputError(f"{name} cannot read several texts in one row: it is no decoder with position_ids. {advice}")
    device = next(backbone.parameters()).device
    first, second = 5, 7  # tokens
    ids = torch.tensor([sample_tokens(backbone, first + second)], device=device)
    numbers = torch.tensor([[1] * first + [2] * second], device=device)
    with packed(config_of(backbone).model_type, numbers, (ids,), {"use_cache": False}) as more, serving(slot, NOTHING):
        together = run_in_eval_mode(backbone, {"input_ids": ids, **more}).float()
    parts = ids[:, :first], ids[:, first:]
    alone = torch.cat([run_in_eval_mode(backbone, {"input_ids": part, "use_cache": False}) for part in parts], 1)
    allowed = 1e-4 if alone.dtype == torch.float32 else 5e-2
    difference = float((together - alone.float()).norm() / alone.float().norm())
    if not difference <= allowed:
        raise InputError(
            f"{name} mixes texts that share a row: a text of {second} tokens after another one differs by "
            f"{difference:.1e} of the norm of its hidden states from the same text alone. So do encoders, and layers "
            f"without softmax attention (recurrent or linear ones). {advice}"
        )
