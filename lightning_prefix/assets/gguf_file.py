"""SmolLM2 from its GGUF file: dequantised once, so that later loads need nothing but transformers."""

import re
from pathlib import Path
from typing import Any

import gguf
import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedTokenizerFast

__all__ = ["write_model"]

_MODULES = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}


def write_model(unpacked: Path, target: Path) -> None:
    """Convert the GGUF file among the unpacked members: weights in bfloat16, tokenizer and chat template.

    Weights and tokenizer are read here: transformers 5.15 takes another end token and wants accelerate, 5.24 keeps
    weights packed, and no release saves what it read.
    """
    (file,) = unpacked.rglob("*.gguf")
    reader = gguf.GGUFReader(file)
    config = AutoConfig.from_pretrained(file.parent, gguf_file=file.name)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    state = _state(reader, config)
    model.load_state_dict({**state, "lm_head.weight": state["model.embed_tokens.weight"]})
    model.save_pretrained(target)
    _tokenizer(reader, config.max_position_embeddings).save_pretrained(target)


def _state(reader: Any, config: PreTrainedConfig) -> dict[str, Tensor]:
    """Dequantised weights by the names of LlamaForCausalLM: `blk.3.attn_q.weight` is one of layer 3."""
    heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
    state = {}
    for tensor in reader.tensors:
        layer, module = re.findall(r"(?:blk\.(\d+)\.)?(\w+)\.weight", tensor.name)[0]
        weight = torch.tensor(gguf.dequantize(tensor.data, tensor.tensor_type))
        if module in heads:  # GGUF has the two halves that rotate together interleaved
            weight = weight.view(heads[module], -1, 2, weight.shape[1]).transpose(1, 2).reshape(weight.shape)
        prefix = f"model.layers.{layer}." if layer else ""
        state[f"{prefix}{_MODULES[module]}.weight"] = weight
    return state


def _tokenizer(reader: Any, max_length: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE whose digits are split, which is what GGUF calls "smollm"."""

    def content(key: str) -> Any:
        return reader.get_field(f"tokenizer.{key}").contents()

    tokens = content("ggml.tokens")
    merges = [tuple(merge.split(" ")) for merge in content("ggml.merges")]
    tokenizer = Tokenizer(models.BPE({token: number for number, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = zip(tokens, content("ggml.token_type"), strict=True)
    tokenizer.add_special_tokens(
        [AddedToken(token, normalized=False) for token, kind in kinds if kind == gguf.TokenType.CONTROL]
    )
    special = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        chat_template=content("chat_template"),
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{ours}_token": tokens[content(f"ggml.{theirs}_token_id")] for ours, theirs in special.items()},
    )
