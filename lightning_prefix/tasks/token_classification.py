"""`TokenClassification`: a tag for each word."""

import re
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn.functional import cross_entropy
from torchmetrics import MeanMetric, MetricCollection

from lightning_prefix.errors import InputError
from lightning_prefix.metrics import EntityScore, entities
from lightning_prefix.prefix import FlatPrefixConfig, PrefixConfig
from lightning_prefix.tasks.base import Batch, PrefixTask
from lightning_prefix.tasks.heads import NO_LABEL, Head, OwnHead, TokenHead
from lightning_prefix.tasks.labels import labels_of

_ENTITY_TAG = re.compile(r"O$|[BIESLU](-|$)")


class TokenClassification(PrefixTask):
    """Named entities, parts of speech and the like: cross-entropy at the first token of each word.

    Metrics, higher is better: micro `precision`, `recall` and `f1` of whole entities, and `accuracy` of tags. Words
    that `max_length` cut off count as predicted "O". Tags without a B- or I- are read as with I-: neighbours with the
    same tag are one entity; for parts of speech look at `accuracy`.

    A decoder sees only what is left of a word and its first token; encoders are the better choice.

    Args:
        backbone: hub id, folder, or `asset:minilm-l6` (needs no hub).
        prefix: which prefix: `FlatPrefixConfig`, `MLPPrefixConfig`, `GatedPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options.
        labels: names of the tags in the order of their numbers; taken from the data when null.
        head: `auto`: the model's own token-classification head, of which is trained what the checkpoint did not bring;
            `linear`: a linear layer on the last hidden states.
        options: of `PrefixTask`.

    Example:
        >>> TokenClassification("asset:minilm-l6", FlatPrefixConfig(length=16), head="linear").monitor
        'val/f1'
    """

    monitor: ClassVar[str] = "val/f1"  # type: ignore[misc]

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = FlatPrefixConfig(),
        labels: list[str] | None = None,
        head: Literal["auto", "linear"] = "auto",
        **options: Any,
    ) -> None:
        super().__init__(backbone, prefix, **options)
        self.labels = labels
        self.head_kind = head

    def setup(self, stage: str) -> None:
        """Take the names of the tags from the data; they are stored with the checkpoint.

        Raises:
            InputError: if others were given here.
        """
        if found := labels_of(getattr(self.trainer, "datamodule", None), self.labels):
            self.labels = found
            self.hparams.update(labels=found)

    def instruction(self) -> str:
        """Names the tags."""
        return f"Tag each word as {' or '.join(self._label_names())}:"

    def make_head(self) -> Head:
        """As `head` says."""
        outputs = len(self._label_names())
        if self.head_kind == "linear":
            return TokenHead(outputs)
        return OwnHead(outputs, auto_class="AutoModelForTokenClassification")

    def make_metrics(self) -> MetricCollection:
        """Scores of entities, and accuracy."""
        return MetricCollection({"entities": EntityScore()})

    def batch_loss(self, batch: Batch) -> Tensor:
        """Cross-entropy, mean over the words of the batch."""
        return self._loss(self(batch), batch["labels"])

    def evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        """Count one batch."""
        outputs, labels = self(batch), batch["labels"]
        mean_loss.update(self._loss(outputs, labels), weight=(labels != NO_LABEL).sum())
        predictions = [
            [_as_entity_tag(tag or "O") for tag in tags] for tags in self._tags(outputs, batch["word_positions"])
        ]
        references = [[_as_entity_tag(tag) for tag in tags] for tags in batch["tags"]]
        metrics.update(predictions, references)

    def answers(self, batch: Batch) -> list[dict[str, Any]]:
        """`tags` of the words, None where `max_length` cut them off, and `entities`.

        An entity has its `text` (words with blanks between them), `type`, `start` and `end`: word numbers from 0, the
        end excluded.
        """
        return [
            {"tags": tags, "entities": _described(words, tags)}
            for words, tags in zip(batch["words"], self._tags(self(batch), batch["word_positions"]), strict=True)
        ]

    def _loss(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Scalar, of outputs (batch, tokens, labels) and labels (batch, tokens)."""
        return cross_entropy(outputs.flatten(0, 1), labels.flatten(), ignore_index=NO_LABEL)

    def _tags(self, outputs: Tensor, word_positions: list[list[int]]) -> list[list[str | None]]:
        """The tag of each word; None for a word without a token."""
        names = self._label_names()
        numbers = outputs.argmax(-1).tolist()
        return [
            [names[row[position]] if position >= 0 else None for position in positions]
            for row, positions in zip(numbers, word_positions, strict=True)
        ]

    def _label_names(self) -> list[str]:
        if self.labels is None:
            raise InputError(
                "the labels are not known: give labels=[...], or fit with a TokenClassificationDataModule, which finds "
                "them."
            )
        if len(self.labels) < 2:
            raise InputError(f"there is one label only, {self.labels}; a classification needs two or more.")
        return self.labels


def _as_entity_tag(tag: str) -> str:
    """The tag itself, or with I- if it has no such prefix: what `EntityScore` can read."""
    return tag if _ENTITY_TAG.match(tag) else f"I-{tag}"


def _described(words: list[str], tags: list[str | None]) -> list[dict[str, Any]]:
    found = entities([_as_entity_tag(tag or "O") for tag in tags])
    return [
        {"text": " ".join(words[start : last + 1]), "type": kind, "start": start, "end": last + 1}
        for kind, start, last in sorted(found, key=lambda entity: entity[1])
    ]
