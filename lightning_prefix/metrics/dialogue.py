"""How varied generated text is."""

import hashlib
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from lightning_prefix.errors import InputError
from lightning_prefix.metrics.rows import check_rows

__all__ = ["Distinct"]


class Distinct(Metric):  # type: ignore[misc]
    """distinct-n (Li et al. 2016, https://arxiv.org/abs/1510.03055): different n-grams / all n-grams, 0..1.

    Counted over all predictions together, in words between whitespace, in lower case. As in common use all n-grams
    are the divisor, where the paper has all words. 0 where there are none. It falls with the amount of text: compare
    on the same inputs.

    Args:
        n: words of an n-gram, >= 1.
        kwargs: of `torchmetrics.Metric`.

    Example:
        >>> distinct = Distinct(1)
        >>> distinct.update(["I do not know", "I know"], [[], []])
        >>> distinct.compute()  # i, do, not, know of 6 words
        tensor(0.6667)
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, n: int, **kwargs: Any) -> None:
        if n < 1:
            raise InputError(f"n={n} was given; it is at least 1. Give 1 or 2, the usual ones.")
        super().__init__(**kwargs)
        self.n = n
        # names with n: MetricCollection takes metrics of equal state after the first batch for one
        self.add_state(f"hashes_{n}", [], dist_reduce_fx="cat")
        self.add_state(f"total_{n}", torch.tensor(0), dist_reduce_fx="sum")
        # which torchmetrics gives to the hashes of a process without rows
        self.set_dtype(torch.int64)

    def update(self, predictions: list[str], references: list[list[str]]) -> None:
        """Count a batch; references are not used."""
        check_rows(predictions, references, least=0)
        rows = [text.lower().split() for text in predictions]
        ngrams = [" ".join(row[i : i + self.n]) for row in rows for i in range(len(row) - self.n + 1)]
        total: Tensor = getattr(self, f"total_{self.n}")
        total += len(ngrams)
        hashes = [_hash(ngram) for ngram in sorted(set(ngrams))]
        getattr(self, f"hashes_{self.n}").append(total.new_tensor(hashes))

    def compute(self) -> Tensor:
        """0-dimensional, float."""
        hashes: Tensor = dim_zero_cat(getattr(self, f"hashes_{self.n}"))
        total: Tensor = getattr(self, f"total_{self.n}")
        share: Tensor = torch.unique(hashes).numel() / total.clamp(min=1)
        return share


def _hash(text: str) -> int:
    """64 bits that are the same in every process, as `hash` is not."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little", signed=True)
