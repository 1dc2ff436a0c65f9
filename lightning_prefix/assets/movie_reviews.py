"""Sentences of movie reviews, each with the mean sentiment that people gave it.

Source: Hutto & Gilbert (2014), "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text"; the sentences are from Pang & Lee (2005). The texts lie in an archive inside the source archive of
vaderSentiment.
"""

import hashlib
import html
import json
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from lightning_prefix.errors import InputError

__all__ = ["ARCHIVE", "Snippet", "parse", "split_of", "write_ratings", "write_reviews"]

ARCHIVE = "hutto_ICWSM_2014.tar.gz"
_MEMBER = "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt"
_NEUTRAL = 0.5

Split = Literal["train", "validation", "test"]
_SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Snippet(NamedTuple):
    """One sentence.

    Args:
        id: number of the sentence in the source.
        text: the sentence.
        rating: mean sentiment, -4 (most negative) to 4.
    """

    id: str
    text: str
    rating: float


def parse(content: str) -> list[Snippet]:
    r"""Snippets of tab-separated lines (id, rating, text): no exact duplicates, in the order of their hash.

    The order depends on nothing but the rows, so the head of a file is a fair sample, the same everywhere.

    Example:
        >>> parse("7\t-1.5\tToo long &amp; too loud.\n")
        [Snippet(id='7', text='Too long & too loud.', rating=-1.5)]
    """
    snippets = set()
    for line in content.splitlines():
        number, rating, text = line.split("\t")
        snippets.add(Snippet(number, html.unescape(text), float(rating)))
    return sorted(snippets, key=lambda snippet: _digest(json.dumps(snippet._asdict(), sort_keys=True)))


def split_of(text: str) -> Split:
    """The split of a text: 80 % train, 10 % validation, 10 % test, by its SHA-256.

    Case and white space do not count, so that one sentence in two spellings never straddles two splits.
    """
    fraction = int.from_bytes(_digest(" ".join(text.lower().split()))[:8], "big") / 2**64
    if fraction < 0.1:
        return "test"
    return "validation" if fraction < 0.2 else "train"


def write_ratings(unpacked: Path, target: Path) -> None:
    """Write every sentence as {"id", "text", "rating"} to three JSONL files in `target`."""
    _write(target, _read(unpacked), lambda snippet: snippet._asdict())


def write_reviews(unpacked: Path, target: Path) -> None:
    """Write the sentences with |rating| > 0.5 as {"id", "text", "rating", "label"} to three JSONL files."""

    def labelled(snippet: Snippet) -> dict[str, Any]:
        return {**snippet._asdict(), "label": "positive" if snippet.rating > 0 else "negative"}

    _write(target, (snippet for snippet in _read(unpacked) if abs(snippet.rating) > _NEUTRAL), labelled)


def _read(unpacked: Path) -> list[Snippet]:
    (archive,) = unpacked.rglob(ARCHIVE)
    with tarfile.open(archive) as members:
        file = members.extractfile(_MEMBER)
        if file is None:
            raise InputError(f"{_MEMBER} in {ARCHIVE} is not a file; fetch the archive again.")
        return parse(file.read().decode("utf-8"))


def _write(target: Path, snippets: Iterable[Snippet], row_of: Callable[[Snippet], dict[str, Any]]) -> None:
    lines: dict[Split, list[str]] = {split: [] for split in _SPLITS}
    for snippet in snippets:
        lines[split_of(snippet.text)].append(json.dumps(row_of(snippet), ensure_ascii=False) + "\n")
    for split in _SPLITS:
        (target / f"{split}.jsonl").write_bytes("".join(lines[split]).encode("utf-8"))


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8")).digest()
