"""Marian's small translation models in transformers: the decoder's self-attention is a recurrence.

Importing this module registers them, so that `AutoModelForSeq2SeqLM.from_pretrained` loads a folder of one.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForSeq2SeqLM, MarianConfig, MarianMTModel
from transformers.models.marian.modeling_marian import MarianSinusoidalPositionalEmbedding

from lightning_prefix.errors import InputError

__all__ = ["MarianSSRUConfig", "MarianSSRUModel", "SSRU", "weighted_sums"]


class MarianSSRUConfig(MarianConfig):  # type: ignore[misc]
    """Configuration of `MarianSSRUModel`."""

    model_type = "marian-ssru"


class SSRU(nn.Module):
    """Simpler simple recurrent unit (Kim et al. 2019, "From Research to Production and Back", section 3.1).

    f_t = sigmoid(W_f x_t + b_f),  c_t = f_t * c_(t-1) + (1 - f_t) * W x_t,  y_t = relu(c_t)

    Args:
        hidden: size of x, c and y.
    """

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.candidate = nn.Linear(hidden, hidden, bias=False)
        self.forget = nn.Linear(hidden, hidden)

    def forward(self, hidden_states: Tensor, **attention: Any) -> tuple[Tensor, None]:
        """(batch, tokens, hidden) to the same, in the signature of the self-attention that it replaces.

        Raises:
            InputError: if there is a cache, since a recurrence has no keys and values to keep.
        """
        # the argument has two names, before and since transformers 5.2x
        if attention.get("past_key_values") is not None or attention.get("cache") is not None:
            raise InputError(
                "use_cache=True was given, but the decoder of a marian-ssru model has no cache; leave use_cache out "
                "or give False."
            )
        forget = torch.sigmoid(self.forget(hidden_states))
        return torch.relu(weighted_sums(forget, (1 - forget) * self.candidate(hidden_states))), None


def weighted_sums(forget: Tensor, update: Tensor) -> Tensor:
    """c_t = forget_t * c_(t-1) + update_t with c_0 = 0, in log2(tokens) steps.

    Step s joins every window of 2^s tokens with the one before it: products of numbers below 1 and sums only, so it
    is as stable as the loop (Hillis & Steele 1986, "Data Parallel Algorithms").

    Args:
        forget: (batch, tokens, hidden), float, 0 to 1.
        update: (batch, tokens, hidden), float.

    Example:
        >>> weighted_sums(torch.full((1, 3, 1), 0.5), torch.tensor([[[8.0], [0.0], [1.0]]])).flatten()
        tensor([8., 4., 3.])
    """
    window = 1
    while window < update.shape[1]:
        earlier = (0, 0, window, 0)
        update = update + forget * nn.functional.pad(update[:, :-window], earlier)
        forget = forget * nn.functional.pad(forget[:, :-window], earlier)
        window *= 2
    return update


class _Positions(MarianSinusoidalPositionalEmbedding):  # type: ignore[misc]
    """Marian's own table, whose wavelengths differ from those in transformers; computed at every load."""

    def create_weight(self) -> Tensor:
        """(positions, hidden): sines, then cosines, of position / 10000^(i / (hidden / 2 - 1))."""
        positions, hidden = self.weight.shape
        half = hidden // 2
        rates = torch.exp(torch.arange(half) * (-math.log(10000.0) / (half - 1)))
        angles = torch.arange(positions)[:, None] * rates
        return torch.cat([angles.sin(), angles.cos()], dim=1)


class MarianSSRUModel(MarianMTModel):  # type: ignore[misc]
    """MarianMTModel with an `SSRU` in place of the self-attention of each decoder layer.

    A prefix reaches the encoder's self-attention and the cross-attention. There is no cache, so generation runs the
    decoder on the whole text at every step. The logit of `<unk>` and of padding is -10000: labels that are one of
    the two must become -100, or a single one of them makes the loss some thousands.
    """

    config_class = MarianSSRUConfig

    def __init__(self, config: MarianSSRUConfig) -> None:
        super().__init__(config)
        for layer in self.model.decoder.layers:
            layer.self_attn = SSRU(config.d_model)
        for stack in (self.model.encoder, self.model.decoder):
            stack.embed_positions = _Positions(config.max_position_embeddings, config.d_model)
        for module in self.modules():
            if isinstance(module, nn.LayerNorm):
                module.eps = 1e-9  # Marian's
        self.post_init()


AutoConfig.register(MarianSSRUConfig.model_type, MarianSSRUConfig)
AutoModelForSeq2SeqLM.register(MarianSSRUConfig, MarianSSRUModel)
