"""What the server knows of each prefix without its weights."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from lightning_prefix.backbone.hub import local_folder
from lightning_prefix.data import DialogueDataModule, data_from
from lightning_prefix.ensemble.folder import is_ensemble
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask, TextGeneration
from lightning_prefix.tasks.arguments import task_from
from lightning_prefix.tasks.base import stored_task

__all__ = ["ServedPrefix", "served_prefixes"]


@dataclass(frozen=True)
class ServedPrefix:
    """One of the prefixes of a server.

    Args:
        name: by which requests ask for it.
        folder: as `save_pretrained` wrote it.
        task: name of its class.
        columns: that it reads.
        writes: whether its answer is a text.
        streams: whether that text can be had piece by piece.
        chats: whether it replies to messages.
    """

    name: str
    folder: str
    task: str
    columns: tuple[str, ...]
    writes: bool
    streams: bool
    chats: bool


def served_prefixes(words: Sequence[str], **overrides: Any) -> dict[str, ServedPrefix]:
    """The prefixes of a command line by name.

    Args:
        words: `FOLDER`, or `NAME=FOLDER`; a folder `mood/prefix` is named `mood`.
        overrides: arguments of every task to replace.

    Raises:
        InputError: if there is none, a folder cannot be used, or a name comes twice.
    """
    if not words:
        raise InputError("no prefix is given; give --prefix DIR, or --prefix NAME=DIR, as often as there are prefixes.")
    found: dict[str, ServedPrefix] = {}
    for word in words:
        name, _, folder = word.rpartition("=") if not Path(word).is_dir() else ("", "", word)
        name = name or _name_of(folder)
        if name in found:
            raise InputError(
                f"{found[name].folder} and {folder} are both named {name!r}; name them: --prefix NAME={folder}."
            )
        found[name] = _described(name, local_folder(folder), overrides)
    return found


def _name_of(folder: str) -> str:
    path = Path(folder).absolute()
    return path.parent.name if path.name == "prefix" else path.name


def _described(name: str, folder: Path, overrides: dict[str, Any]) -> ServedPrefix:
    if is_ensemble(folder):
        raise InputError(f"{folder} is an ensemble; serve prefixes, or one `soup` of its members.")
    stored = stored_task(folder)
    task: Any = task_from(cast("Any", PrefixTask), stored["hyper_parameters"], overrides, lambda _: None, folder)
    data = data_from(stored["data"], folder)
    writes = isinstance(task, TextGeneration)
    several = writes and any(task.generation.get(key, 1) != 1 for key in ("num_beams", "num_return_sequences"))
    return ServedPrefix(
        name=name,
        folder=str(folder),
        task=type(task).__name__,
        columns=tuple(data.columns),
        writes=writes,
        streams=writes and not several,
        chats=writes and isinstance(data, DialogueDataModule),
    )
