import sys

import pytest
from rouge_score.rouge_scorer import RougeScorer

from lightning_prefix.errors import InputError
from lightning_prefix.metrics import Rouge

KEYS = ["rouge1", "rouge2", "rougeL"]


def test_scores_are_those_of_rouge_score(rows):
    rouge, scorer = Rouge(), RougeScorer(KEYS, use_stemmer=False)
    predictions, references = rows
    for start in range(0, 200, 64):
        rouge.update(predictions[start : start + 64], references[start : start + 64])
    scores = [scorer.score_multi(row, prediction) for prediction, row in zip(predictions, references, strict=True)]
    expected = {key: 100 * sum(score[key].fmeasure for score in scores) / 200 for key in KEYS}
    found = {key: float(score) for key, score in rouge.compute().items()}
    assert found == pytest.approx(expected, abs=1e-4)
    assert all(10 < score < 90 for score in found.values())


def test_it_needs_no_nltk(monkeypatch):
    monkeypatch.setitem(sys.modules, "nltk", None)
    rouge = Rouge()
    rouge.update(["a cat"], [["a cat"]])
    assert {key: float(score) for key, score in rouge.compute().items()} == dict.fromkeys(KEYS, 100)


def test_rows_need_references():
    with pytest.raises(InputError, match="row 1 has no reference"):
        Rouge().update(["a"], [[]])
