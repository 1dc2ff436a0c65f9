"""`ScoringTask`: tasks whose head gives scores, which a loss compares with labels."""

from abc import abstractmethod
from typing import Any

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from lightning_prefix.tasks.base import Batch, PrefixTask


class ScoringTask(PrefixTask):
    """A task of scores and labels; what a subclass defines is the same in training, validation and prediction."""

    @abstractmethod
    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Scalar, from the head's outputs (batch, outputs) and the labels."""

    @abstractmethod
    def update_metrics(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Count one batch."""

    @abstractmethod
    def describe(self, outputs: Tensor) -> list[dict[str, Any]]:
        """Results for people, one plain dict per row of (batch, outputs)."""

    def batch_loss(self, batch: Batch) -> Tensor:
        """The loss of the scores."""
        return self.loss(self(batch), batch["labels"])

    def evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        """Count one batch."""
        outputs, labels = self(batch), batch["labels"]
        self.update_metrics(metrics, outputs, labels)
        mean_loss.update(self.loss(outputs, labels), weight=len(labels))  # exact with unequal batches and processes

    def answers(self, batch: Batch) -> list[dict[str, Any]]:
        """The scores, described."""
        return self.describe(self(batch))
