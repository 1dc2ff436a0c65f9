import pytest
import torch
from torchmetrics import MetricCollection

from lightning_prefix.metrics import (
    AnswerExactMatch,
    AnswerF1,
    Bleu,
    ChrF,
    Distinct,
    EntityScore,
    Rouge,
    SpanScore,
)

TEXTS = [
    (["the cat sat on the mat", "a b", ""], [["the cat sat on a mat", "on the mat"], ["a b"], ["x"]]),
    (["the cat sat on the mat"], [["the cats sat on the mat"]]),
]
TAGS = [([["B-A", "O"], ["O"]], [["B-A", "I-A"], ["O"]]), ([["S-B"]], [["S-B"]])]
SPANS = [
    tuple(torch.tensor(column) for column in ([1.0, 0.0], [1.0, 0.5], [0.1, 0.2], [True, False])),
    tuple(torch.tensor(column) for column in ([0.0], [0.25], [-0.3], [True])),
]
CASES = [
    *((make, TEXTS) for make in (AnswerExactMatch, AnswerF1, Bleu, ChrF, Rouge, lambda: Distinct(2))),
    (EntityScore, TAGS),
    (lambda: SpanScore(threshold=0.15), SPANS),
]


@pytest.mark.parametrize(("make", "batches"), CASES)
def test_merged_states_are_those_of_one_process(make, batches):
    whole, here, there = make(), make(), make()
    for batch in batches:
        whole.update(*batch)
    here.update(*batches[0])
    there.update(*batches[1])
    assert not _equal(here.compute(), whole.compute())
    here.merge_state(there)
    here._computed = None
    assert _equal(here.compute(), whole.compute())


@pytest.mark.parametrize(("make", "batches"), CASES)
def test_forward_gives_the_batch_and_keeps_the_sum(make, batches):
    whole, batch_only = make(), make()
    for batch in batches:
        value = whole(*batch)
    batch_only.update(*batches[-1])
    assert _equal(value, batch_only.compute())
    updated = make()
    for batch in batches:
        updated.update(*batch)
    assert _equal(whole.compute(), updated.compute())


def test_metrics_of_one_collection_are_kept_apart():
    def make():
        return {
            "exact_match": AnswerExactMatch(),
            "f1": AnswerF1(),
            "distinct_1": Distinct(1),
            "distinct_2": Distinct(2),
            "bleu": Bleu(),
            "chrf": ChrF(),
            "rouge": Rouge(),
        }

    collection, alone = MetricCollection(make()), make()
    # the scores of the first batch are equal, which would make one compute group of metrics with states of one name
    for batch in [([""], [[""]]), *TEXTS]:
        collection.update(*batch)
        for metric in alone.values():
            metric.update(*batch)
    expected = {"rouge1", "rouge2", "rougeL", *alone} - {"rouge"}
    scores = collection.compute()
    assert set(scores) == expected
    for name in set(alone) - {"rouge"}:
        assert _equal(scores[name], alone[name].compute()), name
    assert scores["exact_match"] != scores["f1"]


def _equal(found, expected) -> bool:
    if isinstance(found, dict):
        return found.keys() == expected.keys() and all(_equal(found[key], expected[key]) for key in found)
    return torch.allclose(found, expected)
