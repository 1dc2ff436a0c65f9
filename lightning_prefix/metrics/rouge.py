"""ROUGE for summaries, on the scale of the papers."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text import rouge_score

from lightning_prefix.metrics.rows import check_rows

__all__ = ["Rouge"]


class Rouge(Metric):  # type: ignore[misc]
    """F1 of ROUGE-1, ROUGE-2 and ROUGE-L (Lin 2004), mean over the rows, 0..100, as the package rouge-score.

    Without stemming. The best reference is chosen for each of the three. Words are runs of a-z and 0-9 as in
    rouge-score: text in other scripts scores 0.

    Example:
        >>> rouge = Rouge()
        >>> rouge.update(["the cat sat"], [["the cat sat down", "a cat"]])
        >>> rouge.compute()
        {'rouge1': tensor(85.7143), 'rouge2': tensor(80.), 'rougeL': tensor(85.7143)}
    """

    # not torchmetrics' ROUGEScore: its list states hang under DDP where processes have unequal numbers of rows

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    _keys = ("rouge1", "rouge2", "rougeL")

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.add_state("rouge_sums_and_rows", torch.zeros(4), dist_reduce_fx="sum")

    def update(self, predictions: list[str], references: list[list[str]]) -> None:
        """Count a batch; one or more references per row."""
        check_rows(predictions, references)
        for prediction, row in zip(predictions, references, strict=True):
            scores = rouge_score([prediction], [row], rouge_keys=self._keys)
            f1 = [float(scores[f"{key}_fmeasure"]) for key in self._keys]
            self.rouge_sums_and_rows += self.rouge_sums_and_rows.new_tensor([*f1, 1])

    def compute(self) -> dict[str, Tensor]:
        """`rouge1`, `rouge2` and `rougeL`."""
        means = 100 * self.rouge_sums_and_rows[:3] / self.rouge_sums_and_rows[3]
        return dict(zip(self._keys, means, strict=True))
