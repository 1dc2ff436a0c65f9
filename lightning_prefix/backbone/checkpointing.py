"""Gradient checkpointing of a backbone that carries prefixes: the repeated part gets the states of its own pass."""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

from torch import nn

from lightning_prefix.backbone.attention import serving
from lightning_prefix.backbone.slot import StateSlot
from lightning_prefix.errors import InputError

_FUNCTION = "_gradient_checkpointing_func"


def turn_on(backbone: Any) -> None:
    """Let transformers compute activations again in the backward pass, which saves their memory.

    Raises:
        InputError: if the model cannot.
    """
    if not backbone.supports_gradient_checkpointing:
        raise InputError(
            f"backbone_options.gradient_checkpointing is given, but {type(backbone).__name__} does not support it; "
            "leave it out, and save memory with a smaller data.batch_size and trainer.accumulate_grad_batches."
        )
    if hasattr(backbone, "activation_checkpointing_enable"):  # renamed in transformers 5.2x
        backbone.activation_checkpointing_enable({"use_reentrant": False})
    else:
        backbone.gradient_checkpointing_enable({"use_reentrant": False})
    if hasattr(backbone, "_require_grads_hook"):  # for adapters; below the first prefix no gradient is needed
        backbone.disable_input_require_grads()


class Checkpointing:
    """Watches the layers that transformers can checkpoint.

    Transformers lets each layer call a checkpoint function. Ours binds the states of the running pass to it, so that
    the repetition in the backward pass reads the same, also after further passes and in a module that is called several
    times (ALBERT).

    Args:
        backbone: the frozen model.
        slot: serves its attention modules.
    """

    def __init__(self, backbone: nn.Module, slot: StateSlot) -> None:
        self.layers = [module for module in backbone.modules() if hasattr(module, "gradient_checkpointing")]
        self.slot = slot
        self._silenced: list[tuple[nn.Module, str, float]] = []

    def bind(self, with_dropout: bool) -> None:
        """Before a pass with gradients: prepare the layers for which checkpointing has been turned on.

        Args:
            with_dropout: whether the backbone's own dropout is wanted.

        Raises:
            InputError: for reentrant checkpointing, which computes gradients of its inputs only.
        """
        for layer in self.layers:
            if not layer.gradient_checkpointing:
                continue
            function = getattr(layer, _FUNCTION)
            if getattr(function, "func", None) is not _checkpoint:
                if getattr(function, "keywords", {}).get("use_reentrant"):
                    raise InputError(
                        "gradient checkpointing with use_reentrant=True is on; it loses the gradients of a prefix. "
                        "Use gradient_checkpointing_kwargs={'use_reentrant': False}, PyTorch's own advice."
                    )
                setattr(layer, _FUNCTION, partial(_checkpoint, self.slot, function))
            if not (with_dropout or layer.training):
                self._train_without_dropout(layer)

    def undo(self) -> None:
        """Give the layers back as they were."""
        for layer in self.layers:
            function = layer.__dict__.get(_FUNCTION)
            if getattr(function, "func", None) is _checkpoint:
                setattr(layer, _FUNCTION, cast("partial[Any]", function).args[1])
        for layer, name, value in self._silenced:
            setattr(layer, name, value)
        self._silenced.clear()

    def _train_without_dropout(self, layer: nn.Module) -> None:
        """Transformers checkpoints only layers in training mode; some of these (BART) drop out by that flag."""
        layer.training = True
        for name, value in list(vars(layer).items()):
            if "drop" in name and isinstance(value, float) and value > 0:
                self._silenced.append((layer, name, value))
                setattr(layer, name, 0.0)


def _checkpoint(slot: StateSlot, original: Callable[..., Any], function: Callable[..., Any], *args: Any) -> Any:
    served, counts = slot.served, slot.counts

    def with_its_states(*args: Any) -> Any:
        with serving(slot, served, counts):
            return function(*args)

    return original(with_its_states, *args)
