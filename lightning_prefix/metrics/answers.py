"""Exact match and F1 of answers, as the official SQuAD evaluation counts them.

Sources: Rajpurkar et al. 2016 (https://arxiv.org/abs/1606.05250) and 2018 (https://arxiv.org/abs/1806.03822) with
evaluate-v2.0.py. On answers that are not empty the scores are those of evaluate-v1.1.py, too.
"""

import math
import re
import string
from collections import Counter
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_prefix.metrics.rows import check_rows

__all__ = ["AnswerExactMatch", "AnswerF1", "SpanScore", "exact_match", "normalize_answer", "token_f1"]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalize_answer(text: str) -> str:
    """The text in lower case, without ASCII punctuation, English articles and extra whitespace.

    Example:
        >>> normalize_answer("The  Eiffel Tower!")
        'eiffel tower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def exact_match(prediction: str, references: list[str]) -> float:
    """1 if the prediction is one of the references, both normalised, else 0.

    Args:
        prediction: the answer; "" says that there is none.
        references: the right answers; [] or [""] where there is none.
    """
    return float(normalize_answer(prediction) in _answers(references))


def token_f1(prediction: str, references: list[str]) -> float:
    """F1 of the words of the prediction, 0..1, against the reference where it is highest.

    Args:
        prediction: the answer; "" says that there is none.
        references: the right answers; [] or [""] where there is none.

    Example:
        >>> token_f1("in Paris", ["Paris", "Paris, France"])
        0.6666666666666666
    """
    words = normalize_answer(prediction).split()
    return max(_f1(words, answer.split()) for answer in _answers(references))


class AnswerExactMatch(Metric):  # type: ignore[misc]
    """Mean of `exact_match` over the rows, 0..100."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # not the state of AnswerF1: MetricCollection would take the two for one where a first batch has equal scores
        self.add_state("exact_match_sum_and_rows", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, predictions: list[str], references: list[list[str]]) -> None:
        """Count a batch; references as in `exact_match`."""
        check_rows(predictions, references, least=0)
        scores = [exact_match(*row) for row in zip(predictions, references, strict=True)]
        self.exact_match_sum_and_rows += self.exact_match_sum_and_rows.new_tensor([sum(scores), len(scores)])

    def compute(self) -> Tensor:
        """0-dimensional, float."""
        total, rows = self.exact_match_sum_and_rows
        mean: Tensor = 100 * total / rows
        return mean


class AnswerF1(Metric):  # type: ignore[misc]
    """Mean of `token_f1` over the rows, 0..100."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("f1_sum_and_rows", torch.zeros(2), dist_reduce_fx="sum")

    def update(self, predictions: list[str], references: list[list[str]]) -> None:
        """Count a batch; references as in `token_f1`."""
        check_rows(predictions, references, least=0)
        scores = [token_f1(*row) for row in zip(predictions, references, strict=True)]
        self.f1_sum_and_rows += self.f1_sum_and_rows.new_tensor([sum(scores), len(scores)])

    def compute(self) -> Tensor:
        """0-dimensional, float."""
        total, rows = self.f1_sum_and_rows
        mean: Tensor = 100 * total / rows
        return mean


class SpanScore(Metric):  # type: ignore[misc]
    """Exact match and F1 of extracted spans, with "no answer" where its score is higher by more than a threshold.

    Args:
        threshold: difference of scores above which "no answer" is given; never for inf. May be set at any time.
        kwargs: of `torchmetrics.Metric`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, threshold: float = math.inf, **kwargs: Any) -> None:
        # no cache: the threshold may change between two calls of compute
        super().__init__(compute_with_cache=False, **kwargs)
        self.threshold = threshold
        for name in ("exact_match", "f1", "margin", "answerable"):
            self.add_state(name, [], dist_reduce_fx="cat")

    def update(self, exact_match: Tensor, f1: Tensor, margin: Tensor, answerable: Tensor) -> None:
        """Count examples, one entry each.

        Args:
            exact_match: (examples,), of the best span that is not empty, 0..1.
            f1: (examples,), of the same span, 0..1.
            margin: (examples,), score of "no answer" minus score of that span.
            answerable: (examples,), bool, whether the example has a reference answer.
        """
        # all of one dtype, which torchmetrics gives to the state of a process without rows
        self.exact_match.append(exact_match.float())
        self.f1.append(f1.float())
        self.margin.append(margin.float())
        self.answerable.append(answerable.float())

    def compute(self) -> dict[str, Tensor]:
        """`exact_match` and `f1`, 0..100.

        Where some examples have no answer also `f1_answerable` and `no_answer_accuracy`, which are HasAns_f1 and
        NoAns_exact of evaluate-v2.0.py; the former is nan where no example has one.
        """
        answerable = dim_zero_cat(self.answerable) > 0
        no_answer = dim_zero_cat(self.margin) > self.threshold
        exact_match, f1 = (
            100 * torch.where(no_answer, (~answerable).float(), dim_zero_cat(score) * answerable)
            for score in (self.exact_match, self.f1)
        )
        scores = {"exact_match": exact_match.mean(), "f1": f1.mean()}
        if not answerable.all():
            scores["f1_answerable"] = f1[answerable].mean()
            scores["no_answer_accuracy"] = f1[~answerable].mean()
        return scores

    def best_threshold(self) -> float:
        """The threshold with the highest F1 on all that was counted, the lowest of several.

        As `find_best_thresh` of evaluate-v2.0.py, but equal margins are taken together, and -inf, not 0, is returned
        where "no answer" is best for all. It is inf where every example has an answer. Under DDP all processes call
        it, and not within `compute`.
        """
        with self.sync_context(dist_sync_fn=self.dist_sync_fn):
            f1, margin, answerable = (
                dim_zero_cat(state).cpu().double() for state in (self.f1, self.margin, self.answerable)
            )
        if answerable.all():
            return math.inf
        thresholds, group = margin.unique(return_inverse=True)
        gain = torch.zeros_like(thresholds).index_add_(0, group, torch.where(answerable > 0, f1, -1.0))
        total = torch.cat([torch.zeros(1), gain.cumsum(0)])
        best = int((total == total.max()).nonzero()[0])
        return -math.inf if best == 0 else float(thresholds[best - 1])


def _answers(references: list[str]) -> list[str]:
    """References normalised, without empty ones; [""] where none is left."""
    return [answer for reference in references if (answer := normalize_answer(reference))] or [""]


def _f1(prediction: list[str], reference: list[str]) -> float:
    if not prediction or not reference:
        return float(prediction == reference)
    shared = (Counter(prediction) & Counter(reference)).total()
    return 2 * shared / (len(prediction) + len(reference))
