import pytest

from lightning_prefix.errors import InputError
from lightning_prefix.metrics import Distinct


@pytest.mark.parametrize("n", [1, 2, 3])
def test_distinct_counts_over_all_predictions(rows, n):
    predictions, references = rows
    distinct = Distinct(n)
    for start in range(0, 200, 64):
        distinct.update(predictions[start : start + 64], references[start : start + 64])
    words = [text.lower().split() for text in predictions]
    ngrams = [tuple(row[i : i + n]) for row in words for i in range(len(row) - n + 1)]
    assert float(distinct.compute()) == pytest.approx(len(set(ngrams)) / len(ngrams))


def test_distinct_by_hand():
    distinct = Distinct(2)
    distinct.update(["I do not know", "i do", ""], [[], [], []])
    assert float(distinct.compute()) == 0.75
    distinct.reset()
    distinct.update(["word"], [[]])
    assert distinct.compute() == 0


def test_n_is_positive():
    with pytest.raises(InputError, match="n=0 was given; it is at least 1"):
        Distinct(0)
