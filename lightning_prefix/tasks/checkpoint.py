"""What a Lightning checkpoint of a task holds: trained tensors, plain data, and which backbone."""

import dataclasses
import functools
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fsspec
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_prefix.errors import InputError

FORMAT = 1
KEY = "lightning_prefix"
"""The checkpoint's entry with the format number and the backbone."""


def plain_data(value: Any, name: str = "") -> Any:
    """The value as str, number, list and dict, as jsonargparse parses it back.

    A dataclass, class or partial becomes its import path with its arguments. What cannot be parsed back (a lambda, a
    function without a return type) is left out with a warning: it must be given again when the checkpoint is used.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        arguments = {f.name: plain_data(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
        return {"class_path": _import_path(type(value)), "init_args": arguments} if _is_chosen(value) else arguments
    if isinstance(value, Mapping):
        return {key: plain_data(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item, name) for item in value]
    if isinstance(value, functools.partial):  # jsonargparse's own partials have the class as last argument
        target = value.args[-1] if value.args else value.func
        if callable(target):
            return {"class_path": _import_path(target), "init_args": plain_data(value.keywords)}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, type) or _is_parsable_function(value):
        return _import_path(value)
    rank_zero_warn(f"{name}={value!r} cannot be stored in a checkpoint; give it again when you load one.")
    return None


def safe_arguments(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a task from a file, which may come from a stranger: it cannot turn on code from the hub."""
    arguments = {key: value for key, value in stored.items() if key != "_instantiator"}
    arguments["backbone_options"] = {**arguments.get("backbone_options", {}), "trust_remote_code": False}
    return arguments


def trained_names(module: nn.Module) -> set[str]:
    """Names of the trained parameters, and of the buffers of a prefix (its start values)."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return trained | {name for name, _ in module.named_buffers() if name.startswith("model.prefixes.")}


def check_state(state: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> None:
    """Refuse a state dict that is not exactly the trained tensors of this task.

    Raises:
        InputError: naming the tensors that are missing, unknown, or of another shape.
    """
    problems = []
    if missing := sorted(expected.keys() - state.keys()):
        problems.append(f"it lacks {_few(missing)}")
    if unknown := sorted(state.keys() - expected.keys()):
        problems.append(f"it has {_few(unknown)}, which this task does not train")
    shapes = [
        f"{name} is {tuple(state[name].shape)} there and {tuple(expected[name].shape)} here"
        for name in sorted(expected.keys() & state.keys())
        if state[name].shape != expected[name].shape
    ]
    if shapes:
        problems.append(_few(shapes))
    if problems:
        raise InputError(
            f"the checkpoint does not fit this task: {'; '.join(problems)}. Use the prefix (variant, length, layers), "
            "head and labels that it was trained with; they are in its `hyper_parameters`."
        )


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint with `weights_only=True`.

    Raises:
        InputError: if it is missing, damaged, or not one of ours.
    """
    try:
        with fsspec.open(str(path), "rb") as file:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError as error:
        raise InputError(f"there is no checkpoint at {path}; give the path of a .ckpt file.") from error
    except (RuntimeError, EOFError, ValueError, OSError, pickle.UnpicklingError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the checkpoint {path} cannot be read ({type(error).__name__}: {reason}); it is truncated, damaged, or "
            "not a checkpoint. Use another one of the same run, such as last.ckpt or the best one."
        ) from error
    check_origin(checkpoint, path)
    return checkpoint  # type: ignore[no-any-return]


def check_origin(checkpoint: Any, path: str | Path = "the checkpoint") -> None:
    """Refuse a checkpoint of another program or of a newer format.

    Raises:
        InputError: saying which.
    """
    record = checkpoint.get(KEY) if isinstance(checkpoint, dict) else None
    if record is None:
        raise InputError(f"{path} was not written by lightning_prefix; give a .ckpt of `fit`.")
    if record["format"] != FORMAT:
        raise InputError(
            f"{path} has format {record['format']}; this version reads format {FORMAT}. Install the lightning-prefix "
            "that wrote it, or a newer one."
        )


def _is_chosen(value: Any) -> bool:
    """Whether the dataclass is one of several that could stand there, so that its name must be kept."""
    return any(dataclasses.is_dataclass(parent) for parent in type(value).__mro__[1:])


def _is_parsable_function(value: Any) -> bool:
    name = getattr(value, "__qualname__", "<")
    return callable(value) and "<" not in name and "return" in getattr(value, "__annotations__", {})


def _import_path(thing: Any) -> str:
    import lightning_prefix

    name: str = thing.__name__
    if getattr(lightning_prefix, name, None) is thing:
        return f"lightning_prefix.{name}"
    return f"{thing.__module__}.{thing.__qualname__}"


def _few(names: list[str], limit: int = 4) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
