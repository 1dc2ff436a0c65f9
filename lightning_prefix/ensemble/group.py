"""The members of an ensemble that share a backbone."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from lightning_prefix.backbone.files import StoredPrefix
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import Prefix
from lightning_prefix.tasks import PrefixTask, TextGeneration
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.members import Members, MembersHead, rows_of_each
from lightning_prefix.tasks.scoring import ScoringTask
from lightning_prefix.tasks.token_average import MeanLogProbabilities


class Group(nn.Module):
    """Members on one backbone, which read the same rows in one pass.

    Args:
        directory: of the first member.
        overrides: arguments of its task to replace.
    """

    def __init__(self, directory: Path, overrides: Mapping[str, Any]) -> None:
        super().__init__()
        self.task = PrefixTask.load_folder(directory, **overrides)[0]
        self.members = Members(self.task)
        self.members.add_copies(1)
        self.head = self.task.head

    def add(self, stored: StoredPrefix) -> int:
        """One more member; its number.

        Raises:
            InputError: if it does not fit the backbone, or its head is of another kind.
        """
        model = self.members.model
        model.add_stored_prefix("incoming", stored)
        prefix = cast("Prefix", model.prefixes["incoming"])
        model.delete_prefix("incoming")
        values = {f"model.backbone.{name}": tensor for name, tensor in stored.backbone_tensors.items()}
        self.members.add(prefix, {**values, **{f"head.{name}": t for name, t in stored.head_tensors.items()}})
        return len(self.members) - 1

    def scores(self, batch: Batch, chosen: Sequence[int]) -> list[Any]:
        """Scores of each chosen member.

        Args:
            batch: as the members read it.
            chosen: numbers of members, rising.
        """
        if isinstance(self.task, TextGeneration):
            texts = self._write(self.task, batch, chosen)
            return [texts[i : i + len(batch["input_ids"])] for i in range(0, len(texts), len(batch["input_ids"]))]
        task = cast("ScoringTask", self.task)
        assert self.head is not None  # noqa: S101
        task.head = MembersHead(self.head, self.members, chosen)
        outputs = task.outputs(batch)  # (rows, members, ...)
        return [
            task.member_scores(own, batch, self.members.head_state(member))
            for own, member in zip(outputs.unbind(1), chosen, strict=True)
        ]

    def write_together(self, batch: Batch, weights: Sequence[float]) -> list[list[str]]:
        """Texts of all members, who agree on each token."""
        task = cast("TextGeneration", self.task)
        if task.generation.get("do_sample"):
            raise InputError(
                "generation has do_sample=True, with which members that write token by token would draw different "
                "tokens. Use rule='rerank', or do_sample=False."
            )
        chosen = range(len(self.members))
        texts = self._write(task, batch, chosen, logits_processor=[MeanLogProbabilities(weights)])
        return texts[: len(batch["input_ids"])]

    def _write(self, task: TextGeneration, batch: Batch, chosen: Sequence[int], **options: Any) -> list[list[str]]:
        """Texts of all rows of the first chosen member, then of the second, and so on."""
        repeated = {name: _repeated(value, len(chosen)) for name, value in batch.items()}
        with self.members.reading(rows_of_each(self.members, chosen, len(batch["input_ids"]))):
            return task.write(repeated, **options)


def _repeated(value: Any, times: int) -> Any:
    return value.repeat(times, *[1] * (value.dim() - 1)) if isinstance(value, Tensor) else value * times
