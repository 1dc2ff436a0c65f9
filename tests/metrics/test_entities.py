import random

import pytest
from seqeval.metrics import accuracy_score, f1_score, precision_score, recall_score
from seqeval.metrics.sequence_labeling import get_entities

from lightning_prefix.errors import InputError
from lightning_prefix.metrics import EntityScore, entities


def _tags(rng: random.Random, prefixes: str, count: int) -> list[str]:
    kinds = ("PER", "LOC", "A-B")
    return [tag if tag == "O" else f"{tag}-{rng.choice(kinds)}" for tag in rng.choices(prefixes, k=count)]


@pytest.mark.parametrize("prefixes", ["OOI", "OBI", "OIBB", "OBIES"])
def test_any_tags_are_read_as_by_seqeval(prefixes):
    rng = random.Random(0)  # noqa: S311
    for _ in range(200):
        tags = _tags(rng, prefixes, rng.randint(0, 12))
        assert entities(tags) == set(get_entities(tags)), tags


def test_bilou_is_bioes():
    rng = random.Random(0)  # noqa: S311
    for _ in range(200):
        tags = _tags(rng, "OBIES", 12)
        bilou = [{"E": "L", "S": "U"}.get(tag[0], tag[0]) + tag[1:] for tag in tags]
        assert entities(bilou) == entities(tags)


def test_tags_without_a_type():
    assert entities(["B", "I", "O", "S"]) == {("_", 0, 1), ("_", 3, 3)}


@pytest.mark.parametrize("prefixes", ["OBI", "OBIES"])
def test_scores_are_those_of_seqeval(prefixes):
    rng, metric = random.Random(0), EntityScore()  # noqa: S311
    references = [_tags(rng, prefixes, rng.randint(0, 12)) for _ in range(200)]
    predictions = [[tag if rng.random() < 0.8 else _tags(rng, prefixes, 1)[0] for tag in row] for row in references]
    for start in range(0, 200, 64):
        metric.update(predictions[start : start + 64], references[start : start + 64])
    scores = {name: float(score) for name, score in metric.compute().items()}
    expected = {
        "precision": precision_score(references, predictions),
        "recall": recall_score(references, predictions),
        "f1": f1_score(references, predictions),
        "accuracy": accuracy_score(references, predictions),
    }
    assert scores == pytest.approx(expected)
    assert 0.3 < scores["f1"] < 0.9


def test_nothing_found_is_zero():
    metric = EntityScore()
    metric.update([["O"], []], [["B-PER"], []])
    assert {name: float(score) for name, score in metric.compute().items()} == dict.fromkeys(
        ("precision", "recall", "f1", "accuracy"), 0
    )


def test_bad_rows():
    with pytest.raises(InputError, match="row 2 has 1 predicted tags and 2 of the reference"):
        EntityScore().update([["O"], ["O"]], [["O"], ["O", "O"]])
    with pytest.raises(InputError, match="1 predictions and 2 rows of references"):
        EntityScore().update([["O"]], [["O"], ["O", "O"]])
    with pytest.raises(InputError, match="the tag 'PER' is given; tags begin with B, I, O"):
        entities(["PER"])
