"""Predictions as JSON lines, in the order of the input, from any number of processes."""

import heapq
import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info


class PredictionWriter(Callback):
    """Write one JSON object per row: its `id` if it has one, its text, and what the task says of it.

    Every process writes a shard as it goes, so memory stays flat; at the end the first one merges them.

    Args:
        path: the file; `predictions.jsonl` in the run's folder when null. The command line takes the folder of the run
            that the checkpoint belongs to, and `predictions-2.jsonl` where there is one.
    """

    def __init__(self, path: str | None = None) -> None:
        self.path = path
        self._shard: IO[str] | None = None

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open this process's shard."""
        folder = trainer.log_dir or trainer.default_root_dir
        self._target = Path(folder) / "predictions.jsonl" if self.path is None else Path(self.path)
        self._target.parent.mkdir(parents=True, exist_ok=True)
        self._shard = self._shard_path(trainer.global_rank).open("w", encoding="utf-8")

    def on_predict_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Write the rows of one batch, each with its text."""
        assert self._shard is not None  # noqa: S101
        data: Any = getattr(trainer, "datamodule", None)
        columns = data.columns if data is not None else []
        for result in outputs:
            row = data.predict_rows[result["index"]] if data is not None else {}
            text = {column: row[column] for column in ("id", *columns) if column in row}
            self._shard.write(json.dumps({"index": result["index"], **text, **result}, ensure_ascii=False) + "\n")

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Merge the shards."""
        assert self._shard is not None  # noqa: S101
        self._shard.close()
        trainer.strategy.barrier("predictions are written")
        if trainer.is_global_zero:
            shards = [self._shard_path(rank) for rank in range(trainer.world_size)]
            with self._target.open("w", encoding="utf-8") as target:
                target.writelines(_merge(shards))
            for shard in shards:
                shard.unlink()
        rank_zero_info(f"predictions: {self._target}")

    def _shard_path(self, rank: int) -> Path:
        return self._target.with_name(f".{self._target.name}.{rank}")


def _merge(shards: list[Path]) -> Iterator[str]:
    """The lines of all shards by their index; each shard is in that order already."""
    with ExitStack() as stack:
        files = [stack.enter_context(shard.open(encoding="utf-8")) for shard in shards]
        last = -1
        for line in heapq.merge(*files, key=lambda line: int(json.loads(line)["index"])):
            if (index := int(json.loads(line)["index"])) != last:  # a row may be padded onto a second process
                yield line
            last = index
