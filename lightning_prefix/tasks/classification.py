"""`TextClassification`: one class of several, or any number of labels, per text or pair of texts."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, one_hot
from torchmetrics import MetricCollection
from torchmetrics.classification import (
    MulticlassAccuracy,
    MulticlassF1Score,
    MultilabelExactMatch,
    MultilabelF1Score,
)

from lightning_prefix.errors import InputError
from lightning_prefix.prefix import GatedPrefixConfig, PrefixConfig
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.heads import Head, HeadKind, make_head
from lightning_prefix.tasks.labels import labels_of
from lightning_prefix.tasks.results import Classified
from lightning_prefix.tasks.scoring import TIE, ScoringTask

_TINY = 1e-7


class TextClassification(ScoringTask):
    """Sentiment, topic, entailment and the like, with cross-entropy.

    Data: a column of texts (`text_column`), or two (`pair_column`), and one of labels (`label_column`): names, numbers
    or, with `multi_label`, lists or texts with commas. The classes are those of the train split. All predictions of one
    class are a sign of a rate that is too high, or of a rare class: see `head_learning_rate` and `class_weights`.

    A YAML for `fit --config`::

        model: {class_path: TextClassification, init_args: {backbone: asset:minilm-l6}}
        data:
          class_path: TextClassificationDataModule
          init_args: {source: reviews.csv, text_column: review, label_column: stars}
        trainer: {max_epochs: 5}

    Metrics: `accuracy` and macro `f1`; for multi-label `f1` (micro), `f1_macro` and `exact_match`. Higher is better.

    Args:
        backbone: hub id, folder, or `asset:minilm-l6` (needs no hub).
        prefix: which prefix: `GatedPrefixConfig`, `FlatPrefixConfig`, `MLPPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options.
        labels: names of the labels in the order of their numbers; taken from the data when null.
        num_labels: how many there are, where they have no names; taken from the data when null.
        multi_label: a text has any number of labels; taken from the data when null.
        head: `auto`: the model's own classification head, of which is trained what the checkpoint did not bring;
            `cls`, `mean`, `last`: a linear layer on that pooling; `verbalizer`: label words scored by a causal
            language model, nothing but the prefix is trained.
        label_words: for `verbalizer`, one word per label; the label names when null.
        class_weights: weight of each label in the loss, > 0; equal when null.
        label_smoothing: share of each target spread over all classes, in [0, 1).
        options: of `PrefixTask`.

    Example:
        >>> task = TextClassification("asset:minilm-l6", GatedPrefixConfig(length=16), labels=["negative", "positive"])
        >>> task.monitor
        'val/accuracy'
    """

    pipeline_tag: ClassVar[str | None] = "text-classification"
    shares: ClassVar[tuple[str, ...]] = ("accuracy", "exact_match")

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = GatedPrefixConfig(),
        labels: list[str] | None = None,
        num_labels: int | None = None,
        multi_label: bool | None = None,
        head: HeadKind = "auto",
        label_words: list[str] | None = None,
        class_weights: list[float] | None = None,
        label_smoothing: float = 0.0,
        **options: Any,
    ) -> None:
        super().__init__(backbone, prefix, **options)
        if labels is not None and num_labels not in (None, len(labels)):
            raise InputError(f"num_labels {num_labels} and the {len(labels)} labels {labels} are given; give one.")
        if not 0 <= label_smoothing < 1:
            raise InputError(f"label_smoothing {label_smoothing} is given; it is in [0, 1).")
        self.labels = [str(i) for i in range(num_labels)] if labels is None and num_labels else labels
        self._are_named = labels is not None
        self.multi_label = multi_label
        self.head_kind: HeadKind = head
        self.label_words = label_words
        self.class_weights = class_weights
        self.label_smoothing = label_smoothing

    @property
    def monitor(self) -> str:  # type: ignore[override]
        """`val/accuracy`, or `val/f1` for multi-label."""
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        multi_label = getattr(data, "multi_label", False) if self.multi_label is None else self.multi_label
        return "val/f1" if multi_label else "val/accuracy"

    def setup(self, stage: str) -> None:
        """Take label names from the data; they are stored with the checkpoint.

        Raises:
            InputError: if other labels were given here.
        """
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        found = labels_of(data, self.labels, self._are_named)
        if not found:
            return
        if self.multi_label not in (None, data.multi_label):
            raise InputError(
                f"model.multi_label is {self.multi_label} and data.multi_label is {data.multi_label}; "
                "set it in the data only."
            )
        self.labels, self._are_named, self.multi_label = found, True, bool(data.multi_label)
        self.hparams.update(labels=self.labels, num_labels=None, multi_label=self.multi_label)

    def instruction(self) -> str:
        """Names the labels."""
        return f"Classify the text as {' or '.join(self._label_names())}:"

    def make_head(self) -> Head:
        """As `head` says; label words default to the label names."""
        names = self._label_names()
        words = names if self.label_words is None else self.label_words
        for name, given in (("label_words", words), ("class_weights", self.class_weights)):
            if given is not None and len(given) != len(names):
                raise InputError(f"{len(given)} {name} {given} are given for the {len(names)} labels {names}.")
        problem = "multi_label_classification" if self.multi_label else "single_label_classification"
        return make_head(self.head_kind, len(names), problem, self.backbone_name, words, self.backbone_options)

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy; for multi-label the mean binary cross-entropy.

        Args:
            outputs: (batch, labels), float.
            batch: `labels` are (batch,), int; for multi-label (batch, labels), float 0 or 1.
        """
        labels = batch["labels"]
        weight = None if self.class_weights is None else outputs.new_tensor(self.class_weights)
        if self.multi_label:
            smooth = labels.to(outputs.dtype) * (1 - self.label_smoothing) + 0.5 * self.label_smoothing
            return binary_cross_entropy_with_logits(outputs, smooth, weight)
        return cross_entropy(outputs, labels, weight, label_smoothing=self.label_smoothing)

    def make_metrics(self) -> MetricCollection:
        """Accuracy and F1."""
        count = len(self._label_names())
        if self.multi_label:
            return MetricCollection(
                {
                    "f1": MultilabelF1Score(count, average="micro"),
                    "f1_macro": MultilabelF1Score(count, average="macro"),
                    "exact_match": MultilabelExactMatch(count),
                }
            )
        return MetricCollection(
            {
                "accuracy": MulticlassAccuracy(count, average="micro"),
                "f1": MulticlassF1Score(count, average="macro"),
            }
        )

    def combine(self, scores: Sequence[Tensor], weights: Sequence[float], rule: str) -> Tensor:
        """Logits of an ensemble, (batch, labels).

        Args:
            scores: logits of each member, (batch, labels).
            weights: of each member, which add up to one.
            rule: `mean`: of the probabilities; `logits`: mean of the logits; `vote`: each member has one vote for the
                label it holds most likely (for multi-label, for or against every label), and the mean of the
                probabilities decides where votes are equal.
        """
        outputs = torch.stack(list(scores))  # (members, batch, labels)
        shares = outputs.new_tensor(weights)[:, None, None]
        if rule == "logits":
            return (shares * outputs).sum(0)
        probabilities = outputs.sigmoid() if self.multi_label else outputs.softmax(-1)
        combined = (shares * probabilities).sum(0)
        if rule == "vote":
            largest = one_hot(outputs.argmax(-1), outputs.shape[-1])
            votes = (shares * (outputs > 0 if self.multi_label else largest)).sum(0)
            combined = (votes + TIE * combined) / (1 + TIE)
        return combined.logit(eps=_TINY) if self.multi_label else combined.clamp(min=_TINY).log()

    def update_metrics(self, metrics: MetricCollection, scores: Tensor, batch: Batch) -> None:
        """Count one batch."""
        metrics.update(scores.sigmoid() if self.multi_label else scores, batch["labels"].long())

    def outputs_and_references(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor] | None:
        """Numbers of labels; none for multi-label."""
        return None if self.multi_label else (outputs.argmax(1), batch["labels"])

    def describe(self, scores: Tensor, batch: Batch) -> list[Classified]:
        """`label` (a list of them for multi-label) and `probabilities` by label name."""
        names = self._label_names()
        probabilities = scores.sigmoid() if self.multi_label else scores.softmax(1)
        results: list[Classified] = []
        for row in probabilities.tolist():
            by_name = dict(zip(names, row, strict=True))
            if self.multi_label:
                label: str | list[str] = [name for name, p in by_name.items() if p > 0.5]
            else:
                label = names[int(torch.tensor(row).argmax())]
            results.append({"label": label, "probabilities": by_name})
        return results

    def _label_names(self) -> list[str]:
        if self.labels is None:
            raise InputError(
                "the labels are not known: give labels=[...] or num_labels=..., or fit with a "
                "TextClassificationDataModule, which finds them."
            )
        if len(self.labels) < 2 and not self.multi_label:
            raise InputError(f"there is one label only, {self.labels}; a classification needs two or more.")
        return self.labels
