"""`lp.tune`, from Python."""

from pathlib import Path

import pandas as pd
import pytest
import torch

import lightning_prefix as lp
from lightning_prefix.backbone.shelf import sharing_backbone

TRAINER = {"max_epochs": 1, "accelerator": "cpu", "limit_train_batches": 2}


def test_values_reach_what_is_made_and_failures_do_not_end_it(bert_folder, reviews):
    made = []

    def make_task(values):
        made.append(dict(values))
        if values["fails"] == "input":
            raise lp.InputError("this one\ncannot be used")
        if values["fails"] == "memory":
            raise torch.OutOfMemoryError("too large")
        rate = 1e37 if values["fails"] == "loss" else 0.01
        return lp.TextClassification(bert_folder, learning_rate=rate, optimizer=torch.optim.SGD, warmup=0)

    def make_data(values):
        return lp.TextClassificationDataModule(reviews, batch_size=values["rows"])

    choices = ["no", "input", "memory", "loss"]
    result = lp.tune(
        make_task,
        make_data,
        {"fails": {"choices": choices}, "rows": {"choices": [8]}},
        trials=4,
        trainer=TRAINER,
        sampler="GridSampler",
        sampler_options={"search_space": {"fails": choices, "rows": [8]}},
    )
    frame = result.frame.set_index("fails")
    assert frame["state"].to_dict() == {"no": "COMPLETE", "input": "FAIL", "memory": "FAIL", "loss": "FAIL"}
    assert frame["error"]["input"] == "InputError: this one cannot be used"
    assert frame["error"]["memory"] == "OutOfMemoryError: too large"
    assert "NotFiniteError: the training loss is" in frame["error"]["loss"]
    assert result.best_values == {"fails": "no", "rows": 8}
    assert [values["fails"] for values in made[-4:]] == list(result.frame["fails"])
    assert list(pd.read_csv("tuning/trials.csv")["state"]) == list(result.frame["state"])
    assert not Path("tuning/best.yaml").exists()  # values of one's own are no config of fit


def test_three_equal_failures_end_the_study(bert_folder, reviews):
    def make_task(values):
        return lp.TextClassification(bert_folder, num_labels=5)

    data = lp.TextClassificationDataModule(reviews)
    with pytest.raises(lp.InputError, match="the data has"):
        lp.tune(make_task, data, {"x": {"low": 0, "high": 1}}, trainer=TRAINER)
    assert list(pd.read_csv("tuning/trials.csv")["state"]) == ["FAIL"] * 3


def test_an_interrupt_leaves_the_trial_for_later(bert_folder, reviews):
    """Stopped within the second trial, which the next call runs again."""
    calls = []

    def make_task(values):
        calls.append(values["x"])
        if len(calls) == 3:  # the first call is a check
            raise KeyboardInterrupt
        return lp.TextClassification(bert_folder)

    data = lp.TextClassificationDataModule(reviews)
    options = {"trials": 3, "trainer": TRAINER, "storage": "sqlite:///study.db"}
    with pytest.raises(KeyboardInterrupt):
        lp.tune(make_task, data, {"x": {"low": 0.0, "high": 1.0}}, **options)
    assert list(pd.read_csv("tuning/trials.csv")["state"]) == ["COMPLETE", "RUNNING"]
    result = lp.tune(make_task, data, {"x": {"low": 0.0, "high": 1.0}}, **options, resume=True)
    assert list(result.frame["state"]) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]
    assert result.frame["x"][1] == result.frame["x"][2]


def test_trials_leave_the_shared_backbone_clean(bert_folder, reviews):
    """Trials on one backbone give what runs of their own give."""

    def score(values: dict[str, float], directory: str) -> float:
        task = lp.TextClassification(bert_folder, learning_rate=values["rate"])
        result = lp.tune(
            lambda _: task,
            lp.TextClassificationDataModule(reviews, batch_size=8),
            {"x": {"choices": [1]}},
            trials=1,
            metric="val/loss",
            trainer=TRAINER,
            directory=directory,
        )
        return result.study.best_value

    def make_task(values):
        return lp.TextClassification(bert_folder, learning_rate=values["rate"])

    data = lp.TextClassificationDataModule(reviews, batch_size=8)
    with sharing_backbone():
        both = lp.tune(
            make_task, data, {"rate": {"low": 0.01, "high": 0.1}}, trials=2, metric="val/loss", trainer=TRAINER
        )
    for row in both.frame.to_dict("records"):
        assert score(row, f"alone_{row['number']}") == row["value"]
