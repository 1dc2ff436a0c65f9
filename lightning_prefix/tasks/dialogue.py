"""`Dialogue`: the next reply of a conversation."""

from collections.abc import Sequence
from typing import ClassVar

from lightning_prefix.tasks.generation import MetricName, TextGeneration


class Dialogue(TextGeneration):
    """Replies in a conversation.

    Data: a column of conversations (`messages_column`): lists of {"role": "user", "content": "..."}, lists of texts, or
    texts with `turn_separator` between the turns. The loss is on replies only. `python -m lightning_prefix chat` talks.

    A YAML for `fit --config`::

        model: {class_path: Dialogue, init_args: {backbone: asset:smollm2-135m}}
        data:
          class_path: DialogueDataModule
          init_args: {source: conversations.jsonl, messages_column: messages}
        trainer: {max_epochs: 5}

    Metrics: `perplexity` of the replies (lower is better), `distinct_1` and `distinct_2` of those that the model
    writes (Li et al. 2016; 0 to 1, higher is more varied). Arguments are those of `TextGeneration`.

    Example:
        >>> Dialogue("asset:smollm2-135m").metric_names
        ['distinct_1', 'distinct_2']
    """

    default_metrics: ClassVar[Sequence[MetricName]] = ("distinct_1", "distinct_2")

    def instruction(self) -> str:
        """Asks for a reply."""
        return "Reply to the conversation:"
