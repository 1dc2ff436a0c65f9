"""Tiny random models, one or more per family, and inputs for them."""

import importlib
from collections.abc import Callable
from typing import Any

import torch
import transformers as hf
from torch import Tensor

VOCABULARY = 99
POSITIONS = 64

_tokens = {"vocab_size": VOCABULARY, "max_position_embeddings": POSITIONS}
_small = {**_tokens, "intermediate_size": 32}
_layers = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
_grouped = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
_gpt = {"vocab_size": VOCABULARY, "n_positions": POSITIONS, "n_embd": 16, "n_layer": 2, "n_head": 2}
_t5 = {
    "vocab_size": VOCABULARY,
    "d_model": 16,
    "num_heads": 2,
    "num_layers": 2,
    "d_ff": 32,
    "decoder_start_token_id": 0,
}
_stack = {"layers": 2, "attention_heads": 2, "ffn_dim": 32}
_stacks = {f"{side}_{name}": size for side in ("encoder", "decoder") for name, size in _stack.items()} | {"d_model": 16}

_experts = {"num_experts_per_tok": 2, "moe_intermediate_size": 16}
_sliding = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention"]}
_linear = {
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "layer_types": ["linear_attention", "full_attention"],
}
_latent = {"q_lora_rank": 12, "kv_lora_rank": 8, "qk_nope_head_dim": 6, "qk_rope_head_dim": 4, "v_head_dim": 8}
_disentangled = {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
    "type_vocab_size": 0,
}

# wide weights, for outputs that depend on the inputs, and special tokens inside of the vocabulary
_special = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_wide = {"initializer_range": 0.2, **_special}
_opt = {**_wide, "init_std": 0.2, "ffn_dim": 32, "pad_token_id": 1, "bos_token_id": 2}
_wide_stacks = {**_tokens, **_stacks, "init_std": 0.2, **_special, "decoder_start_token_id": 2}
_unforced = {"forced_eos_token_id": None}  # else generation ends with this token
_shifted = {"max_position_embeddings": POSITIONS + 2, "pad_token_id": 1, "bos_token_id": 0}  # RoBERTa's positions


def _tiny(model: str, *sizes: dict[str, Any], **settings: Any) -> Callable[[], Any]:
    """A function that builds the model; later settings override earlier ones."""
    for earlier in reversed(sizes):
        settings = earlier | settings

    def build() -> Any:
        model_class = getattr(hf, model)
        return model_class(model_class.config_class(**settings)).eval()

    return build


_text = "ForSequenceClassification"
_causal = "ForCausalLM"
_conditional = "ForConditionalGeneration"

# with the default initialization of transformers
BACKBONES: dict[str, Callable[[], Any]] = {
    "bert": _tiny("Bert" + _text, _small, _layers, num_labels=3),
    "roberta": _tiny("Roberta" + _text, _small, _layers, max_position_embeddings=POSITIONS + 2),
    "albert": _tiny("AlbertModel", _small, _layers, num_hidden_layers=3, embedding_size=8),
    "distilbert": _tiny("DistilBert" + _text, _tokens, dim=16, n_layers=2, n_heads=2, hidden_dim=32),
    "modernbert": _tiny("ModernBertModel", _small, _layers, num_hidden_layers=4, local_attention=8, pad_token_id=0),
    "gpt2": _tiny("GPT2LMHeadModel", _gpt),
    "llama": _tiny("Llama" + _causal, _small, _grouped),
    "gemma2": _tiny("Gemma2" + _causal, _small, _grouped, head_dim=8, sliding_window=8),
    "t5": _tiny("T5" + _conditional, _t5, d_kv=6),
    "bart": _tiny("Bart" + _conditional, _tokens, _stacks, _unforced, decoder_layers=3),
}

