"""What a `Predictor` answers, per kind of task: plain dicts with these keys."""

from typing import TypedDict

__all__ = ["Classified", "Entity", "FoundAnswer", "FoundSpan", "Rated", "Tagged", "Written"]


class Classified(TypedDict):
    """Of `TextClassification`.

    Attributes:
        label: the most probable one; for multi-label a list of those above one half.
        probabilities: of every label by its name, 0..1.
    """

    label: str | list[str]
    probabilities: dict[str, float]


class Rated(TypedDict):
    """Of `TextRegression`.

    Attributes:
        value: in the unit of the training data.
    """

    value: float


class Entity(TypedDict):
    """Words that belong together.

    Attributes:
        text: the words with blanks between them.
        type: its tag without B- or I-.
        start: number of its first word, from 0.
        end: number of the word after its last one.
    """

    text: str
    type: str
    start: int
    end: int


class Tagged(TypedDict):
    """Of `TokenClassification`.

    Attributes:
        tags: of each word; None where `max_length` cut it off.
        entities: in their order.
    """

    tags: list[str | None]
    entities: list[Entity]


class FoundSpan(TypedDict):
    """A part of a context that may be the answer.

    Attributes:
        answer: its text; empty for "no answer".
        score: its share of the probability of the `n_best` spans and, where it is allowed, of "no answer", 0..1.
        start: its first character in the context; None for "no answer".
        end: the character after its last one; None for "no answer".
    """

    answer: str
    score: float
    start: int | None
    end: int | None


class FoundAnswer(FoundSpan):
    """Of `ExtractiveQA`.

    Attributes:
        n_best: up to five of the most probable answers.
    """

    n_best: list[FoundSpan]


class _SeveralTexts(TypedDict, total=False):
    candidates: list[str]


class Written(_SeveralTexts):
    """Of `TextGeneration`, `GenerativeQA`, `Translation` and `Dialogue`.

    Attributes:
        generated_text: the best one.
        candidates: all, best first; only where several are written.
    """

    generated_text: str
