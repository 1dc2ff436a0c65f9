import json
import math
import struct

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch.nn import functional
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from lightning_prefix import FlatPrefixConfig, PrefixedModel
from lightning_prefix.assets.marian_file import write_model
from lightning_prefix.assets.marian_ssru import MarianSSRUModel, weighted_sums
from lightning_prefix.errors import InputError

FLOAT, INT8 = 0x0404, 0x4101
HIDDEN, INNER, HEADS, LAYERS = 32, 48, 8, {"encoder": 2, "decoder": 2}
WORDS = ["</s>", "<unk>", "a", "house", "is", "small", "big", "the"]
EOS, UNK, PAD = 0, 1, len(WORDS)


def made_tensors():
    """Values as they are after rounding to 8 bits, by Marian's names, matrices as (input, output)."""
    generator = np.random.default_rng(0)

    def matrix(*shape):
        return (generator.integers(-127, 128, shape) / np.float32(256)).astype(np.float32)

    def vector(size, mean=0.0):
        return (mean + generator.normal(0, 0.2, (1, size))).astype(np.float32)

    tensors = {"Wemb": matrix(len(WORDS), HIDDEN), "decoder_ff_logit_out_b": vector(len(WORDS))}

    def norm(name):
        tensors[f"{name}_ln_scale"], tensors[f"{name}_ln_bias"] = vector(HIDDEN, 1.0), vector(HIDDEN)

    def attention(name):
        for letter in "qkvo":
            tensors[f"{name}_W{letter}"], tensors[f"{name}_b{letter}"] = matrix(HIDDEN, HIDDEN), vector(HIDDEN)
        norm(f"{name}_Wo")

    for side, layers in LAYERS.items():
        for name in (f"{side}_l{number + 1}" for number in range(layers)):
            if side == "encoder":
                attention(f"{name}_self")
            else:
                tensors[f"{name}_rnn_W"], tensors[f"{name}_rnn_Wf"] = matrix(HIDDEN, HIDDEN), matrix(HIDDEN, HIDDEN)
                tensors[f"{name}_rnn_bf"] = vector(HIDDEN)
                norm(f"{name}_rnn_ffn")
                attention(f"{name}_context")
            tensors[f"{name}_ffn_W1"], tensors[f"{name}_ffn_b1"] = matrix(HIDDEN, INNER), vector(INNER)
            tensors[f"{name}_ffn_W2"], tensors[f"{name}_ffn_b2"] = matrix(INNER, HIDDEN), vector(HIDDEN)
            norm(f"{name}_ffn_ffn")
    return tensors


def write_marian(path, tensors):
    """Version 1: headers, names, shapes, padding to 256 bytes, data."""
    stored = {"special:model.yml": (0x0101, (4,), b"yml\0"), "Wemb_QuantMultA": (FLOAT, (1, 1), struct.pack("<f", 9))}
    for name, values in tensors.items():
        if values.shape[0] == 1:
            stored[name] = FLOAT, values.shape, values.tobytes()
        else:
            whole = np.rint(values * 256).astype(np.int8)
            data = (whole if name == "Wemb" else whole.T).tobytes() + struct.pack("<f", 256)
            stored[name] = INT8, values.shape, data + bytes(-len(data) % 256)
    content = struct.pack("<2Q", 1, len(stored))
    for name, (kind, shape, data) in stored.items():
        content += struct.pack("<4Q", len(name) + 1, kind, len(shape), len(data))
    content += b"".join(name.encode() + b"\0" for name in stored)
    content += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, shape, _ in stored.values())
    padding = -(len(content) + 8) % 256
    content += struct.pack("<Q", padding) + bytes(padding)
    path.write_bytes(content + b"".join(data for _, _, data in stored.values()))


