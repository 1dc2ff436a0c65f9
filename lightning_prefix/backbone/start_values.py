"""Where a prefix starts: keys and values taken from the frozen model."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.load import load_tokenizer
from lightning_prefix.backbone.sites import config_of, max_positions, record_calls, sample_tokens
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, PrefixConfig, StartValues

_SAMPLE_TOKENS = 64


def start_values(
    backbone: nn.Module, sites: Sequence[AttentionSite], config: PrefixConfig, tokenizer: Any = None
) -> StartValues:
    """Keys (kv_heads, length, key_dim) and values (kv_heads, length, value_dim) of every site, float32.

    Args:
        backbone: the frozen model.
        sites: all its sites, in the order of their calls.
        config: `init`, `init_text` and `length` are read.
        tokenizer: for `init: text`; the one stored beside the backbone when None.

    Raises:
        InputError: if `init: text` has no text, or the text no tokens.
    """
    if config.init == "text":
        ids = _text_tokens(backbone, config, tokenizer)
        return [(keys[0].float(), values[0].float()) for keys, values in _keys_and_values(backbone, ids)]
    if config.init == "random":
        count = min(_SAMPLE_TOKENS, max_positions(backbone) or _SAMPLE_TOKENS)
        sample = _keys_and_values(backbone, sample_tokens(backbone, count))
        return [(_random_like(keys, config.length), _random_like(values, config.length)) for keys, values in sample]
    return [
        (
            torch.zeros(site.kv_heads, config.length, site.key_dim),
            torch.zeros(site.kv_heads, config.length, site.value_dim),
        )
        for site in sites
    ]


def _keys_and_values(backbone: nn.Module, ids: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """(1, kv_heads, tokens, dim) of each site; an encoder-decoder reads the same ids on both sides."""
    decoder_ids = ids if config_of(backbone).is_encoder_decoder else None
    return [(call.keys, call.values) for call in record_calls(backbone, ids, decoder_ids)]


def _random_like(tensor: Tensor, length: int) -> Tensor:
    """Normal, with the mean and deviation over the tokens of each head and dimension."""
    real = tensor[0].float()  # (kv_heads, tokens, dim)
    mean, deviation = real.mean(1, keepdim=True), real.std(1, keepdim=True)
    noise = torch.randn(real.shape[0], length, real.shape[2]).to(real.device)
    return mean + deviation * noise


def _text_tokens(backbone: nn.Module, config: PrefixConfig, tokenizer: Any) -> list[int]:
    if not config.init_text:
        raise InputError(
            "init='text' is given without init_text; give the text whose keys and values the prefix starts from, "
            "for example the task's instruction, or use init='random'."
        )
    if tokenizer is None:
        tokenizer = load_tokenizer(config_of(backbone)._name_or_path)
    ids: list[int] = tokenizer(config.init_text)["input_ids"]
    if not ids:
        raise InputError(f"init_text {config.init_text!r} has no tokens; give a text with words.")
    if config.length > (limit := max_positions(backbone) or config.length):
        raise InputError(
            f"prefix length {config.length} with init='text' is given, but {type(backbone).__name__} has positions "
            f"for {limit} tokens of text; use length <= {limit}, or init='random'."
        )
    return (ids * -(-config.length // len(ids)))[: config.length]
