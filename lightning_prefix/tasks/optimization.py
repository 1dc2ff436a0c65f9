"""Optimiser and schedule of a task: trained parameters only, per step."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from lightning.pytorch.cli import OptimizerCallable
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from lightning_prefix.errors import InputError

LRSchedulerCallable = Callable[[torch.optim.Optimizer], LRScheduler]
"""Lightning's names `ReduceLROnPlateau` beside it, which is one, and so hides all from the YAML's schema."""


@dataclass(frozen=True)
class Optimization:
    """How the trained parameters are updated.

    Args:
        learning_rate: of the prefix, per optimizer step, > 0; the variant's own default when None.
        head_learning_rate: of a trained head; as the prefix when None.
        weight_decay: of the head, >= 0; a prefix is never decayed.
        warmup: steps (int >= 1), or share of all steps (float in [0, 1)), in which the rate rises from zero.
        optimizer: takes the parameter groups; AdamW when None. Its own `lr` counts where no rate is given above.
        lr_scheduler: takes the optimizer and is stepped after every optimizer step (`ReduceLROnPlateau`: after every
            validation); warm-up and linear decay to zero when None.
    """

    learning_rate: float | None
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
        for name in ("learning_rate", "head_learning_rate"):
            if (rate := getattr(self, name)) is not None and not rate > 0:
                raise InputError(f"{name} {rate} is given; it is > 0 (flat and gated prefixes: about 1e-2, MLP: 1e-3).")
        if isinstance(self.warmup, float) and not 0 <= self.warmup < 1:
            raise InputError(f"warmup {self.warmup} is given; a share of all steps is in [0, 1), steps are an int.")

    def configure(
        self,
        prefix: Sequence[nn.Parameter],
        head: Sequence[nn.Parameter],
        total_steps: float,
        default_rate: float,
        monitor: str,
    ) -> dict[str, Any]:
        """What `LightningModule.configure_optimizers` returns.

        Args:
            prefix: parameters of the prefix.
            head: parameters of a trained head; may be empty.
            total_steps: optimizer steps of the whole run; infinite when there is no end, -1 when it is not known.
            default_rate: the variant's learning rate.
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
        rate = self.learning_rate or (None if own else default_rate)
        head_rate = self.head_learning_rate or rate
        groups: list[dict[str, Any]] = [_group("prefix", prefix, rate, 0.0)]
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
