"""Learning-rate range test: the loss while the rate rises."""

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer, seed_everything
from torch import Tensor

from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import InputError, NotFiniteError
from lightning_prefix.plots.figure import import_matplotlib, save
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.training import MakeTrainer, trainer_factory

if TYPE_CHECKING:
    import pandas as pd

_SMOOTHING = 0.9
"""Share of the past in the smoothed loss."""
_DIVERGED = 4.0
"""Times the lowest smoothed loss, at which the test stops."""
_FEWEST = 10
"""Steps without which there is no curve."""


@dataclass(frozen=True)
class RangeTest:
    """What `learning_rate_range_test` found.

    Args:
        frame: one row per optimizer step: `step`, `learning_rate` (of the prefix), `loss`, `smoothed_loss`.
        suggestion: rate of the prefix where the smoothed loss begins its steepest descent.
        head_ratio: rate of the head over that of the prefix; 1 without a head.
    """

    frame: "pd.DataFrame"
    suggestion: float
    head_ratio: float


class RisingRate(Callback):
    """Raises the rates geometrically, that of the prefix from `low` to `high`, the others in proportion to it.

    Lightning's `Tuner.lr_find` cannot do it: it sets all parameter groups to one rate, so that prefix and head lose
    their ratio, and smooths over 50 steps where a test has 100.

    Args:
        low: first rate of the prefix, > 0.
        high: last rate.
        steps: optimizer steps.
    """

    def __init__(self, low: float, high: float, steps: int) -> None:
        self.low, self.high, self.steps = low, high, steps
        self.rates: list[float] = []
        self.losses: list[float] = []
        self.smoothed: list[float] = []
        self.ratios: list[float] = []
        """Rates of the parameter groups over that of the prefix, which is the first."""
        self.head_ratio = 1.0
        self._in_step: list[float] = []
        self._mean = 0.0
        self._start: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the ratios of the rates, and the start values."""
        groups = trainer.optimizers[0].param_groups
        rates = [group.get("initial_lr", group["lr"]) for group in groups]
        self.ratios = [rate / rates[0] for rate in rates]
        ratios = zip(groups, self.ratios, strict=True)
        self.head_ratio = next((ratio for group, ratio in ratios if group.get("name") == "head"), 1.0)
        self._start = {name: value.clone() for name, value in pl_module.state_dict().items()}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Set the rates of the next step, whatever the schedule has set."""
        rate = self.low * (self.high / self.low) ** (trainer.global_step / (self.steps - 1))
        for group, ratio in zip(trainer.optimizers[0].param_groups, self.ratios, strict=True):
            group["lr"] = rate * ratio
        if len(self.rates) == trainer.global_step:
            self.rates.append(rate)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Note the loss of a finished step; stop where it has diverged."""
        self._in_step.append(float(outputs["loss"]) * trainer.accumulate_grad_batches)
        if trainer.global_step < len(self.rates):
            return  # gradients are still being collected
        loss = sum(self._in_step) / len(self._in_step)
        self._in_step.clear()
        self._mean = _SMOOTHING * self._mean + (1 - _SMOOTHING) * loss
        self.losses.append(loss)
        self.smoothed.append(self._mean / (1 - _SMOOTHING ** len(self.losses)))
        if len(self.losses) > _FEWEST and self.smoothed[-1] > _DIVERGED * min(self.smoothed):
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the start values back."""
        self.restore(pl_module)

    def restore(self, pl_module: LightningModule) -> None:
        """Put the start values back."""
        if self._start:
            pl_module.load_state_dict(self._start)

    def suggestion(self) -> float:
        """The rate from which the smoothed loss falls the most within a tenth of the test, before its minimum.

        It is the first rate of that tenth, since the smoothed loss is about nine steps late. The first tenth of the
        test does not count: few losses are in the mean.

        Raises:
            InputError: if the loss never fell.
        """
        lowest = self.smoothed.index(min(self.smoothed))
        tenth = max(2, len(self.smoothed) // 10)
        later = self.smoothed[2 * tenth : lowest + 1]
        falls = [after - before for before, after in zip(self.smoothed[tenth:], later, strict=False)]
        if len(self.smoothed) < _FEWEST or not falls or min(falls) >= 0:
            raise InputError(
                f"the loss did not fall between the rates {self.low:g} and {self.rates[-1]:g} ({len(self.losses)} "
                "steps). Give other bounds (--low, --high), more --steps, or look at the data."
            )
        return self.rates[tenth + falls.index(min(falls))]


def learning_rate_range_test(
    task: PrefixTask,
    data: TextDataModule,
    *,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    trainer: Mapping[str, Any] | MakeTrainer | None = None,
    directory: str | Path | None = None,
    seed: int = 0,
) -> RangeTest:
    """Train while the learning rate rises, and see where the loss falls and where it diverges.

    The test of Smith 2017 ("Cyclical Learning Rates", section 3.3): the prefix's rate rises geometrically from step to
    step, that of a head in proportion. It stops when the smoothed loss is 4 times the lowest. The task has its start
    values afterwards. Needs `pip install 'lightning-prefix[tune]'` for the plot.

    Args:
        task: what is trained.
        data: what it is trained on; the batches begin anew where the rows are used up.
        low: first rate of the prefix, > 0.
        high: last rate of the prefix, > low.
        steps: optimizer steps, >= 10.
        trainer: of `lightning.Trainer`, or what makes one.
        directory: gets `learning_rate.csv` and `learning_rate.png`; nothing is written when None.
        seed: of everything.

    Raises:
        InputError: if the bounds cannot be used, or the loss never fell between them.
    """
    if not 0 < low < high or not math.isfinite(high) or steps < _FEWEST:
        raise InputError(f"low {low:g}, high {high:g}, steps {steps} are given; they are 0 < low < high, steps >= 10.")
    make = trainer if callable(trainer) else trainer_factory(trainer)
    rising = RisingRate(low, high, steps)
    seed_everything(seed, workers=True, verbose=False)
    runner = make(
        [rising],
        max_steps=steps,
        max_epochs=steps,
        limit_val_batches=0,
        num_sanity_val_steps=0,
        logger=False,
        enable_model_summary=False,
        enable_checkpointing=False,
    )
    try:
        runner.fit(task, datamodule=data)
    except NotFiniteError as error:  # diverged between two steps
        logging.getLogger(__name__).debug("%s", error)
        rising.restore(task)
    else:
        if runner.interrupted:
            raise KeyboardInterrupt
    result = RangeTest(_frame(rising), rising.suggestion(), rising.head_ratio)
    if directory is not None:
        _write(result, Path(directory))
    return result


def _frame(rising: RisingRate) -> "pd.DataFrame":
    import pandas as pd

    columns = {"learning_rate": rising.rates, "loss": rising.losses, "smoothed_loss": rising.smoothed}
    count = len(rising.losses)
    return pd.DataFrame({"step": range(count), **{name: values[:count] for name, values in columns.items()}})


def _write(result: RangeTest, directory: Path) -> None:
    import_matplotlib("tune")
    from matplotlib.figure import Figure

    directory.mkdir(parents=True, exist_ok=True)
    result.frame.to_csv(directory / "learning_rate.csv", index=False)
    figure = Figure()
    axes = figure.subplots()
    axes.plot(result.frame["learning_rate"], result.frame["loss"], alpha=0.4, label="loss")
    axes.plot(result.frame["learning_rate"], result.frame["smoothed_loss"], label="smoothed loss")
    axes.axvline(result.suggestion, linestyle="--", color="black", label=f"suggestion {result.suggestion:.2g}")
    axes.set(xscale="log", xlabel="learning rate of the prefix", ylabel="train/loss")
    axes.legend()
    save(figure, directory / "learning_rate.png")
