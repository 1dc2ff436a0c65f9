"""Find the attention sites of a backbone by running it once."""

import warnings
from collections.abc import Collection, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.attention import RecordedCall, recording
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, SiteKind


def find_sites(backbone: nn.Module) -> tuple[tuple[AttentionSite, ...], tuple[nn.Module, ...]]:
    """The attention sites in the order of their calls, and the module that makes each call.

    The frozen model runs once on two tokens (and, as an encoder-decoder, three in the encoder) with a recording
    attention function: cheaper than loading it, on whatever device it is, and without a table of model names.

    Raises:
        InputError: if the model never calls transformers' attention interface.
    """
    if config_of(backbone).model_type == "deberta-v2":
        from lightning_prefix.backbone import deberta

        deberta.use_attention_interface(backbone)
    encoder_tokens, decoder_tokens = 3, 2
    if config_of(backbone).is_encoder_decoder:
        ids = sample_tokens(backbone, encoder_tokens + decoder_tokens)
        calls = record_calls(backbone, ids[:encoder_tokens], ids[encoder_tokens:])
    else:
        calls = record_calls(backbone, sample_tokens(backbone, decoder_tokens))
    if not calls:
        raise InputError(
            f"{type(backbone).__name__} (model type {config_of(backbone).model_type!r}) never calls transformers' "
            "attention interface, so no prefix can reach its attention. Use a family that does: BERT, RoBERTa, "
            "ModernBERT, GPT-2, Llama, Mistral, Qwen, Gemma, T5, BART, Marian and most newer ones."
        )
    names = {module: name for name, module in backbone.named_modules()}
    modules = [call.module for call in calls]
    _warn_of_other_layers(backbone, {names[module] for module in modules})
    layers: dict[SiteKind, int] = {}
    sites = []
    for index, call in enumerate(calls):
        kind = _kind(call, encoder_tokens)
        layer = layers[kind] = layers.get(kind, -1) + 1
        name = names[call.module]
        if modules.count(call.module) > 1:
            name += f"#{modules[:index].count(call.module) + 1}"
        _, heads, _, key_dim = call.queries.shape
        sites.append(AttentionSite(name, kind, layer, heads, call.keys.shape[1], key_dim, call.values.shape[3]))
    return tuple(sites), tuple(modules)


def leave_sites(backbone: nn.Module) -> None:
    """Undo what `find_sites` changed."""
    if config_of(backbone).model_type == "deberta-v2":
        from lightning_prefix.backbone import deberta

        deberta.use_own_attention_class(backbone)


@torch.no_grad()
def record_calls(
    backbone: nn.Module, ids: Sequence[int], decoder_ids: Sequence[int] | None = None
) -> list[RecordedCall]:
    """The attention calls of the frozen model on one row of token ids.

    Args:
        backbone: a transformers model; its head is not run.
        ids: token ids; of the encoder in an encoder-decoder.
        decoder_ids: token ids of the decoder.
    """
    with recording(backbone) as calls:
        run_body(backbone, ids, decoder_ids)
    return calls


def run_body(backbone: nn.Module, ids: Sequence[int], decoder_ids: Sequence[int] | None = None) -> Tensor:
    """The first output of the backbone without its head: (1, tokens, hidden), or logits where they are one."""
    device = next(backbone.parameters()).device
    inputs = {"input_ids": torch.tensor([list(ids)], device=device)}
    if decoder_ids is not None:
        inputs["decoder_input_ids"] = torch.tensor([list(decoder_ids)], device=device)
    return run_in_eval_mode(backbone, inputs)


def run_in_eval_mode(backbone: nn.Module, inputs: dict[str, Any]) -> Tensor:
    """As `run_body`, on these inputs; without dropout and without activation checkpointing."""
    was_training = [module for module in backbone.modules() if module.training]
    if was_training:
        backbone.eval()
    try:
        return cast("Tensor", cast("Any", backbone).base_model(**inputs)[0])
    finally:
        for module in was_training:
            module.training = True


def sample_tokens(backbone: nn.Module, count: int) -> list[int]:
    """Ordinary token ids, always the same ones: no padding, begin or end."""
    config = config_of(backbone).get_text_config()
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "decoder_start")}
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(config.vocab_size, (count + 64 * len(special),), generator=generator).tolist()
    return [token for token in ids if token not in special][:count]


def config_of(backbone: nn.Module) -> Any:
    """The backbone's transformers configuration."""
    return cast("Any", backbone).config


def max_positions(backbone: nn.Module) -> int | None:
    """The most tokens that the backbone has positions for; None where they are relative (T5)."""
    limit: int | None = getattr(config_of(backbone).get_text_config(), "max_position_embeddings", None)
    for module in backbone.modules():  # RoBERTa counts positions from its padding index
        if isinstance(table := getattr(module, "position_embeddings", None), nn.Embedding) and limit:
            return limit - (0 if table.padding_idx is None else table.padding_idx + 1)
    return limit


def _warn_of_other_layers(backbone: nn.Module, names: Collection[str]) -> None:
    """Some layers of a hybrid have no softmax attention (Qwen3-Next, Qwen3.5): say which get no prefix."""
    stacks: list[str] = []
    for stack, layers in backbone.named_modules():
        if not isinstance(layers, nn.ModuleList) or any(stack.startswith(f"{outer}.") for outer in stacks):
            continue
        stacks.append(stack)
        without = [i for i in range(len(layers)) if not any(name.startswith(f"{stack}.{i}.") for name in names)]
        if without and len(without) < len(layers) and any(name.startswith(f"{stack}.") for name in names):
            warnings.warn(
                f"layers {', '.join(map(str, without))} of {stack} have no softmax attention and get no prefix; the "
                f"other {len(layers) - len(without)} do.",
                stacklevel=4,
            )


def _kind(call: RecordedCall, encoder_tokens: int) -> SiteKind:
    queries, keys = call.queries.shape[2], call.keys.shape[2]
    if queries != keys:
        return "cross"
    return "encoder" if queries == encoder_tokens or not call.is_causal else "decoder"
