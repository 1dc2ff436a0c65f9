"""`Translation`: from one language into another."""

from collections.abc import Sequence
from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_info
from torchmetrics import MeanMetric, MetricCollection

from lightning_prefix.tasks.generation import MetricName, TextGeneration


class Translation(TextGeneration):
    """Translates; languages, and the tokens that a multilingual backbone needs for them, come from the data.

    Data: parallel files (train.en, train.de), TMX, po, or a table with a column for each language (`source_column`,
    `target_column`). Swap `source_language` and `target_language` for the other direction.

    A YAML for `fit --config`::

        model: {class_path: Translation, init_args: {backbone: asset:marian-en-pt}}
        data:
          class_path: TranslationDataModule
          init_args: {source: texts.csv, source_language: en, target_language: pt}
        trainer: {max_epochs: 5}

    Metrics: `bleu` and `chrf`, 0 to 100, higher is better; their signatures are printed with the test's.
    Arguments are those of `TextGeneration`.

    Example:
        >>> Translation("facebook/mbart-large-50-many-to-many-mmt", generation={"num_beams": 5}).metric_names
        ['bleu', 'chrf']
    """

    pipeline_tag: ClassVar[str | None] = "translation"
    default_metrics: ClassVar[Sequence[MetricName]] = ("bleu", "chrf")

    def instruction(self) -> str:
        """Asks for a translation."""
        data: Any = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        source, target = (getattr(data, f"{side}_language", None) for side in ("source", "target"))
        return f"Translate from {source} to {target}:" if source and target else "Translate the text:"

    def _log_metrics(self, name: str, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        signatures = [metric.signature for metric in metrics.values() if hasattr(metric, "signature")]
        super()._log_metrics(name, metrics, mean_loss)
        if signatures and name == "test":
            rank_zero_info("\n".join(signatures))
