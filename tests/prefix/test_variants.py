"""The trained part: shapes, parameter counts, flattening, options."""

from dataclasses import replace

import pytest
import torch

from lightning_prefix import (
    FlatPrefixConfig,
    GatedPrefixConfig,
    InputError,
    MLPPrefixConfig,
    OutputPrefixConfig,
    PromptPrefixConfig,
)
from lightning_prefix.prefix import (
    AttentionSite,
    FlatPrefix,
    GatedPrefix,
    PrefixConfig,
    PrefixStates,
    average_prefixes,
    concatenate_prefixes,
)
from lightning_prefix.prefix.rows import many_prefixes
from lightning_prefix.prefix.stored import from_tensors, to_tensors

LENGTH = 5
SITES = (
    AttentionSite("a", "encoder", 0, 4, 2, 6, 3),  # grouped-query heads, keys and values of different sizes
    AttentionSite("b", "decoder", 0, 2, 2, 8, 8),
    AttentionSite("c", "cross", 0, 2, 2, 8, 8),
    AttentionSite("d", "decoder", 1, 2, 2, 8, 8),
)
ATTENTION = (
    FlatPrefixConfig(length=LENGTH),
    MLPPrefixConfig(length=LENGTH, embedding_dim=7, hidden_dim=9),
    GatedPrefixConfig(length=LENGTH),
)
CONFIGS = (*ATTENTION, PromptPrefixConfig(length=LENGTH), OutputPrefixConfig())


class Frozen:
    """A model of which a prefix asks little: its keys are the sum of the embeddings."""

    sites, hidden, embedding_dim = SITES, 6, 3

    def start(self, config, lengths):
        generator = torch.Generator().manual_seed(0)
        return [
            PrefixStates(
                torch.randn(s.kv_heads, n, s.key_dim, generator=generator),
                torch.randn(s.kv_heads, n, s.value_dim, generator=generator),
            )
            for s, n in lengths.items()
        ]

    def score_deviations(self, keys):
        return [torch.full((site.kv_heads,), 1.5) for site in keys]

    def start_embeddings(self, config, length):
        return torch.randn(length, self.embedding_dim, generator=torch.Generator().manual_seed(0))

    def start_output(self, config):
        return torch.ones(self.hidden), torch.zeros(self.hidden)

    def encode(self, embeddings):
        rows = embeddings.sum(1)[None, :, None]
        return tuple(
            PrefixStates(rows.expand(s.kv_heads, -1, s.key_dim), rows.expand(s.kv_heads, -1, s.value_dim))
            for s in self.sites
        )


FROZEN = Frozen()


def stirred(config):
    prefix = config.build(FROZEN)
    for parameter in prefix.parameters():
        torch.nn.init.normal_(parameter)
    return prefix


def assert_same_states(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True) if x is not None)


@pytest.fixture(params=CONFIGS, ids=lambda config: type(config).__name__)
def config(request) -> PrefixConfig:
    return request.param


@pytest.mark.parametrize("config", [*ATTENTION, GatedPrefixConfig(length=LENGTH, zero="gates")])
def test_begins_at_the_start_values(config):
    values = FROZEN.start(config, dict.fromkeys(SITES, LENGTH))
    for state, start in zip(config.build(FROZEN)(), values, strict=True):
        factor = 2 if isinstance(config, GatedPrefixConfig) else 1  # from the deviation 1.5 to 3
        assert torch.equal(state.keys, factor * start.keys)
        if state.gate is None or not state.gate.any():
            assert torch.equal(state.values, start.values)
        else:  # the other way to begin as the frozen model
            assert not state.values.any()


def test_parameter_counts():
    per_position = 2 * (6 + 3) + 3 * 2 * (8 + 8)
    count = {type(c): sum(p.numel() for p in c.build(FROZEN).parameters() if p.requires_grad) for c in CONFIGS}
    assert count[FlatPrefixConfig] == LENGTH * per_position
    assert count[GatedPrefixConfig] == LENGTH * per_position + 4 + 2 + 2 + 2
    assert count[MLPPrefixConfig] == LENGTH * 7 + (7 * 9 + 9) + (9 * per_position + per_position)
    assert count[PromptPrefixConfig] == LENGTH * 3
    assert count[OutputPrefixConfig] == 2 * 6


