"""`OptunaPruning`: a callback that tells Optuna every validation, and stops a trial that Optuna gives up."""

from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import optuna


class OptunaPruning(Callback):
    """Reports a metric after every validation and raises `optuna.TrialPruned` where the pruner says so.

    The process of rank zero alone speaks with the study; its decision goes to all processes. The callback of
    optuna-integration cannot be used: it demands a database under DDP, leaves the raising to the caller there, reports
    several validations of one epoch under one number, and only warns when there is no such metric.

    Args:
        trial: of Optuna; needed by rank zero only.
        monitor: the metric; the task's own when None.
    """

    def __init__(self, trial: "optuna.Trial | None", monitor: str | None = None) -> None:
        self.trial = trial
        self.monitor = monitor
        self.values: list[float] = []
        """Of the metric, one for each validation."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Take the metric from the task where none was given."""
        task: Any = pl_module
        self.monitor = self.monitor or task.monitor

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report and decide; Lightning's check before the training only shows whether there is such a metric.

        Raises:
            InputError: if the metric is not logged.
            optuna.TrialPruned: if the trial is given up.
        """
        import optuna

        logged = trainer.callback_metrics
        if self.monitor not in logged:
            raise InputError(
                f"metric {self.monitor!r} is given; the validation logs {', '.join(sorted(logged))}. Give one of them."
            )
        if trainer.sanity_checking:
            return
        self.values.append(logged[self.monitor].item())
        is_over = False
        if trainer.is_global_zero:
            assert self.trial is not None  # noqa: S101
            self.trial.report(self.values[-1], step=len(self.values))
            is_over = self.trial.should_prune()
        if trainer.strategy.broadcast(is_over):
            raise optuna.TrialPruned(f"pruned after validation {len(self.values)}")
