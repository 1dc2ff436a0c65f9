"""From the logits of windows to the best spans of each example.

As the post-processing of SQuAD in transformers (`examples/pytorch/question-answering/utils_qa.py`), but every span
within the length limit is scored, not only those between the n best starts and the n best ends of a window.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, pad

from lightning_prefix.tasks.scoring import TIE

__all__ = ["Span", "SpanScores", "best_spans", "combine_spans", "null_scores", "span_loss", "span_scores"]

_TINY = 1e-30


@dataclass(frozen=True)
class Span:
    """A part of a context.

    Args:
        score: start logit + end logit.
        start: first character.
        end: character after the last.
    """

    score: float
    start: int
    end: int


class SpanScores(NamedTuple):
    """What is said of the examples of a batch.

    Attributes:
        spans: the best ones of each example, best first.
        null: score of "no answer", (examples,).
    """

    spans: list[list[Span]]
    null: Tensor

    def margins(self) -> Tensor:
        """Score of "no answer" minus that of the best span, (examples,); rounded alike wherever it is compared."""
        return self.null - torch.tensor([found[0].score for found in self.spans])


def span_loss(logits: Tensor, labels: Tensor, attention_mask: Tensor) -> Tensor:
    """Mean cross-entropy of first and last tokens among the tokens that are no padding; scalar.

    Args:
        logits: (windows, tokens, 2), float.
        labels: (windows, 2), long.
        attention_mask: (windows, tokens), 0 for padding.
    """
    masked = logits.masked_fill(attention_mask.unsqueeze(-1) == 0, torch.finfo(logits.dtype).min)
    return cross_entropy(masked.transpose(1, 2).flatten(0, 1), labels.flatten())


def span_scores(logits: Tensor, is_context: Tensor, max_answer_length: int) -> Tensor:
    """Start logit + end logit of every span, (windows, tokens, max_answer_length); -inf for what is no span.

    Args:
        logits: (windows, tokens, 2), float.
        is_context: (windows, tokens), bool: where a span may begin and end.
        max_answer_length: tokens, >= 1; the last dimension is the length - 1.
    """
    starts, ends = logits.masked_fill(~is_context.unsqueeze(-1), -math.inf).unbind(-1)
    ends = pad(ends, (0, max_answer_length - 1), value=-math.inf).unfold(1, max_answer_length, 1)
    return starts.unsqueeze(-1) + ends


def best_spans(
    logits: Tensor, offsets: Sequence[Any], windows: Sequence[int], n_best: int, max_answer_length: int
) -> list[list[Span]]:
    """The spans of each example with the highest scores over all its windows, best first, each once.

    Args:
        logits: (windows, tokens, 2), float, on the CPU.
        offsets: for each window an int array (tokens, 2): characters of the context; -1 outside of it.
        windows: how many of them each example has.
        n_best: spans of an example, >= 1.
        max_answer_length: tokens of a span, >= 1.
    """
    places = torch.nn.utils.rnn.pad_sequence(list(map(torch.as_tensor, offsets)), batch_first=True, padding_value=-1)
    scores = span_scores(logits, places[..., 0] >= 0, max_answer_length).flatten(1)
    top, numbers = (found.tolist() for found in scores.topk(min(n_best, scores.shape[1])))
    results, first_window = [], 0
    for count in windows:
        best: dict[tuple[int, int], float] = {}
        for window in range(first_window, first_window + count):
            for score, number in zip(top[window], numbers[window], strict=True):
                token, more = divmod(number, max_answer_length)
                if score > -math.inf:
                    place = int(places[window, token, 0]), int(places[window, token + more, 1])
                    best[place] = max(score, best.get(place, -math.inf))
        ranked = sorted((-score, *place) for place, score in best.items())
        results.append([Span(-score, start, end) for score, start, end in ranked[:n_best]])
        first_window += count
    return results


def null_scores(logits: Tensor, null: Sequence[int], windows: Sequence[int]) -> Tensor:
    """The score of "no answer", (examples,): the lowest of the example's windows, all of which must say so.

    Args:
        logits: (windows, tokens, 2), float.
        null: the position in each window that stands for it.
        windows: how many of them each example has.
    """
    scores = logits[torch.arange(len(logits)), torch.tensor(null)].sum(-1)
    return torch.stack([of_example.min() for of_example in torch.split(scores, list(windows))])


def combine_spans(
    members: Sequence[SpanScores], weights: Sequence[float], no_answer: bool, n_best: int, *, is_vote: bool
) -> SpanScores:
    """Logarithms of the members' weighted mean probabilities of spans of characters, and of "no answer".

    Args:
        members: scores of each member for the same examples.
        weights: of each member, which add up to one.
        no_answer: whether there is "no answer".
        n_best: spans of an example, >= 1.
        is_vote: a member's probability counts as 1 for its best answer and as nearly 0 for the others.
    """
    spans, null = [], []
    for example in range(len(members[0].spans)):
        found: dict[tuple[int, int] | None, float] = {None: 0.0} if no_answer else {}
        for member, weight in zip(members, weights, strict=True):
            places: list[tuple[int, int] | None] = [(span.start, span.end) for span in member.spans[example]]
            scores = [span.score for span in member.spans[example]]
            if no_answer:
                places, scores = [*places, None], [*scores, member.null[example].item()]
            shares = torch.tensor(scores).softmax(0)
            if is_vote:
                shares = TIE * shares
                shares[int(torch.tensor(scores).argmax())] += 1
            for place, share in zip(places, shares.tolist(), strict=True):
                found[place] = found.get(place, 0.0) + weight * share
        ranked = sorted((-share, *place) for place, share in found.items() if place is not None)
        spans.append([Span(_log(-share), start, end) for share, start, end in ranked[:n_best]])
        null.append(_log(found.get(None, 0.0)))
    return SpanScores(spans, torch.tensor(null))


def _log(share: float) -> float:
    return math.log(max(share, _TINY))
