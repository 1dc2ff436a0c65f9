"""Parallel plain text: one file a language, of which the lines with one number translate each other."""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lightning_prefix.data.utf8 import open_utf8
from lightning_prefix.errors import InputError

__all__ = ["language_of", "parallel_rows"]

_LANGUAGE = re.compile(r"[a-z]{2,3}([-_][A-Za-z0-9]{2,8})*")
_NO_LANGUAGES = frozenset(
    {
        "bak",
        "bin",
        "cfg",
        "csv",
        "doc",
        "gz",
        "htm",
        "idx",
        "ini",
        "jpg",
        "log",
        "md",
        "npy",
        "npz",
        "old",
        "pdf",
        "pkl",
    }
    | {"png", "po", "py", "rar", "rst", "sh", "tar", "tmp", "tmx", "tsv", "txt", "xml", "xz", "yml", "zip", "zst"}
)


def language_of(path: Path) -> str | None:
    """The language code that a file's extension is ("train.en", "dev.pt-BR"); None if it is none."""
    code = path.suffix[1:]
    return code if _LANGUAGE.fullmatch(code) and code not in _NO_LANGUAGES else None


def parallel_rows(files: Mapping[str, Path]) -> Iterator[dict[str, Any]]:
    r"""One row a line, one column a language; lines end at "\n" alone, and empty ones are None.

    Args:
        files: language -> text file.

    Raises:
        InputError: if they have not the same number of lines, or are not UTF-8.
    """
    counts = {path: sum(1 for _ in _lines(path)) for path in files.values()}
    if len(set(counts.values())) > 1:
        raise InputError(
            "parallel files must have one line for each other's, but "
            + ", ".join(f"{path} has {count} lines" for path, count in counts.items())
            + ". Give files in which each line translates the line with its number, with empty lines where a "
            "translation is missing."
        )
    for texts in zip(*map(_lines, files.values()), strict=True):
        yield {language: text or None for language, text in zip(files, texts, strict=True)}


def _lines(path: Path) -> Iterator[str]:
    with open_utf8(path, newline="\n") as stream:
        for line in stream:
            yield line.rstrip("\r\n")
