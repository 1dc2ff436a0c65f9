"""BLEU and chrF on the scale of sacrebleu, 0..100, each with the signature that belongs beside a published score."""

import math
from collections import Counter
from string import punctuation
from typing import Any, Literal, TypeAlias

import torch
import torchmetrics
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.text import SacreBLEUScore

from lightning_prefix.errors import InputError
from lightning_prefix.metrics.rows import check_rows

__all__ = ["Bleu", "ChrF", "Tokenizer"]

Tokenizer: TypeAlias = Literal["none", "13a", "zh", "intl", "char", "ja-mecab", "ko-mecab", "flores101", "flores200"]

_CHARACTER_ORDER = 6


class Bleu(SacreBLEUScore):  # type: ignore[misc]
    """Corpus BLEU (Papineni et al. 2002), as `sacrebleu.BLEU(tokenize=tokenize, smooth_method="none")`.

    It is sacrebleu's default score too, wherever some 4-gram is right.

    Args:
        tokenize: `13a` for most languages, `zh`, `ja-mecab` and `ko-mecab` for Chinese, Japanese and Korean, `char`,
            `intl`, `none` for tokenized text; `flores101` and `flores200` download a model at first use.
        kwargs: of `torchmetrics.Metric`.

    Raises:
        InputError: if the tokenizer is unknown, or its package is not installed.

    Example:
        >>> bleu = Bleu()
        >>> bleu.update(["A cat sat on the mat."], [["The cat sat on the mat.", "A cat was on the mat."]])
        >>> bleu.compute()
        tensor(88.0112)
        >>> bleu.signature
        'nrefs:2|case:mixed|eff:no|tok:13a|smooth:none|version:torchmetrics-...'
    """

    full_state_update = False
    plot_upper_bound = 100.0

    def __init__(self, tokenize: Tokenizer = "13a", **kwargs: Any) -> None:
        try:
            super().__init__(tokenize=tokenize, **kwargs)
        except (ValueError, ModuleNotFoundError) as error:
            raise InputError(f"tokenize={tokenize!r} was given. {error}") from error
        self.tokenize = tokenize
        _add_reference_counts(self)

    def update(self, predictions: list[str], references: list[list[str]]) -> None:
        """Count a batch; one or more references per row."""
        check_rows(predictions, references)
        _count_references(self, references)
        # of two references that are equally near in length torchmetrics takes the first, sacrebleu the shorter
        by_length = [sorted(row, key=lambda text: len(self.tokenizer(text))) for row in references]
        super().update(predictions, by_length)

    def compute(self) -> Tensor:
        """0-dimensional, float."""
        score: Tensor = 100 * super().compute()
        return score

    @property
    def signature(self) -> str:
        """In sacrebleu's form; read it before `reset`, which forgets the number of references."""
        return _signature(self, f"case:mixed|eff:no|tok:{self.tokenize}|smooth:none")


class ChrF(Metric):  # type: ignore[misc]
    """Corpus chrF (Popović 2015), as `sacrebleu.CHRF(word_order=word_order)`.

    Args:
        word_order: longest n-gram of words, >= 0; 2 is chrF++ (Popović 2017).
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> chrf = ChrF()
        >>> chrf.update(["A cat sat on the mat."], [["The cat sat on the mat."]])
        >>> chrf.compute()
        tensor(82.5596)
        >>> chrf.signature
        'nrefs:1|case:mixed|eff:yes|nc:6|nw:0|space:no|version:torchmetrics-...'
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    plot_upper_bound = 100.0

    def __init__(self, word_order: int = 0, **kwargs: Any) -> None:
        if word_order < 0:
            raise InputError(f"word_order={word_order} was given; it is 0 for chrF, 2 for chrF++. Give one of these.")
        super().__init__(**kwargs)
        self.word_order = word_order
        # per order of n-gram: of the prediction, of the best reference, shared
        self.add_state("ngrams", torch.zeros(_CHARACTER_ORDER + word_order, 3, dtype=torch.long), dist_reduce_fx="sum")
        _add_reference_counts(self)

    def update(self, predictions: list[str], references: list[list[str]]) -> None:
        """Count a batch; one or more references per row."""
        check_rows(predictions, references)
        _count_references(self, references)
        for prediction, row in zip(predictions, references, strict=True):
            predicted = _ngrams(prediction, self.word_order)
            counts = [_shared(predicted, _ngrams(reference, self.word_order)) for reference in row]
            self.ngrams += self.ngrams.new_tensor(max(counts, key=_f2))

    def compute(self) -> Tensor:
        """0-dimensional, float."""
        return torch.tensor(_f2(self.ngrams.tolist()), device=self.device)

    @property
    def signature(self) -> str:
        """In sacrebleu's form; read it before `reset`, which forgets the number of references."""
        return _signature(self, f"case:mixed|eff:yes|nc:{_CHARACTER_ORDER}|nw:{self.word_order}|space:no")


def sentence_chrf(prediction: str, reference: str) -> float:
    """ChrF of one text, 0..100, as `sacrebleu.sentence_chrf` with one reference.

    Example:
        >>> round(sentence_chrf("A cat sat on the mat.", "The cat sat on the mat."), 2)
        82.56
    """
    return _f2(_shared(_ngrams(prediction, 0), _ngrams(reference, 0)))


def _ngrams(text: str, word_order: int) -> list[Counter[str]]:
    """How often each n-gram is there, by order: of characters without white space, then of words."""
    letters = "".join(text.split())
    words = [part for word in text.split() for part in _split_punctuation(word)]
    return [
        *(Counter(letters[i : i + n] for i in range(len(letters) - n + 1)) for n in range(1, _CHARACTER_ORDER + 1)),
        *(Counter(" ".join(words[i : i + n]) for i in range(len(words) - n + 1)) for n in range(1, word_order + 1)),
    ]


def _split_punctuation(word: str) -> list[str]:
    """A mark at the end is a word, or else one at the start; no more than one."""
    if len(word) > 1 and word[-1] in punctuation:
        return [word[:-1], word[-1]]
    return [word[0], word[1:]] if len(word) > 1 and word[0] in punctuation else [word]


def _shared(predicted: list[Counter[str]], reference: list[Counter[str]]) -> list[list[int]]:
    return [[p.total() if r else 0, r.total(), (p & r).total()] for p, r in zip(predicted, reference, strict=True)]


def _f2(counts: list[list[int]]) -> float:
    """F2 of mean precision and mean recall over the orders that both texts have, 0..100."""
    rates = [(shared / ours, shared / theirs) for ours, theirs, shared in counts if ours and theirs]
    precision, recall = sum(p for p, _ in rates), sum(r for _, r in rates)
    return 100 * 5 * precision * recall / (4 * precision + recall) / len(rates) if precision + recall else 0.0


def _add_reference_counts(metric: Metric) -> None:
    metric.add_state("fewest_references", torch.tensor(math.inf), dist_reduce_fx="min")
    metric.add_state("most_references", torch.tensor(0.0), dist_reduce_fx="max")


def _count_references(metric: Metric, references: list[list[str]]) -> None:
    counts = [len(row) for row in references]
    metric.fewest_references = metric.fewest_references.clamp(max=min(counts, default=math.inf))
    metric.most_references = metric.most_references.clamp(min=max(counts, default=0))


def _signature(metric: Metric, options: str) -> str:
    fewest, most = metric.fewest_references, metric.most_references
    count = int(most) if fewest == most else "var" if most else "?"
    return f"nrefs:{count}|{options}|version:torchmetrics-{torchmetrics.__version__}"
