"""A trained scale and shift of the last hidden state."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor, nn

from lightning_prefix.prefix.base import FrozenModel, Prefix, PrefixConfig
from lightning_prefix.prefix.site import PrefixStates


class OutputPrefix(Prefix):
    """hidden * scale + shift on the last hidden state; attention is left alone.

    The scale is IA3's (Liu et al. 2022, few-shot parameter-efficient fine-tuning) and the shift BitFit's (Ben Zaken
    et al. 2022), each at the output of the last layer only, in front of the head.

    Args:
        scale: (hidden,), the start.
        shift: (hidden,), the start.
    """

    variant: ClassVar[Literal["output"]] = "output"

    def __init__(self, scale: Tensor, shift: Tensor) -> None:
        super().__init__(())
        self.scale = nn.Parameter(scale.detach().float().clone())
        self.shift = nn.Parameter(shift.detach().float().clone())

    @property
    def length(self) -> int:
        """No positions."""
        return 0

    def states(self) -> tuple[PrefixStates, ...]:
        """No site has states."""
        return ()

    def output(self) -> tuple[Tensor, Tensor]:
        """The parameters themselves."""
        return self.scale, self.shift


@dataclass(frozen=True, kw_only=True)
class OutputPrefixConfig(PrefixConfig):
    """A trained scale and shift of the last hidden state: two numbers per hidden dimension, the weakest variant.

    Args:
        init: start values. `identity`: scale one, shift zero, which is the frozen model. `file`: those in `init_file`.
    """

    init: Literal["identity", "file"] = "identity"

    parameters: ClassVar[str] = "2 * output_dim"

    def build(self, frozen: FrozenModel) -> OutputPrefix:
        """An `OutputPrefix` at its start values."""
        return OutputPrefix(*frozen.start_output(self))
