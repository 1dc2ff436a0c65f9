"""The range test: rates, losses, suggestion, files, and a task as it was."""

import math
from pathlib import Path

import pandas as pd
import pytest
import torch

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.tuning import learning_rate
from lightning_prefix.tuning.learning_rate import RisingRate

TRAINER = {"accelerator": "cpu", "enable_progress_bar": False}


def test_the_suggestion_is_the_steepest_descent_before_the_minimum():
    rising = RisingRate(1e-4, 1.0, 41)
    rising.rates = [10 ** (-4 + i / 10) for i in range(41)]
    rising.smoothed = rising.losses = [
        1.0 if i < 10 else 1 - (i - 10) * 0.01 if i < 20 else 0.9 - (i - 20) * 0.08 if i < 30 else 0.1 + (i - 30)
        for i in range(41)
    ]
    assert 1e-2 <= rising.suggestion() <= 1e-1
    rising.smoothed = list(map(float, range(41)))
    with pytest.raises(lp.InputError, match="the loss did not fall"):
        rising.suggestion()


def test_both_groups_rise_in_proportion_and_the_task_is_as_it_was(bert_folder, reviews):
    seen = []

    class Watch(torch.optim.SGD):
        def step(self, *args, **kwargs):
            seen.append([group["lr"] for group in self.param_groups])
            return super().step(*args, **kwargs)

    task = lp.TextClassification(bert_folder, num_labels=2, learning_rate=0.1, head_learning_rate=0.01, optimizer=Watch)
    task.configure_model()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    data = lp.TextClassificationDataModule(reviews, batch_size=8)
    options = {**TRAINER, "accumulate_grad_batches": 2}
    result = lp.learning_rate_range_test(task, data, low=1e-3, high=10.0, steps=21, trainer=options)
    frame = result.frame
    assert len(seen) == len(frame) == 21
    expected = [1e-3 * 10 ** (i / 5) for i in range(21)]
    assert list(frame["learning_rate"]) == pytest.approx(expected)
    assert [rates[0] for rates in seen] == pytest.approx(expected)
    assert [rates[1] for rates in seen] == pytest.approx([5 * rate for rate in expected])  # the keys
    assert [rates[2] for rates in seen] == pytest.approx([rate / 10 for rate in expected])
    assert result.head_ratio == pytest.approx(0.1)
    assert frame["loss"][0] == pytest.approx(0.7, abs=0.2)  # ln 2: not divided by the batches that are accumulated
    assert 1e-3 < result.suggestion < 10
    assert not Path("learning_rate").exists()
    assert all(torch.equal(value, before[name]) for name, value in task.state_dict().items())


@pytest.mark.parametrize("limit", [4.0, math.inf])
def test_it_stops_where_the_loss_diverges(limit, bert_folder, reviews, monkeypatch):
    """At a multiple of the lowest loss, or else where it is no number any more."""
    monkeypatch.setattr(learning_rate, "_DIVERGED", limit)
    task = lp.TextClassification(bert_folder, weight_decay=0.1)
    data = lp.TextClassificationDataModule(reviews, batch_size=8)
    result = lp.learning_rate_range_test(task, data, low=1e-5, high=1e38, steps=200, trainer=TRAINER)
    assert 20 < len(result.frame) < 190
    assert (result.frame["smoothed_loss"].max() > 1e3) == (limit == math.inf)
    assert result.suggestion < 10
    assert all(value.isfinite().all() for value in task.state_dict().values())


@pytest.mark.parametrize("rates", [{"learning_rate": 0.1, "head_learning_rate": 0.05}, {"head_learning_rate": 0.005}])
def test_command(rates, config, caplog):
    """The head keeps half of the prefix's rate, of the variant's default too."""
    caplog.set_level("INFO", "lightning.pytorch")
    rates = [word for name, rate in rates.items() for word in (f"--model.{name}", str(rate))]
    main(["learning-rate", "--config", config, *rates, "--low", "1e-3", "--steps", "60"])
    frame = pd.read_csv("learning_rate/learning_rate.csv")
    assert list(frame.columns) == ["step", "learning_rate", "loss", "smoothed_loss"]
    assert Path("learning_rate/learning_rate.png").stat().st_size > 5000
    words = caplog.messages[-1].split()
    suggestion = float(words[words.index("--model.learning_rate") + 1])
    assert 2e-3 < suggestion < 0.9
    assert float(words[words.index("--model.head_learning_rate") + 1]) == pytest.approx(suggestion / 2, rel=0.1)


@pytest.mark.parametrize("args", [["--low", "0"], ["--low", "2"], ["--steps", "5"]])
def test_refused(args, config, capsys):
    with pytest.raises(SystemExit):
        main(["learning-rate", "--config", config, *args])
    assert "they are 0 < low < high, steps >= 10" in capsys.readouterr().err
