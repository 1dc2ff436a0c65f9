"""Lightning's precisions for a task: the frozen weights are rounded, what is trained and what is counted is not."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.plugins.precision import HalfPrecision
from torch import nn

from lightning_prefix.backbone import PrefixedModel


class FrozenHalfPrecision(HalfPrecision):
    """`bf16-true` and `16-true`: the frozen weights are rounded, and nothing else is.

    Lightning's own also rounds labels and metrics, which then count to 256 only (bfloat16), and makes half precision
    the default of new tensors.
    """

    def convert_module(self, module: nn.Module) -> nn.Module:
        """Round what is frozen."""
        for model in module.modules():
            if isinstance(model, PrefixedModel):
                model.to(self._desired_input_dtype)
        return module

    def tensor_init_context(self) -> AbstractContextManager[None]:
        """New tensors are float32."""
        return nullcontext()

    @contextmanager
    def forward_context(self) -> Iterator[None]:
        """New tensors are float32."""
        yield

    def convert_input(self, data: Any) -> Any:
        """The data as they are; the backbone reads token ids."""
        return data


def round_frozen_only(trainer: Trainer) -> None:
    """Where the trainer has `bf16-true` or `16-true`, let it be a `FrozenHalfPrecision`."""
    plugin = trainer.precision_plugin
    if type(plugin) is HalfPrecision:
        trainer.strategy.precision_plugin = FrozenHalfPrecision(plugin.precision)
