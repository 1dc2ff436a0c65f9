"""Precision, recall and F1 of whole entities, as in the default mode of seqeval 1.2.2."""

from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from lightning_prefix.errors import InputError
from lightning_prefix.metrics.rows import check_rows

__all__ = ["EntityScore", "entities"]

# L and U of BILOU are E and S of BIOES; seqeval's default mode does not know them
_PREFIXES = {"B": "B", "I": "I", "O": "O", "E": "E", "S": "S", "L": "E", "U": "S"}


def entities(tags: list[str]) -> set[tuple[str, int, int]]:
    """Type, first and last position of each entity.

    One begins at any tag but O that does not go on with the entity before: IOB1, IOB2, BIOES and BILOU are read.

    Args:
        tags: of one row: "O", or a prefix and a type such as "B-PER".

    Raises:
        InputError: if a tag begins with none of B, I, O, E, S, L, U.

    Example:
        >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC"]))
        [('LOC', 3, 3), ('PER', 0, 1)]
    """
    found: list[tuple[str, int, int]] = []
    before = ("O", "")
    for position, tag in enumerate(tags):
        if tag[:1] not in _PREFIXES:
            raise InputError(f"the tag {tag!r} is given; tags begin with B, I, O, E, S, L or U. Name it 'B-{tag}'.")
        prefix, kind = _PREFIXES[tag[0]], tag[1:].removeprefix("-") or "_"
        if before[0] in "BI" and prefix in "IE" and before[1] == kind:
            found[-1] = (kind, found[-1][1], position)
        elif prefix != "O":
            found.append((kind, position, position))
        before = (prefix, kind)
    return set(found)


class EntityScore(Metric):  # type: ignore[misc]
    """Micro precision, recall and F1 of entities, and accuracy of tags, all 0..1.

    An entity is right if its type and both ends are. What would be divided by 0 is 0.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # entities: right, predicted, of the reference; tags: right, all
        self.add_state("counts", torch.zeros(5, dtype=torch.long), dist_reduce_fx="sum")

    def update(self, predictions: list[list[str]], references: list[list[str]]) -> None:
        """Count a batch.

        Args:
            predictions: a list of tags per row.
            references: likewise.

        Raises:
            InputError: if a row has not as many predictions as references.
        """
        check_rows(predictions, references, least=0)
        for index, (predicted, reference) in enumerate(zip(predictions, references, strict=True)):
            if len(predicted) != len(reference):
                raise InputError(
                    f"row {index + 1} has {len(predicted)} predicted tags and {len(reference)} of the reference; there "
                    "is one of each for a word. Give the tags of the same words."
                )
            found, right = entities(predicted), entities(reference)
            tags = sum(map(str.__eq__, predicted, reference))
            self.counts += self.counts.new_tensor(
                [len(found & right), len(found), len(right), tags, len(reference)],
            )

    def compute(self) -> dict[str, Tensor]:
        """`precision`, `recall`, `f1` and `accuracy`."""
        right, found, reference, tags, all_tags = self.counts.float()
        return {
            "precision": right / found.clamp(min=1),
            "recall": right / reference.clamp(min=1),
            "f1": 2 * right / (found + reference).clamp(min=1),
            "accuracy": tags / all_tags.clamp(min=1),
        }
