"""Arguments of a task as plain data, which files hold, and tasks made from it."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn

from lightning_prefix.backbone import BackboneOptions
from lightning_prefix.errors import InputError

Task = TypeVar("Task", bound=LightningModule)


def plain_data(value: Any, name: str = "") -> Any:
    """The value as str, number, list and dict, as jsonargparse parses it back.

    A dataclass, class or partial becomes its import path with its arguments. What cannot be parsed back (a lambda, a
    function without a return type) is left out with a warning: it must be given again when the checkpoint is used.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        arguments = {f.name: plain_data(getattr(value, f.name), f.name) for f in dataclasses.fields(value)}
        return {"class_path": import_path(type(value)), "init_args": arguments} if _is_chosen(value) else arguments
    if isinstance(value, Mapping):
        return {key: plain_data(item, str(key)) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_data(item, name) for item in value]
    if isinstance(value, functools.partial):  # jsonargparse's own partials have the class as last argument
        target = value.args[-1] if value.args else value.func
        if callable(target):
            return {"class_path": import_path(target), "init_args": plain_data(value.keywords)}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    if isinstance(value, type) or _is_parsable_function(value):
        return import_path(value)
    rank_zero_warn(f"{name}={value!r} cannot be stored in a checkpoint; give it again when you load one.")
    return None


def safe_arguments(stored: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a task from a file, which may come from a stranger: it cannot turn on code from the hub.

    Nor can it turn on an activation cache, whose folder is one of the machine where it was trained.

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
    arguments.pop("activation_cache", None)
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


def _is_chosen(value: Any) -> bool:
    """Whether the dataclass is one of several that could stand there, so that its name must be kept."""
    return any(dataclasses.is_dataclass(parent) for parent in type(value).__mro__[1:])


def _is_parsable_function(value: Any) -> bool:
    name = getattr(value, "__qualname__", "<")
    return callable(value) and "<" not in name and "return" in getattr(value, "__annotations__", {})


def import_path(thing: Any) -> str:
    """Where a class or function is found, by its public name if it has one."""
    import lightning_prefix

    name: str = thing.__name__
    if getattr(lightning_prefix, name, None) is thing:
        return f"lightning_prefix.{name}"
    return f"{thing.__module__}.{thing.__qualname__}"
