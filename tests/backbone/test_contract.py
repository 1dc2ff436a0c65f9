"""Every property of the contract on every family, with all variants; the table of it is `contract.md`."""

import os
import re
import warnings
from pathlib import Path

import pytest
from contract import ONCE, PROPERTIES, Ours, judge, make
from tiny_backbones import BACKBONES, REFUSED

import lightning_prefix as lp

TABLE = Path(__file__).with_name("contract.md")
OURS = Ours()
RESULTS: dict[tuple[str, str], str] = {}

pytestmark = pytest.mark.filterwarnings("ignore:layers .* have no softmax attention")


@pytest.mark.parametrize("family", list(BACKBONES))
@pytest.mark.parametrize("name", list(PROPERTIES))
def test_property(family, name):
    variants = list(OURS.configs)
    RESULTS[family, name] = judge(OURS, family, name, variants[:1] if name in ONCE else variants)


@pytest.mark.parametrize("family", list(REFUSED))
def test_families_without_the_interface_are_refused(family):
    with pytest.raises(lp.InputError) as error:
        lp.PrefixedModel(REFUSED[family](), lp.FlatPrefixConfig())
    RESULTS[family, "refused"] = str(error.value)
    assert f"model type {REFUSED[family]().config.model_type!r}" in str(error.value)


@pytest.mark.parametrize(("family", "layer"), [("qwen3_next", 0), ("qwen3_5", 0)])
def test_layers_without_softmax_attention_are_named(family, layer):
    with pytest.warns(UserWarning, match=rf"layers {layer} of model\.layers have no softmax attention"):
        model = lp.PrefixedModel(make(family), lp.FlatPrefixConfig(length=2))
    assert [site.name for site in model.sites] == ["model.layers.1.self_attn"]


def test_families_with_softmax_attention_only_give_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for family in BACKBONES.keys() - {"qwen3_next", "qwen3_5"}:
            lp.PrefixedModel(make(family), lp.FlatPrefixConfig(length=2))


def test_the_table_is_what_was_found():
    """Write it anew with `CONTRACT_TABLE=write python -m pytest tests/backbone/test_contract.py`."""
    if "gpt_j" in REFUSED:
        pytest.skip("the table is of transformers 5.24 and newer")
    if len(RESULTS) < len(BACKBONES) * len(PROPERTIES) + len(REFUSED):
        pytest.skip("only a part of the contract was run")
    table = render(RESULTS)
    if os.environ.get("CONTRACT_TABLE") == "write":
        TABLE.write_text(table, encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == table


def render(results: dict[tuple[str, str], str]) -> str:
    notes: dict[str, int] = {}

    def cell(family: str, name: str) -> str:
        result = results[family, name]
        if result == "ok":
            return "ok"
        note = notes.setdefault(re.sub(r"^ok \((.*)\)$", r"\1", result), len(notes) + 1)
        return f"ok [{note}]" if result.startswith("ok") else f"- [{note}]"

    names = list(PROPERTIES)
    rows = [f"| {family} | {' | '.join(cell(family, name) for name in names)} |" for family in BACKBONES]
    refused = [f"- **{family}**: {results[family, 'refused'].split('. Use')[0]}." for family in REFUSED]
    return "\n".join(
        [
            "# The contract: families and properties",
            "",
            "Written by `tests/backbone/test_contract.py`, which fails when it is not up to date. All models are tiny",
            f"and random. Each cell holds for the variants {', '.join(OURS.configs)}; the columns",
            f"{', '.join(ONCE)} for flat prefixes or for all in one batch.",
            "`-` means that there is nothing to hold, for the reason in the note.",
            "",
            f"| family | {' | '.join(names)} |",
            "|---" * (len(names) + 1) + "|",
            *rows,
            "",
            *(f"[{number}]: {note}  " for note, number in notes.items()),
            "",
            "## What each property says",
            "",
            *(f"- **{name}**: {(function.__doc__ or '').strip()}" for name, function in PROPERTIES.items()),
            "",
            "## Refused",
            "",
            *refused,
            "",
        ]
    )
