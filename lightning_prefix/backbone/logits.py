"""Logits at chosen positions only: for a vocabulary of 49k they are a fifth of a small model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lightning_prefix.errors import InputError

_CHOOSES = "lightning_prefix_chooses"
_wanted: list[tuple[nn.Module, Tensor, Tensor]] = []
"""The head of the running pass with its positions; attributes of modules have fixed shapes in `torch.compile`."""


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

    if not hasattr(head, _CHOOSES):  # once, since `torch.compile` would compile again for each new hook
        head.register_forward_pre_hook(_choose)
        setattr(head, _CHOOSES, True)
    rows, tokens = wanted.nonzero(as_tuple=True)
    _wanted.append((head, rows, tokens))
    try:
        yield
    finally:
        _wanted.pop()


def _choose(head: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Any, ...]:
    if not _wanted or _wanted[-1][0] is not head:
        return inputs
    hidden, *more = inputs
    _, rows, tokens = _wanted[-1]
    return (hidden[rows.to(hidden.device), tokens.to(hidden.device)].unsqueeze(0), *more)