def test_flatten_is_bit_equal(config):
    prefix = stirred(config)
    flat = prefix.flatten()
    assert not isinstance(config, (MLPPrefixConfig, PromptPrefixConfig)) or isinstance(flat, FlatPrefix)
    assert_same_states(prefix(), flat())


def test_stored_tensors_round_trip(config):
    prefix = stirred(config)
    again = from_tensors(FROZEN, to_tensors(prefix), prefix.variant)
    assert_same_states(prefix(), again())
    if prefix.output() is not None:
        assert all(torch.equal(a, b) for a, b in zip(prefix.output(), again.output(), strict=True))


@pytest.mark.parametrize("config", ATTENTION)
def test_stored_tensors_of_other_sizes_are_refused(config):
    prefix = config.build(FROZEN)
    tensors, variant = to_tensors(prefix), prefix.variant
    with pytest.raises(InputError, match=r"nothing for decoder\.1\.values"):
        from_tensors(FROZEN, {k: v for k, v in tensors.items() if k != "decoder.1.values"}, variant)
    with pytest.raises(InputError, match=r"shape .* for encoder\.0\.keys"):
        from_tensors(FROZEN, tensors | {"encoder.0.keys": torch.zeros(2, LENGTH, 5)}, variant)
    with pytest.raises(InputError, match=r"decoder\.7, which this backbone does not have"):
        from_tensors(FROZEN, tensors | {"decoder.7.keys": torch.zeros(2, LENGTH, 8)}, variant)
    with pytest.raises(InputError, match="not finite floats"):
        from_tensors(FROZEN, tensors | {"encoder.0.keys": torch.full((2, LENGTH, 6), torch.nan)}, variant)
    with pytest.raises(InputError, match=r"encoder\.0\.other, which a .* prefix does not have"):
        from_tensors(FROZEN, tensors | {"encoder.0.other": torch.zeros(2)}, variant)


@pytest.mark.parametrize("config", [*ATTENTION, PromptPrefixConfig(length=LENGTH)])
def test_dropout_in_training_only(config):
    prefix = replace(config, dropout=0.5).build(FROZEN)
    zeros = [(state.keys == 0).float().mean().item() for state in prefix.train()()]
    assert 0.2 < sum(zeros) / len(zeros) < 0.8
    assert all((state.keys != 0).all() for state in prefix.eval()())


@pytest.mark.parametrize("kind", [FlatPrefixConfig, MLPPrefixConfig, GatedPrefixConfig])
def test_a_length_of_its_own_per_site(kind):
    config = kind(length={"decoder": 4, "decoder.1": 2, "cross": 3})
    prefix = config.build(FROZEN)
    assert [(s.key, state.keys.shape[1]) for s, state in zip(prefix.sites, prefix(), strict=True)] == [
        ("decoder.0", 4),
        ("cross.0", 3),
        ("decoder.1", 2),
    ]
    assert prefix.length == 4
    assert_same_states(prefix(), from_tensors(FROZEN, to_tensors(prefix), prefix.variant)())


