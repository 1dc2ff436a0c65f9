"""CoNLL files: a word a line, its tag last, and a blank line between sentences."""

import re
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from lightning_prefix.data.utf8 import open_utf8
from lightning_prefix.errors import InputError

__all__ = ["conll_rows"]

_BLANKS = re.compile(r"[ \t]+")  # words may hold other white space, such as no-break spaces


def conll_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Columns "tokens" and "tags": the first and the last of each line. Lines with -DOCSTART- are left out.

    Raises:
        InputError: for a line with one column.
    """
    words: list[str] = []
    tags: list[str] = []
    with open_utf8(path) as stream:
        for number, line in enumerate(chain(stream, [""]), start=1):
            fields = _BLANKS.split(line.strip())
            if len(fields) > 1 and fields[0] != "-DOCSTART-":
                words, tags = [*words, fields[0]], [*tags, fields[-1]]
            elif fields[0] not in ("", "-DOCSTART-"):
                raise InputError(
                    f"line {number} of {path} holds {fields[0]!r} alone; a line of a conll file holds a word and, "
                    "last, its tag. Correct it, or give sentences without tags as a txt file."
                )
            elif words:
                yield {"tokens": words, "tags": tags}
                words, tags = [], []