# encoders
BACKBONES |= {
    "xlm_roberta": _tiny("XLMRoberta" + _text, _small, _layers, _wide, _shifted),
    "camembert": _tiny("Camembert" + _text, _small, _layers, _wide, _shifted),
    "electra": _tiny("Electra" + _text, _small, _layers, _wide, embedding_size=8),
    "deberta_v2": _tiny("DebertaV2" + _text, _small, _layers, _wide, _disentangled),
    "deberta_v2_xlarge": _tiny("DebertaV2Model", _small, _layers, _wide, _disentangled, conv_kernel_size=3),
}

# decoders
BACKBONES |= {
    "gpt_neox": _tiny("GPTNeoX" + _causal, _small, _layers, _wide),
    "opt": _tiny("OPT" + _causal, _tokens, _layers, _opt),
    "opt_350m": _tiny("OPT" + _causal, _tokens, _layers, _opt, do_layer_norm_before=False, word_embed_proj_dim=8),
    "gpt_bigcode": _tiny("GPTBigCode" + _causal, _gpt, _wide, multi_query=True),
    "llama_mha": _tiny("Llama" + _causal, _small, _layers, _wide),
    "mistral": _tiny("Mistral" + _causal, _small, _grouped, _wide, sliding_window=None),
    "mistral_window": _tiny("Mistral" + _causal, _small, _grouped, _wide, sliding_window=8),
    "mixtral": _tiny("Mixtral" + _causal, _small, _grouped, _wide, num_local_experts=4, num_experts_per_tok=2),
    "qwen2": _tiny("Qwen2" + _causal, _small, _grouped, _wide),
    "qwen3": _tiny("Qwen3" + _causal, _small, _grouped, _wide, head_dim=16),
    "qwen3_moe": _tiny("Qwen3Moe" + _causal, _small, _grouped, _wide, _experts, num_experts=4, head_dim=8),
    "phi": _tiny("Phi" + _causal, _small, _layers, _wide),
    "phi3": _tiny("Phi3" + _causal, _small, _grouped, _wide, original_max_position_embeddings=POSITIONS),
    "gemma": _tiny("Gemma" + _causal, _small, _grouped, _wide, num_key_value_heads=1, head_dim=16),
    "gemma3": _tiny("Gemma3" + _causal, _small, _grouped, _wide, _sliding, head_dim=8, query_pre_attn_scalar=8),
    "gemma4": _tiny(
        "Gemma4" + _causal,
        _small,
        _grouped,
        _wide,
        _sliding,
        head_dim=8,
        global_head_dim=16,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=4,
    ),
    "gemma4_shared": _tiny(  # the upper layers reuse keys and values of lower ones, as in E2B
        "Gemma4" + _causal,
        _small,
        _grouped,
        _wide,
        _sliding,
        num_hidden_layers=4,
        layer_types=["sliding_attention", "full_attention"] * 2,
        num_kv_shared_layers=2,
        head_dim=8,
        global_head_dim=16,
        vocab_size_per_layer_input=VOCABULARY,
        hidden_size_per_layer_input=4,
    ),
    "stablelm": _tiny("StableLm" + _causal, _small, _grouped, _wide),
    "olmo2": _tiny("Olmo2" + _causal, _small, _grouped, _wide),
    "smollm3": _tiny("SmolLM3" + _causal, _small, _grouped, _wide, no_rope_layers=[1, 0]),
    "granite": _tiny("Granite" + _causal, _small, _grouped, _wide, attention_multiplier=0.2, residual_multiplier=0.5),
    "cohere": _tiny("Cohere" + _causal, _small, _grouped, _wide, logit_scale=0.25),
    "gpt_oss": _tiny(
        "GptOss" + _causal,
        _small,
        _grouped,
        _wide,
        _sliding,
        head_dim=8,
        num_local_experts=4,
        num_experts_per_tok=2,
        rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
    ),
    "deepseek_v3": _tiny(
        "DeepseekV3" + _causal,
        _small,
        _layers,
        _wide,
        _experts,
        _latent,
        num_key_value_heads=2,
        n_routed_experts=4,
        n_group=1,
        topk_group=1,
        first_k_dense_replace=1,
        num_mtp_layers=0,
    ),
}

