"""`TextRegression`: a number per text or pair of texts."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import mse_loss
from torchmetrics import MeanSquaredError, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

from lightning_prefix.prefix import GatedPrefixConfig, PrefixConfig
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.heads import Head, LabelScale, make_head
from lightning_prefix.tasks.results import Rated
from lightning_prefix.tasks.scoring import ScoringTask

_ROUNDING = 1e-5  # of weights that add up


class TextRegression(ScoringTask):
    """Ratings, similarity and the like, with the mean squared error.

    Data: a column of texts (`text_column`), or two (`pair_column`) whose similarity is asked for, and one of numbers
    (`label_column`), of any size: the head starts with their mean and standard deviation in the train split (streamed
    data: with 0 and 1).

    A YAML for `fit --config`::

        model: {class_path: TextRegression, init_args: {backbone: asset:minilm-l6}}
        data:
          class_path: TextRegressionDataModule
          init_args: {source: ratings.csv, text_column: review, label_column: rating}
        trainer: {max_epochs: 5}

    Metrics: `pearson` and `spearman` (higher is better), `mse` (lower is better).

    Args:
        backbone: hub id, folder, or `asset:minilm-l6` (needs no hub).
        prefix: which prefix: `GatedPrefixConfig`, `FlatPrefixConfig`, `MLPPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options.
        head: `auto`: the model's own head with one output, of which is trained what the checkpoint did not bring;
            `cls`, `mean`, `last`: a linear layer on that pooling.
        options: of `PrefixTask`.

    Example:
        >>> TextRegression("asset:minilm-l6", GatedPrefixConfig(length=16), head="mean").monitor
        'val/pearson'
    """

    monitor: ClassVar[str] = "val/pearson"  # type: ignore[misc]
    pipeline_tag: ClassVar[str | None] = "text-classification"
    rules: ClassVar[tuple[str, ...]] = ("mean", "median")

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = GatedPrefixConfig(),
        head: Literal["auto", "cls", "mean", "last"] = "auto",
        **options: Any,
    ) -> None:
        super().__init__(backbone, prefix, **options)
        self.head_kind = head

    def instruction(self) -> str:
        """Asks for a number."""
        return "Give the text a number:"

    def make_head(self) -> Head:
        """One output, to be brought to the scale of the labels."""
        head = make_head(self.head_kind, 1, "regression", self.backbone_name, (), self.backbone_options)
        head.label_scale = LabelScale()
        return head

    def start_from(self, data: Any, state: Mapping[str, Tensor]) -> None:
        """Take the scale of the labels from the train rows."""
        if hasattr(data, "label_statistics"):
            mean, deviation = data.label_statistics()
            state["head.label_scale.mean"].fill_(mean)
            state["head.label_scale.deviation"].fill_(deviation)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Mean squared error of (batch, 1) against `labels`, (batch,)."""
        return mse_loss(outputs.squeeze(1), batch["labels"])

    def make_metrics(self) -> MetricCollection:
        """Pearson, Spearman, mean squared error."""
        return MetricCollection(
            {"pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef(), "mse": MeanSquaredError()}
        )

    def combine(self, scores: Sequence[Tensor], weights: Sequence[float], rule: str) -> Tensor:
        """Values of an ensemble, (batch, 1).

        Args:
            scores: of each member, (batch, 1).
            weights: of each member, which add up to one.
            rule: `mean`, or `median`: the value at which half of the weight is reached (the middle between two, where
                it is reached exactly).
        """
        outputs = torch.stack(list(scores))  # (members, batch, 1)
        shares = outputs.new_tensor(weights)[:, None, None]
        if rule == "mean":
            return (shares * outputs).sum(0)
        ordered, places = outputs.sort(0)
        reached = shares.expand_as(outputs).gather(0, places).cumsum(0)
        lower = (reached < 0.5 - _ROUNDING).sum(0, keepdim=True)
        upper = (reached < 0.5 + _ROUNDING).sum(0, keepdim=True)
        return ((ordered.gather(0, lower) + ordered.gather(0, upper)) / 2)[0]

    def update_metrics(self, metrics: MetricCollection, scores: Tensor, batch: Batch) -> None:
        """Count one batch."""
        metrics.update(scores.squeeze(1), batch["labels"])

    def outputs_and_references(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Values."""
        return outputs.squeeze(1), batch["labels"]

    def describe(self, scores: Tensor, batch: Batch) -> list[Rated]:
        """`value` of each row."""
        return [{"value": value} for value in scores.squeeze(1).tolist()]
