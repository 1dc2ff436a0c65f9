"""Weights of an ensemble, found on validation data."""

from typing import Any

import torch
from lightning.pytorch import Trainer
from torch import Tensor

from lightning_prefix.data import TextDataModule
from lightning_prefix.ensemble.ensemble import Ensemble, Kept
from lightning_prefix.errors import InputError

_ROUNDS = 50


def fit_weights(ensemble: Ensemble, data: TextDataModule, trainer: Trainer | None = None) -> list[float]:
    """Set the weights that are best for the task's metric on the validation split, by ensemble selection.

    Members are added one after the other, with replacement, each time the one with which the ensemble scores best; a
    weight is how often a member was taken (Caruana et al. 2004, sections 2.1 and 2.2). Of equal metrics the lower loss
    counts, where the ensemble has one. Members read the rows once.

    Args:
        ensemble: its weights are changed.
        data: with a validation split.
        trainer: on one device; a quiet one when None.

    Returns:
        The weights, which add up to one.

    Raises:
        InputError: for members that write token by token, which have no scores of their own.
    """
    if ensemble.rule == "tokens":
        raise InputError(
            "rule='tokens' has no scores of members to fit weights on; use rule='rerank', or give weights."
        )
    trainer = trainer or Trainer(logger=False, enable_progress_bar=False, devices=1)
    if trainer.world_size > 1:
        raise InputError(f"weights are fitted on one device, {trainer.world_size} are given; set trainer.devices to 1.")
    with ensemble.keeping_scores() as kept:
        trainer.validate(ensemble, datamodule=data, verbose=False)
    ensemble.weights = _select(ensemble, kept)
    return ensemble.weights


def _select(ensemble: Ensemble, kept: Kept) -> list[float]:
    count = len(ensemble.members)
    taken = torch.zeros(count)
    best: tuple[float, float] | None = None
    weights = taken
    for _ in range(_ROUNDS):
        tried = [taken + one for one in torch.eye(count)]
        scores = [_score(ensemble, kept, (counts / counts.sum()).tolist()) for counts in tried]
        place = max(range(count), key=lambda member: (scores[member], -taken[member]))
        taken = tried[place]
        if best is None or scores[place] >= best:
            best, weights = scores[place], taken / taken.sum()
    return [float(weight) for weight in weights]


def _score(ensemble: Ensemble, kept: Kept, weights: list[float]) -> tuple[float, float]:
    """The task's metric, and minus the loss where scores have one: higher is better.

    Generations monitor a loss; of them the first metric counts.
    """
    task: Any = ensemble.lead
    metrics = task.make_metrics().to(ensemble.device)
    losses, rows = 0.0, 0
    for each, batch in kept:
        combined = task.combine(each, weights, ensemble.rule)
        task.update_metrics(metrics, combined, batch)
        if isinstance(combined, Tensor):
            losses, rows = losses + float(task.loss(combined, batch)) * len(combined), rows + len(combined)
    task.before_compute(metrics)
    values = metrics.compute()
    name = task.monitor.removeprefix("val/")
    value = values[name] * (1 if task.mode == "max" else -1) if name in values else next(iter(values.values()))
    return float(value), -losses / max(rows, 1)
