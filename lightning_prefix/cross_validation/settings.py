"""The folder of a cross-validation: made once, gone on with by the same settings only."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock

from lightning_prefix.cross_validation.folds import Fold
from lightning_prefix.cross_validation.results import write_json
from lightning_prefix.errors import InputError

__all__ = ["LOCK", "digest", "open_directory"]

LOCK = ".lock"
"""File that a process locks while it works in its folder."""
_SETTINGS = "settings.json"


def digest(fold: Fold) -> str:
    """A hash of the fold's row numbers."""
    return hashlib.sha256(json.dumps([fold.train, fold.test]).encode()).hexdigest()[:16]


def open_directory(directory: Path, settings: Mapping[str, Any], resume: bool) -> dict[str, Any]:
    """Make the folder and write its settings, or compare them with those that are there.

    Args:
        directory: of the cross-validation.
        settings: nearly plain data; of other objects the name of the class counts.
        resume: whether the folder may be there already.

    Returns:
        The settings as plain data.

    Raises:
        InputError: if the folder is there and must not be, or was made with other settings.
    """
    plain = json.loads(json.dumps(settings, default=_plain))
    if directory.exists() and not directory.is_dir():
        raise InputError(f"directory={str(directory)!r} was given, which is a file. Name a folder.")
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / _SETTINGS
    with FileLock(directory / LOCK):
        others = any(file.name != LOCK for file in directory.iterdir())
        if others and not resume:
            raise InputError(
                f"the folder {str(directory)!r} is not empty. Name another directory, or go on with what is in it: "
                "resume=True (--resume true)."
            )
        if not others:
            write_json(path, plain)
        if not path.is_file():
            raise InputError(
                f"the folder {str(directory)!r} is not one of a cross-validation: it has no {_SETTINGS}. Name another."
            )
        there = json.loads(path.read_text(encoding="utf-8"))
    if differences := [*_differences(there, plain)]:
        raise InputError(
            f"the folder {str(directory)!r} was made with other settings: {'; '.join(differences[:5])}. Give the same "
            "ones, or another directory."
        )
    return dict(plain)


def _plain(value: Any) -> str:
    return str(value) if isinstance(value, Path) else type(value).__qualname__


def _differences(there: Any, now: Any, key: str = "") -> Iterator[str]:
    if isinstance(there, dict) and isinstance(now, dict):
        for name in {**there, **now}:
            yield from _differences(there.get(name), now.get(name), f"{key}.{name}" if key else name)
    elif there != now:
        yield f"{key} {json.dumps(there)} there, {json.dumps(now)} now"
