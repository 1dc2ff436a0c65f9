"""The text of several on which an ensemble agrees most: minimum Bayes risk."""

from collections.abc import Sequence

from lightning_prefix.metrics import sentence_chrf

__all__ = ["minimum_bayes_risk"]


def minimum_bayes_risk(candidates: Sequence[Sequence[str]], weights: Sequence[float]) -> list[str]:
    """All different texts, that with the highest expected chrF first (Kumar & Byrne 2004; Freitag et al. 2022).

    The expected chrF of a text is its mean chrF against the texts of each member, weighted by member.

    Args:
        candidates: the texts of each member, one or more.
        weights: of each member.

    Example:
        >>> minimum_bayes_risk([["a cat sat"], ["the cat sat"], ["dogs"]], [1, 1, 1])
        ['the cat sat', 'a cat sat', 'dogs']
    """
    voters = [(text, weight / len(texts)) for texts, weight in zip(candidates, weights, strict=True) for text in texts]
    expected = {
        text: sum(weight * sentence_chrf(text, other) for other, weight in voters)
        for text in dict.fromkeys(text for text, _ in voters)
    }
    return sorted(expected, key=lambda text: -expected[text])