def reference_logits(tensors, source, target):  # noqa: C901, one short function for each kind of layer
    """Marian's "tiny" model on one sentence, step by step: (target tokens, vocabulary)."""
    tensors = {name: torch.from_numpy(values) for name, values in tensors.items()}
    rates = [math.exp(-math.log(10000) * i / (HIDDEN // 2 - 1)) for i in range(HIDDEN // 2)]

    def embed(ids):
        rows = [tensors["Wemb"][i] if i < PAD else torch.zeros(HIDDEN) for i in ids]
        table = [[math.sin(p * r) for r in rates] + [math.cos(p * r) for r in rates] for p in range(len(ids))]
        return torch.stack(rows) * HIDDEN**0.5 + torch.tensor(table)

    def linear(x, name, letter):
        return x @ tensors[f"{name}_W{letter}"] + tensors.get(f"{name}_b{letter}", 0)

    def norm(x, name):
        scale, bias = tensors[f"{name}_ln_scale"][0], tensors[f"{name}_ln_bias"][0]
        return functional.layer_norm(x, (HIDDEN,), scale, bias, eps=1e-9)

    def attend(x, memory, name):
        def heads(y):
            return y.view(len(y), HEADS, -1).transpose(0, 1)

        q, k, v = heads(linear(x, name, "q")), heads(linear(memory, name, "k")), heads(linear(memory, name, "v"))
        mixed = (q @ k.mT / (HIDDEN // HEADS) ** 0.5).softmax(-1) @ v
        return norm(x + linear(mixed.transpose(0, 1).reshape(x.shape), name, "o"), f"{name}_Wo")

    def recur(x, name):
        state, outputs = torch.zeros(HIDDEN), []
        for step in x:
            forget = torch.sigmoid(linear(step, name, "f")[0])
            state = forget * state + (1 - forget) * (step @ tensors[f"{name}_W"])
            outputs.append(state.relu())
        return norm(x + torch.stack(outputs), f"{name}_ffn")

    def feed(x, name):
        return norm(x + linear(linear(x, name, "1").relu(), name, "2"), f"{name}_ffn")

    memory, x = embed(source), embed(target)
    for number in range(LAYERS["encoder"]):
        memory = attend(memory, memory, f"encoder_l{number + 1}_self")
        memory = feed(memory, f"encoder_l{number + 1}_ffn")
    for number in range(LAYERS["decoder"]):
        x = recur(x, f"decoder_l{number + 1}_rnn")
        x = attend(x, memory, f"decoder_l{number + 1}_context")
        x = feed(x, f"decoder_l{number + 1}_ffn")
    return x @ tensors["Wemb"].T + tensors["decoder_ff_logit_out_b"]


@pytest.fixture(scope="module")
def tensors():
    return made_tensors()


@pytest.fixture(scope="module")
def folder(tensors, tmp_path_factory):
    """The converted model."""
    unpacked, target = tmp_path_factory.mktemp("unpacked"), tmp_path_factory.mktemp("marian")
    write_marian(unpacked / "model.xxyy.bin", tensors)
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(WORDS)}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(unpacked / "tokenizer.json"))
    write_model(unpacked, target)
    return target


@pytest.fixture
def model(folder):
    return AutoModelForSeq2SeqLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def tokenizer(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize("tokens", [1, 2, 3, 8, 13])
def test_weighted_sums_are_those_of_the_loop(tokens):
    forget = torch.rand(2, tokens, 4, dtype=torch.float64, requires_grad=True)
    update = torch.randn(2, tokens, 4, dtype=torch.float64, requires_grad=True)
    state, states = torch.zeros(2, 4), []
    for step in range(tokens):
        state = forget[:, step] * state + update[:, step]
        states.append(state)
    expected, actual = torch.stack(states, 1), weighted_sums(forget, update)
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    for ours, theirs in zip(
        torch.autograd.grad((actual * weights).sum(), (forget, update), materialize_grads=True),
        torch.autograd.grad((expected * weights).sum(), (forget, update), materialize_grads=True),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_weighted_sums_are_stable(value):
    """No division by the products, which vanish or stay whole."""
    update = torch.randn(1, 500, 3)
    expected = update if value == 0 else update.cumsum(1)
    torch.testing.assert_close(weighted_sums(torch.full_like(update, value), update), expected, atol=1e-4, rtol=1e-5)


def test_logits_are_those_of_the_reference(tensors, model):
    source, target = [7, 3, 4, 5, EOS], [PAD, 2, 3, 6, 5, 2]
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([source]), decoder_input_ids=torch.tensor([target])).logits[0]
    expected = reference_logits(tensors, source, target)
    keep = [number for number in range(len(WORDS)) if number != UNK]
    torch.testing.assert_close(logits[:, keep], expected[:, keep], atol=2e-4, rtol=1e-4)
    assert (logits[:, [UNK, PAD]] < -9000).all()


def test_folder_has_no_positions_and_no_cache(folder, model):
    assert json.loads((folder / "config.json").read_text())["model_type"] == "marian-ssru"
    assert type(model) is MarianSSRUModel
    assert model.generation_config.use_cache is False
    assert (folder / "model.safetensors").stat().st_size < 4 * sum(p.numel() for p in model.parameters())


def test_saved_again_it_is_the_same(model, tmp_path):
    model.save_pretrained(tmp_path)
    again, info = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info.values())
    assert again.generation_config.to_dict() == model.generation_config.to_dict()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_from_configuration_it_has_marians_positions(model):
    fresh = AutoModelForSeq2SeqLM.from_config(model.config)
    assert torch.equal(fresh.model.decoder.embed_positions.weight, model.model.decoder.embed_positions.weight)


def test_tokenizer_ends_the_text_on_both_sides(tokenizer):
    encoded = tokenizer("the house", text_target="a piano")
    assert dict(encoded) == {"input_ids": [7, 3, EOS], "attention_mask": [1, 1, 1], "labels": [2, UNK, EOS]}
    assert tokenizer.pad_token_id == PAD


@pytest.mark.parametrize("num_beams", [1, 4])
def test_prefixed_rows_of_a_batch_are_as_alone(model, tokenizer, num_beams):
    prefixed = PrefixedModel(model, FlatPrefixConfig(length=5, init="random"))
    texts = ["the house", "a house is small the house is big"]
    together = prefixed.generate(
        **tokenizer(texts, return_tensors="pt", padding=True), max_new_tokens=6, num_beams=num_beams
    )
    for text, row in zip(texts, together, strict=True):
        (alone,) = prefixed.generate(**tokenizer([text], return_tensors="pt"), max_new_tokens=6, num_beams=num_beams)
        assert row[: len(alone)].tolist() == alone.tolist()
        assert set(row[len(alone) :].tolist()) <= {PAD}


def test_prefix_has_a_gradient_at_the_encoder_and_the_cross_attention(model, tokenizer):
    prefixed = PrefixedModel(model, FlatPrefixConfig(length=5))
    assert [site.kind for site in prefixed.sites] == ["encoder", "encoder", "cross", "cross"]
    batch = tokenizer(["the house"], text_target=["a house"], return_tensors="pt")
    prefixed(**batch).loss.backward()
    trained = [parameter for parameter in prefixed.parameters() if parameter.requires_grad]
    assert len(trained) == 8
    assert all(parameter.grad.abs().sum() > 0 for parameter in trained)


def test_cache_is_refused(model, tokenizer):
    with pytest.raises(InputError, match="decoder of a marian-ssru model has no cache; leave use_cache out"):
        model.generate(**tokenizer(["the house"], return_tensors="pt"), max_new_tokens=3, use_cache=True)
