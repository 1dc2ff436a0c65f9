"""The trained part: shapes, parameter counts, flattening, options."""

from dataclasses import replace

import pytest
import torch

from lightning_prefix import FlatPrefixConfig, GatedPrefixConfig, InputError, MLPPrefixConfig
from lightning_prefix.prefix import AttentionSite, PrefixConfig
from lightning_prefix.prefix.stored import from_tensors, to_tensors

LENGTH = 5
SITES = (
    AttentionSite("a", "encoder", 0, 4, 2, 6, 3),  # grouped-query heads, keys and values of different sizes
    AttentionSite("b", "decoder", 0, 2, 2, 8, 8),
    AttentionSite("c", "cross", 0, 2, 2, 8, 8),
    AttentionSite("d", "decoder", 1, 2, 2, 8, 8),
)
CONFIGS = (
    FlatPrefixConfig(length=LENGTH),
    MLPPrefixConfig(length=LENGTH, embedding_dim=7, hidden_dim=9),
    GatedPrefixConfig(length=LENGTH),
)


def start():
    return [(torch.randn(s.kv_heads, LENGTH, s.key_dim), torch.randn(s.kv_heads, LENGTH, s.value_dim)) for s in SITES]


@pytest.fixture(params=CONFIGS, ids=lambda config: type(config).__name__)
def config(request) -> PrefixConfig:
    return request.param


def test_begins_at_the_start_values(config):
    values = start()
    for state, (keys, value) in zip(config.build(SITES, values)(), values, strict=True):
        assert torch.equal(state.keys, keys)
        assert torch.equal(state.values, value)


def test_parameter_counts():
    per_position = 2 * (6 + 3) + 3 * 2 * (8 + 8)
    count = {type(c): sum(p.numel() for p in c.build(SITES, start()).parameters() if p.requires_grad) for c in CONFIGS}
    assert count[FlatPrefixConfig] == LENGTH * per_position
    assert count[GatedPrefixConfig] == LENGTH * per_position + 4 + 2 + 2 + 2
    assert count[MLPPrefixConfig] == LENGTH * 7 + (7 * 9 + 9) + (9 * per_position + per_position)


def test_flatten_is_bit_equal(config):
    prefix = config.build(SITES, start())
    for parameter in prefix.parameters():
        torch.nn.init.normal_(parameter)
    flat = prefix.flatten()
    for ours, theirs in zip(prefix(), flat(), strict=True):
        assert torch.equal(ours.keys, theirs.keys)
        assert torch.equal(ours.values, theirs.values)


def test_stored_tensors_round_trip(config):
    prefix = config.build(SITES, start())
    for parameter in prefix.parameters():
        torch.nn.init.normal_(parameter)
    variant = "gated" if isinstance(config, GatedPrefixConfig) else "flat"
    again = from_tensors(SITES, to_tensors(prefix), variant)
    for ours, theirs in zip(prefix(), again(), strict=True):
        assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True) if a is not None)


def test_stored_tensors_of_other_sizes_are_refused(config):
    variant = "gated" if isinstance(config, GatedPrefixConfig) else "flat"
    tensors = to_tensors(config.build(SITES, start()))
    with pytest.raises(InputError, match=r"nothing for decoder\.1\.values"):
        from_tensors(SITES, {k: v for k, v in tensors.items() if k != "decoder.1.values"}, variant)
    with pytest.raises(InputError, match=r"shape .* for encoder\.0\.keys"):
        from_tensors(SITES, tensors | {"encoder.0.keys": torch.zeros(2, LENGTH, 5)}, variant)
    with pytest.raises(InputError, match=r"decoder\.7, which this backbone does not have"):
        from_tensors(SITES, tensors | {"decoder.7.keys": torch.zeros(2, LENGTH, 8)}, variant)


def test_dropout_in_training_only(config):
    prefix = replace(config, dropout=0.5).build(SITES, start())
    zeros = [(state.keys == 0).float().mean().item() for state in prefix.train()()]
    assert 0.2 < sum(zeros) / len(zeros) < 0.8
    assert all((state.keys != 0).all() for state in prefix.eval()())


@pytest.mark.parametrize(
    ("options", "keys"),
    [
        ({}, ["encoder.0", "decoder.0", "cross.0", "decoder.1"]),
        ({"layers": 1}, ["encoder.0", "cross.0", "decoder.1"]),
        ({"layers": [0]}, ["encoder.0", "decoder.0", "cross.0"]),
        ({"sites": ["decoder"]}, ["decoder.0", "decoder.1"]),
        ({"sites": ["decoder", "cross"], "layers": [0]}, ["decoder.0", "cross.0"]),
    ],
)
def test_selection_of_sites(options, keys):
    assert [site.key for site in FlatPrefixConfig(**options).select(SITES)] == keys


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FlatPrefixConfig(length=0), "prefix length 0 is given"),
        (GatedPrefixConfig(dropout=1.0), r"dropout 1\.0 is given"),
        (MLPPrefixConfig(hidden_dim=0), "hidden_dim 0"),
    ],
)
def test_options_out_of_range_are_refused(config, message):
    with pytest.raises(InputError, match=message):
        config.check()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"layers": [2]}, "encoder has layers 0 to 0"),
        ({"layers": 0}, "leave no attention site"),
    ],
)
def test_selections_of_nothing_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        FlatPrefixConfig(**options).select(SITES)
    with pytest.raises(InputError, match=r"\['cross'\] are asked for"):
        FlatPrefixConfig(sites=["cross"]).select(SITES[:1])
