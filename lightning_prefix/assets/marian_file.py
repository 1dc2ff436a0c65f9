"""Translation models of Marian from its binary file: headers, names, shapes, padding, data; version 1."""

import math
import re
import struct
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, processors
from torch import Tensor
from transformers import GenerationConfig, PreTrainedTokenizerFast

from lightning_prefix.assets.marian_ssru import MarianSSRUConfig, MarianSSRUModel

__all__ = ["write_model"]

_INT8 = 0x4101
_EOS, _UNK, _PAD = "</s>", "<unk>", "<pad>"
_NEVER = -1e4
_POSITIONS = 512
_LINEAR = {
    "self_q": "self_attn.q_proj",
    "self_k": "self_attn.k_proj",
    "self_v": "self_attn.v_proj",
    "self_o": "self_attn.out_proj",
    "rnn_": "self_attn.candidate",
    "rnn_f": "self_attn.forget",
    "context_q": "encoder_attn.q_proj",
    "context_k": "encoder_attn.k_proj",
    "context_v": "encoder_attn.v_proj",
    "context_o": "encoder_attn.out_proj",
    "ffn_1": "fc1",
    "ffn_2": "fc2",
}
_NORMS = {
    "self_Wo": "self_attn_layer_norm",
    "rnn_ffn": "self_attn_layer_norm",
    "context_Wo": "encoder_attn_layer_norm",
    "ffn_ffn": "final_layer_norm",
}


def write_model(unpacked: Path, target: Path) -> None:
    """Convert the one model among the unpacked members: weights in float32, and a tokenizer that appends `</s>`.

    Marian has no padding token; a last one, all zeros, is added, which also starts the decoder.
    """
    (weights,) = unpacked.rglob("*.bin")
    tokenizer = _tokenizer(weights.parent / "tokenizer.json")
    tensors = _read(weights)
    model = MarianSSRUModel(_config(tensors, tokenizer))
    embeddings = torch.nn.functional.pad(tensors.pop("Wemb"), (0, 0, 0, 1))
    bias = torch.nn.functional.pad(tensors.pop("decoder_ff_logit_out_b"), (0, 1), value=_NEVER)
    bias[:, tokenizer.unk_token_id] = _NEVER
    state = dict(_module(name, tensor) for name, tensor in tensors.items())
    state |= {"model.shared.weight": embeddings, "final_logits_bias": bias}
    known = model.state_dict()
    state |= {name: known[name] for name in known if name.endswith("embed_positions.weight")}
    state |= {name: embeddings for name in known if name.endswith(("embed_tokens.weight", "lm_head.weight"))}
    model.load_state_dict(state)
    model.generation_config = GenerationConfig(
        decoder_start_token_id=tokenizer.pad_token_id,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        max_new_tokens=128,  # every step runs the decoder on the whole text
        use_cache=False,
    )
    model.save_pretrained(target)
    tokenizer.save_pretrained(target)


def _read(path: Path) -> dict[str, Tensor]:
    """Tensors by Marian's names, matrices as (input, output)."""
    data = path.read_bytes()
    (count,) = struct.unpack_from("<8xQ", data)
    cursor = 16 + 32 * count
    headers = list(struct.iter_unpack("<4Q", data[16:cursor]))
    names, shapes = [], []
    for length, _, _, _ in headers:
        names.append(data[cursor : cursor + length - 1].decode())
        cursor += length
    for _, _, dimensions, _ in headers:
        shapes.append(struct.unpack_from(f"<{dimensions}i", data, cursor))
        cursor += 4 * dimensions
    cursor += 8 + struct.unpack_from("<Q", data, cursor)[0]
    tensors = {}
    for (_, kind, _, stored), name, shape in zip(headers, names, shapes, strict=True):
        if not name.startswith("special:") and not name.endswith("_QuantMultA"):  # scales of activations
            tensors[name] = _tensor(data, cursor, name, kind, shape)
        cursor += stored
    return tensors


def _tensor(data: bytes, cursor: int, name: str, kind: int, shape: tuple[int, ...]) -> Tensor:
    """One tensor; those of 8 bits end in their scale, and all but the embeddings are stored transposed."""
    size = math.prod(shape)
    if kind != _INT8:
        return torch.tensor(np.frombuffer(data, "<f4", size, cursor)).view(shape)
    (scale,) = struct.unpack_from("<f", data, cursor + size)
    values: Tensor = torch.tensor(np.frombuffer(data, np.int8, size, cursor)).float() / scale
    return values.view(shape) if name == "Wemb" else values.view(shape[::-1]).T


def _module(name: str, tensor: Tensor) -> tuple[str, Tensor]:
    """Name and shape in `MarianSSRUModel`.

    Example:
        >>> _module("decoder_l2_rnn_Wf", torch.zeros(3, 3))[0], _module("encoder_l1_self_Wo_ln_scale", torch.ones(1, 3))
        ('model.decoder.layers.1.self_attn.forget.weight',
         ('model.encoder.layers.0.self_attn_layer_norm.weight', tensor([1., 1., 1.])))
    """
    side, layer, rest = re.findall(r"(encoder|decoder)_l(\d+)_(.+)", name)[0]
    if "_ln_" in rest:
        module, kind = rest.split("_ln_")
        module, is_weight = _NORMS[module], kind == "scale"
    else:
        block, kind, letter = re.findall(r"(.+_)([Wb])(\w?)$", rest)[0]
        module, is_weight = _LINEAR[block + letter], kind == "W"
    values = tensor.T.contiguous() if tensor.shape[0] > 1 else tensor[0]
    return f"model.{side}.layers.{int(layer) - 1}.{module}.{'weight' if is_weight else 'bias'}", values


def _config(tensors: dict[str, Tensor], tokenizer: PreTrainedTokenizerFast) -> MarianSSRUConfig:
    """Sizes from the tensors; the number of heads is that of all of Marian's "tiny" models."""
    vocabulary, hidden = tensors["Wemb"].shape
    inner = tensors["encoder_l1_ffn_W1"].shape[1]
    return MarianSSRUConfig(
        vocab_size=vocabulary + 1,
        d_model=hidden,
        encoder_layers=sum(name.endswith("_self_Wq") for name in tensors),
        decoder_layers=sum(name.endswith("_rnn_W") for name in tensors),
        encoder_attention_heads=8,
        decoder_attention_heads=8,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        activation_function="relu",
        dropout=0.0,
        scale_embedding=True,
        max_position_embeddings=_POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        decoder_start_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        forced_eos_token_id=None,
        use_cache=False,
    )


def _tokenizer(path: Path) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {_EOS}", special_tokens=[(_EOS, tokenizer.token_to_id(_EOS))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token=_EOS,
        unk_token=_UNK,
        pad_token=_PAD,
        model_max_length=_POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
    )
