"""`OptunaPruning` tells Optuna each validation, and a trial that lags behind stops early."""

from types import SimpleNamespace

import optuna
import pandas as pd
import pytest
import torch
from lightning.pytorch import Trainer

import lightning_prefix as lp
from lightning_prefix.tuning import OptunaPruning


def test_a_bad_trial_stops_early(bert_folder, reviews):
    """A rate that is far too high is pruned at its first validation of three."""
    rates = {"choices": [0.01, 0.02, 50.0]}
    result = lp.tune(
        lambda values: lp.TextClassification(bert_folder, learning_rate=values["rate"], warmup=0),
        lp.TextClassificationDataModule(reviews, batch_size=8),
        {"rate": rates},
        trials=3,
        metric="val/loss",
        sampler="GridSampler",
        sampler_options={"search_space": {"rate": rates["choices"]}},
        pruner="ThresholdPruner",
        pruner_options={"upper": 1.0},
        trainer={"max_epochs": 3, "accelerator": "cpu"},
    )
    frame = result.frame.set_index("rate")
    assert frame["state"].to_dict() == {0.01: "COMPLETE", 0.02: "COMPLETE", 50.0: "PRUNED"}
    for trial in result.study.trials:
        metrics = pd.read_csv(f"tuning/trial_{trial.number}/metrics.csv")["val/loss"].dropna()
        assert list(trial.intermediate_values.values()) == pytest.approx(list(metrics))
        assert list(trial.intermediate_values) == [1] if trial.state.name == "PRUNED" else [1, 2, 3]


class _Process:
    """A Trainer as one of several processes sees it."""

    def __init__(self, *, is_global_zero: bool, decision: bool) -> None:
        self.sanity_checking = False
        self.callback_metrics = {"val/loss": torch.tensor(0.5)}
        self.is_global_zero = is_global_zero
        self.sent: list[bool] = []
        self.strategy = SimpleNamespace(broadcast=lambda value: self.sent.append(value) or decision)


def test_rank_zero_decides_for_all():
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.1))
    for decision in (True, False):
        other = OptunaPruning(None, "val/loss")
        process = _Process(is_global_zero=False, decision=decision)
        if decision:
            with pytest.raises(optuna.TrialPruned):
                other.on_validation_end(process, None)
        else:
            other.on_validation_end(process, None)
    zero = _Process(is_global_zero=True, decision=True)
    with pytest.raises(optuna.TrialPruned):
        OptunaPruning(study.ask(), "val/loss").on_validation_end(zero, None)
    assert zero.sent == [True]


def test_the_check_before_training_is_no_validation(bert_folder, reviews):
    trial = optuna.create_study(pruner=optuna.pruners.NopPruner()).ask()
    watch = OptunaPruning(trial)
    task = lp.TextClassification(bert_folder)
    options = {"max_epochs": 1, "val_check_interval": 0.5, "limit_train_batches": 4, "num_sanity_val_steps": 2}
    trainer = Trainer(callbacks=[watch], accelerator="cpu", logger=False, enable_checkpointing=False, **options)
    trainer.fit(task, datamodule=lp.TextClassificationDataModule(reviews, batch_size=8))
    assert watch.monitor == "val/accuracy"
    assert len(watch.values) == 2  # two of one epoch, each with a number of its own
    assert trial.storage.get_trial(trial._trial_id).intermediate_values == {1: watch.values[0], 2: watch.values[1]}
