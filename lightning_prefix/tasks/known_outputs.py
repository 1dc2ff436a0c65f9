"""Heads on some rows of what one pass of the model has put out for the rows of several tasks."""

from typing import Any

from torch import Tensor

from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.heads import OwnHead, PooledHead, TokenHead
from lightning_prefix.tasks.scoring import ScoringTask

__all__ = ["reads_shared_states", "scores_of_rows"]

_OF_TOKENS = ("last_hidden_state", "start_logits", "end_logits")


def reads_shared_states(task: Any) -> bool:
    """Whether the task's head reads what one pass of the model puts out for all rows."""
    return isinstance(task, ScoringTask) and isinstance(task.head, OwnHead | PooledHead | TokenHead)


def scores_of_rows(head: Any, outputs: Any, rows: range, inputs: Batch) -> Tensor:
    """What the head of a task makes of its rows, float32, as if they had been read alone.

    Args:
        head: of a task that `reads_shared_states`.
        outputs: of the model, for the rows of several tasks.
        rows: those of this task.
        inputs: of these rows.
    """
    found: Tensor = head(_KnownOutputs(outputs, rows, inputs["input_ids"].shape[1]), inputs)
    return (found[..., : head.outputs] if isinstance(head, OwnHead) else found).float()


class _KnownOutputs:
    """Stands for the model before a head: some rows of what it has put out for many."""

    def __init__(self, outputs: Any, rows: range, tokens: int) -> None:
        self._outputs, self._rows, self._tokens = outputs, rows, tokens

    def __call__(self, **_: Tensor) -> "_KnownOutputs":
        return self

    def __getattr__(self, name: str) -> Tensor:
        value: Tensor = self._outputs[name][self._rows.start : self._rows.stop]
        return value[:, : self._tokens] if name in _OF_TOKENS or value.dim() == 3 else value
