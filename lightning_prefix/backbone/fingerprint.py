"""Recognise a backbone again, so that a prefix is never put on another one."""

import hashlib
from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from lightning_prefix.backbone.quantization import is_quantized, shape_of, weights_of
from lightning_prefix.backbone.sites import config_of
from lightning_prefix.errors import InputError

_SAMPLES = 32
_TOLERANCE = 0.02


def fingerprint(backbone: nn.Module, trained: Collection[str] = ()) -> dict[str, Any]:
    """Plain data that tells two backbones apart: model type, a hash of names and shapes, and some weights.

    Args:
        backbone: the model.
        trained: names of parameters that are not frozen, which do not count.

    Returns:
        `model_type`, `shapes` (SHA-256) and `sample`: the mean absolute value of up to 32 tensors spread over the
        model. It is compared with a tolerance, since dtypes round, and quantisation too: a prefix fits its backbone
        in any of them.
    """
    frozen = [(name, p) for name, p in sorted(backbone.named_parameters()) if name not in trained]
    shapes = hashlib.sha256("\n".join(f"{name} {shape_of(p)}" for name, p in frozen).encode()).hexdigest()
    matrices = [name for name, p in frozen if (p.is_floating_point() or is_quantized(p)) and p.ndim > 1]
    step = max(1, len(matrices) // _SAMPLES)
    with torch.no_grad():
        weights = [weights_of(backbone, name)[:256] for name in matrices[::step][:_SAMPLES]]
        sample = [round(w.float().abs().mean().item(), 7) for w in weights]
    return {"model_type": config_of(backbone).model_type, "shapes": shapes, "sample": sample}


def check_fingerprint(stored: dict[str, Any], actual: dict[str, Any], origin: str, backbone: str) -> None:
    """Refuse a prefix that was trained on another backbone.

    Args:
        stored: the fingerprint in the file.
        actual: the fingerprint of the backbone at hand.
        origin: what the file is and what it says about its backbone, for the message.
        backbone: the backbone at hand, for the message.

    Raises:
        InputError: if they differ.
    """
    if stored["model_type"] != actual["model_type"]:
        difference = f"it is a {stored['model_type']!r}, this one a {actual['model_type']!r}"
    elif stored["shapes"] != actual["shapes"]:
        difference = "it has other layers or sizes"
    elif not _is_close(stored["sample"], actual["sample"]):
        difference = "it has the same sizes but other weights"
    else:
        return
    raise InputError(
        f"{origin}, and the backbone here is {backbone!r}: {difference}. A prefix only works on the backbone that "
        "it was trained with; load that one, with the same revision."
    )


def _is_close(stored: list[float], actual: list[float]) -> bool:
    pairs = zip(stored, actual, strict=True)
    return len(stored) == len(actual) and all(abs(a - b) <= _TOLERANCE * max(abs(a), abs(b)) + 1e-6 for a, b in pairs)
