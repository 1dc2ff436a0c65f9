"""Every property of the contract on every family, with all variants; the table of it is `contract.md`."""

import os
import re
import warnings
from functools import cache
from pathlib import Path

import pytest
from contract import ONCE, PROPERTIES, Ours, judge, make
from tiny_backbones import BACKBONES, REFUSED

import lightning_prefix as lp

TABLE = Path(__file__).with_name("contract.md")
OURS = Ours()
RESULTS: dict[tuple[str, str], str] = {}
HAS_TABLE = "gpt_j" not in REFUSED
WRITES = os.environ.get("CONTRACT_TABLE") == "write"

pytestmark = pytest.mark.filterwarnings("ignore:layers .* have no softmax attention")


class Properties:
    """What is tested of each family; `--dist loadscope` spreads classes over processes."""

    @pytest.mark.parametrize("name", list(PROPERTIES))
    def test_property(self, family, name):
        variants = list(OURS.configs)
        result = judge(OURS, family, name, variants[:1] if name in ONCE else variants)
        RESULTS[family, name] = result
        if HAS_TABLE and not WRITES:
            assert result == stored_cells()[family, name], "the table says otherwise; see `test_the_table_is_whole`"


@pytest.mark.parametrize("family", list(BACKBONES)[0::3])
class TestFirstThird(Properties):
    pass


@pytest.mark.parametrize("family", list(BACKBONES)[1::3])
class TestSecondThird(Properties):
    pass


@pytest.mark.parametrize("family", list(BACKBONES)[2::3])
class TestLastThird(Properties):
    pass


@pytest.mark.parametrize("family", list(REFUSED))
def test_families_without_the_interface_are_refused(family):
    assert f"model type {REFUSED[family]().config.model_type!r}" in refusal(family)


def refusal(family: str) -> str:
    with pytest.raises(lp.InputError) as error:
        lp.PrefixedModel(REFUSED[family](), lp.FlatPrefixConfig())
    return str(error.value)


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


def test_the_table_is_whole():
    """Write it anew with `CONTRACT_TABLE=write python -m pytest tests/backbone/test_contract.py`."""
    if not HAS_TABLE:
        pytest.skip("the table is of transformers 5.24 and newer")
    results = RESULTS if WRITES else stored_cells()
    results |= {(family, "refused"): refusal(family) for family in REFUSED}
    if WRITES:
        TABLE.write_text(render(results), encoding="utf-8")
    assert TABLE.read_text(encoding="utf-8") == render(results)


@cache
def stored_cells() -> dict[tuple[str, str], str]:
    """(family, property) -> result, from the table."""
    text = TABLE.read_text(encoding="utf-8")
    notes = dict(re.findall(r"^\[(\d+)\]: (.*?)  $", text, re.MULTILINE))
    head, _, *rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    cells = {}
    for family, *results in rows:
        for name, result in zip(head[1:], results, strict=True):
            word, *note = result.rstrip("]").split(" [")
            cells[family, name] = (
                f"ok ({notes[note[0]]})" if word == "ok" and note else notes[note[0]] if note else word
            )
    return cells


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
