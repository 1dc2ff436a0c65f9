"""Several members write one text: at each step the mean of their logarithms of probabilities."""

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["MeanLogProbabilities"]


class MeanLogProbabilities:
    """A logits processor of transformers' `generate`, whose rows are those of the first member, then of the second...

    All members get the same scores, so that they write the same tokens, in beams too.

    Args:
        weights: of each member, which add up to one.
    """

    def __init__(self, weights: Sequence[float]) -> None:
        self.weights = list(weights)

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """The same for every member.

        Args:
            input_ids: (members * rows, tokens), long.
            scores: logits or logarithms of probabilities, (members * rows, vocabulary).
        """
        members = len(self.weights)
        each = scores.float().log_softmax(-1).view(members, -1, scores.shape[-1])
        mean = torch.einsum("m,mrv->rv", each.new_tensor(self.weights), each.clamp(min=torch.finfo(each.dtype).min))
        return mean.repeat(members, 1).to(scores.dtype)
