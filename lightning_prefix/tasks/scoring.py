"""`ScoringTask`: tasks whose outputs are scores, of classes, words or spans, which members of an ensemble can share."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from lightning_prefix.tasks.base import Batch, PrefixTask

TIE = 1e-3
"""What the mean of the probabilities counts beside a vote: it decides where votes are equal."""


class ScoringTask(PrefixTask):
    """A task of scores; what a subclass defines is the same in validation, prediction and ensembles.

    `outputs` are tensors as the loss takes them. `scores` are what they say of each row, in terms that do not depend
    on the tokenizer: here members of an ensemble meet, whatever their backbones.
    """

    rules: ClassVar[tuple[str, ...]] = ("mean", "logits", "vote")
    """How `combine` can make one score of several; the first is the usual one."""

    def outputs(self, batch: Batch) -> Tensor:
        """Those of `forward`, (rows, ...); a task may take a few rows at a time."""
        return cast("Tensor", self(batch))

    def loss_weight(self, outputs: Tensor, batch: Batch) -> Any:
        """How much the mean loss of this batch counts, so that it is exact with unequal batches and processes."""
        return len(outputs)

    def scores(self, outputs: Tensor, batch: Batch) -> Any:
        """What the outputs say of each row; here the outputs, (batch, outputs), themselves."""
        return outputs

    def member_scores(self, outputs: Tensor, batch: Batch, head_state: Mapping[str, Tensor]) -> Any:
        """Scores of a member of an ensemble.

        Args:
            outputs: of `outputs`, with this member.
            batch: that was read.
            head_state: what the member trained beside its prefix, by its names in this task.
        """
        return self.scores(outputs, batch)

    @abstractmethod
    def combine(self, scores: Sequence[Any], weights: Sequence[float], rule: str) -> Any:
        """Scores of an ensemble.

        Args:
            scores: of each member, for the same rows.
            weights: of each member, which add up to one.
            rule: one of `rules`.
        """

    @abstractmethod
    def update_metrics(self, metrics: MetricCollection, scores: Any, batch: Batch) -> None:
        """Count one batch."""

    def outputs_and_references(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """For each row, or word, a number for the answer, and one for the right answer; None: no comparison."""
        return None

    @abstractmethod
    def describe(self, scores: Any, batch: Batch) -> Sequence[Mapping[str, Any]]:
        """Results for people, one plain dict per row; see `lightning_prefix.tasks.results`."""

    def evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        """Count one batch."""
        outputs = self.outputs(batch)
        mean_loss.update(self.loss(outputs, batch), weight=self.loss_weight(outputs, batch))
        self.update_metrics(metrics, self.scores(outputs, batch), batch)
        if (found := self.outputs_and_references(outputs, batch)) is not None:
            self.spread.update(*found)

    def answers(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        """The scores, described."""
        return self.describe(self.scores(self.outputs(batch), batch), batch)
