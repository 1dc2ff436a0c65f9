"""`GenerativeQA`: answers in words."""

from collections.abc import Sequence
from typing import ClassVar

from lightning_prefix.tasks.generation import MetricName, TextGeneration


class GenerativeQA(TextGeneration):
    """Answers questions in words, about a context or from what the backbone knows.

    Data: columns `question`, `context` and, by `answer_column`, answers: texts, lists of texts that are all right, or
    SQuAD's; a `template` names other columns, or a question alone. `no_answer` is written where there is none.

    A YAML for `fit --config`::

        model: {class_path: GenerativeQA, init_args: {backbone: asset:smollm2-135m}}
        data:
          class_path: GenerativeQADataModule
          init_args: {source: questions.jsonl, answer_column: answer}
        trainer: {max_epochs: 5}

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
