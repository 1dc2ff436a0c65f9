"""Rows into train, validation and test by their own hash: without a seed, and the same everywhere."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal

__all__ = ["Row", "Split", "in_hash_order", "split_of", "write_rows", "write_splits"]

Row = dict[str, Any]
Split = Literal["train", "validation", "test"]
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


def in_hash_order(rows: Iterable[Row]) -> list[Row]:
    """Each distinct row once, in the order of its SHA-256.

    The order depends on nothing but the rows, so the head of a file is a fair sample, the same everywhere.
    """
    distinct = {_digest(json.dumps(row, sort_keys=True)): row for row in rows}
    return [distinct[digest] for digest in sorted(distinct)]


def split_of(text: str) -> Split:
    """The split of a text: 80 % train, 10 % validation, 10 % test, by its SHA-256.

    Case and white space do not count, so that one sentence in two spellings never straddles two splits.
    """
    fraction = int.from_bytes(_digest(" ".join(text.lower().split()))[:8], "big") / 2**64
    if fraction < 0.1:
        return "test"
    return "validation" if fraction < 0.2 else "train"


def write_splits(target: Path, rows: Iterable[Row], group: Callable[[Row], str]) -> None:
    """Write three JSONL files: the rows in the order given, those of one group into one split.

    Args:
        target: an existing folder.
        rows: what to write.
        group: the text of a row that decides its split.
    """
    splits: dict[Split, list[Row]] = {split: [] for split in _SPLITS}
    for row in rows:
        splits[split_of(group(row))].append(row)
    for split in _SPLITS:
        write_rows(target, split, splits[split])


def write_rows(target: Path, split: Split, rows: Iterable[Row]) -> None:
    """Write one JSONL file in UTF-8."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (target / f"{split}.jsonl").write_bytes("".join(lines).encode("utf-8"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()
