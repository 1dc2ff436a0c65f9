"""What a Lightning checkpoint of a task holds: trained tensors, plain data, and which backbone."""

import math
import zipfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any

import fsspec
import torch
from torch import Tensor, nn

from lightning_prefix.errors import InputError
from lightning_prefix.tasks.random_state import is_random_state

FORMAT = 1
KEY = "lightning_prefix"
"""The checkpoint's entry with the format number and the backbone."""
_ANOTHER = "Use another one of the same run, such as last.ckpt or the best one."


def trained_names(module: nn.Module) -> set[str]:
    """Names of the trained parameters, and of the buffers of a prefix (its start values) and a head (what it found)."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return trained | {name for name, _ in module.named_buffers() if name.startswith(("model.prefixes.", "head."))}


def check_state(state: Mapping[str, Any], expected: Mapping[str, Tensor], origin: str = "the checkpoint") -> None:
    """Refuse a state dict that is not exactly the trained tensors of this task.

    Raises:
        InputError: naming the tensors that are missing, unknown, of another shape, or not finite.
    """
    problems = []
    if missing := sorted(expected.keys() - state.keys()):
        problems.append(f"it lacks {_few(missing)}")
    if unknown := sorted(map(str, state.keys() - expected.keys())):
        problems.append(f"it has {_few(unknown)}, which this task does not train")
    both = sorted(expected.keys() & state.keys())
    if unsound := [name for name in both if not _is_sound(state[name], expected[name])]:
        problems.append(f"{_few(unsound)} holds something else than finite numbers")
    shapes = [
        f"{name} is {tuple(state[name].shape)} there and {tuple(expected[name].shape)} here"
        for name in both
        if name not in unsound and state[name].shape != expected[name].shape
    ]
    if shapes:
        problems.append(_few(shapes))
    if problems:
        raise InputError(
            f"{origin} does not fit this task: {'; '.join(problems)}. Use the prefix (variant, length, layers), "
            "head and labels that it was trained with; they are in its `hyper_parameters`."
        )


def read_checkpoint(path: str | Path | IO[bytes], map_location: Any = "cpu") -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`, its checksums first.

    Args:
        path: on any file system, or an open file.
        map_location: of `torch.load`.

    Raises:
        InputError: if it is missing, damaged, or not one of ours.
    """
    try:
        with fsspec.open(str(path), "rb") if isinstance(path, (str, Path)) else nullcontext(path) as file:
            if part := zipfile.ZipFile(file).testzip():  # torch does not compare them
                raise ValueError(f"{part} in it has another checksum")
            file.seek(0)
            checkpoint = torch.load(file, map_location=map_location, weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint at {path}; give a .ckpt file, or a folder with a prefix.") from error
    except Exception as error:  # a damaged archive or pickle raises whatever it happens to
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {reason}); it is truncated, damaged, or "
            f"not a checkpoint. {_ANOTHER}"
        ) from error
    check_origin(checkpoint, path)
    return checkpoint  # type: ignore[no-any-return]


def check_origin(checkpoint: Any, path: str | Path | IO[bytes] = "the checkpoint") -> None:
    """Refuse a checkpoint of another program or of a newer format, or without what a task needs.

    Raises:
        InputError: saying which.
    """
    record = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if record is None:
        raise InputError(f"{path} was not written by lightning_prefix; give a .ckpt of `fit`.")
    version = record.get("format") if isinstance(record, dict) else None
    if isinstance(version, int) and version != FORMAT:
        raise InputError(
            f"{path} has format {version}; this version reads format {FORMAT}. Install the lightning-prefix "
            "that wrote it, or a newer one."
        )
    fits = {
        KEY: _is_record(record),
        "hyper_parameters": isinstance(arguments := checkpoint.get("hyper_parameters"), dict)
        and isinstance(arguments.get("_class_path"), str),
        "state_dict": isinstance(checkpoint.get("state_dict"), dict),
        "random_state": is_random_state(checkpoint.get("random_state")),
    }
    if wrong := [name for name, is_right in fits.items() if not is_right]:
        raise InputError(
            f"{path}: {', '.join(wrong)} in it is missing or not as `fit` writes it; the file is damaged or was "
            f"edited. {_ANOTHER}"
        )


def _is_record(record: Any) -> bool:
    """Whether this is what `PrefixTask.on_save_checkpoint` adds."""
    fingerprint = record.get("fingerprint") if isinstance(record, dict) else None
    if not isinstance(fingerprint, dict) or not isinstance(fingerprint.get("sample"), list):
        return False
    metrics = record.get("metrics", {})
    if not isinstance(metrics, dict) or not all(isinstance(value, float) for value in metrics.values()):
        return False
    texts = record.get("backbone"), fingerprint.get("model_type"), fingerprint.get("shapes")
    return (
        isinstance(record.get("format"), int)
        and isinstance(record.get("revision"), (str, type(None)))
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(number, float) and math.isfinite(number) for number in fingerprint["sample"])
    )


def _is_sound(value: Any, expected: Tensor) -> bool:
    """Whether it is a dense tensor of finite numbers, floats where floats belong."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    if value.is_floating_point() != expected.is_floating_point() or value.is_complex():
        return False
    return bool(value.to(expected.dtype).isfinite().all())


def _few(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
