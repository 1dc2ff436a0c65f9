"""Notice a task that answers the same for every row: prefixes do so when a learning rate is too high."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

__all__ = ["OutputSpread"]

_LEAST_ROWS = 16
_ALIKE = 1e-3


class OutputSpread(Metric):  # type: ignore[misc]  # torchmetrics is untyped here
    """How far apart the outputs of all rows are, on all processes, beside the references.

    Example:
        >>> spread = OutputSpread()
        >>> spread.update(torch.tensor([1] * 20), torch.tensor([0, 1] * 10))
        >>> bool(spread.compute())
        True
    """

    full_state_update = False

    def __init__(self) -> None:
        super().__init__()
        for name in ("output", "reference"):
            self.add_state(f"lowest_{name}", torch.tensor(torch.inf), dist_reduce_fx="min")
            self.add_state(f"highest_{name}", torch.tensor(-torch.inf), dist_reduce_fx="max")
        self.add_state("rows", torch.tensor(0), dist_reduce_fx="sum")

    def update(self, outputs: Tensor, references: Tensor) -> None:
        """Count rows.

        Args:
            outputs: numbers of classes, values, or numbers that stand for texts; (rows,).
            references: the right ones, (rows,).
        """
        for name, values in (("output", outputs), ("reference", references)):
            if values.numel():
                low, high = values.float().aminmax()
                setattr(self, f"lowest_{name}", torch.minimum(getattr(self, f"lowest_{name}"), low))
                setattr(self, f"highest_{name}", torch.maximum(getattr(self, f"highest_{name}"), high))
        self.rows += outputs.numel()

    def compute(self) -> Tensor:
        """Whether all outputs are alike though the references are not; a scalar, bool."""
        state: Any = self
        outputs = state.highest_output - state.lowest_output
        references = state.highest_reference - state.lowest_reference
        is_alike: Tensor = (state.rows >= _LEAST_ROWS) & (references > 0) & (outputs <= _ALIKE * references)
        return is_alike
