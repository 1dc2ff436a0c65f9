"""Several texts in one row: each sees the prefix and itself only, and its positions begin anew."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from lightning_prefix.errors import InputError

MaskFunction = Callable[[Any, Any, Any, Any], Any]
"""Whether (batch, head, query, key) is visible, by numbers of places; as in transformers' masking_utils."""

_OWN = ("attention_mask", "position_ids", "past_key_values", "cache")
_running: list[tuple[Tensor, Tensor]] = []
"""Of the running pass, which text each token is of, and its place in there; attributes of modules would be fixed in
`torch.compile`."""


@contextmanager
def packed(
    model_type: str, sequence_ids: Tensor, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Inside, masks of decoders keep the texts of a row apart.

    Args:
        model_type: of the backbone.
        sequence_ids: (batch, tokens), long; see `PrefixedModel.forward`.
        args: of the pass.
        kwargs: of the pass.

    Yields:
        The keyword arguments with the positions.

    Raises:
        InputError: if they do not fit.
    """
    if given := [name for name in _OWN if kwargs.get(name) is not None]:
        raise InputError(f"sequence_ids and {given[0]} are given; sequence_ids say it all, leave {given[0]} out.")
    inputs = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
    text = next((value for value in inputs if value is not None), None)
    if text is None or text.shape[:2] != sequence_ids.shape:
        raise InputError(
            f"sequence_ids of shape {tuple(sequence_ids.shape)} are given for inputs of shape "
            f"{None if text is None else tuple(text.shape)} to {model_type}; give one number for each token."
        )
    numbers, positions = _places(sequence_ids)
    _running.append((numbers, positions))
    try:
        # a mask of ones, so that no model and no version of transformers guesses
        yield {**kwargs, "attention_mask": torch.ones_like(positions), "position_ids": positions}
    finally:
        _running.pop()


def is_packed() -> bool:
    """Whether the rows of the running pass hold several texts."""
    return bool(_running)


def kept_apart(visible: MaskFunction) -> MaskFunction:
    """The mask of single texts as one of the running pass: windows and chunks count within a text."""
    numbers, positions = _running[-1]

    def is_visible(batch: Any, head: Any, query: Any, key: Any) -> Any:
        within = visible(batch, head, positions[batch, query], positions[batch, key])
        return within & (numbers[batch, query] == numbers[batch, key])

    return is_visible


def _places(sequence_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Which run of equal numbers each token is in, and its place in there; both (batch, tokens).

    Padding is a text of its own: a token that sees nothing would be not a number.
    """
    begins = torch.ones_like(sequence_ids, dtype=torch.bool)
    begins[:, 1:] = sequence_ids[:, 1:] != sequence_ids[:, :-1]
    places = torch.arange(sequence_ids.shape[1], device=sequence_ids.device).expand_as(sequence_ids)
    first = torch.where(begins, places, 0).cummax(dim=1).values
    return begins.cumsum(dim=1), places - first
