"""`TextRegression`: a number per text or pair of texts."""

from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import mse_loss
from torchmetrics import MeanSquaredError, MetricCollection, PearsonCorrCoef, SpearmanCorrCoef

from lightning_prefix.prefix import FlatPrefixConfig, PrefixConfig
from lightning_prefix.tasks.heads import Head, make_head
from lightning_prefix.tasks.scoring import ScoringTask


class TextRegression(ScoringTask):
    """Ratings, similarity and the like, with the mean squared error.

    Metrics: `pearson` and `spearman` (higher is better), `mse` (lower is better).

    Args:
        backbone: hub id, folder, or `asset:minilm-l6` (needs no hub).
        prefix: which prefix: `FlatPrefixConfig`, `MLPPrefixConfig`, `GatedPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options.
        head: `auto`: the model's own head with one output, of which is trained what the checkpoint did not bring;
            `cls`, `mean`, `last`: a linear layer on that pooling.
        options: of `PrefixTask`.

    Example:
        >>> TextRegression("asset:minilm-l6", FlatPrefixConfig(length=16), head="mean").monitor
        'val/pearson'
    """

    monitor: ClassVar[str] = "val/pearson"  # type: ignore[misc]

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = FlatPrefixConfig(),
        head: Literal["auto", "cls", "mean", "last"] = "auto",
        **options: Any,
    ) -> None:
        super().__init__(backbone, prefix, **options)
        self.head_kind = head

    def instruction(self) -> str:
        """Asks for a number."""
        return "Give the text a number:"

    def make_head(self) -> Head:
        """One output."""
        return make_head(self.head_kind, 1, "regression", self.backbone_name, (), self.backbone_options)

    def loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Mean squared error of (batch, 1) against (batch,)."""
        return mse_loss(outputs.squeeze(1), labels)

    def make_metrics(self) -> MetricCollection:
        """Pearson, Spearman, mean squared error."""
        return MetricCollection(
            {"pearson": PearsonCorrCoef(), "spearman": SpearmanCorrCoef(), "mse": MeanSquaredError()}
        )

    def update_metrics(self, metrics: MetricCollection, outputs: Tensor, labels: Tensor) -> None:
        """Count one batch."""
        metrics.update(outputs.squeeze(1), labels)

    def describe(self, outputs: Tensor) -> list[dict[str, Any]]:
        """`value` of each row."""
        return [{"value": value} for value in outputs.squeeze(1).tolist()]
