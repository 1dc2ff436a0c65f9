import math

import pytest
import torch
from torchmetrics.text import SQuAD

from lightning_prefix.errors import InputError
from lightning_prefix.metrics import AnswerExactMatch, AnswerF1, SpanScore, exact_match, normalize_answer, token_f1


def test_normalize_answer():
    assert normalize_answer(" The U.S. —  an  answer's\tend") == "us — answers end"
    assert normalize_answer("then A. the!") == "then"


def test_scores_are_those_of_squad_1(rows):
    # evaluate-v1.1.py has other scores for references without words
    kept = [(p, row) for p, row in zip(*rows, strict=True) if all(map(normalize_answer, row))]
    squad, exact, f1 = SQuAD(), AnswerExactMatch(), AnswerF1()
    for index, (prediction, row) in enumerate(kept):
        target = {"answers": {"answer_start": [0] * len(row), "text": row}, "id": str(index)}
        squad.update([{"prediction_text": prediction, "id": str(index)}], [target])
        exact.update([prediction], [row])
        f1.update([prediction], [row])
    expected = squad.compute()
    assert len(kept) > 150
    assert 0 < expected["exact_match"] < expected["f1"] < 100
    torch.testing.assert_close(exact.compute(), expected["exact_match"])
    torch.testing.assert_close(f1.compute(), expected["f1"])


@pytest.mark.parametrize(
    ("prediction", "references", "exact", "f1"),
    [
        ("", [], 1, 1),
        ("", [""], 1, 1),
        ("the", ["a"], 1, 1),  # neither has words: no answer, as in evaluate-v2.0.py
        ("", ["Paris"], 0, 0),
        ("Paris", [], 0, 0),
        ("the", ["the", "Paris"], 0, 0),  # the first reference has no words, the second counts
        ("the Paris", ["Paris!", "London"], 1, 1),
        ("Paris Paris", ["Paris, France", "Paris"], 0, 2 / 3),
    ],
)
def test_one_answer(prediction, references, exact, f1):
    assert exact_match(prediction, references) == exact
    assert token_f1(prediction, references) == pytest.approx(f1)


def test_rows_must_match():
    with pytest.raises(InputError, match="2 predictions and 1 rows of references"):
        AnswerF1().update(["a", "b"], [["a"]])
    with pytest.raises(InputError, match=r"references 'a' of row 1 is one text.*\['a'\]"):
        AnswerExactMatch().update(["a"], ["a"])


def _spans(examples: int = 200, seed: int = 0) -> dict[str, torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    f1 = torch.rand(examples, generator=random)
    answerable = torch.rand(examples, generator=random) < 0.6
    return {
        "exact_match": (f1 > 0.5).float(),
        "f1": f1,
        "margin": torch.randn(examples, generator=random) + 2 * ~answerable,
        "answerable": answerable,
    }


def _brute_force(spans: dict[str, torch.Tensor], threshold: float) -> tuple[float, float]:
    exact = f1 = 0.0
    for em, score, margin, answerable in zip(*(spans[name].tolist() for name in spans), strict=True):
        if margin > threshold:
            exact, f1 = exact + (not answerable), f1 + (not answerable)
        elif answerable:
            exact, f1 = exact + em, f1 + score
    return 100 * exact / len(spans["f1"]), 100 * f1 / len(spans["f1"])


def test_spans_with_a_threshold():
    spans, metric = _spans(), SpanScore()
    metric.update(**spans)
    for threshold in (math.inf, 1.0, 0.0, -1.5, -math.inf):
        metric.threshold = threshold
        scores = metric.compute()
        assert (float(scores["exact_match"]), float(scores["f1"])) == pytest.approx(_brute_force(spans, threshold))
        share = spans["answerable"].float().mean()
        total = share * scores["f1_answerable"] + (1 - share) * scores["no_answer_accuracy"]
        torch.testing.assert_close(total, scores["f1"])
    assert scores["f1_answerable"] == 0
    assert scores["no_answer_accuracy"] == 100


def test_spans_by_hand():
    metric = SpanScore(threshold=0.5)
    metric.update(
        exact_match=torch.tensor([1, 0, 0, 0]),
        f1=torch.tensor([1.0, 0.5, 0.25, 0.0]),
        margin=torch.tensor([0.5, 1.0, 0.0, 2.0]),
        answerable=torch.tensor([True, True, False, False]),
    )
    # answered right; "no answer" to a question; an answer where there is none; "no answer" where there is none
    expected = {"exact_match": 50.0, "f1": 50.0, "f1_answerable": 50.0, "no_answer_accuracy": 50.0}
    assert {name: float(score) for name, score in metric.compute().items()} == expected
    assert metric.best_threshold() == 1.0
    metric.threshold = 1.0
    assert float(metric.compute()["f1"]) == 62.5


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("decimals", [6, 0])  # 0: many equal margins
def test_best_threshold_is_that_of_a_sweep(seed, decimals):
    spans, metric = _spans(seed=seed), SpanScore()
    spans["margin"] = spans["margin"].round(decimals=decimals)
    metric.update(**spans)
    best = max(_brute_force(spans, threshold)[1] for threshold in [-math.inf, *spans["margin"].tolist()])
    assert _brute_force(spans, metric.best_threshold())[1] == pytest.approx(best)
    assert best > _brute_force(spans, math.inf)[1]


def test_best_threshold_at_the_ends():
    ones, metric = torch.ones(2), SpanScore()
    metric.update(ones, ones, ones, ones.bool())
    assert metric.best_threshold() == math.inf
    assert set(metric.compute()) == {"exact_match", "f1"}
    metric.reset()
    metric.update(ones, ones, -ones, ~ones.bool())
    assert metric.best_threshold() == -math.inf


def test_best_threshold_sees_all_processes():
    here, there = _spans(seed=1), _spans(seed=2)
    both, other = SpanScore(), iter(there[name].float() for name in there)
    both.update(**{name: torch.cat([here[name], there[name]]) for name in here})
    metric = SpanScore(dist_sync_fn=lambda state, **_: [state, next(other)], distributed_available_fn=lambda: True)
    metric.update(**here)
    expected = metric.best_threshold()
    assert expected == both.best_threshold()
    assert len(metric.f1[0]) == 200, "the state is this process's own again"