def test_a_length_per_layer():
    lengths = FlatPrefixConfig(length=[5, 0], sites=["decoder"]).lengths(SITES)
    assert {site.key: length for site, length in lengths.items()} == {"decoder.0": 5}
    with pytest.raises(InputError, match=r"length \[5, 3\] is given for 2 layers, but the encoder has 1"):
        FlatPrefixConfig(length=[5, 3]).lengths(SITES)
    with pytest.raises(InputError, match=r"length for decoder\.9, middle is given; this backbone has encoder \(layers"):
        FlatPrefixConfig(length={"decoder.9": 3, "middle": 1}).lengths(SITES)


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
    assert [site.key for site in FlatPrefixConfig(**options).lengths(SITES)] == keys


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (FlatPrefixConfig(length=0), "prefix length 0 is given"),
        (FlatPrefixConfig(length=[4, -1]), r"prefix length \[4, -1\] is given"),
        (FlatPrefixConfig(length={"decoder": 0}), "prefix length {'decoder': 0} is given"),
        (PromptPrefixConfig(length=0), "prefix length 0 is given"),
        (GatedPrefixConfig(dropout=1.0), r"dropout 1\.0 is given"),
        (GatedPrefixConfig(score_deviation=0.0), r"score_deviation 0\.0 is given; it is > 0"),
        (FlatPrefixConfig(init="file"), "without init_file"),
        (FlatPrefixConfig(init_file="x"), "init_file 'x' is given with init='random'"),
        (PromptPrefixConfig(init="zero", init_text="x"), "init_text 'x' is given with init='zero'"),
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
        FlatPrefixConfig(**options).lengths(SITES)
    with pytest.raises(InputError, match=r"\['cross'\] are asked for"):
        FlatPrefixConfig(sites=["cross"]).lengths(SITES[:1])


def test_averages():
    config = FlatPrefixConfig(length=LENGTH)
    one, other = stirred(config), stirred(MLPPrefixConfig(length=LENGTH, embedding_dim=7, hidden_dim=9))
    mean = average_prefixes([one, other], [0.25, 0.75])
    for state, a, b in zip(mean(), one(), other(), strict=True):
        torch.testing.assert_close(state.keys, 0.25 * a.keys + 0.75 * b.keys)
        torch.testing.assert_close(state.values, 0.25 * a.values + 0.75 * b.values)
    gated = [stirred(GatedPrefixConfig(length=LENGTH)) for _ in range(2)]
    mean = average_prefixes(gated)
    assert isinstance(mean, GatedPrefix)
    torch.testing.assert_close(mean.gates[0], (gated[0].gates[0] + gated[1].gates[0]) / 2)


def test_concatenation():
    short, long = stirred(FlatPrefixConfig(length=2)), stirred(PromptPrefixConfig(length=3))
    joined = concatenate_prefixes([short, long])
    assert joined.length == 5
    for state, a, b in zip(joined(), short(), long(), strict=True):
        assert torch.equal(state.keys, torch.cat((a.keys, b.keys), 1))
        assert torch.equal(state.values, torch.cat((a.values, b.values), 1))


@pytest.mark.parametrize(
    ("function", "configs", "message"),
    [
        (average_prefixes, [FlatPrefixConfig(length=2), FlatPrefixConfig(length=3)], "needs equal lengths"),
        (average_prefixes, [FlatPrefixConfig(), GatedPrefixConfig()], "all flat or all gated"),
        (average_prefixes, [OutputPrefixConfig()], "all flat or all gated"),
        (average_prefixes, [FlatPrefixConfig(layers=[0]), FlatPrefixConfig()], "different sites"),
        (concatenate_prefixes, [GatedPrefixConfig()], "do not join"),
        (concatenate_prefixes, [], "no prefix is given"),
    ],
)
def test_prefixes_that_do_not_fit_together_are_refused(function, configs, message):
    with pytest.raises(InputError, match=message):
        function([config.build(FROZEN) for config in configs])


def test_weights_that_do_not_add_up_are_refused():
    with pytest.raises(InputError, match="adding up to 1"):
        average_prefixes([stirred(FlatPrefixConfig())], [0.5])


def test_states_for_rows_are_padded_and_marked():
    site = SITES[0]
    short, long = (PrefixStates(torch.ones(2, n, 6), torch.ones(2, n, 3)) for n in (1, 3))
    gated = short._replace(gate=torch.ones(4))
    joined, separate = many_prefixes(site, [short, None, long, gated], {})
    assert joined.is_real.tolist() == [[True, False, False], [False] * 3, [True] * 3, [False] * 3]
    assert joined.keys.sum((1, 2, 3)).tolist() == [12, 0, 36, 0]
    assert separate.gates.tolist() == [[0] * 4, [0] * 4, [0] * 4, [1] * 4]
    assert separate.is_real is None
    assert many_prefixes(site, [None, short], {}).gated is None
