"""Commands on streams give what they give in the ordinary way, from one process and from two."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from tiny_files import write_reviews

from lightning_prefix.cli import main


@pytest.fixture
def config(bert_folder, tmp_path, monkeypatch):
    """Writes a config with a stream of reviews."""
    monkeypatch.chdir(tmp_path)
    source = write_reviews(tmp_path / "reviews", train=203)

    def write(**options):
        data = {"source": source, "streaming": True, "batch_size": 8, "eval_batch_size": 4, "shuffle_buffer": 40}
        settings = {
            "model": {
                "class_path": "TextClassification",
                "init_args": {
                    "backbone": bert_folder,
                    "prefix": {"class_path": "FlatPrefixConfig", "init_args": {"length": 4}},
                },
            },
            "data": {"class_path": "TextClassificationDataModule", "init_args": {**data, **options}},
            "trainer": {"max_steps": 20, "accelerator": "cpu", "enable_progress_bar": False, "logger": False},
            "test_after_fit": False,
        }
        Path("run.yaml").write_text(yaml.safe_dump(settings))
        return str(tmp_path / "run.yaml")

    return write


def lines(path):
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def test_commands(config, tmp_path):
    run = ["--config", config()]
    main(["fit", *run, "--checkpoint.dirpath", "kept", "--trainer.val_check_interval", "10"])
    used = [*run, "--ckpt_path", "kept/last.ckpt"]
    results = {}
    for streaming in ("true", "false"):
        more = ["--data.streaming", streaming, "--data.num_workers", "1" if streaming == "true" else "0"]
        cli = main(["test", *used, *more])
        main(["predict", *used, *more, "--predictions.path", f"{streaming}.jsonl"])
        results[streaming] = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    assert results["true"] == pytest.approx(results["false"], abs=1e-6)
    expected, found = lines("false.jsonl"), lines("true.jsonl")
    assert len(found) == 17
    for one, other in zip(found, expected, strict=True):
        assert one.pop("probabilities") == pytest.approx(other.pop("probabilities"), abs=1e-6)
        assert one == other  # index, text and label


def run(command, folder, *args):
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-m", "lightning_prefix", command, *args],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def metrics(folder):
    (file,) = folder.rglob("metrics.csv")
    with file.open() as rows:
        return {k: float(v) for row in csv.DictReader(rows) for k, v in row.items() if v and k.startswith("test/")}


TWO = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
LOGGED = ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "."]


@pytest.mark.slow
def test_two_processes_give_what_one_gives(config, tmp_path):
    path = config()
    main(["fit", "--config", path, "--checkpoint.dirpath", "kept"])
    used = ["--config", path, "--ckpt_path", str(tmp_path / "kept" / "last.ckpt"), *LOGGED]
    for name, devices in (("one", ["--trainer.devices", "1"]), ("two", TWO)):
        run("test", tmp_path / name, *used, *devices)
        run("predict", tmp_path / name, *used, *devices, "--predictions.path", "out.jsonl")
    assert metrics(tmp_path / "two") == pytest.approx(metrics(tmp_path / "one"), abs=1e-6)
    found, expected = lines(tmp_path / "two/out.jsonl"), lines(tmp_path / "one/out.jsonl")
    assert [line["index"] for line in found] == list(range(17))
    assert [(line["text"], line["label"]) for line in found] == [(line["text"], line["label"]) for line in expected]


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_resume_exactly_with_uneven_batches(num_workers, config, tmp_path):
    """Batches of so many tokens: processes come to their ends, and to places in their blocks, at different steps."""
    path = config(max_batch_tokens=48, num_workers=num_workers)
    uneven = [f"the film{' plot' * (row % 4 if row % 2 else 9)},{'good' if row % 3 else 'bad'}" for row in range(203)]
    (tmp_path / "reviews/train.csv").write_text("\n".join(["text,label", *uneven]))
    (tmp_path / "reviews/validation.csv").write_text("\n".join(["text,label", *uneven[:9]]))
    scheduler = ["--model.lr_scheduler", "torch.optim.lr_scheduler.ConstantLR", "--model.lr_scheduler.factor", "1"]
    args = ["--config", path, *TWO, *scheduler]
    args += ["--trainer.limit_val_batches", "0", "--checkpoint.dirpath"]
    run("fit", tmp_path, *args, "whole", "--trainer.max_steps", "70")
    run("fit", tmp_path, *args, "part", "--trainer.max_steps", "28")
    run("fit", tmp_path, *args, "rest", "--trainer.max_steps", "70", "--ckpt_path", str(tmp_path / "part/last.ckpt"))
    whole, rest, part = (
        torch.load(tmp_path / name / "last.ckpt", weights_only=True) for name in ("whole", "rest", "part")
    )
    assert (part["global_step"], whole["global_step"], rest["global_step"]) == (28, 70, 70)
    assert all(torch.equal(rest["state_dict"][name], tensor) for name, tensor in whole["state_dict"].items())
    state = part["TextClassificationDataModule"]
    assert state["batches"] > 0  # in the middle of an epoch
    assert rest["TextClassificationDataModule"] == whole["TextClassificationDataModule"]
    assert state["places"][0] != state["places"][1]  # otherwise nothing is shown
