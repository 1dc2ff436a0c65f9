"""Two CPU processes give what one gives, on 17 rows."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from lightning_prefix.cli import main


def run(command, folder, cache, *args):
    environment = {**os.environ, "HF_DATASETS_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "lightning_prefix", command, *args],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr


def metrics(folder: Path) -> dict[str, float]:
    (file,) = folder.rglob("metrics.csv")
    with file.open() as lines:
        merged = {k: float(v) for row in csv.DictReader(lines) for k, v in row.items() if v}
    return {name: value for name, value in merged.items() if name.startswith("test/")}


@pytest.fixture
def trained(bert_folder, reviews, tmp_path, monkeypatch) -> list[str]:
    monkeypatch.chdir(tmp_path)
    config = {
        "model": {"class_path": "TextClassification", "init_args": {"backbone": bert_folder}},
        "data": {
            "class_path": "TextClassificationDataModule",
            "init_args": {"source": reviews, "eval_batch_size": 4},
        },
        "trainer": {"max_steps": 4, "accelerator": "cpu", "enable_progress_bar": False, "logger": False},
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "run.yaml", "--checkpoint.dirpath", "kept"])
    return ["--config", str(tmp_path / "run.yaml"), "--ckpt_path", str(tmp_path / "kept" / "best.ckpt")]


def test_metrics_and_predictions_of_two_processes_equal_one(trained, tmp_path):
    results = {}
    for name, devices in (("one", "1"), ("two", "2")):
        folder = tmp_path / name
        folder.mkdir()
        options = ["--trainer.devices", devices, "--trainer.strategy", "ddp" if devices == "2" else "auto"]
        options += ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "."]
        run("test", folder, tmp_path / "cache", *trained, *options)
        run("predict", folder, tmp_path / "cache", *trained, *options, "--predictions.path", "out.jsonl")
        lines = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
        results[name] = metrics(folder), lines
        assert not list(folder.glob(".out.jsonl*"))
    assert results["two"][0] == pytest.approx(results["one"][0], abs=1e-6)
    assert [line["index"] for line in results["two"][1]] == list(range(17))
    for two, one in zip(results["two"][1], results["one"][1], strict=True):
        assert two["text"] == one["text"]
        assert two["probabilities"] == pytest.approx(one["probabilities"], abs=1e-6)


TEXT = "the good film : a bad plot"
ROWS = [{"question": TEXT[: 3 + row % 9], "context": TEXT[row % 8 :], "answers": "bad"} for row in range(17)]


@pytest.mark.parametrize("task", ["GenerativeQA", pytest.param("ExtractiveQA", marks=pytest.mark.slow)])
def test_questions_answered_by_two_processes(task, gpt2_folder, tmp_path, monkeypatch):
    """Texts that are written, and examples of several windows: every row counts once, wherever it is read."""
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        Path(f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    own = {"GenerativeQA": {}, "ExtractiveQA": {"max_length": 16, "stride": 2}}[task]
    config = {
        "model": {"class_path": task, "init_args": {"backbone": gpt2_folder}},
        "data": {
            "class_path": f"{task}DataModule",
            "init_args": {"source": str(tmp_path), "batch_size": 8, "eval_batch_size": 3, **own},
        },
        "trainer": {"max_steps": 3, "accelerator": "cpu", "enable_progress_bar": False, "logger": False},
        "test_after_fit": False,
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    main(["fit", "--config", "run.yaml", "--checkpoint.dirpath", "kept"])
    args = ["--config", str(tmp_path / "run.yaml"), "--ckpt_path", str(tmp_path / "kept" / "best.ckpt")]
    args += ["--predictions.path", "out.jsonl"]
    cli = main(["test", *args])
    one = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    main(["predict", *args])
    folder = tmp_path / "two"
    folder.mkdir()
    options = ["--trainer.devices", "2", "--trainer.strategy", "ddp"]
    options += ["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "."]
    for command in ("test", "predict"):
        run(command, folder, tmp_path / "cache", *args, *options)
    assert metrics(folder) == pytest.approx(one, rel=1e-5)
    expected, found = (
        [json.loads(line) for line in (at / "out.jsonl").read_text().splitlines()] for at in (tmp_path, folder)
    )
    answer = {"GenerativeQA": "generated_text", "ExtractiveQA": "answer"}[task]
    assert [(line["index"], line[answer]) for line in found] == [(line["index"], line[answer]) for line in expected]
    assert len(expected) == len(ROWS)
