"""Runs: equal to `fit`; resumed, shared between processes, refused; the command."""

import json
import math
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

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
from tiny_run import ROWS, SETTINGS, TRAINER, Stop, run

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


def test_folds_in_one_batch_give_what_they_give_one_by_one(bert_folder):
    """Two of the three in one batch; without dropout, whose random numbers would be other ones."""
    alone, together = (
        run(bert_folder, f"cv_{count}", at_once=count, make_prefix=lambda: lp.FlatPrefixConfig(length=3))
        for count in (1, 2)
    )
    for name in ("fold", "train_rows", "test_rows", "seed", "test/accuracy"):
        assert together.frame[name].tolist() == alone.frame[name].tolist()
    assert together.frame["test/loss"].tolist() == pytest.approx(alone.frame["test/loss"].tolist(), abs=1e-5)
    for one, other in zip(alone.directories, together.directories, strict=True):
        one, other = (load_file(folder / "prefix.safetensors") for folder in (one, other))
        for key in {**one, **other}:
            np.testing.assert_allclose(other[key], one[key], atol=2e-5)
    with pytest.raises(lp.InputError, match="at_once=2 was given with select='best'"):
        run(bert_folder, "best", at_once=2, select="best")


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


@pytest.mark.parametrize(("select", "in_test"), [("last", False), ("last", True), ("best", True)])
def test_interrupted_and_resumed_is_as_uninterrupted(select, in_test, uninterrupted, bert_folder, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    options = {"settings": SETTINGS, "select": select}
    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(SystemExit):
        run(bert_folder, "cv", trainer={**TRAINER, "callbacks": Stop(signal.SIGINT, "fold_1", in_test)}, **options)
    signal.signal(signal.SIGINT, handler)  # Lightning ignores it from then on
    assert "stopped; resume=True (--resume true) goes on with 'cv'" in caplog.text
    assert [Path("cv", name, "result.json").exists() for name in NAMES] == [True, False, False]

    before = Path("cv/fold_0/result.json").stat().st_mtime_ns
    Path("cv/fold_2").mkdir()
    with FileLock("cv/fold_2/.lock"):  # as a process that trains it
        found = run(bert_folder, "cv", resume=True, **options)
    assert found.frame["fold"].tolist() == ["fold_0", "fold_1"]
    assert "2 of 3 folds are finished; other processes are training 1 (fold_2), and 0 are left." in caplog.text
    found = run(bert_folder, "cv", resume=True, **options)
    assert found.frame["fold"].tolist() == NAMES
    assert Path("cv/fold_0/result.json").stat().st_mtime_ns == before
    if select == "best":
        run(bert_folder, "whole", select=select)
    assert_equal(Path("cv"), Path("whole") if select == "best" else uninterrupted)


def test_three_processes_of_which_one_is_killed(uninterrupted, bert_folder, tmp_path):
    """The two that are left finish all folds, each once, and the one of the killed process from its first epoch on."""
    here = Path(__file__).parent
    paths = os.pathsep.join(map(str, (here.parent, here.parent.parent)))
    command = [sys.executable, str(here / "tiny_run.py"), bert_folder, str(tmp_path)]
    options = {
        "env": {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        "stdout": subprocess.PIPE,
        "stderr": subprocess.PIPE,
    }
    first, *others = [subprocess.Popen([*command, str(number)], text=True, **options) for number in range(3)]
    errors = first.communicate(timeout=100)[1]
    assert first.returncode == -signal.SIGKILL, errors
    (left,) = Path("cv").glob("*/checkpoints/last.ckpt")
    Path("dead").touch()
    outputs = [process.communicate(timeout=100) for process in others]
    assert [process.returncode for process in others] == [0, 0], outputs
    trained = [re.findall(r"^(fold_\d): test", errors, re.MULTILINE) for _, errors in outputs]
    assert sorted(trained[0] + trained[1]) == NAMES
    assert all(trained)
    assert pd.read_csv(left.parent.parent / "metrics.csv")["step"].min() == 3
    assert pd.read_csv("cv/results.csv")["fold"].tolist() == NAMES  # of the last one to finish
    assert_equal(Path("cv"), uninterrupted)


def test_a_process_can_be_given_its_folds(uninterrupted, bert_folder, caplog):
    caplog.set_level("INFO", "lightning.pytorch")
    assert run(bert_folder, "cv", only=[2, 0]).frame["fold"].tolist() == ["fold_0", "fold_2"]
    assert "2 of 3 folds are finished; other processes are training 0, and 1 are left." in caplog.text
    found = run(bert_folder, "cv", only=[], resume=True)
    assert len(found.frame) == 2
    assert len(run(bert_folder, "cv", resume=True).frame) == 3
    assert_equal(Path("cv"), uninterrupted)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"resume": False}, "is not empty. Name another directory, or go on with what is in it: resume=True"),
        ({"folds": 4}, "made with other settings: folds 3 there, 4 now; row_numbers.fold_0 .* there"),
        ({"select": "worst"}, "select='worst' was given; it is one of 'last', 'best'"),
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
    with pytest.raises(lp.InputError, match="fold_0: select='best' is given, but no validation ran"):
        run(bert_folder, "cv", select="best", trainer={**TRAINER, "limit_val_batches": 0})


def test_a_bad_row_is_found_before_training(bert_folder):
    data = lp.TextRegressionDataModule([{"text": "film", "label": label} for label in ("1", "2", "high", "4")])
    with pytest.raises(lp.InputError, match=r"^row 3 of 'train' has the label 'high'"):
        lp.cross_validate(lambda: lp.TextRegression(bert_folder), data, folds=2, trainer=TRAINER)
    assert not Path("cross_validation").exists()


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


@pytest.mark.parametrize(
    ("kind", "select"), [*((kind, "best") for kind in KINDS), ("ExtractiveQA", "last"), ("TextGeneration", "last")]
)
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
    assert "ensemble --members results/*/prefix --directory ensemble" in shown
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
