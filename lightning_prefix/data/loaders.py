"""Loaders: training in an order that can be resumed, evaluation with every row once, on any ranks."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from torch.utils.data import DataLoader, Sampler

from lightning_prefix.data.collate import IndexedRows
from lightning_prefix.data.packing import PackedBatchSampler, PackedRows, PackingCollator
from lightning_prefix.data.resume import ResumableDataLoader, ResumableSampler
from lightning_prefix.data.streams.batches import Batching
from lightning_prefix.data.streams.loaders import EvaluationStreamLoader, TrainStreamLoader, trainer_options
from lightning_prefix.data.streams.stream import EncodedStream, EvaluationStream, TrainStream
from lightning_prefix.data.token_batches import TokenBatchSampler
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["evaluation_loader", "packed_loader", "train_loader"]

Collate = Callable[[list[Any]], dict[str, Any]]


def train_loader(
    rows: "datasets.Dataset | EncodedStream",
    collate: Collate,
    *,
    batch_size: int,
    num_workers: int,
    seed: int,
    group_by_length: bool = True,
    max_batch_tokens: int | None = None,
    shuffle_buffer: int = 10_000,
    trainer: Any = None,
    ranks: int = 1,
    rank: int = 0,
) -> ResumableDataLoader | TrainStreamLoader:
    """A loader that shuffles by seed and epoch, and goes on where a checkpoint was written.

    With several ranks the last rows are filled up from the first, so that all ranks take the same steps; of a stream
    the epoch ends with the first rank that comes to its end.
    """
    if isinstance(rows, EncodedStream):
        batching = Batching(batch_size=batch_size, group_by_length=group_by_length, max_batch_tokens=max_batch_tokens)
        stream = TrainStream(rows, batching=batching, shuffle_buffer=shuffle_buffer, seed=seed, rank=rank, ranks=ranks)
        return TrainStreamLoader(stream, collate, num_workers=num_workers, **trainer_options(trainer))
    dataset = _checked(rows, "train", ranks)
    options = _options(collate, batch_size, num_workers, seed)
    if max_batch_tokens is not None:
        batches = TokenBatchSampler(
            dataset,
            lengths=_lengths(rows),
            max_tokens=max_batch_tokens,
            max_rows=batch_size,
            ranks=ranks,
            rank=rank,
            seed=seed,
        )
        return ResumableDataLoader(dataset, sampler=batches, **_one_by_one(options))
    sampler = ResumableSampler(dataset, num_replicas=ranks, rank=rank, shuffle=True, seed=seed)
    if group_by_length:
        sampler.lengths, sampler.batch_size = _lengths(rows), batch_size
    return ResumableDataLoader(dataset, sampler=sampler, **options)


def packed_loader(
    rows: "datasets.Dataset",
    collate: PackingCollator,
    *,
    packed_length: int | None,
    batch_size: int,
    num_workers: int,
    seed: int,
    ranks: int = 1,
    rank: int = 0,
) -> ResumableDataLoader:
    """As `train_loader`, with several examples in each of the `batch_size` rows of a batch."""
    dataset = PackedRows(_checked(rows, "train", ranks))
    batches = PackedBatchSampler(
        dataset,
        lengths=_lengths(rows),
        max_tokens=packed_length,
        batch_size=batch_size,
        ranks=ranks,
        rank=rank,
        seed=seed,
    )
    options = _options(collate, batch_size, num_workers, seed)
    return ResumableDataLoader(dataset, sampler=batches, **_one_by_one(options))


def evaluation_loader(
    rows: "datasets.Dataset | EncodedStream",
    collate: Collate,
    *,
    role: str,
    batch_size: int,
    num_workers: int,
    decoded_rows: int = 0,
    ranks: int = 1,
    rank: int = 0,
) -> "DataLoader[dict[str, Any]] | EvaluationStreamLoader":
    """A loader with each row on exactly one rank: ranks may have one batch more than others.

    Rows are sorted by length, so that little is padded; only those to predict stay in order. The first `decoded_rows`
    of the split come before the others, since they take longer. A stream is sorted within pools of 16 batches.
    """
    if isinstance(rows, EncodedStream):
        stream = EvaluationStream(
            rows, batch_size=batch_size, in_order=role == "predict", decoded_rows=decoded_rows, rank=rank, ranks=ranks
        )
        return EvaluationStreamLoader(stream, collate, num_workers=num_workers)
    if role != "predict":
        lengths, places = _lengths(rows), rows["row"][:]
        rows = rows.select(sorted(range(len(rows)), key=lambda row: (places[row] >= decoded_rows, lengths[row])))
    dataset = _checked(rows, role, ranks)
    sampler: Sampler[Any] | None = None
    if ranks > 1:
        sampler = UnrepeatedDistributedSampler(dataset, num_replicas=ranks, rank=rank, shuffle=False)
    return DataLoader(dataset, sampler=sampler, **_options(collate, batch_size, num_workers, 0))


def _lengths(rows: "datasets.Dataset") -> list[int]:
    """Tokens of each row, read column-wise."""
    import pyarrow.compute

    if "length" in rows.column_names:
        return list(rows["length"][:])
    table = rows.select_columns(["input_ids"]).with_format("arrow")[:]
    return list(pyarrow.compute.list_value_length(table["input_ids"]).to_pylist())


def _checked(rows: "datasets.Dataset", role: str, ranks: int) -> IndexedRows:
    if len(rows) < ranks:
        raise InputError(
            f"the {role} rows are {len(rows)}, for {ranks} processes; each process needs at least one row. "
            "Use fewer devices or more rows."
        )
    return IndexedRows(rows)


def _one_by_one(options: dict[str, Any]) -> dict[str, Any]:
    """Of a loader whose sampler yields whole batches."""
    return {**options, "batch_size": None}


def _options(collate: Collate, batch_size: int, num_workers: int, seed: int) -> dict[str, Any]:
    return {
        "batch_size": batch_size,
        "num_workers": num_workers,
        "collate_fn": collate,
        "pin_memory": torch.cuda.is_available(),
        # a generator of its own: loading takes no numbers from the one that dropout uses
        "generator": torch.Generator().manual_seed(seed),
    }
