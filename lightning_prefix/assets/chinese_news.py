"""Chinese news in three classes, in the splits of the package that carries them."""

import pickle
from pathlib import Path
from typing import BinaryIO, NoReturn

from lightning_prefix.assets.splits import Row, Split, in_hash_order, write_rows
from lightning_prefix.errors import InputError

__all__ = ["read_rows", "write_news"]

_FILES: dict[Split, str] = {"train": "train.pkl", "validation": "dev.pkl", "test": "test.pkl"}


class _DataUnpickler(pickle.Unpickler):
    """Reads lists, texts and numbers, which need no code."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise InputError(
            f"the pickle names {module}.{name}; only lists, texts and numbers are read, and nothing was run. "
            "Get the archive from an index that you trust."
        )


def read_rows(file: BinaryIO) -> list[Row]:
    """{"title", "text", "label"} of a pickle of three lists: line breaks as such, the label as text.

    Raises:
        InputError: if the pickle names any class or function.
    """
    titles, texts, labels = _DataUnpickler(file).load()
    return [
        {"title": title, "text": text.replace("\\n", "\n").strip(), "label": str(label)}
        for title, text, label in zip(titles, texts, labels, strict=True)
    ]


def write_news(unpacked: Path, target: Path) -> None:
    """Write three JSONL files: the package's own splits, each without exact duplicates, in hash order."""
    for split, name in _FILES.items():
        (path,) = unpacked.rglob(name)
        with path.open("rb") as file:
            write_rows(target, split, in_hash_order(read_rows(file)))
