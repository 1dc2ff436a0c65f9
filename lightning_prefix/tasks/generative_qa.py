"""`GenerativeQA`: answers in words."""

from collections.abc import Sequence
from typing import ClassVar

from lightning_prefix.tasks.generation import MetricName, TextGeneration


class GenerativeQA(TextGeneration):
    """Answers questions in words, about a context or from what the backbone knows.

    Metrics: `exact_match` and `f1` of SQuAD's script, and `rouge1`, `rouge2`, `rougeL`; 0 to 100, higher is better.
    Arguments are those of `TextGeneration`.

    Example:
        >>> GenerativeQA("asset:smollm2-135m").metric_names
        ['exact_match', 'f1', 'rouge']
    """

    default_metrics: ClassVar[Sequence[MetricName]] = ("exact_match", "f1", "rouge")

    def instruction(self) -> str:
        """Asks for an answer."""
        return "Answer the question from the context:"
