"""`Predictor.stream`: results in order, inputs read only as they are needed."""

import itertools

import pytest
from every_task import CASES

import lightning_prefix as lp
from lightning_prefix.errors import InputError


@pytest.fixture(scope="module")
def predict(bert_folder):
    case = CASES["classification"]
    task = case.make_task(bert_folder, lp.FlatPrefixConfig(length=2), num_labels=2)
    return lp.Predictor(task, lp.TextClassificationDataModule(tokenizer=bert_folder, labels=["a", "b"]), batch_size=3)


def texts():
    for number in itertools.count():
        yield "the good film" + " plot" * (number * 5 % 7)


def test_results_are_those_of_a_call_in_order(predict):
    given = list(itertools.islice(texts(), 20))
    for pool in (None, 1, 7, 50):
        found = [one["probabilities"] for one in predict.stream(iter(given), pool)]
        assert len(found) == 20
        for one, expected in zip(found, predict(given), strict=True):
            assert one == pytest.approx(expected["probabilities"], abs=1e-6)
    assert list(predict.stream([])) == []


def test_inputs_without_end_are_read_a_pool_at_a_time(predict):
    read = []
    stream = predict.stream((read.append(text) or text for text in texts()), pool=6)
    assert read == []
    next(stream)
    assert len(read) == 6
    list(itertools.islice(stream, 6))
    assert len(read) == 12


def test_rows_of_other_kinds(predict):
    assert next(predict.stream([{"text": "a film", "id": 3}])) == predict("a film")


def test_bad_inputs(predict):
    stream = predict.stream(["a film"] * 7 + [" "], pool=3)
    assert len(list(itertools.islice(stream, 6))) == 6
    with pytest.raises(InputError, match="row 8 of 'texts' has no text"):
        next(stream)
    with pytest.raises(InputError, match=r"one text, whose characters would be the inputs; give \[text\]"):
        predict.stream("a film")
    with pytest.raises(InputError, match="pool=0 was given; it must be at least 1"):
        predict.stream(["a film"], pool=0)
