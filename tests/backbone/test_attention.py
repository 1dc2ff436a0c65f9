"""Numbers: against a plain attention over the concatenated keys and values, and against the oracle of a real text."""

import math

import pytest
import torch
import transformers as hf
from contract import cache_name
from tiny_backbones import BACKBONES, POSITIONS, inputs_for
from torch import nn

import lightning_prefix as lp
from lightning_prefix.backbone.attention import serving

TEXT = [11, 23, 42, 7, 60]


def layer_states(backbone, ids):
    """Keys and values (heads, tokens, dim) of each layer of GPT-2 on one row, from its cache."""
    cache = backbone(torch.tensor([ids]), use_cache=True)[cache_name(backbone)]
    return [(layer.keys[0], layer.values[0]) for layer in cache.layers]


def set_prefix(model, states):
    with torch.no_grad():
        for index, (keys, values) in enumerate(states):
            model.prefix.keys[index].copy_(keys)
            model.prefix.values[index].copy_(values)


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_oracle_shifted_prefix_of_a_text_equals_the_text(family, attention):
    """A prefix that holds a text's keys and values gives the frozen model's logits on text + input."""
    backbone = BACKBONES[family]()
    backbone.set_attn_implementation(attention)
    ids = inputs_for(backbone)["input_ids"]
    with torch.no_grad():
        text = torch.tensor([TEXT]).expand(2, -1)
        expected = backbone(torch.cat((text, ids), 1)).logits[:, len(TEXT) :]
        states = layer_states(backbone, TEXT)
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=len(TEXT)), positions="shift")
    set_prefix(model, states)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=0)


def test_the_oracle_by_text_start():
    """`init: text` takes exactly these keys and values."""
    backbone = BACKBONES["gpt2"]()
    ids = inputs_for(backbone)["input_ids"]

    def tokenizer(text):
        return {"input_ids": TEXT}

    with torch.no_grad():
        expected = backbone(torch.cat((torch.tensor([TEXT]).expand(2, -1), ids), 1)).logits[:, len(TEXT) :]
    config = lp.FlatPrefixConfig(length=len(TEXT), init="text", init_text="a text")
    model = lp.PrefixedModel(backbone, config, positions="shift", tokenizer=tokenizer)
    torch.testing.assert_close(model(ids).logits, expected, atol=1e-5, rtol=0)


class ReferenceAttention(nn.Module):
    """GPT-2 written out: causal attention in which every query also sees the prefix."""

    def __init__(self, frozen, prefix):
        super().__init__()
        self.frozen, self.prefix = frozen, prefix

    def forward(self, ids):
        body = self.frozen.transformer
        hidden = body.wte(ids) + body.wpe(torch.arange(ids.shape[1]))
        for index, block in enumerate(body.h):
            normed = block.ln_1(hidden)
            query, key, value = (
                t.unflatten(-1, (2, 8)).transpose(1, 2) for t in block.attn.c_attn(normed).split(16, dim=-1)
            )
            rows = ids.shape[0]
            key = torch.cat((self.prefix.keys[index].repeat(rows, 1, 1, 1), key), 2)
            value = torch.cat((self.prefix.values[index].repeat(rows, 1, 1, 1), value), 2)
            scores = query @ key.transpose(2, 3) / math.sqrt(8)
            length, tokens = self.prefix.keys[index].shape[1], ids.shape[1]
            hidden_pairs = torch.arange(tokens)[:, None] < torch.arange(tokens)[None]
            scores[..., length:].masked_fill_(hidden_pairs, -math.inf)
            mixed = (scores.softmax(-1) @ value).transpose(1, 2).flatten(2)
            hidden = hidden + block.attn.c_proj(mixed)
            hidden = hidden + block.mlp(block.ln_2(hidden))
        return self.frozen.lm_head(body.ln_f(hidden))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_and_gradients_equal_a_plain_attention_over_prefix_and_text(attention):
    backbone = BACKBONES["gpt2"]()
    backbone.set_attn_implementation(attention)
    ids = inputs_for(backbone)["input_ids"]
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=4))
    parameters = list(model.prefix.parameters())
    ours = model(ids).logits
    theirs = ReferenceAttention(backbone, model.prefix)(ids)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    weights = torch.randn_like(ours)
    for mine, reference in zip(
        torch.autograd.grad((ours * weights).sum(), parameters),
        torch.autograd.grad((theirs * weights).sum(), parameters),
        strict=True,
    ):
        torch.testing.assert_close(mine, reference, atol=1e-4, rtol=1e-4)


