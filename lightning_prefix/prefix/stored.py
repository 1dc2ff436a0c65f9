"""A prefix as named tensors, the content of `prefix.safetensors`, and back."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from lightning_prefix.errors import InputError
from lightning_prefix.prefix.base import FrozenModel, Prefix
from lightning_prefix.prefix.flat import FlatPrefix
from lightning_prefix.prefix.gated import GatedPrefix
from lightning_prefix.prefix.output import OutputPrefix
from lightning_prefix.prefix.prompt import PromptPrefix
from lightning_prefix.prefix.site import AttentionSite, PrefixStates


@torch.no_grad()
def to_tensors(prefix: Prefix) -> dict[str, Tensor]:
    """The flattened prefix, float32.

    Returns:
        `decoder.0.keys` (kv_heads, length, key_dim), `decoder.0.values` (kv_heads, length, value_dim) and, where there
        is one, `decoder.0.gate` (heads,); of a prompt `embeddings` (length, embedding_dim); of an output prefix `scale`
        and `shift` (hidden,).
    """
    if isinstance(prefix, (PromptPrefix, OutputPrefix)):
        return {name: parameter.detach().contiguous() for name, parameter in prefix.named_parameters()}
    return {
        f"{site.key}.{name}": tensor.detach().contiguous()
        for site, state in zip(prefix.sites, prefix.states(), strict=True)
        for name, tensor in state._asdict().items()
        if tensor is not None
    }


def from_tensors(frozen: FrozenModel, tensors: Mapping[str, Tensor], variant: str) -> Prefix:
    """The prefix that `to_tensors` stored, at those of the model's sites that it names.

    Args:
        frozen: the model that it is for.
        tensors: all of them, and no others.
        variant: `flat`, `gated`, `prompt` or `output`.

    Raises:
        InputError: if a tensor is missing, is not finite, has another shape than its place, or has no place.
    """
    file = _Tensors(tensors)
    if variant == "prompt":
        return file.finish(PromptPrefix(frozen, file.take("embeddings", (None, frozen.embedding_dim))))
    if variant == "output":
        scale, shift = (file.take(name, (frozen.hidden,)) for name in ("scale", "shift"))
        return file.finish(OutputPrefix(scale, shift))
    keys = dict.fromkeys(name.rsplit(".", 1)[0] for name in tensors)
    by_key = {site.key: site for site in frozen.sites}
    if not keys:
        raise InputError(f"the stored prefix has no tensors, which a {variant} prefix needs; the file is damaged.")
    if unknown := [key for key in keys if key not in by_key]:
        raise InputError(
            f"the stored prefix has states for {', '.join(unknown)}, which this backbone does not have "
            f"(it has {', '.join(by_key)}); load it on the backbone that it was trained with."
        )
    sites = [site for site in frozen.sites if site.key in keys]
    states = [file.states(site, gated=variant == "gated") for site in sites]
    return file.finish(GatedPrefix(sites, states) if variant == "gated" else FlatPrefix(sites, states))


class _Tensors:
    """Tensors of a file, taken one by one and checked."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.left = dict(tensors)

    def take(self, name: str, shape: Sequence[int | None]) -> Tensor:
        """The tensor of this name; None in `shape` stands for any size >= 1."""
        tensor = self.left.pop(name, None)
        fits = tensor is not None and tensor.ndim == len(shape) and 0 not in tensor.shape
        if tensor is None or not fits or any(s not in (None, t) for s, t in zip(shape, tensor.shape, strict=True)):
            given = "nothing" if tensor is None else f"shape {tuple(tensor.shape)}"
            wanted = str(tuple("any" if size is None else size for size in shape)).replace("'", "")
            raise InputError(
                f"the stored prefix has {given} for {name}, which needs shape {wanted}; the file is damaged or belongs "
                "to another backbone."
            )
        if not tensor.is_floating_point() or not tensor.isfinite().all():
            raise InputError(f"{name} of the stored prefix holds numbers that are not finite floats; it is damaged.")
        return tensor

    def states(self, site: AttentionSite, gated: bool) -> PrefixStates:
        """Keys, values and gate of one site."""
        keys = self.take(f"{site.key}.keys", (site.kv_heads, None, site.key_dim))
        values = self.take(f"{site.key}.values", (site.kv_heads, keys.shape[1], site.value_dim))
        return PrefixStates(keys, values, self.take(f"{site.key}.gate", (site.heads,)) if gated else None)

    def finish(self, prefix: Prefix) -> Prefix:
        """The prefix, unless tensors are left over."""
        if self.left:
            raise InputError(
                f"the stored prefix has {', '.join(self.left)}, which a {prefix.variant} prefix does not have; the "
                "file is damaged."
            )
        return prefix
