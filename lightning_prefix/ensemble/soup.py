"""One prefix of several: the mean of what they trained."""

from collections.abc import Sequence
from pathlib import Path

import torch

from lightning_prefix.backbone import files
from lightning_prefix.errors import InputError

__all__ = ["average_folders"]


def average_folders(
    members: Sequence[str | Path], directory: str | Path, weights: Sequence[float] | None = None
) -> None:
    """Write the weighted mean of prefixes and heads as one folder (model soups, Wortsman et al. 2022).

    It costs what one prefix costs. Members must have started from the same values, as the folds of a cross-validation
    do: the mean of prefixes that started apart is seldom a good one. Measure it.

    Args:
        members: folders of `save_pretrained`, of one backbone, variant, length and head.
        directory: to write; made when missing.
        weights: of each member, >= 0; divided by their sum; equal when None.

    Raises:
        InputError: if members do not fit together.
    """
    stored = [files.read(Path(member)) for member in members]
    if not stored:
        raise InputError("no member is given; give one folder or more.")
    shares = torch.tensor([1.0] * len(stored) if weights is None else list(weights))
    if len(shares) != len(stored) or not shares.sum() > 0 or shares.min() < 0:
        raise InputError(f"weights={weights} are given for {len(stored)} members; give one number >= 0 for each.")
    shares = shares / shares.sum()
    first = stored[0]
    for one in stored[1:]:
        for what in ("backbone", "prefix", "positions"):
            here, there = first.description[what], one.description[what]
            if here != there:
                raise InputError(
                    f"{one.directory} has the {what} {there}, {first.directory} has {here}; a mean needs the same. "
                    "Combine their answers instead, with an ensemble."
                )
    tensors = {}
    for name, tensor in first.tensors.items():
        values = [one.tensors.get(name) for one in stored]
        if any(value is None or value.shape != tensor.shape for value in values):
            raise InputError(
                f"{name} of {first.directory} is missing in another member or has another shape there; a mean needs "
                "heads with the same labels."
            )
        mean = torch.einsum("m,m...->...", shares, torch.stack([value.float() for value in values]))  # type: ignore[union-attr]
        tensors[name] = mean.to(tensor.dtype)
    description = {key: value for key, value in first.description.items() if key not in ("format", "sha256")}
    files.save(Path(directory), tensors, description)
