"""Prefix and text apart against joined: outputs, gradients, and when which is taken."""

import pytest
import torch
from tiny_backbones import BACKBONES, inputs_for

import lightning_prefix as lp
from lightning_prefix.backbone import apart, attention

SHAPES = [
    # heads, key-value heads, tokens, keys
    (4, 4, 5, 5),
    (6, 2, 5, 5),
    (6, 2, 1, 9),
]


def joined(query, key, value, mask, keys, values):
    batch, groups = len(query), query.shape[1] // key.shape[1]
    key = torch.cat((keys.expand(batch, -1, -1, -1), key), 2).repeat_interleave(groups, 1)
    value = torch.cat((values.expand(batch, -1, -1, -1), value), 2).repeat_interleave(groups, 1)
    scores = query @ key.transpose(2, 3) * 0.3
    if mask is not None:
        scores[..., keys.shape[2] :] += mask
    return (scores.softmax(-1) @ value).transpose(1, 2)


@pytest.mark.parametrize(("heads", "kv_heads", "tokens", "keys"), SHAPES)
@pytest.mark.parametrize("mask", ["none", "hidden rows", "boolean", "of heads", "longer than the keys"])
def test_outputs_and_gradients_equal_those_of_joining(heads, kv_heads, tokens, keys, mask):
    inputs = {
        "query": torch.randn(3, tokens, heads, 8).transpose(1, 2),
        "key": torch.randn(3, kv_heads, keys, 8),
        "value": torch.randn(3, kv_heads, keys, 8),
        "keys": torch.randn(1, kv_heads, 300, 8),
        "values": torch.randn(1, kv_heads, 300, 8),
    }
    for tensor in inputs.values():
        tensor.requires_grad_()
    shape = (3, heads if mask == "of heads" else 1, tokens, keys + 2 if mask == "longer than the keys" else keys)
    is_seen = torch.rand(shape) > 0.4
    if mask == "hidden rows":
        is_seen[1] = False  # as queries of padding at the left are
    added = None if mask == "none" else torch.zeros(shape).masked_fill(~is_seen, torch.finfo(torch.float).min)
    given = is_seen if mask == "boolean" else added
    prepared = apart.additive_mask(given, None, inputs["query"], inputs["key"])
    ours = apart.attend_apart(*list(inputs.values())[:3], prepared, inputs["keys"], inputs["values"], 0.3)
    expected = joined(
        *list(inputs.values())[:3], None if added is None else added[..., :keys], inputs["keys"], inputs["values"]
    )
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((out * weights).sum(), list(inputs.values())) for out in (ours, expected)]
    for mine, theirs in zip(*gradients, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-5, rtol=1e-4)
    with torch.no_grad():
        alone = apart.attend_apart(*list(inputs.values())[:3], prepared, inputs["keys"], inputs["values"], 0.3)
    assert torch.equal(alone, ours)


def test_position_bias_is_added_to_the_text_alone():
    query, key = torch.randn(2, 4, 5, 8), torch.randn(2, 4, 5, 8)
    bias, is_seen = torch.randn(1, 4, 5, 5), torch.rand(2, 1, 5, 5) > 0.4
    added = apart.additive_mask(is_seen, bias, query, key)
    assert torch.equal(added[is_seen.expand(-1, 4, -1, -1)], bias.expand(2, -1, -1, -1)[is_seen.expand(-1, 4, -1, -1)])
    assert (added[~is_seen.expand(-1, 4, -1, -1)] < -1e38).all()
    assert apart.additive_mask(None, bias, query, key) is bias
    assert apart.additive_mask(None, None, query, key) is None


@pytest.mark.parametrize("family", ["bert", "llama", "gemma2", "t5", "bart"])
@pytest.mark.parametrize("frozen_below", [False, True])
def test_a_long_prefix_reads_apart_as_it_would_joined(family, frozen_below, monkeypatch):
    backbone = BACKBONES[family]()
    layers = [1] if frozen_below and family not in ("t5", "bart") else None
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=130, layers=layers))
    inputs = inputs_for(backbone)
    calls = []
    monkeypatch.setattr(attention, "attend_apart", lambda *given: calls.append(0) or apart.attend_apart(*given))
    parameters = list(model.prefix.parameters())
    results = []
    for limit in (128, 1000):
        monkeypatch.setattr(apart, "_LONG", limit)
        output = model(**inputs)[0]
        weights = torch.linspace(-1, 1, output.numel()).view_as(output)
        results.append((output, torch.autograd.grad((output * weights).sum(), parameters)))
        assert len(calls) == (len(model.sites) if family != "gemma2" else 0)  # it asks for eager attention (softcap)
    torch.testing.assert_close(results[0][0], results[1][0], atol=1e-5, rtol=1e-5)
    for mine, theirs in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["llama", "t5", "bart"])
def test_generation_apart_gives_the_same_tokens(family, monkeypatch):
    backbone = BACKBONES[family]()
    inputs = inputs_for(backbone)
    inputs.pop("decoder_input_ids", None)
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=8))
    options = {"max_new_tokens": 6, "num_beams": 3, "eos_token_id": None, "pad_token_id": 0, "output_scores": True}
    results = []
    for limit in (10**9, 0):
        monkeypatch.setattr(apart, "_COPIED", limit)
        results.append(model.generate(**inputs, **options, return_dict_in_generate=True))
    assert torch.equal(results[0].sequences, results[1].sequences)
    torch.testing.assert_close(results[0].sequences_scores, results[1].sequences_scores, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    ("why", "change"),
    [
        ("short", {"length": 16}),
        ("other dtype", {"value": torch.zeros(2, 4, 5, 8, dtype=torch.bfloat16)}),
        ("other size of values", {"value": torch.zeros(2, 4, 5, 6)}),
        ("step of few keys", {"query": torch.zeros(2, 4, 1, 8)}),
        ("other device", {"query": torch.zeros(2, 4, 5, 8, device="meta")}),
    ],
)
def test_joined_where_apart_is_not_faster_or_not_possible(why, change):
    given = {name: torch.zeros(2, 4, 5, 8) for name in ("query", "key", "value")} | {"length": 200}
    assert apart.is_apart_faster(**given)
    assert not apart.is_apart_faster(**(given | change))
