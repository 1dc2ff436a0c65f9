"""`TokenClassification`: a tag for each word."""

import math
import re
from collections.abc import Sequence
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, one_hot
from torchmetrics import MetricCollection

from lightning_prefix.errors import InputError
from lightning_prefix.metrics import EntityScore, entities
from lightning_prefix.prefix import GatedPrefixConfig, PrefixConfig
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.heads import NO_LABEL, Head, OwnHead, TokenHead
from lightning_prefix.tasks.labels import labels_of
from lightning_prefix.tasks.results import Entity, Tagged
from lightning_prefix.tasks.scoring import TIE, ScoringTask

_ENTITY_TAG = re.compile(r"O$|[BIESLU](-|$)")


class TokenClassification(ScoringTask):
    """Named entities, parts of speech and the like: cross-entropy at the first token of each word.

    Data: a column of words (`tokens_column`) and one of tags (`tags_column`), as lists or as texts with blanks; or a
    file in CoNLL's format, one word and its tag a line, a blank line between sentences.

    A YAML for `fit --config`::

        model: {class_path: TokenClassification, init_args: {backbone: asset:minilm-l6}}
        data:
          class_path: TokenClassificationDataModule
          init_args: {source: {train: train.conll, test: test.conll}}
        trainer: {max_epochs: 5}

    Metrics, higher is better: micro `precision`, `recall` and `f1` of whole entities, and `accuracy` of tags. Words
    that `max_length` cut off count as predicted "O". Tags without a B- or I- are read as with I-: neighbours with the
    same tag are one entity; for parts of speech look at `accuracy`.

    A decoder sees only what is left of a word and its first token; encoders are the better choice.

    Args:
        backbone: hub id, folder, or `asset:minilm-l6` (needs no hub).
        prefix: which prefix: `GatedPrefixConfig`, `FlatPrefixConfig`, `MLPPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options.
        labels: names of the tags in the order of their numbers; taken from the data when null.
        head: `auto`: the model's own token-classification head, of which is trained what the checkpoint did not bring;
            `linear`: a linear layer on the last hidden states.
        options: of `PrefixTask`.

    Example:
        >>> TokenClassification("asset:minilm-l6", GatedPrefixConfig(length=16), head="linear").monitor
        'val/f1'
    """

    pipeline_tag: ClassVar[str | None] = "token-classification"
    monitor: ClassVar[str] = "val/f1"  # type: ignore[misc]

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = GatedPrefixConfig(),
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
        super().setup(stage)
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

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of outputs (batch, tokens, labels), mean over the words of the batch."""
        return cross_entropy(outputs.flatten(0, 1), batch["labels"].flatten(), ignore_index=NO_LABEL)

    def loss_weight(self, outputs: Tensor, batch: Batch) -> Tensor:
        """The number of words."""
        return cast("Tensor", (batch["labels"] != NO_LABEL).sum())

    def scores(self, outputs: Tensor, batch: Batch) -> list[Tensor]:
        """Logits of the words of each row, (words, labels); NaN for a word that `max_length` cut off."""
        found = []
        for row, positions in zip(outputs.cpu(), batch["word_positions"], strict=True):
            places = torch.tensor(positions)
            found.append(row[places.clamp(min=0)].masked_fill(places[:, None] < 0, math.nan))
        return found

    def combine(self, scores: Sequence[list[Tensor]], weights: Sequence[float], rule: str) -> list[Tensor]:
        """Logits of an ensemble for the words of each row, (words, labels); NaN where no member has the word.

        Args:
            scores: of each member, logits (words, labels) per row.
            weights: of each member, which add up to one.
            rule: `mean`: of the probabilities; `logits`: mean of the logits; `vote`: each member has one vote a word,
                and the mean of the probabilities decides where votes are equal.
        """
        return [_combined_words(torch.stack(row), weights, rule) for row in zip(*scores, strict=True)]

    def update_metrics(self, metrics: MetricCollection, scores: list[Tensor], batch: Batch) -> None:
        """Count one batch."""
        predictions = [[_as_entity_tag(tag or "O") for tag in tags] for tags in self._tags(scores)]
        references = [[_as_entity_tag(tag) for tag in tags] for tags in batch["tags"]]
        metrics.update(predictions, references)

    def outputs_and_references(self, outputs: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Numbers of the tags of words."""
        is_word = batch["labels"] != NO_LABEL
        return outputs.argmax(-1)[is_word], batch["labels"][is_word]

    def describe(self, scores: list[Tensor], batch: Batch) -> list[Tagged]:
        """Tags and entities of each row."""
        return [
            {"tags": tags, "entities": _described(words, tags)}
            for words, tags in zip(batch["words"], self._tags(scores), strict=True)
        ]

    def _tags(self, scores: list[Tensor]) -> list[list[str | None]]:
        """The tag of each word; None for a word without a token."""
        names = self._label_names()
        return [
            [None if cut else names[number] for number, cut in zip(row.argmax(-1).tolist(), missing, strict=True)]
            for row, missing in ((row, row.isnan().any(-1).tolist()) for row in scores)
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


def _combined_words(logits: Tensor, weights: Sequence[float], rule: str) -> Tensor:
    """(members, words, labels) -> (words, labels), of the members that have the word."""
    shares = logits.new_tensor(weights)[:, None, None].expand_as(logits)
    shares = shares.masked_fill(logits.isnan(), 0)
    shares = shares / shares.sum(0)  # 0 / 0 is NaN
    known = logits.nan_to_num()
    if rule == "logits":
        return (shares * known).sum(0)
    combined = (shares * known.softmax(-1)).sum(0)
    if rule == "vote":
        combined = (shares * one_hot(known.argmax(-1), known.shape[-1])).sum(0) + TIE * combined
    return combined.log()


def _as_entity_tag(tag: str) -> str:
    """The tag itself, or with I- if it has no such prefix: what `EntityScore` can read."""
    return tag if _ENTITY_TAG.match(tag) else f"I-{tag}"


def _described(words: list[str], tags: list[str | None]) -> list[Entity]:
    found = entities([_as_entity_tag(tag or "O") for tag in tags])
    return [
        {"text": " ".join(words[start : last + 1]), "type": kind, "start": start, "end": last + 1}
        for kind, start, last in sorted(found, key=lambda entity: entity[1])
    ]
