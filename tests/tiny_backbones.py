"""One tiny random model per family, and inputs for them."""

from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor

VOCABULARY = 99
POSITIONS = 64

_small = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS, "intermediate_size": 32}
_layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_grouped = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}


def _bart(**changes: int) -> Any:
    sizes = {
        "encoder_layers": 2,
        "decoder_layers": 3,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
    }
    return hf.BartForConditionalGeneration(
        hf.BartConfig(
            vocab_size=VOCABULARY,
            d_model=16,
            encoder_ffn_dim=32,
            decoder_ffn_dim=32,
            max_position_embeddings=POSITIONS,
            **sizes | changes,
        )
    )


BACKBONES: dict[str, Callable[[], Any]] = {
    name: (lambda make=make: make().eval())
    for name, make in {
        "bert": lambda: hf.BertForSequenceClassification(hf.BertConfig(**_small, **_layers, num_labels=3)),
        "roberta": lambda: hf.RobertaForSequenceClassification(
            hf.RobertaConfig(**_small | {"max_position_embeddings": POSITIONS + 2}, **_layers)
        ),
        "albert": lambda: hf.AlbertModel(
            hf.AlbertConfig(**_small, **_layers | {"num_hidden_layers": 3}, embedding_size=8)
        ),
        "distilbert": lambda: hf.DistilBertForSequenceClassification(
            hf.DistilBertConfig(
                vocab_size=VOCABULARY, dim=16, n_layers=2, n_heads=2, hidden_dim=32, max_position_embeddings=POSITIONS
            )
        ),
        "modernbert": lambda: hf.ModernBertModel(
            hf.ModernBertConfig(**_small, **_layers | {"num_hidden_layers": 4}, local_attention=8, pad_token_id=0)
        ),
        "gpt2": lambda: hf.GPT2LMHeadModel(
            hf.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=POSITIONS)
        ),
        "llama": lambda: hf.LlamaForCausalLM(hf.LlamaConfig(**_small, **_grouped)),
        "gemma2": lambda: hf.Gemma2ForCausalLM(hf.Gemma2Config(**_small, **_grouped, head_dim=8, sliding_window=8)),
        "t5": lambda: hf.T5ForConditionalGeneration(
            hf.T5Config(
                vocab_size=VOCABULARY,
                d_model=16,
                d_kv=6,
                num_heads=2,
                num_layers=2,
                d_ff=32,
                decoder_start_token_id=0,
            )
        ),
        "bart": _bart,
    }.items()
}


def inputs_for(backbone: Any, rows: int = 2, tokens: int = 7) -> dict[str, Tensor]:
    """Random ids without special tokens, and decoder ids for an encoder-decoder."""
    ids = torch.randint(5, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(1))
    if backbone.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": ids.flip(1)[:, :5]}
    return {"input_ids": ids}
