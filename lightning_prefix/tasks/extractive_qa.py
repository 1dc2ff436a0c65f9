"""`ExtractiveQA`: the span of a context that answers a question, or that there is none."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torchmetrics import MeanMetric, MetricCollection

from lightning_prefix.backbone import load_config
from lightning_prefix.errors import InputError
from lightning_prefix.metrics import SpanScore, exact_match, token_f1
from lightning_prefix.prefix import GatedPrefixConfig, PrefixConfig
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.heads import Head, SpanHead, TokenHead
from lightning_prefix.tasks.results import FoundAnswer, FoundSpan
from lightning_prefix.tasks.scoring import ScoringTask
from lightning_prefix.tasks.spans import Span, SpanScores, best_spans, combine_spans, null_scores, span_loss

_SHOWN = 5
_WINDOWS_AT_ONCE = 4  # for each example of a batch
_LIMIT = torch.finfo(torch.float32).max


class ExtractiveQA(ScoringTask):
    """Question answering as in SQuAD, with cross-entropy over the first and the last token of the answer.

    Data: SQuAD's json files or data sets, or a table with a column of questions (`question_column`), one of contexts
    (`context_column`) and one of answers that stand in them (`answers_column`), empty where there is none. Long
    contexts are read in windows (`max_length`, `stride`).

    A YAML for `fit --config`::

        model: {class_path: ExtractiveQA, init_args: {backbone: asset:minilm-l6}}
        data:
          class_path: ExtractiveQADataModule
          init_args: {source: {train: train.json, validation: dev.json}}
        trainer: {max_epochs: 5}

    Metrics: `exact_match` and `f1`, 0..100; where some questions have no answer also `f1_answerable` and
    `no_answer_accuracy`. Higher is better. With `no_answer`, "no answer" is given where its score is higher than that
    of the best span by more than a threshold, which is the best one for `f1` on the validation split of `fit`; it is
    stored with the prefix.

    Args:
        backbone: hub id, folder, or `asset:minilm-l6` (needs no hub).
        prefix: which prefix: `GatedPrefixConfig`, `FlatPrefixConfig`, `MLPPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options.
        head: `auto`: the model's own question-answering head, of which is trained what the checkpoint did not bring;
            `linear`: a trained linear layer on the last hidden states.
        no_answer: "no answer" may be given; when null, whether the data have such questions.
        n_best: spans of an example that share its probability, >= 1.
        max_answer_length: tokens of an answer, >= 1.
        options: of `PrefixTask`.

    Example:
        >>> task = ExtractiveQA("asset:minilm-l6", GatedPrefixConfig(length=16), no_answer=True)
        >>> task.monitor
        'val/f1'
    """

    monitor = "val/f1"
    pipeline_tag: ClassVar[str | None] = "question-answering"
    rules: ClassVar[tuple[str, ...]] = ("mean", "vote")

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = GatedPrefixConfig(),
        head: Literal["auto", "linear"] = "auto",
        no_answer: bool | None = None,
        n_best: int = 20,
        max_answer_length: int = 30,
        **options: Any,
    ) -> None:
        super().__init__(backbone, prefix, **options)
        for name, value in (("n_best", n_best), ("max_answer_length", max_answer_length)):
            if value < 1:
                raise InputError(f"{name} {value} is given; it is >= 1.")
        self.head_kind, self.no_answer = head, no_answer
        self.n_best, self.max_answer_length = n_best, max_answer_length

    def setup(self, stage: str) -> None:
        """Ask the data whether some questions have no answer; it is stored with the checkpoint."""
        super().setup(stage)
        data = getattr(self.trainer, "datamodule", None)
        if self.no_answer is None and data is not None:
            self.no_answer = bool(getattr(data, "has_no_answers", False))
            self.hparams.update(no_answer=self.no_answer)

    def instruction(self) -> str:
        """Says where the answer is."""
        return "Find the answer to the question in the text:"

    def make_head(self) -> Head:
        """As `head` says, with a place for the threshold where "no answer" may be given."""
        head = SpanHead() if self.head_kind == "auto" else TokenHead(2)
        if self.head_kind == "auto":
            self._check_own_head()
        if self.no_answer:
            head.register_buffer("no_answer_threshold", torch.zeros(()))
        return head

    def make_metrics(self) -> MetricCollection:
        """Exact match and F1."""
        return MetricCollection({"spans": SpanScore()})

    @property
    def no_answer_threshold(self) -> float:
        """Score of "no answer" minus score of the best span above which "no answer" is given; inf for never."""
        if not self.no_answer or self.head is None:
            return math.inf
        return float(getattr(self.head, "no_answer_threshold", 0.0))  # an ensemble's head has none: it is 0

    def outputs(self, batch: Batch) -> Tensor:
        """(windows, tokens, 2), a few windows at a time, since one example may have any number of them."""
        inputs = self.inputs(batch)
        size = _WINDOWS_AT_ONCE * len(batch["windows"])
        parts = zip(*(torch.split(value, size) for value in inputs.values()), strict=True)
        return torch.cat([self(dict(zip(inputs, part, strict=True))) for part in parts])

    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """Cross-entropy of first and last tokens."""
        return span_loss(outputs, batch["labels"], batch["attention_mask"])

    def scores(self, outputs: Tensor, batch: Batch) -> SpanScores:
        """The best spans of each example over all its windows, and the score of "no answer"."""
        logits = outputs.cpu()
        spans = best_spans(logits, batch["offsets"], batch["windows"], self.n_best, self.max_answer_length)
        return SpanScores(spans, null_scores(logits, batch["null"], batch["windows"]))

    def member_scores(self, outputs: Tensor, batch: Batch, head_state: Mapping[str, Tensor]) -> SpanScores:
        """The scores, with that of "no answer" less the member's threshold, so that the ensemble's is 0."""
        spans, null = self.scores(outputs, batch)
        threshold = head_state.get("head.no_answer_threshold")
        return SpanScores(spans, null if threshold is None else null - threshold.cpu())

    def combine(self, scores: Sequence[SpanScores], weights: Sequence[float], rule: str) -> SpanScores:
        """Logarithms of the probabilities that an ensemble gives to spans and to "no answer".

        Args:
            scores: of each member.
            weights: of each member, which add up to one.
            rule: `mean`: of the probabilities of spans of characters, a member's being the softmax over its `n_best`
                (and "no answer", where it is allowed, less the member's threshold); `vote`: each member has one vote
                for its answer, and the mean of the probabilities decides where votes are equal.
        """
        return combine_spans(scores, weights, bool(self.no_answer), self.n_best, is_vote=rule == "vote")

    def update_metrics(self, metrics: MetricCollection, scores: SpanScores, batch: Batch) -> None:
        """Count one batch of examples, each with all its windows."""
        rows = zip(scores.spans, batch["context"], batch["references"], strict=True)
        results = [
            (exact_match(text, references), token_f1(text, references), any(references))
            for text, references in ((context[found[0].start : found[0].end], texts) for found, context, texts in rows)
        ]
        matches, f1, answerable = (torch.tensor(column, device=self.device) for column in zip(*results, strict=True))
        metrics.update(matches, f1, scores.margins().to(self.device), answerable)

    def describe(self, scores: SpanScores, batch: Batch) -> list[FoundAnswer]:
        """The answer of each example."""
        is_none = (scores.margins() > self.no_answer_threshold).tolist()
        rows = zip(scores.spans, scores.null.tolist(), is_none, batch["context"], strict=True)
        return [self._described(*row) for row in rows]

    def _described(self, spans: list[Span], null: float, is_none: bool, context: str) -> FoundAnswer:
        scores = torch.tensor([span.score for span in spans] + ([null] if self.no_answer else []))
        found: list[FoundSpan] = [
            {"answer": context[span.start : span.end], "score": score, "start": span.start, "end": span.end}
            for span, score in zip(spans, scores.softmax(0).tolist(), strict=False)
        ]
        if self.no_answer:
            found.append({"answer": "", "score": scores.softmax(0)[-1].item(), "start": None, "end": None})
        best = found[-1] if is_none else found[0]
        return {**best, "n_best": sorted(found, key=lambda answer: -answer["score"])[:_SHOWN]}

    def _log_metrics(self, name: str, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        """With the threshold, which validation tunes in `fit`."""
        if self.no_answer and self.head is not None:
            if name == "val" and self.trainer.state.fn == "fit" and not self.trainer.sanity_checking:
                score: Any = metrics["spans"]
                best = min(max(score.best_threshold(), -_LIMIT), _LIMIT)  # finite, as all that is stored
                self.head.no_answer_threshold.fill_(best)  # type: ignore[operator]
            self.log(f"{name}/no_answer_threshold", self.no_answer_threshold, sync_dist=True)
        super()._log_metrics(name, metrics, mean_loss)

    def before_compute(self, metrics: MetricCollection) -> None:
        """Tell the metrics the threshold."""
        score: Any = metrics["spans"]
        score.threshold = self.no_answer_threshold

    def _check_own_head(self) -> None:
        from transformers import MODEL_FOR_QUESTION_ANSWERING_MAPPING

        config = load_config(self.backbone_name, self.backbone_options)
        if type(config) not in MODEL_FOR_QUESTION_ANSWERING_MAPPING and not hasattr(config, "auto_map"):
            raise InputError(
                f"head='auto' is given, but transformers has no question-answering model of the kind of "
                f"{self.backbone_name!r} ({config.model_type}); use head='linear'."
            )
