"""Optimiser and schedule of a task: trained parameters only, per step."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from lightning_prefix.errors import InputError
from lightning_prefix.prefix import Prefix, PrefixConfig

LRSchedulerCallable = Callable[[torch.optim.Optimizer], LRScheduler]
"""Lightning's names `ReduceLROnPlateau` beside it, which is one, and so hides all from the YAML's schema."""


HEAD_RATE = 1e-2
"""Learning rate of a trained head. MiniLM on SST-2, head alone, 160 steps: validation loss 0.475 with 3e-3, 0.417 with
1e-2; with a prefix, 80 steps: 0.378 with 1e-2, 0.391 with 3e-2."""


class TrainedParameters(NamedTuple):
    """What is trained, by what it is; keys and head may be empty."""

    prefix: Sequence[nn.Parameter]
    keys: Sequence[nn.Parameter]
    head: Sequence[nn.Parameter]


def trained_parameters(prefix: Prefix, parameters: Iterable[nn.Parameter]) -> TrainedParameters:
    """Those of the prefix, and the others of these parameters that are trained: the head's."""
    keys = prefix.key_parameters()
    are_keys, of_prefix = {id(p) for p in keys}, {id(p) for p in prefix.parameters()}
    rest = [p for p in prefix.parameters() if id(p) not in are_keys]
    return TrainedParameters(rest, keys, [p for p in parameters if p.requires_grad and id(p) not in of_prefix])


@dataclass(frozen=True)
class Optimization:
    """How the trained parameters are updated.

    Args:
        learning_rate: of the prefix, per optimizer step, > 0; the variant's own default when None.
        key_learning_rate: of the prefix's keys; a multiple of the prefix's, as the variant says, when None.
        head_learning_rate: of a trained head; when None as `learning_rate`, or `HEAD_RATE` without one.
        weight_decay: of the head, >= 0; a prefix is never decayed.
        warmup: steps (int >= 1), or share of all steps (float in [0, 1)), in which the rate rises from zero.
        optimizer: takes the parameter groups; AdamW when None. Its own `lr` counts where no rate is given above.
        lr_scheduler: takes the optimizer and is stepped after every optimizer step (`ReduceLROnPlateau`: after every
            validation); warm-up and linear decay to zero when None.
    """

    learning_rate: float | None
    key_learning_rate: float | None
    head_learning_rate: float | None
    weight_decay: float
    warmup: int | float
    optimizer: OptimizerCallable | None
    lr_scheduler: LRSchedulerCallable | None

    def check(self) -> None:
        """Refuse values out of range.

        Raises:
            InputError: saying what is allowed.
        """
        for name in ("learning_rate", "key_learning_rate", "head_learning_rate"):
            if (rate := getattr(self, name)) is not None and not rate > 0:
                raise InputError(f"{name} {rate} is given; it is > 0 (flat and gated prefixes: about 1e-2, MLP: 1e-3).")
        if isinstance(self.warmup, float) and not 0 <= self.warmup < 1:
            raise InputError(f"warmup {self.warmup} is given; a share of all steps is in [0, 1), steps are an int.")

    def configure(
        self,
        parameters: TrainedParameters,
        total_steps: float,
        defaults: type[PrefixConfig],
        monitor: str,
    ) -> dict[str, Any]:
        """What `LightningModule.configure_optimizers` returns.

        Args:
            parameters: all that are trained.
            total_steps: optimizer steps of the whole run; infinite when there is no end, -1 when it is not known.
            defaults: the variant, which knows its learning rates.
            monitor: the metric that `ReduceLROnPlateau` watches where it names none.

        Raises:
            InputError: if the steps are not known and the schedule needs them.
        """
        if total_steps < 0 and self.lr_scheduler is None:
            raise InputError(
                "the rows are streamed, so nobody knows how many steps an epoch has, which the learning rate's decay "
                "needs. Give trainer.max_steps (rows / batch_size of all devices, times the epochs), or "
                "trainer.limit_train_batches, the batches of an epoch, or a model.lr_scheduler that needs no end."
            )
        own = self.optimizer is not None  # then its lr counts, unless a rate is given here
        rate = self.learning_rate or (None if own else defaults.default_learning_rate)
        key_rate = self.key_learning_rate or (rate and rate * defaults.key_rate_factor)
        head_rate = self.head_learning_rate or self.learning_rate or (None if own else HEAD_RATE)
        prefix, keys, head = parameters
        if key_rate == rate:
            prefix, keys = [*prefix, *keys], []
        groups = [_group("prefix", prefix, rate, 0.0)]
        if keys:
            groups.append(_group("keys", keys, key_rate, 0.0))
        if head:
            groups.append(_group("head", head, head_rate, self.weight_decay or (None if own else 0.0)))
        make = self.optimizer or torch.optim.AdamW
        optimizer = make(groups)
        if self.lr_scheduler is None:
            scheduler: Any = _warmup_then_linear(optimizer, self.warmup, total_steps)
        else:
            scheduler = self.lr_scheduler(optimizer)
        if isinstance(scheduler, ReduceLROnPlateau):
            watched = getattr(scheduler, "monitor", monitor)  # LightningCLI's subclass names its own
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": watched}}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def _group(
    name: str, parameters: Sequence[nn.Parameter], rate: float | None, weight_decay: float | None
) -> dict[str, Any]:
    given = {"lr": rate, "weight_decay": weight_decay}
    return {"params": list(parameters), "name": name} | {k: v for k, v in given.items() if v is not None}


def _warmup_then_linear(optimizer: torch.optim.Optimizer, warmup: int | float, total_steps: float) -> LambdaLR:
    known = total_steps != float("inf")
    warm = warmup if isinstance(warmup, int) else round(warmup * total_steps) if known else 0

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        return max(0.0, (total_steps - step) / max(1.0, total_steps - warm)) if known else 1.0

    return LambdaLR(optimizer, factor)
