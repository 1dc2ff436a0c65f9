"""Sentences of movie reviews, and tweets, each with the mean sentiment that people gave it.

Source: Hutto & Gilbert (2014), "VADER: A Parsimonious Rule-based Model for Sentiment Analysis of Social Media
Text"; the sentences are from Pang & Lee (2005). The texts lie in an archive inside the source archive of
vaderSentiment.
"""

import html
import tarfile
from pathlib import Path
from typing import NamedTuple

from lightning_prefix.assets.splits import in_hash_order, write_splits
from lightning_prefix.errors import InputError

__all__ = ["ARCHIVE", "Snippet", "parse", "write_ratings", "write_reviews", "write_tweets"]

ARCHIVE = "hutto_ICWSM_2014.tar.gz"
_REVIEWS, _TWEETS = "movieReviewSnippets_GroundTruth.txt", "tweets_GroundTruth.txt"
_NEUTRAL = 0.5


class Snippet(NamedTuple):
    """One sentence or tweet.

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

    Example:
        >>> parse("7\t-1.5\tToo long &amp; too loud.\n")
        [Snippet(id='7', text='Too long & too loud.', rating=-1.5)]
    """
    snippets = []
    for line in content.splitlines():
        number, rating, text = line.split("\t")
        snippets.append(Snippet(number, html.unescape(text), float(rating)))
    return [Snippet(**row) for row in in_hash_order(snippet._asdict() for snippet in snippets)]


def write_ratings(unpacked: Path, target: Path) -> None:
    """Write every sentence as {"id", "text", "rating"} to three JSONL files in `target`."""
    write_splits(target, (snippet._asdict() for snippet in _read(unpacked)), group=lambda row: row["text"])


def write_tweets(unpacked: Path, target: Path) -> None:
    """Write every tweet as {"id", "text", "rating"} to three JSONL files in `target`."""
    write_splits(target, (snippet._asdict() for snippet in _read(unpacked, _TWEETS)), group=lambda row: row["text"])


def write_reviews(unpacked: Path, target: Path) -> None:
    """Write the sentences with |rating| > 0.5 as {"id", "text", "rating", "label"} to three JSONL files."""
    rows = (
        {**snippet._asdict(), "label": "positive" if snippet.rating > 0 else "negative"}
        for snippet in _read(unpacked)
        if abs(snippet.rating) > _NEUTRAL
    )
    write_splits(target, rows, group=lambda row: row["text"])


def _read(unpacked: Path, name: str = _REVIEWS) -> list[Snippet]:
    (archive,) = unpacked.rglob(ARCHIVE)
    with tarfile.open(archive) as members:
        file = members.extractfile(f"hutto_ICWSM_2014/{name}")
        if file is None:
            raise InputError(f"{name} in {ARCHIVE} is not a file; fetch the archive again.")
        return parse(file.read().decode("utf-8"))
