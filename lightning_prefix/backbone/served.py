"""What the prefixes of a batch hand to the modules of the backbone in one forward pass."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, Prefix
from lightning_prefix.prefix.rows import SiteStates, many_prefixes, one_prefix


class Served(NamedTuple):
    """What one forward pass of a `PrefixedModel` hands to the modules of its backbone.

    Attributes:
        sites: states by call index.
        rows: (rows,) which of the prefixes each row has; None when all rows have the only one.
        shifts: by how much each prefix shifts the positions of the text.
        output: scale and shift (prefixes, hidden) of the last hidden state, or None.
    """

    sites: Mapping[int, SiteStates] = {}
    rows: Tensor | None = None
    shifts: Sequence[int] = (0,)
    output: tuple[Tensor, Tensor] | None = None

    @property
    def is_anything(self) -> bool:
        """Whether some row has a prefix."""
        return bool(self.sites) or self.output is not None

    def rows_of(self, like: Tensor) -> Tensor | None:
        """As `rows`, for the batch and device of a tensor (batch, ...).

        Beams and several returned sequences have grown the batch: row by row, each repeated.
        """
        if self.rows is None:
            return None
        batch = like.shape[0]
        if batch % len(self.rows):
            raise InputError(
                f"a pass over {batch} rows was made with prefix_names for {len(self.rows)}; give one name per row."
            )
        return self.rows.to(like.device).repeat_interleave(batch // len(self.rows))

    def shift_of(self, like: Tensor) -> int | Tensor:
        """How far the positions are shifted: one number for all, or (batch, 1)."""
        rows = self.rows_of(like)
        if rows is None or len(set(self.shifts)) == 1:
            return self.shifts[0]
        return torch.tensor(self.shifts, device=rows.device)[rows][:, None]


NOTHING = Served()


def gather(
    prefixes: Mapping[str | None, Prefix | None],
    names: Sequence[str | None],
    sites: Sequence[AttentionSite],
    device: torch.device,
) -> Served:
    """The states of a batch; each prefix is evaluated once, whatever the number of its rows.

    Args:
        prefixes: by name; None for no prefix.
        names: of the prefix of each row, or one for all rows.
        sites: of the backbone, in the order of their calls.
        device: of the backbone.
    """
    several = list(prefixes.values())
    if several == [None]:
        return NOTHING
    states = [{} if p is None else {s.key: state for s, state in zip(p.sites, p(), strict=True)} for p in several]
    shifts = [p.length if p is not None and p.positions == "shift" else 0 for p in several]
    output = _stack([None if p is None else p.output() for p in several])
    if len(several) == 1:
        alone = {i: one_prefix(states[0][site.key]) for i, site in enumerate(sites) if site.key in states[0]}
        return Served(alone, None, shifts, output)
    padding: dict[tuple[int, ...], Tensor] = {}
    by_call = {
        i: many_prefixes(site, [state.get(site.key) for state in states], padding)
        for i, site in enumerate(sites)
        if any(site.key in state for state in states)
    }
    order = list(prefixes)
    return Served(by_call, torch.tensor([order.index(name) for name in names], device=device), shifts, output)


def _stack(outputs: Sequence[tuple[Tensor, Tensor] | None]) -> tuple[Tensor, Tensor] | None:
    """Scales and shifts (prefixes, hidden); the identity for prefixes without."""
    real = next((output for output in outputs if output is not None), None)
    if real is None:
        return None
    identity = torch.ones_like(real[0]), torch.zeros_like(real[1])
    filled = [identity if output is None else output for output in outputs]
    return torch.stack([scale for scale, _ in filled]), torch.stack([shift for _, shift in filled])
