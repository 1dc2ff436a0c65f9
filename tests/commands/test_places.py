"""Each error of a YAML, or of a word that overrides it, says where it is; through the real command line."""

import re
from pathlib import Path

import pytest

from lightning_prefix.cli import main

CONFIG = """\
seed_everything: 0
model:
  class_path: TextClassification
  init_args:
    backbone: folder
    prefix:
      class_path: FlatPrefixConfig
      init_args:
        length: 16
    learning_rate: 0.03
data:
  class_path: TextClassificationDataModule
  init_args:
    source: reviews.csv
    batch_size: 32
trainer:
  max_epochs: 2
  callbacks:
  - class_path: EarlyStopping
    init_args: {monitor: val/loss}
"""


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("good.yaml").write_text(CONFIG)


def error(capsys, *words: str) -> str:
    with pytest.raises(SystemExit) as failure:
        main(list(words))
    assert failure.value.code == 2
    return capsys.readouterr().err


MISTAKES = {
    "key": ("trainer:", "trainr:", "trainr:", "trainr", "trainer"),
    "key of the trainer": ("max_epochs", "max_epocs", "  max_epocs: 2", "max_epocs", "max_epochs"),
    "key of the task": ("learning", "learnin", "    learnin_rate: 0.03", "learnin_rate", "learning_rate"),
    "key of the prefix": ("length", "lenght", "        lenght: 16", "lenght", "length"),
    "key of the data": ("batch_size", "batch_sise", "    batch_sise: 32", "batch_sise", "batch_size"),
    "key of a callback": ("{monitor", "{monitr", "    init_args: {monitr: val/loss}", "monitr", "monitor"),
    "key in the wrong class": (
        "    learning_rate: 0.03\n",
        "        learning_rate: 0.03\n",
        "        learning_rate: 0.03",
        "learning_rate",
        None,
    ),
    "type": ("0.03", "fast", "    learning_rate: fast", "fast", None),
    "type in the prefix": ("16", "long", "        length: long", "long", None),
    "type in the trainer": ("epochs: 2", "epochs: two", "  max_epochs: two", "two", None),
    "type in the data": ("32", "[3]", "    batch_size: [3]", "[3]", None),
    "task": (
        "TextClassification\n",
        "TextClasification\n",
        "  class_path: TextClasification",
        "TextClasification",
        "TextClassification",
    ),
    "prefix": (
        "FlatPrefixConfig",
        "FlatPrefx",
        "      class_path: FlatPrefx",
        "FlatPrefx",
        "FlatPrefixConfig",
    ),
    "long name": (
        "FlatPrefixConfig",
        "lightning_prefix.FlatConfig",
        "      class_path: lightning_prefix.FlatConfig",
        "lightning_prefix.FlatConfig",
        "FlatPrefixConfig",
    ),
    "callback": (
        "EarlyStopping",
        "EarlyStoping",
        "  - class_path: EarlyStoping",
        "EarlyStoping",
        "EarlyStopping",
    ),
    "lacking option": (
        "    backbone: folder\n",
        "",
        "  class_path: TextClassification",
        "TextClassification",
        None,
    ),
    "lacking class": ("  class_path: TextClassification\n", "", "model:", "model", None),
    "bracket": ("batch_size: 32", "batch_size: [32", "trainer:", ":", None),
    "list at the top": (CONFIG, "- a\n- b\n", "- a", "-", None),
}


@pytest.mark.parametrize(("old", "new", "line", "marked", "meant"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_in_a_yaml(old, new, line, marked, meant, capsys):
    text = CONFIG.replace(old, new, 1)
    Path("bad.yaml").write_text(text)
    shown = error(capsys, "fit", "--config", "bad.yaml")
    check(shown, "bad.yaml", text, line, marked)
    assert meant is None or f"did you mean {meant}" in shown


@pytest.mark.parametrize("command", ["fit", "validate", "tune", "cross-validate", "learning-rate"])
def test_the_file_is_named(command, capsys):
    """Of several; and the help is that of the command."""
    text = "model: {init_args: {prefix: {init_args: {lenght: 3}}}}"
    Path("group.yaml").write_text(text)
    shown = error(capsys, command, "--config", "good.yaml", "--config=group.yaml", "--trainer.max_epochs", "3")
    check(shown, "group.yaml", text, text, "lenght")
    assert "did you mean length?" in shown
    assert shown.endswith(f"help: lightning_prefix {command} --help\n")


def test_a_group_for_another_class(capsys):
    """No schema knows which class the other file names."""
    text = "model:\n  init_args:\n    n_best: 3"
    Path("group.yaml").write_text(text)
    shown = error(capsys, "fit", "--config", "good.yaml", "--config", "group.yaml")
    check(shown, "group.yaml", text, "    n_best: 3", "n_best")


def test_a_file_of_one_part(capsys):
    text = "class_path: TextClassification\ninit_args:\n  backbone: folder\n  backbon: folder"
    Path("model.yaml").write_text(text)
    shown = error(capsys, "fit", "--config", "good.yaml", "--model", "model.yaml")
    check(shown, "model.yaml", text, "  backbon: folder", "backbon")


@pytest.mark.parametrize(
    "words",
    [
        ["--model.learning_rate", "fast"],
        ["--model.learnin_rate", "0.1"],
        ["--model.prefix", "FlatPrefx"],
        ["--model.prefix.lenght", "3"],
        ["--trainer.max_epochs", "two"],
        ["--trainr.max_epochs", "2"],
        ["--config", "missing.yaml"],
    ],
    ids=" ".join,
)
def test_a_mistake_on_the_command_line(words, capsys):
    """The value in the YAML is right, and not named."""
    shown = error(capsys, "fit", "--config", "good.yaml", *words)
    assert f"  on the command line: {' '.join(words)}\n" in shown
    assert "good.yaml:" not in shown


@pytest.mark.parametrize("more", ["", "extra: &a {x: 1}\n", "1: 2\n", "model: {<<: {lenght: 3}}\n"])
def test_odd_yaml_has_an_error_too(more, capsys):
    """Empty files, anchors, merged keys, numbers as keys: a message, no exception out of the search for its place."""
    Path("odd.yaml").write_text(more)
    assert error(capsys, "fit", "--config", "odd.yaml", "--config", "good.yaml", "--trainer.max_epochs", "two")


def test_what_is_nowhere_has_no_place(capsys):
    Path("bad.yaml").write_text(CONFIG.partition("data:")[0])
    shown = error(capsys, "fit", "--config", "bad.yaml")
    assert "--data is missing: give --data TextClassificationDataModule" in shown
    assert "bad.yaml" not in shown


def test_what_is_missing_is_named_as_it_is_typed(capsys):
    shown = error(capsys, "fit")  # which names classes of other tests, too
    assert re.search(r"error: --model is missing: give --model TextClassification, or another of .*\bDialogue\b", shown)
    for command in ("cross-validate", "tune"):  # without a word behind them, too
        shown = error(capsys, command)
        assert "--model is missing" in shown
        assert "--data is missing" in shown
    shown = error(capsys, "fit", "--model", "TextClassification", "--data", "TextClassificationDataModule")
    assert "--model.backbone is missing" in shown


def check(shown: str, file: str, text: str, line: str, marked: str) -> None:
    number, column = text.splitlines().index(line) + 1, line.index(marked) + 1
    assert f"  {file}:{number}:{column}\n" in shown
    source, marks = re.findall(r"^ {1,6}\d* \| (.*)$", shown, re.MULTILINE)
    assert source == line
    assert marks.strip("^") == " " * (column - 1)
    assert line[column - 1 :].startswith(marked)
