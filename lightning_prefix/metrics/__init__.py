"""Metrics of the field that torchmetrics lacks, or has on another scale; each is exact under DDP."""

from lightning_prefix.metrics.answers import (
    AnswerExactMatch,
    AnswerF1,
    SpanScore,
    exact_match,
    normalize_answer,
    token_f1,
)
from lightning_prefix.metrics.dialogue import Distinct
from lightning_prefix.metrics.entities import EntityScore, entities
from lightning_prefix.metrics.rouge import Rouge
from lightning_prefix.metrics.translation import Bleu, ChrF, sentence_chrf

__all__ = [
    "AnswerExactMatch",
    "AnswerF1",
    "Bleu",
    "ChrF",
    "Distinct",
    "EntityScore",
    "Rouge",
    "SpanScore",
    "entities",
    "exact_match",
    "normalize_answer",
    "sentence_chrf",
    "token_f1",
]
