"""Runs: equal to `fit`; resumed, shared between processes, refused; the command."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import lightning
import numpy as np
import pandas as pd
import pytest
import yaml
from filelock import FileLock
from lightning.pytorch.callbacks import EarlyStopping
from safetensors.torch import load_file
from tiny_files import review

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.cross_validation import make_folds
from lightning_prefix.cross_validation.results import read_results, write_json

sys.path.append(str(Path(__file__).parent))
from tiny_run import ROWS, TRAINER, run

NAMES = ["fold_0", "fold_1", "fold_2"]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def uninterrupted(bert_folder, tmp_path_factory) -> Path:
    directory = tmp_path_factory.mktemp("whole") / "cv"
    run(bert_folder, directory)
    return directory


def assert_equal(directory: Path, other: Path, names=NAMES):
    """The same numbers and tensors, exactly."""
    for name in names:
        one, two = (json.loads((at / name / "result.json").read_text()) for at in (directory, other))
        assert one["metrics"] == two["metrics"]
        assert one["fold"]["test_rows"] == two["fold"]["test_rows"] == 12
        one, two = (load_file(at / name / "prefix" / "prefix.safetensors") for at in (directory, other))
        assert all((one[key] == two[key]).all() for key in {**one, **two})


@pytest.mark.parametrize("select", ["last", "best"])
def test_a_fold_equals_fit(select, bert_folder, tmp_path):
    """`fit` on files with the same rows; where nothing is selected its validation rows are not read."""
    found = run(bert_folder, "cv", select=select, seed=7, repeats=2)
    fold = make_folds(lp.TextClassificationDataModule(ROWS), folds=3, repeats=2, seed=7)[4]
    assert (fold.name, found.frame["seed"][4]) == ("repeat_1_fold_1", 8)
    splits = {"train": fold.train, "test": fold.test, **({"validation": [0, 1]} if select == "last" else {})}
    for split, rows in splits.items():
        Path(f"{split}.jsonl").write_text("".join(json.dumps(ROWS[row]) + "\n" for row in rows))
    prefix = {"class_path": "FlatPrefixConfig", "init_args": {"length": 3, "dropout": 0.1}}
    trainer = {**TRAINER, **({"limit_val_batches": 0, "num_sanity_val_steps": 0} if select == "last" else {})}
    config = {
        "seed_everything": 8,
        "model": {
            "class_path": "TextClassification",
            "init_args": {"backbone": bert_folder, "prefix": prefix, "learning_rate": 0.5},
        },
        "data": {
            "class_path": "TextClassificationDataModule",
            "init_args": {"source": str(tmp_path), "batch_size": 8},
        },
        "trainer": trainer,
    }
    Path("run.yaml").write_text(yaml.safe_dump(config))
    fitted = main(["fit", "--config", "run.yaml"]).trainer.callback_metrics
    metrics = json.loads(Path("cv/repeat_1_fold_1/result.json").read_text())["metrics"]
    assert metrics == {name: float(value) for name, value in fitted.items() if name.startswith("test/")}
    ours, theirs = (
        load_file(folder / "prefix.safetensors")
        for folder in (found.directories[4], Path("lightning_logs/version_0/prefix"))
    )
    assert ours
    assert all((ours[key] == theirs[key]).all() for key in {**ours, **theirs})
    log = pd.read_csv("cv/repeat_1_fold_1/metrics.csv")
    assert log["test/accuracy"].dropna().tolist() == pytest.approx([metrics["test/accuracy"]])
    assert log["train/loss"].count() == 6
    assert ("val/accuracy" in log) == (select == "best")


def test_tables(uninterrupted, bert_folder):
    """Their numbers are those of the folds, whoever computes them."""
    found = run(bert_folder, uninterrupted, resume=True)  # all are finished
    loss = [json.loads((uninterrupted / name / "result.json").read_text())["metrics"]["test/loss"] for name in NAMES]
    assert found.frame["fold"].tolist() == NAMES
    assert found.frame["test/loss"].tolist() == loss
    assert found.frame[["train_rows", "test_rows", "seed"]].to_numpy().tolist() == [[24, 12, 0]] * 3
    row = found.summary.set_index("metric").loc["test/loss"]
    half = 4.302652729911275 * np.std(loss, ddof=1) * math.sqrt(1 / 3 + 12 / 24)  # t with 2 degrees, 0.975
    assert row[["mean", "std", "low", "high"]].tolist() == pytest.approx(
        [np.mean(loss), np.std(loss, ddof=1), np.mean(loss) - half, np.mean(loss) + half]
    )
    assert half > 0
    assert pd.read_csv(uninterrupted / "results.csv")["test/loss"].tolist() == loss
    assert pd.read_csv(uninterrupted / "summary.csv")["folds"].tolist() == [3] * 3
    stored = json.loads((uninterrupted / "results.json").read_text())
    assert [record["test/loss"] for record in stored["folds"]] == loss
    assert stored["settings"]["rows"] == 36
    assert f"test/loss                {np.mean(loss):.4f} +- {np.std(loss, ddof=1):.4f}" in str(found)
    labels = {lp.Predictor.from_pretrained(folder)("good film")["label"] for folder in found.directories}
    assert labels <= {"negative", "positive"}


def test_numbers_that_are_missing(tmp_path):
    for name, value in (("a", math.nan), ("b", 1.0), ("c", 3.0)):
        (tmp_path / name).mkdir()
        rows = {"fold": name, "train_rows": 2, "test_rows": 1, "seed": 0, "seconds": 0.1}
        write_json(tmp_path / name / "result.json", {"fold": rows, "metrics": {"test/pearson": value}})
    found = read_results(tmp_path, ["a", "b", "c", "d"], share_rows=False)
    assert found.frame["test/pearson"].isna().tolist() == [True, False, False]
    (row,) = found.summary.to_dict("records")
    assert (row["mean"], row["folds"]) == (2.0, 2)
    assert row["high"] == pytest.approx(2 + 12.706204736 * math.sqrt(2 / 2))  # s^2 = 2, t with one degree


class _Stop(lightning.Callback):
    """Ctrl-C, or the end of the process, in the second epoch of the second run."""

    def __init__(self, signal_number: int) -> None:
        self.signal = signal_number

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        if trainer.global_step == 4 and "fold_1" in trainer.default_root_dir:
            os.kill(os.getpid(), self.signal)


def test_interrupted_and_resumed_is_as_uninterrupted(uninterrupted, bert_folder, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    options = {"settings": {"of": "the test"}}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        run(bert_folder, "cv", trainer={**TRAINER, "callbacks": _Stop(signal.SIGINT)}, **options)
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert "stopped; resume=True (--resume true) goes on with 'cv'" in caplog.text
    assert [Path("cv", name, "result.json").exists() for name in NAMES] == [True, False, False]
    assert Path("cv/fold_1/checkpoints/last.ckpt").exists()

    before = Path("cv/fold_0/result.json").stat().st_mtime_ns
    with FileLock("cv/fold_2/.lock"):  # as a process that trains it
        found = run(bert_folder, "cv", resume=True, **options)
    assert found.frame["fold"].tolist() == ["fold_0", "fold_1"]
    assert "2 of 3 folds are finished; other processes are training 1 of the other 1: fold_2." in caplog.text
    found = run(bert_folder, "cv", resume=True, **options)
    assert found.frame["fold"].tolist() == NAMES
    assert Path("cv/fold_0/result.json").stat().st_mtime_ns == before
    assert_equal(Path("cv"), uninterrupted)


KILLED = """
import signal, sys
from test_run import TRAINER, _Stop, run
run(sys.argv[1], "cv", trainer={**TRAINER, "callbacks": _Stop(signal.SIGKILL)}, settings={"of": "the test"})
"""


def test_a_killed_process_and_two_that_go_on_at_once(uninterrupted, bert_folder, tmp_path):
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here, here.parent, here.parent.parent)))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    common = {"env": environment, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    killed = subprocess.run([sys.executable, "-c", KILLED, bert_folder], check=False, timeout=100, **common)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert [Path("cv", name, "result.json").exists() for name in NAMES] == [True, False, False]

    command = [sys.executable, str(here / "tiny_run.py"), bert_folder, str(tmp_path / "cv")]
    running = [subprocess.Popen([*command, str(n), "2"], **common) for n in range(2)]
    outputs = [process.communicate(timeout=100) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    trained = [re.findall(r"^(fold_\d): test", errors, re.MULTILINE) for _, errors in outputs]
    assert sorted(trained) == [["fold_1"], ["fold_2"]]
    assert len(pd.read_csv("cv/results.csv")) == 3  # of the last one to finish
    assert max(output.count("\nfold_") for output, _ in outputs) == 3
    assert_equal(Path("cv"), uninterrupted)


def test_a_process_can_be_given_its_folds(uninterrupted, bert_folder):
    assert run(bert_folder, "cv", only=[2, 0]).frame["fold"].tolist() == ["fold_0", "fold_2"]
    found = run(bert_folder, "cv", only=[], resume=True)
    assert len(found.frame) == 2
    assert len(run(bert_folder, "cv", resume=True).frame) == 3
    assert_equal(Path("cv"), uninterrupted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": False}, "is not empty. Name another directory, or go on with what is in it: resume=True"),
        ({"folds": 4}, "made with other settings: folds 3 there, 4 now; row_numbers.fold_0 .* there"),
        ({"select": "best"}, 'select "last" there, "best" now. Give the same ones, or another directory'),
        ({"trainer": {**TRAINER, "max_epochs": 3}}, "run.trainer.max_epochs 2 there, 3 now"),
        ({"only": [3]}, r"only=\[3\] was given; there is no fold 3: they are 0 to 2"),
        ({"only": [-1]}, "there is no fold -1"),
        ({"leave_out": {"a": ROWS, "b": ROWS}, "repeats": 2}, "folds=3 and leave_out are given"),
        (
            {"trainer": {**TRAINER, "devices": 2}},
            "has 2 devices .* one process per device with resume and its own CUDA",
        ),
        ({"trainer": {"callbacks": [EarlyStopping("val/loss")]}}, "stops early by val/loss, but select='last'"),
        ({"directory": "some"}, "'some' is not one of a cross-validation"),
        ({"directory": "some/file"}, "which is a file"),
    ],
)
def test_what_does_not_fit_is_refused(options, message, uninterrupted, bert_folder):
    Path("some").mkdir()
    Path("some/file").touch()
    with pytest.raises(lp.InputError, match=message):
        run(bert_folder, **{"directory": uninterrupted, "resume": True, **options})


def test_best_needs_a_validation(bert_folder):
    with pytest.raises(lp.InputError, match="select='best' is given, but no validation ran"):
        run(bert_folder, "cv", select="best", trainer={**TRAINER, "limit_val_batches": 0})


TEXT = "the good film : a bad plot"
KINDS = {
    "TextClassification": ({}, [{**review(n), "label": ["a", "b"][: n % 3]} for n in range(12)], {"multi_label": True}),
    "TextRegression": ({}, [{**review(n), "label": n / 3} for n in range(12)], {"drop_empty": True}),
    "TokenClassification": ({}, [{"tokens": ["good", "film"], "tags": ["B-X", "O"]} for _ in range(12)], {}),
    "ExtractiveQA": (
        {},
        [{"question": TEXT[:n], "context": TEXT[n:], "answers": "" if n == 1 else "bad"} for n in range(1, 13)],
        {"max_length": 16, "stride": 2},
    ),
    "GenerativeQA": ({}, [{"question": "the plot", "context": TEXT[n:], "answers": "bad"} for n in range(12)], {}),
    "Translation": (
        {},
        [{"en": TEXT[n:], "de": TEXT[n:]} for n in range(12)],
        {"source_language": "en", "target_language": "de"},
    ),
    "Dialogue": ({}, [{"messages": ["the film :", TEXT[n:]]} for n in range(12)], {"max_length": 60}),
    "TextGeneration": ({}, [{"text": TEXT[n:], "target": ["film", "plot"]} for n in range(12)], {}),
}
WRITING = ("GenerativeQA", "Translation", "Dialogue", "TextGeneration")


@pytest.mark.parametrize("select", ["last", "best"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_data_can_be_folded(kind, select, bert_folder, gpt2_folder):
    task, rows, options = KINDS[kind]
    if kind in WRITING:
        options = {"max_target_length": 4, **options}
    backbone = gpt2_folder if kind in WRITING else bert_folder
    found = lp.cross_validate(
        lambda: getattr(lp, kind)(backbone, lp.FlatPrefixConfig(length=2), **task),
        getattr(lp, f"{kind}DataModule")(rows, batch_size=4, validation_fraction=0.3, **options),
        folds=2,
        select=select,
        trainer={**TRAINER, "max_epochs": 1},
    )
    assert found.frame["test_rows"].sum() == 12
    metric = {"TextRegression": "test/pearson"}.get(kind, "test/loss")
    assert found.summary.set_index("metric").loc[metric, "folds"] >= 1
    assert all((folder / "prefix.json").exists() for folder in found.directories)


def test_leave_one_data_set_out(bert_folder):
    sources = {"short": ROWS[:12], "long": [{"text": row["text"], "label": row["label"]} for row in ROWS[12:]]}
    found = run(bert_folder, "cv", folds=5, leave_out=sources)
    assert found.frame["fold"].tolist() == ["without_short", "without_long"]
    assert found.frame["test_rows"].tolist() == [12, 24]
    row = found.summary.set_index("metric").loc["test/loss"]
    assert row["high"] - row["mean"] == pytest.approx(12.706204736 * row["std"] / math.sqrt(2))  # not corrected


@pytest.fixture
def config(tmp_path, bert_folder, reviews) -> str:
    sections = {
        "model": {"class_path": "TextClassification", "init_args": {"backbone": bert_folder}},
        "data": {"class_path": "TextClassificationDataModule", "init_args": {"source": reviews, "batch_size": 16}},
        "trainer": {**TRAINER, "max_epochs": 1, "enable_model_summary": True},
    }
    Path("run.yaml").write_text(yaml.safe_dump(sections))
    return "run.yaml"


def test_command(config, capsys, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    args = ["cross-validate", "--config", config, "--folds", "2", "--directory", "results", "--seed_everything", "3"]
    main([*args, "--only", "[1]"])
    assert "fold_1: test/loss" in caplog.text
    capsys.readouterr()
    main([*args, "--resume", "true"])
    shown = capsys.readouterr().out
    assert re.search(r"fold_0 +32 +32 +3 ", shown)
    assert "test/accuracy  " in shown
    assert "results/results.csv, results/summary.csv" in shown
    assert "lp.Predictor.from_pretrained('results/fold_0/prefix')(['your text'])" in shown
    assert "ensemble --members results/fold_0/prefix results/fold_1/prefix --directory ensemble" in shown
    stored = json.loads(Path("results/settings.json").read_text())
    assert stored["seed"] == stored["run"]["seed_everything"] == 3

    with pytest.raises(SystemExit) as failure:
        main([*args, "--resume", "true", "--trainer.max_epochs", "2"])
    assert failure.value.code == 1
    assert "run.trainer.max_epochs 1 there, 2 now" in capsys.readouterr().err


def test_command_leaves_data_sets_out(config, capsys, reviews):
    sources = f"{{movies: {reviews}, mine: {reviews}/test.csv}}"
    main(["cross-validate", "--config", config, "--leave_out", sources, "--select", "best"])
    shown = capsys.readouterr().out
    assert re.search(r"without_movies +17 +64", shown)
    assert re.search(r"without_mine +64 +17", shown)
