"""SQuAD's json: articles of paragraphs of questions; one row a question, as in the data sets of the hub.

Rajpurkar et al. 2016, https://arxiv.org/abs/1606.05250; version 2: https://arxiv.org/abs/1806.03822.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_prefix.data.utf8 import open_utf8
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["is_squad", "squad_features", "squad_rows"]

_SCALAR = r'(?:"(?:[^"\\]|\\.)*"|[\w.+-]+)'
_SCALARS = rf'(?:"[^"]*"\s*:\s*{_SCALAR}\s*,\s*)*'
_ARTICLES = rf'{_SCALARS}"data"\s*:\s*\[\s*\{{\s*{_SCALARS}"paragraphs"\s*:'
_VERSION = rf'"version"\s*:\s*{_SCALAR}\s*,\s*"data"\s*:\s*\[\s*[{{\]]'
_START = re.compile(rf"\s*\{{\s*(?:{_ARTICLES}|{_VERSION})")
_SHAPE = (
    'A SQuAD file is {"version": "1.1", "data": [{"title": "...", "paragraphs": [{"context": "...", "qas": '
    '[{"id": "...", "question": "...", "answers": [{"text": "...", "answer_start": 0}]}]}]}]}'
)
_KINDS = {list: "a list", str: "a text", int: "a whole number", (str, int): "a text"}


def is_squad(path: Path) -> bool:
    """Whether a file is SQuAD's json by its beginning: "data" with "paragraphs", or "version" and "data"."""
    if path.suffix.lower() != ".json":
        return False
    with open_utf8(path) as stream:
        return _START.match(stream.read(10_000)) is not None


def squad_features() -> "datasets.Features":
    """The types of the columns, as in "rajpurkar/squad"; they hold for files without any answer too."""
    import datasets

    text = datasets.Value("string")
    answers = {"text": datasets.List(text), "answer_start": datasets.List(datasets.Value("int32"))}
    return datasets.Features({"id": text, "title": text, "context": text, "question": text, "answers": answers})


def squad_rows(path: Path) -> Iterator[dict[str, Any]]:
    """One row a question: id, title (None without one), context, question, answers (two lists of one length).

    Raises:
        InputError: if the file is not nested as SQuAD's, or an answer does not stand where it says.
    """
    for number, article in enumerate(_member(_document(path), "data", list, str(path)), start=1):
        place = f"article {number} of {path}"
        for index, paragraph in enumerate(_member(article, "paragraphs", list, place), start=1):
            yield from _questions(paragraph, article.get("title"), f"paragraph {index} of {place}")


def _document(path: Path) -> Any:
    with open_utf8(path) as stream:
        try:
            return json.load(stream)
        except json.JSONDecodeError as error:
            raise InputError(
                f"{path} begins as SQuAD's json, but is not JSON: {error.msg} at line {error.lineno}, character "
                f"{error.colno}. {_SHAPE}. Correct it there; if each line is a row of its own, name the file .jsonl."
            ) from None


def _member(owner: Any, name: str, kind: Any, place: str) -> Any:
    value = owner.get(name) if isinstance(owner, dict) else None
    if not isinstance(value, kind) or isinstance(value, bool):
        there = f"{name!r} is {type(value).__name__}" if value is not None else f"there is no {name!r}"
        raise InputError(f"{place}: {there}; it must be {_KINDS[kind]}. {_SHAPE}. Correct it there.")
    return value


def _questions(paragraph: Any, title: Any, place: str) -> Iterator[dict[str, Any]]:
    context = _member(paragraph, "context", str, place)
    for number, question in enumerate(_member(paragraph, "qas", list, place), start=1):
        nth = f"question {number} of {place}"
        name = str(_member(question, "id", (str, int), nth))
        yield {
            "id": name,
            "title": title,
            "context": context,
            "question": _member(question, "question", str, nth),
            "answers": _answers(question, context, f"question {name!r} ({nth})"),
        }


def _answers(question: dict[str, Any], context: str, place: str) -> dict[str, list[Any]]:
    if question.get("is_impossible") is True and "answers" not in question:
        return {"text": [], "answer_start": []}
    texts, starts = [], []
    for answer in _member(question, "answers", list, place):
        text, start = _member(answer, "text", str, place), _member(answer, "answer_start", int, place)
        there = context[start : start + len(text)] if start >= 0 else ""
        if not text or there != text:
            raise InputError(_misplaced(text, start, there, context, place))
        texts.append(text)
        starts.append(start)
    return {"text": texts, "answer_start": starts}


def _misplaced(text: str, start: int, there: str, context: str, place: str) -> str:
    if not text:
        return f'{place}: an answer has an empty text. Write "answers": [] where there is none.'
    nearest = min(
        (hit.start() for hit in re.finditer(re.escape(text), context)), key=lambda hit: abs(hit - start), default=None
    )
    advice = (
        "The context does not contain it; correct the text." if nearest is None else f"The nearest is at {nearest}."
    )
    return (
        f"{place}: the answer {text!r} should stand at character {start} of the context, where {there!r} stands. "
        f"answer_start counts characters from 0, not bytes, words or tokens. {advice}"
    )
