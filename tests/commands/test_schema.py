"""The JSON Schema takes every YAML of configs/, and refuses the mistakes that people make."""

import copy
import json
from pathlib import Path

import pytest
import yaml
from jsonschema import Draft7Validator

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.commands.schema import config_schema, problems

ROOT = Path(__file__).parents[2] / "configs"
CONFIGS = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name != "tune")  # spaces are no configs
QUICKSTART = yaml.safe_load((ROOT / "quickstart.yaml").read_text())


def test_it_is_a_schema(tmp_path, capsys):
    Draft7Validator.check_schema(config_schema())
    main(["schema"])
    assert json.loads(capsys.readouterr().out) == config_schema()
    main(["schema", "--output", str(tmp_path / "schema.json")])
    assert json.loads((tmp_path / "schema.json").read_text()) == config_schema()
    assert f"# yaml-language-server: $schema={tmp_path}/schema.json" in capsys.readouterr().out


@pytest.mark.parametrize("config", CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_configs_are_valid(config):
    assert problems(yaml.safe_load(config.read_text())) == []


def changed(keys: str, value: object) -> dict:
    """The quickstart with another value at these keys."""
    config = copy.deepcopy(QUICKSTART)
    *parents, last = keys.split(".")
    node = config
    for key in parents:
        node = node.setdefault(key, {})
    node[last] = value
    return config


TASK = "model.init_args"
STOP = {"class_path": "EarlyStopping", "init_args": {"monitor": "val/loss"}}
VALID = {
    "a short name": (f"{TASK}.prefix", "GatedPrefixConfig"),
    "a long name": (
        f"{TASK}.prefix",
        {"class_path": "lightning_prefix.MLPPrefixConfig", "init_args": {"hidden_dim": 8}},
    ),
    "a length per site": (f"{TASK}.prefix.init_args.length", {"encoder": 20, "decoder.0": 5}),
    "a class of the user": ("model", {"class_path": "mine.MyTask", "init_args": {"depth": 3}}),
    "an optimizer": (f"{TASK}.optimizer", {"class_path": "torch.optim.SGD", "init_args": {"momentum": 0.9}}),
    "a scheduler": (f"{TASK}.lr_scheduler", {"class_path": "StepLR", "init_args": {"step_size": 4}}),
    "callbacks": ("trainer.callbacks", [STOP, {"class_path": "LearningRateMonitor"}, {"class_path": "mine.Callback"}]),
    "a logger": ("trainer.logger", {"class_path": "CSVLogger", "init_args": {"save_dir": "logs"}}),
    "a strategy": ("trainer.strategy", {"class_path": "lightning.pytorch.strategies.DDPStrategy"}),
    "a group without the class": ("model", {"init_args": {"prefix": {"init_args": {"length": 3}}}}),
    "its schema": ("$schema", "schema.json"),
    "nothing to log": ("trainer.logger", False),
}
INVALID = {
    "unknown key": ("trainr", {}, ("trainr",)),
    "unknown option of the trainer": ("trainer.max_epocs", 3, ("trainer", "max_epocs")),
    "unknown option of the task": (f"{TASK}.learnin_rate", 0.1, ("model", "init_args", "learnin_rate")),
    "option of another task": (f"{TASK}.n_best", 3, ("model", "init_args", "n_best")),
    "option of another prefix": (
        f"{TASK}.prefix.init_args.hidden_dim",
        3,
        ("model", "init_args", "prefix", "init_args", "hidden_dim"),
    ),
    "unknown option in a group": ("model", {"init_args": {"lerning_rate": 3}}, ("model", "init_args", "lerning_rate")),
    "word for a number": (f"{TASK}.learning_rate", "fast", ("model", "init_args", "learning_rate")),
    "fraction for a whole number": ("data.init_args.batch_size", 1.5, ("data", "init_args", "batch_size")),
    "unknown choice": (f"{TASK}.positions", "keeps", ("model", "init_args", "positions")),
    "unknown class": ("model.class_path", "TextClasification", ("model", "class_path")),
    "unknown class of ours": ("data.class_path", "lightning_prefix.TextData", ("data", "class_path")),
    "unknown prefix": (f"{TASK}.prefix.class_path", "FlatPrefix", ("model", "init_args", "prefix", "class_path")),
    "unknown optimizer": (
        f"{TASK}.optimizer",
        {"class_path": "torch.optim.SDG"},
        ("model", "init_args", "optimizer", "class_path"),
    ),
    "unknown option of an optimizer": (
        f"{TASK}.optimizer",
        {"class_path": "torch.optim.SGD", "init_args": {"momentom": 0.9}},
        ("model", "init_args", "optimizer", "init_args", "momentom"),
    ),
    "callback without what it needs": (
        "trainer.callbacks",
        [{"class_path": "EarlyStopping", "init_args": {"patience": 2}}],
        ("trainer", "callbacks", 0, "init_args"),
    ),
    "callback without a class": (
        "trainer.callbacks",
        [{"init_args": {"patience": 2}}],
        ("trainer", "callbacks", 0),
    ),
}


@pytest.mark.parametrize(("keys", "value"), VALID.values(), ids=VALID)
def test_valid(keys, value):
    assert problems(changed(keys, value)) == []


@pytest.mark.parametrize(("keys", "value", "path"), INVALID.values(), ids=INVALID)
def test_invalid(keys, value, path):
    assert problems(changed(keys, value))[0].path == path


def test_what_an_editor_shows():
    """Every task with its first sentence; descriptions, defaults and choices of options."""
    names = config_schema()["$defs"]["PrefixTask"]["anyOf"][0]
    assert set(names["enum"]) == {name for name in lp.__all__ if f"{name}DataModule" in lp.__all__}
    assert all(names["markdownEnumDescriptions"])
    (task,) = (
        condition["then"]["properties"]["init_args"]["properties"]
        for condition in config_schema()["$defs"]["PrefixTask"]["anyOf"][-1]["allOf"]
        if "ExtractiveQA" in str(condition["if"])
    )
    assert task["n_best"]["type"] == "integer"
    assert task["n_best"]["default"] == 20
    assert task["positions"]["enum"] == ["keep", "shift"]
    assert all(option["description"] for option in task.values())


def test_an_editor_can_read_it():
    """Megabytes are what the hints of Lightning's Trainer would bring."""
    assert len(json.dumps(config_schema())) < 700_000