# decoders with full and linear attention
BACKBONES |= {
    "qwen3_next": _tiny(
        "Qwen3Next" + _causal,
        _small,
        _grouped,
        _wide,
        _experts,
        _linear,
        head_dim=8,
        num_experts=4,
        shared_expert_intermediate_size=16,
    ),
    "qwen3_5": _tiny("Qwen3_5" + _causal, _small, _grouped, _wide, _linear, head_dim=8),
}

# encoder-decoders
BACKBONES |= {
    "t5_deep_decoder": _tiny("T5" + _conditional, _t5, d_kv=8, num_layers=1, num_decoder_layers=3),
    "flan_t5_small": _tiny(
        "T5" + _conditional, _t5, num_heads=6, d_kv=4, feed_forward_proj="gated-gelu", tie_word_embeddings=False
    ),
    "mt5": _tiny("MT5" + _conditional, _t5, num_heads=6, d_kv=4),
    "mbart": _tiny("MBart" + _conditional, _wide_stacks, _unforced),
    "marian": _tiny("MarianMTModel", _wide_stacks, _unforced, decoder_start_token_id=0),
    "pegasus": _tiny("Pegasus" + _conditional, _wide_stacks, _unforced, decoder_start_token_id=0),
    "m2m_100": _tiny("M2M100" + _conditional, _wide_stacks, pad_token_id=1, bos_token_id=0),
    "blenderbot": _tiny("Blenderbot" + _conditional, _wide_stacks, _unforced, encoder_no_repeat_ngram_size=0),
}

# families whose attention does not call the attention interface of transformers
REFUSED: dict[str, Callable[[], Any]] = {
    "gpt_j": _tiny("GPTJ" + _causal, _gpt, _wide, rotary_dim=4),
    "gpt_neo": _tiny(
        "GPTNeo" + _causal,
        _small,
        _wide,
        hidden_size=16,
        num_heads=2,
        num_layers=2,
        attention_types=[[["global", "local"], 1]],
    ),
    "bloom": _tiny("Bloom" + _causal, _wide, vocab_size=VOCABULARY, hidden_size=16, n_layer=2, n_head=2),
    "falcon": _tiny("Falcon" + _causal, _tokens, _layers, _wide),
    "mpt": _tiny("Mpt" + _causal, _wide, vocab_size=VOCABULARY, d_model=16, n_heads=2, n_layers=2),
    "mpnet": _tiny("MPNet" + _text, _small, _layers, _wide, _shifted),
    "led": _tiny(
        "LED" + _conditional,
        _wide_stacks,
        attention_window=8,
        max_encoder_position_embeddings=POSITIONS,
        max_decoder_position_embeddings=POSITIONS,
    ),
    "prophetnet": _tiny(
        "ProphetNet" + _conditional,
        _shifted,
        _wide,
        vocab_size=VOCABULARY,
        hidden_size=16,
        decoder_start_token_id=2,
        num_encoder_layers=2,
        num_decoder_layers=2,
        num_encoder_attention_heads=2,
        num_decoder_attention_heads=2,
        encoder_ffn_dim=32,
        decoder_ffn_dim=32,
    ),
    "mamba": _tiny("Mamba" + _causal, _wide, vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, state_size=4),
    "deberta": _tiny("Deberta" + _text, _small, _layers, _wide, relative_attention=True, pos_att_type=["p2c", "c2p"]),
}


if hasattr(importlib.import_module("transformers.models.gptj.modeling_gptj"), "ALL_ATTENTION_FUNCTIONS"):
    BACKBONES["gpt_j"] = REFUSED.pop("gpt_j")  # it calls the interface since transformers 5.24


def inputs_for(backbone: Any, rows: int = 2, tokens: int = 7) -> dict[str, Tensor]:
    """Random ids without special tokens, and decoder ids for an encoder-decoder."""
    ids = torch.randint(5, VOCABULARY, (rows, tokens), generator=torch.Generator().manual_seed(1))
    if backbone.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": ids.flip(1)[:, :5]}
    return {"input_ids": ids}
