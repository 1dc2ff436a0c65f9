"""What a space says, and what is refused."""

import optuna
import pytest

import lightning_prefix as lp
from lightning_prefix.tuning.space import Space

PREFIX = {"choices": ["FlatPrefixConfig", "MLPPrefixConfig"]}
RATE = {"low": "5e-3", "high": 0.01, "log": True}  # PyYAML reads 5e-3 as a text


def drawn(space: Space, trials: int = 30) -> list[tuple[dict, dict]]:
    """Values and parameters of random trials."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    asked = [study.ask() for _ in range(trials)]
    return [(space.sample(trial), trial.params) for trial in asked]


def test_values_are_of_the_kind_that_was_written():
    space = Space.parse(
        {
            "rate": RATE,
            "length": {"low": 5, "high": 200, "log": True},
            "even": {"low": 2, "high": 8, "step": 2},
            "layers": {"choices": [None, [0, 1], {"encoder": 3}]},
        }
    )
    values = [value for value, _ in drawn(space)]
    assert all(0.005 <= value["rate"] <= 0.01 for value in values)
    assert all(isinstance(value["length"], int) and 5 <= value["length"] <= 200 for value in values)
    assert {value["even"] for value in values} == {2, 4, 6, 8}
    assert {str(value["layers"]) for value in values} == {"None", "[0, 1]", "{'encoder': 3}"}


def test_what_optuna_stores_gives_the_values_back():
    space = Space.parse({"prefix": PREFIX, "layers": {"choices": [None, [0, 1]]}, "rate": RATE})
    for values, params in drawn(space):
        assert space.values(params) == values


def test_conditions():
    space = Space.parse(
        {
            "prefix": PREFIX,
            "hidden": {"low": 64, "high": 512, "only_if": {"prefix": ["MLPPrefixConfig"]}},
            "rate": [
                {**RATE, "only_if": {"prefix": "my.FlatPrefixConfig"}},
                {"low": 5e-5, "high": 1e-4, "only_if": {"prefix": "MLPPrefixConfig"}},
            ],
            "never": {"low": 0, "high": 1, "only_if": {"task": "Other"}},
        },
        {"task": "lightning_prefix.TextClassification"},
    )
    both = drawn(space)
    assert {values["prefix"] for values, _ in both} == set(PREFIX["choices"])
    for values, params in both:
        is_mlp = values["prefix"] == "MLPPrefixConfig"
        assert ("hidden" in values) == is_mlp
        assert (values["rate"] < 1e-3) == is_mlp
        assert ("rate [MLPPrefixConfig]" in params) == is_mlp
        assert "never" not in values
    assert {(e["prefix"], "hidden" in e) for e in space.examples()} == {
        ("FlatPrefixConfig", False),
        ("MLPPrefixConfig", True),
    }


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "a mapping from keys to distributions"),
        ({"rate": 0.1}, "it is no distribution"),
        ({"rate": {"low": 2, "high": 1}}, "low is larger than high"),
        ({"rate": {"low": 0, "high": 1, "log": True}}, "log: true needs low > 0"),
        ({"rate": {"low": 1, "high": 9, "log": True, "step": 2}}, "log: true needs low > 0, and has no step"),
        ({"rate": {"low": 1, "high": "many"}}, "low and high are numbers"),
        ({"rate": {"low": 1, "high": float("inf")}}, "low and high are numbers"),
        ({"rate": {"low": 1, "high": 2, "step": 0}}, "step is a number > 0"),
        ({"rate": {"low": 1, "high": 2, "log": "yes"}}, "log is true or false"),
        ({"rate": {"lwo": 1, "high": 2}}, "Did you mean low"),
        ({"rate": {"choices": []}}, "at least one value"),
        ({"rate": {"choices": [1, True]}}, "two of the choices are equal"),
        ({"rate": {"choices": [object()]}}, "choices are plain data"),
        ({"rate": {"choices": [1], "log": True}}, "choices stand without"),
        ({"rate": {"choices": [1], "only_if": "MLP"}}, "only_if is a mapping"),
        (
            {"a": {**RATE, "only_if": {"b": 1}}, "b": {**RATE, "only_if": {"a": 1}}},
            "of a, b in the space go in a circle",
        ),
        ({"prefix": PREFIX, "rate": {**RATE, "only_if": {"prefx": "A"}}}, "Did you mean prefix"),
        ({"prefix": PREFIX, "rate": {**RATE, "only_if": {"prefix": "MLPPrefix"}}}, "Did you mean MLPPrefixConfig"),
        ({"size": {"low": 1, "high": 2}, "rate": {**RATE, "only_if": {"size": 1}}}, "numbers cannot be conditions"),
    ],
)
def test_refused(given, words):
    with pytest.raises(lp.InputError, match=words) as failure:
        Space.parse(given)
    assert "\n" not in str(failure.value)


def test_the_order_of_keys_does_not_matter():
    """A condition is read from what is drawn, not from the config, also where it stands above what it names."""
    space = Space.parse(
        {"hidden": {"choices": [8], "only_if": {"prefix": "MLPPrefixConfig"}}, "prefix": PREFIX},
        {"prefix": "FlatPrefixConfig"},
    )
    for values, _ in drawn(space):
        assert ("hidden" in values) == (values["prefix"] == "MLPPrefixConfig")


def test_a_space_that_never_holds_is_refused():
    with pytest.raises(lp.InputError, match="no distribution of the space holds"):
        Space.parse({"rate": {**RATE, "only_if": {"prefix": "MLPPrefixConfig"}}}, {"prefix": "FlatPrefixConfig"})
