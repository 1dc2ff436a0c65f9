"""Logits at chosen positions only: for a vocabulary of 49k they are a fifth of a small model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_prefix.errors import InputError


@contextmanager
def logits_at(backbone: nn.Module, wanted: Tensor) -> Iterator[None]:
    """Inside, the language-model head reads the chosen positions only: logits are (1, chosen, vocabulary).

    What a model does to logits after its head (scaling, soft capping, a bias) goes on as it was.

    Args:
        backbone: a model with output embeddings.
        wanted: (batch, tokens), bool; positions are taken row by row.

    Raises:
        InputError: if the model has none.
    """
    head = backbone.get_output_embeddings()  # type: ignore[operator]
    if not isinstance(head, nn.Module):
        raise InputError(
            f"{type(backbone).__name__} has no output embeddings, so it writes no text; use a causal language model or "
            "an encoder-decoder."
        )

    def choose(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
        hidden, *more = inputs
        return (hidden[wanted.to(hidden.device)].unsqueeze(0), *more)

    handle = head.register_forward_pre_hook(choose)
    try:
        yield
    finally:
        handle.remove()
