"""A prefix as named tensors, the content of `prefix.safetensors`, and back."""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from torch import Tensor

from lightning_prefix.errors import InputError
from lightning_prefix.prefix.base import Prefix
from lightning_prefix.prefix.flat import FlatPrefix
from lightning_prefix.prefix.gated import GatedPrefix
from lightning_prefix.prefix.site import AttentionSite

Variant = Literal["flat", "gated"]


@torch.no_grad()
def to_tensors(prefix: Prefix) -> dict[str, Tensor]:
    """The flattened prefix: `decoder.0.keys`, `decoder.0.values`, and `decoder.0.gate` where there is one.

    Returns:
        keys (kv_heads, length, key_dim), values (kv_heads, length, value_dim), gate (heads,), float32.
    """
    tensors = {}
    for site, state in zip(prefix.sites, prefix.states(), strict=True):
        for name, tensor in state._asdict().items():
            if tensor is not None:
                tensors[f"{site.key}.{name}"] = tensor.detach().contiguous()
    return tensors


def from_tensors(sites: Sequence[AttentionSite], tensors: Mapping[str, Tensor], variant: Variant) -> Prefix:
    """The prefix that `to_tensors` stored, at those of `sites` that it names.

    Raises:
        InputError: if a tensor is missing, has another shape than its site, or names a site that is not there.
    """
    keys = dict.fromkeys(name.rsplit(".", 1)[0] for name in tensors)
    by_key = {site.key: site for site in sites}
    if unknown := [key for key in keys if key not in by_key]:
        raise InputError(
            f"the stored prefix has states for {', '.join(unknown)}, which this backbone does not have "
            f"(it has {', '.join(by_key)}); load it on the backbone that it was trained with."
        )
    chosen = [site for site in sites if site.key in keys]
    length = next((t.shape[-2] for name, t in tensors.items() if name.endswith(".keys") and t.ndim == 3), 0)

    def stored(site: AttentionSite, name: str, *shape: int) -> Tensor:
        tensor = tensors.get(f"{site.key}.{name}")
        if tensor is None or tensor.shape != shape:
            given = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
            raise InputError(
                f"the stored prefix has {given} for {site.key}.{name}, but {site.name} needs shape {shape}; "
                "the file is damaged or belongs to another backbone."
            )
        return tensor

    start = [
        (
            stored(site, "keys", site.kv_heads, length, site.key_dim),
            stored(site, "values", site.kv_heads, length, site.value_dim),
        )
        for site in chosen
    ]
    if variant == "flat":
        return FlatPrefix(chosen, start)
    return GatedPrefix(chosen, start, [stored(site, "gate", site.heads) for site in chosen])
