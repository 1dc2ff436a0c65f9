"""Losses against a reference, start text, optimiser groups and schedules."""

import pytest
import torch

import lightning_prefix as lp
from lightning_prefix.tasks.optimization import Optimization, TrainedParameters

OUTPUTS = torch.tensor([[1.0, -0.5], [0.2, 0.3], [-2.0, 1.0]])


def task(**options):
    return lp.TextClassification("unused", labels=["a", "b"], **options)


def test_cross_entropy_with_weights_and_smoothing():
    labels, weights, smoothing = torch.tensor([0, 1, 1]), torch.tensor([1.0, 3.0]), 0.2
    log_probabilities = OUTPUTS - OUTPUTS.exp().sum(1, keepdim=True).log()
    targets = torch.nn.functional.one_hot(labels).float() * (1 - smoothing) + smoothing / 2
    expected = -(targets * log_probabilities * weights).sum() / weights[labels].sum()
    loss = task(class_weights=[1.0, 3.0], label_smoothing=smoothing).loss(OUTPUTS, {"labels": labels})
    torch.testing.assert_close(loss, expected)


def test_multi_label_loss_with_smoothing():
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.0, 0.0]])
    targets = labels * 0.8 + 0.1
    p = OUTPUTS.sigmoid()
    expected = -(targets * p.log() + (1 - targets) * (1 - p).log()).mean()
    torch.testing.assert_close(task(multi_label=True, label_smoothing=0.2).loss(OUTPUTS, {"labels": labels}), expected)


def test_text_start_has_the_instruction_as_its_default(bert_folder):
    config = lp.FlatPrefixConfig(length=6, init="text")
    models = [lp.TextClassification(bert_folder, config, labels=["good", "bad"])]
    given = lp.FlatPrefixConfig(length=6, init="text", init_text=models[0].instruction())
    models.append(lp.TextClassification(bert_folder, given, num_labels=2))
    for model in models:
        model.configure_model()
    assert models[0].instruction() == "Classify the text as good or bad:"
    for ours, given in zip(models[0].model.prefix.keys, models[1].model.prefix.keys, strict=True):
        assert torch.equal(ours, given)


def configured(**changes):
    options = {"learning_rate": None, "key_learning_rate": None, "head_learning_rate": None, "weight_decay": 0.0}
    options |= {"warmup": 2, "optimizer": None, "lr_scheduler": None, **changes}
    variant = options.pop("variant", lp.FlatPrefixConfig)
    trained = TrainedParameters(*([torch.nn.Parameter(torch.zeros(2))] for _ in range(3)))
    return Optimization(**options).configure(trained, 10, variant, "val/accuracy")


def test_default_schedule_rises_and_falls_to_zero():
    result = configured(head_learning_rate=0.002, weight_decay=0.1)
    optimizer, scheduler = result["optimizer"], result["lr_scheduler"]["scheduler"]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.0, 0.1]
    rates = []
    for _ in range(11):
        rates.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        scheduler.step()
    assert [rate for rate, _ in rates[:3]] == pytest.approx([0.01 / 3, 0.02 / 3, 0.01])
    assert rates[-1] == [0, 0]
    assert all(head == pytest.approx(prefix / 5) for prefix, head in rates)


def test_keys_have_a_learning_rate_of_their_own():
    def rates(**changes):
        return {group["name"]: group["initial_lr"] for group in configured(**changes)["optimizer"].param_groups}

    assert rates() == {"prefix": 0.01, "head": 0.01}
    assert rates(key_learning_rate=0.03) == {"prefix": 0.01, "keys": 0.03, "head": 0.01}
    assert rates(variant=lp.GatedPrefixConfig) == pytest.approx({"prefix": 0.02, "keys": 0.1, "head": 0.01})
    same = rates(variant=lp.GatedPrefixConfig, learning_rate=0.03, key_learning_rate=0.03)
    assert same == {"prefix": 0.03, "head": 0.03}
    own = rates(variant=lp.GatedPrefixConfig, optimizer=lambda groups: torch.optim.SGD(groups, lr=0.5))
    assert own == {"prefix": 0.5, "head": 0.5}


def test_a_given_optimizer_keeps_its_own_values_unless_ours_are_given():
    def adam(groups):
        return torch.optim.AdamW(groups, lr=0.5, weight_decay=0.3)

    groups = configured(optimizer=adam)["optimizer"].param_groups
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [(0.5, 0.0), (0.5, 0.3)]
    groups = configured(optimizer=adam, learning_rate=0.1, weight_decay=0.2)["optimizer"].param_groups
    assert [(group["initial_lr"], group["weight_decay"]) for group in groups] == [(0.1, 0.0), (0.1, 0.2)]


def test_a_plateau_schedule_watches_the_metric_that_it_names():
    from lightning.pytorch.cli import ReduceLROnPlateau

    named = configured(lr_scheduler=lambda optimizer: ReduceLROnPlateau(optimizer, monitor="val/loss"))
    assert named["lr_scheduler"]["monitor"] == "val/loss"
    unnamed = configured(lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau)
    assert unnamed["lr_scheduler"]["monitor"] == "val/accuracy"
