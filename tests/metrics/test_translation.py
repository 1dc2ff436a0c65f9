import pytest
import sacrebleu
import torch
import torchmetrics

from lightning_prefix.errors import InputError
from lightning_prefix.metrics import Bleu, ChrF


def _scores(metric, reference, predictions, references):
    for start in range(0, len(predictions), 64):
        metric.update(predictions[start : start + 64], references[start : start + 64])
    return float(metric.compute()), reference.corpus_score(predictions, list(zip(*references, strict=True))).score


def _is_truthful(signature: str, reference) -> bool:
    ours, theirs = (dict(part.split(":") for part in text.split("|")) for text in (signature, str(reference)))
    return ours == theirs | {"version": f"torchmetrics-{torchmetrics.__version__}"}


@pytest.mark.parametrize("tokenize", ["13a", "none", "zh", "char"])
def test_bleu_is_that_of_sacrebleu(rows, tokenize):
    bleu, reference = Bleu(tokenize), sacrebleu.BLEU(tokenize=tokenize, smooth_method="none")
    score, expected = _scores(bleu, reference, *rows)
    assert score == pytest.approx(expected, abs=1e-4)
    assert 10 < score < 90
    assert _is_truthful(bleu.signature, reference.get_signature())
    assert score == pytest.approx(_scores(Bleu(tokenize), sacrebleu.BLEU(tokenize=tokenize), *rows)[1], abs=1e-4)


def test_bleu_without_a_right_4_gram_is_zero():
    score, expected = _scores(Bleu(), sacrebleu.BLEU(smooth_method="none"), ["a b c"], [["a b c d e"]])
    assert score == expected == 0


@pytest.mark.parametrize("word_order", [0, 2])
def test_chrf_is_that_of_sacrebleu(rows, word_order):
    """With empty and short predictions."""
    chrf, reference = ChrF(word_order), sacrebleu.CHRF(word_order=word_order)
    score, expected = _scores(chrf, reference, *rows)
    assert score == pytest.approx(expected, abs=1e-4)
    assert 10 < score < 90
    assert _is_truthful(chrf.signature, reference.get_signature())


@pytest.mark.parametrize("pair", [("", "a house"), ("cat", "the dog"), ("a", "b"), ("(a)", "(a"), ("!", "! ?")])
def test_chrf_of_one_row_is_that_of_sacrebleu(pair):
    prediction, reference = pair
    for word_order in (0, 2):
        score, expected = _scores(ChrF(word_order), sacrebleu.CHRF(word_order=word_order), [prediction], [[reference]])
        assert score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("metric", [Bleu(), ChrF()])
def test_nothing_is_zero(metric):
    metric.update([], [])
    metric.update([""], [["a cat"]])
    assert metric.compute() == torch.tensor(0.0)


@pytest.mark.parametrize("metric", [Bleu(), ChrF()])
def test_number_of_references(metric):
    assert metric.signature.startswith("nrefs:?|case:mixed|")
    metric.update(["a", "b"], [["a"], ["b"]])
    assert metric.signature.startswith("nrefs:1|")
    metric.update(["a"], [["a", "b"]])
    assert metric.signature.startswith("nrefs:var|")


def test_bad_options_and_rows():
    with pytest.raises(InputError, match=r"tokenize='14a' was given.*choose one of"):
        Bleu("14a")
    with pytest.raises(InputError, match="word_order=-1 was given; it is 0 for chrF"):
        ChrF(-1)
    for metric in (Bleu(), ChrF()):
        with pytest.raises(InputError, match="row 2 has no reference"):
            metric.update(["a", "b"], [["a"], []])
