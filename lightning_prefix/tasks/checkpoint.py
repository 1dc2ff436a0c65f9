"""What a Lightning checkpoint of a task holds: trained tensors, plain data, and which backbone."""

import dataclasses
import functools
import math
import sys
import zipfile
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import IO, Any, TypeVar, cast

import fsspec
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from lightning_prefix.backbone import BackboneOptions
from lightning_prefix.errors import InputError

FORMAT = 1
KEY = "lightning_prefix"
"""The checkpoint's entry with the format number and the backbone."""
Task = TypeVar("Task", bound=LightningModule)
_ANOTHER = "Use another one of the same run, such as last.ckpt or the best one."


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
    """Arguments of a task from a file, which may come from a stranger: it cannot turn on code from the hub.

    Raises:
        InputError: if they are not as a task stores them.
    """
    arguments = {key: value for key, value in stored.items() if key != "_instantiator"}
    options = arguments.get("backbone_options", {})
    known = {field.name for field in dataclasses.fields(BackboneOptions)}
    for where, given, allowed in (
        ("hyper_parameters", arguments, lambda key: str(key).isidentifier()),  # `a.b` would reach into others
        ("backbone_options", options, known.__contains__),
    ):
        if not isinstance(given, Mapping) or not all(map(allowed, given)):
            raise InputError(
                f"the stored {where} are {given!r}; they are an object with names of arguments. The file is damaged "
                "or was edited; use another checkpoint or folder of the same run."
            )
    arguments["backbone_options"] = {**options, "trust_remote_code": False}
    return arguments


def task_from(
    task_class: type[Task],
    stored: Mapping[str, Any],
    given: Mapping[str, Any],
    build: Callable[[Task], None],
    origin: object,
) -> Task:
    """The task of the arguments in a file and of those that its reader gives, which count more.

    Args:
        task_class: the class that is expected.
        stored: the arguments in the file.
        given: arguments to replace.
        build: makes the model of the task.
        origin: the file, for messages.

    Raises:
        InputError: if they do not make a task of that class.
    """
    from lightning.pytorch.cli import instantiate_module

    plain = {key: plain_data(value) if dataclasses.is_dataclass(value) else value for key, value in given.items()}
    arguments = {**safe_arguments(stored), **plain}
    module = str(arguments.get("_class_path")).rpartition(".")[0]
    if module not in sys.modules:  # a file does not say what is imported
        raise InputError(
            f"{origin} holds a task of the class {arguments.get('_class_path')!r}; if you know it, import {module!r} "
            "first. Otherwise the file is damaged."
        )
    try:
        task = cast("Task", instantiate_module(cast("Any", task_class), arguments))
        build(task)
    except InputError:
        raise
    except Exception as error:  # what fails first, and how, depends on the argument
        raise InputError(
            f"the arguments in {origin}, with {dict(given)} given, make no {task_class.__name__} "
            f"({type(error).__name__}: {' '.join(str(error).split())}). Load it with the class that wrote it and give "
            "arguments of that class only; otherwise the file is damaged."
        ) from error
    return task


def trained_names(module: nn.Module) -> set[str]:
    """Names of the trained parameters, and of the buffers of a prefix (its start values)."""
    trained = {name for name, parameter in module.named_parameters() if parameter.requires_grad}
    return trained | {name for name, _ in module.named_buffers() if name.startswith("model.prefixes.")}


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
        raise InputError(f"there is no checkpoint at {path}; give the path of a .ckpt file.") from error
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
        "random_state": _is_random_state(checkpoint.get("random_state")),
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
    texts = record.get("backbone"), fingerprint.get("model_type"), fingerprint.get("shapes")
    return (
        isinstance(record.get("format"), int)
        and isinstance(record.get("revision"), (str, type(None)))
        and all(isinstance(text, str) for text in texts)
        and all(isinstance(number, float) and math.isfinite(number) for number in fingerprint["sample"])
    )


def _is_random_state(state: Any) -> bool:
    """Whether a generator takes it; there may be none."""
    try:
        if state is not None:
            torch.Generator().set_state(state.cpu())
    except (AttributeError, RuntimeError, TypeError):
        return False
    return True


def _is_sound(value: Any, expected: Tensor) -> bool:
    """Whether it is a dense tensor of finite numbers, floats where floats belong."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_quantized:
        return False
    if value.is_floating_point() != expected.is_floating_point() or value.is_complex():
        return False
    return bool(value.to(expected.dtype).isfinite().all())


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
