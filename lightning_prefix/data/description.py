"""From the description of a data module back to one."""

import sys
from collections.abc import Mapping
from typing import Any

from lightning_prefix.data.base import TextDataModule
from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.errors import InputError

__all__ = ["data_from"]


def data_from(description: Mapping[str, Any], origin: object, **more: Any) -> TextDataModule:
    """The data module of a description, without a source.

    Args:
        description: what `TextDataModule.description` returned; from a file, which may come from a stranger.
        origin: the file, for messages.
        more: options that count more.

    Raises:
        InputError: if it does not make a data module of a class that is loaded already.
    """
    if not description:
        raise InputError(
            f"{origin} was saved without saying how texts are read; save it with "
            "task.save_pretrained(directory, data.description())."
        )
    module, _, name = str(description.get("class_path")).rpartition(".")
    found = getattr(sys.modules.get(module), name, None)
    arguments = description.get("init_args")
    try:
        if not (isinstance(found, type) and issubclass(found, TextDataModule) and isinstance(arguments, Mapping)):
            raise ValueError(f"{description!r} names no data module that is imported")
        arguments = {**arguments, **more}
        if "preprocess" in arguments:
            arguments["preprocess"] = Preprocessing(**arguments["preprocess"])
        return found(**arguments)
    except InputError:
        raise
    except Exception as error:  # what fails first, and how, depends on the argument
        raise InputError(
            f"what {origin} says of its texts cannot be used ({type(error).__name__}: {error}). If the class is "
            "yours, import it first; otherwise the file is damaged: save the prefix once more."
        ) from error
