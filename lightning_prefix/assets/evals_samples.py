"""Data sets that people gave to OpenAI's evals: chats of prompts and texts, each with its ideal answer.

Sources: Sap et al. (2019), "Social IQa"; Nye et al. (2018), "A Corpus with Multi-Level Annotations of Patients,
Interventions and Outcomes" (EBM-NLP); Salinas Alvarado et al. (2015), "Domain Adaption of Named Entity Recognition
to Support Credit Risk Assessment".
"""

import html
import json
import re
from collections.abc import Iterator
from pathlib import Path

from lightning_prefix.assets.splits import Row, in_hash_order, write_splits

__all__ = [
    "FOLDER",
    "choice",
    "spans",
    "tagged",
    "write_clinical_spans",
    "write_finance_entities",
    "write_social_iqa",
]

FOLDER = "evals/registry/data"
_CHOICE = re.compile(r"""(.+[.!?"'])\s+([A-Z][^.!?]*\?) A: (.+); B: (.+); C: (.+)\.""")
_TITLE = re.compile(r"(.+)\n\n")
_QUESTION = "Who took part in the study?"
_ENTITY = re.compile(r"(.+?) - (PER|ORG|LOC)[A-Z]+(?:, |$)")


def choice(text: str, letter: str) -> Row:
    """The parts of a multiple-choice question, and the text of the right option.

    Example:
        >>> choice("Ann fell. What will Ann do next? A: sing; B: get up; C: eat.", "B")
        {'context': 'Ann fell.', 'question': 'What will Ann do next?', 'options': ['sing', 'get up', 'eat'],
         'answer': 'get up'}
    """
    ((context, question, *options),) = _CHOICE.findall(text)
    return {
        "context": context,
        "question": question,
        "options": options,
        "answer": options["ABC".index(letter)],
    }


def spans(abstract: str, listed: str) -> Row:
    """A row as in SQuAD: the abstract, and the first place of each text that is listed in quotes.

    Example:
        >>> spans("40 women ran.", "the following spans: '40 women '")["answers"]
        {'text': ['40 women'], 'answer_start': [0]}
    """
    context = html.unescape(abstract).strip()
    quoted = html.unescape(listed).split("spans: '")[1].removesuffix("'")
    texts = list(dict.fromkeys(text.strip() for text in quoted.split("', '")))
    title = _TITLE.match(context)
    return {
        "title": title[1] if title else None,
        "context": context,
        "question": _QUESTION,
        "answers": {"text": texts, "answer_start": [context.index(text) for text in texts]},
    }


def tagged(sentence: str, listed: str) -> Row:
    """Tokens and IOB2 tags, from a list of the entities in the order of the sentence.

    Example:
        >>> tagged("Bank is in Santa Clara .", "[Bank - ORGANIZATION, Santa Clara - LOCATION]")["tags"]
        ['B-ORG', 'O', 'O', 'B-LOC', 'I-LOC', 'O']
    """
    tokens = sentence.split()
    tags = ["O"] * len(tokens)
    end = 0
    for name, kind in _ENTITY.findall(listed[1:-1]):
        words = name.split()
        starts = range(end, len(tokens))
        start = next(start for start in starts if tokens[start : start + len(words)] == words)
        end = start + len(words)
        tags[start:end] = [f"B-{kind}", *[f"I-{kind}"] * (len(words) - 1)]
    return {"tokens": tokens, "tags": tags}


def write_social_iqa(unpacked: Path, target: Path) -> None:
    """Write {"context", "question", "options", "answer"} to three JSONL files; a group is a situation."""
    rows = [choice(text, ideal) for text, ideal in _samples(unpacked)]
    write_splits(target, in_hash_order(rows), group=lambda row: row["context"])


def write_clinical_spans(unpacked: Path, target: Path) -> None:
    """Write {"id", "title", "context", "question", "answers"} to three JSONL files; the id counts from 1."""
    rows = [{"id": str(number), **spans(*sample)} for number, sample in enumerate(_samples(unpacked), start=1)]
    write_splits(target, in_hash_order(rows), group=lambda row: row["context"])


def write_finance_entities(unpacked: Path, target: Path) -> None:
    """Write {"tokens", "tags"} to three JSONL files."""
    rows = [tagged(text, ideal) for text, ideal in _samples(unpacked)]
    write_splits(target, in_hash_order(rows), group=lambda row: " ".join(row["tokens"]))


def _samples(unpacked: Path) -> Iterator[tuple[str, str]]:
    """The text, which is the last message, and its ideal answer."""
    (path,) = unpacked.rglob("*.jsonl")
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            sample = json.loads(line)
            yield sample["input"][-1]["content"], sample["ideal"]