def test_gated_output_is_the_frozen_one_plus_the_gated_one():
    """One BERT layer's attention by hand: softmax over text + tanh(gate) * softmax over prefix."""
    backbone = BACKBONES["bert"]()
    attention = backbone.bert.encoder.layer[0].attention.self
    hidden = torch.randn(2, 6, 16)
    frozen = attention(hidden)[0]
    model = lp.PrefixedModel(backbone, lp.GatedPrefixConfig(length=4))
    with torch.no_grad():
        model.prefix.gates[0].copy_(torch.tensor([0.3, -0.7]))
    with serving(model._slot, model._served(None, (), {})):
        ours = attention(hidden)[0]
    query = attention.query(hidden).unflatten(-1, (2, 8)).transpose(1, 2)
    weights = (query @ model.prefix.keys[0].transpose(1, 2) / math.sqrt(8)).softmax(-1)
    added = (weights @ model.prefix.values[0]) * torch.tanh(model.prefix.gates[0])[:, None, None]
    torch.testing.assert_close(ours, frozen + added.transpose(1, 2).flatten(2), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma2", "t5", "bart"])
def test_generated_tokens_equal_teacher_forcing_with_every_cache(family):
    backbone = BACKBONES[family]()
    inputs = inputs_for(backbone)
    decoder = inputs.pop("decoder_input_ids", None)
    options = {
        "max_new_tokens": 6,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    # `eos` stops a row early, after which its logits are padding's
    options |= {"eos_token_id": None, "pad_token_id": 0}
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=4))
    results = [
        model.generate(**inputs, **options),
        model.generate(**inputs, **options, use_cache=False),
        model.generate(**inputs, **options, cache_implementation="static"),
    ]
    for result in results:
        assert torch.equal(result.sequences, results[0].sequences)
        if decoder is None:
            forced = model(result.sequences).logits[:, inputs["input_ids"].shape[1] - 1 : -1]
        else:
            forced = model(**inputs, decoder_input_ids=result.sequences[:, :-1]).logits
        logits = torch.stack(result.logits, 1)
        torch.testing.assert_close(logits, forced[:, -logits.shape[1] :], atol=1e-4, rtol=1e-4)


def test_shifted_positions_in_generation():
    backbone = BACKBONES["llama"]()
    ids = inputs_for(backbone)["input_ids"]
    with torch.no_grad():
        text = torch.tensor([TEXT]).expand(2, -1)
        expected = backbone.generate(
            torch.cat((text, ids), 1), max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0
        )
        states = layer_states(backbone, TEXT)
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=len(TEXT)), positions="shift")
    set_prefix(model, states)
    ours = model.generate(ids, max_new_tokens=5, do_sample=False, eos_token_id=None, pad_token_id=0)
    assert torch.equal(ours, expected[:, len(TEXT) :])


def test_disabled_takes_the_shift_away_too():
    backbone = BACKBONES["gpt2"]()
    ids = inputs_for(backbone)["input_ids"]
    with torch.no_grad():
        frozen = backbone(ids).logits
        model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=4), positions="shift")
        shifted = model(ids).logits
        with model.disabled():
            assert torch.equal(model(ids).logits, frozen)
        assert torch.equal(model(ids).logits, shifted)
        assert torch.equal(model.unload()(ids).logits, frozen)


def test_kept_positions_leave_the_full_context():
    backbone = BACKBONES["gpt2"]()
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=20))
    assert model(torch.randint(5, 99, (1, POSITIONS))).logits.shape == (1, POSITIONS, 99)


def test_shifted_positions_beyond_the_model_are_refused():
    model = lp.PrefixedModel(BACKBONES["gpt2"](), lp.FlatPrefixConfig(length=20), positions="shift")
    with pytest.raises(lp.InputError, match=r"prefix length 20 \+ 64 tokens exceeds the 64 positions of gpt2"):
        model(torch.randint(5, 99, (1, POSITIONS)))
    encoder = hf.T5EncoderModel(BACKBONES["t5"]().config)
    with pytest.raises(lp.InputError, match="T5EncoderModel takes no position_ids"):
        lp.PrefixedModel(encoder, lp.FlatPrefixConfig(), positions="shift")
