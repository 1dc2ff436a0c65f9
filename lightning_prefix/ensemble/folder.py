"""The folder of an ensemble: `ensemble.json`, and a folder of `save_pretrained` for each member."""

import json
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_prefix.errors import InputError

__all__ = ["StoredEnsemble", "is_ensemble", "read_ensemble", "write_ensemble"]

_JSON = "ensemble.json"
_FORMAT = 1


@dataclass(frozen=True)
class StoredEnsemble:
    """What a folder says of an ensemble.

    Args:
        members: folders of the members.
        rule: how their scores are combined.
        weights: of each member.
    """

    members: list[Path]
    rule: str
    weights: list[float]


def is_ensemble(directory: str | Path) -> bool:
    """Whether there is an ensemble in this folder."""
    return (Path(directory) / _JSON).is_file()


def write_ensemble(directory: Path, members: Sequence[Path], rule: str, weights: Sequence[float]) -> None:
    """Write the folder, with copies of the members.

    Raises:
        InputError: if there is another ensemble.
    """
    if is_ensemble(directory):
        raise InputError(f"{directory} holds an ensemble already; give another directory, or remove that one.")
    names = [f"member_{number}" for number in range(len(members))]
    for member, name in zip(members, names, strict=True):
        shutil.copytree(member, directory / name, dirs_exist_ok=True)
    content = {"format": _FORMAT, "rule": rule, "weights": list(weights), "members": names}
    (directory / _JSON).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def read_ensemble(directory: Path) -> StoredEnsemble:
    """Read `ensemble.json`.

    Raises:
        InputError: if it is missing, damaged or of a newer format, or a member is missing.
    """
    file = directory / _JSON
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} cannot be read ({error}); copy the folder again, or make it once more.") from error
    if isinstance(content, dict) and content.get("format", _FORMAT) != _FORMAT:
        raise InputError(
            f"{file} has format {content['format']!r}; this version reads format {_FORMAT}. Install the "
            "lightning-prefix that wrote it, or a newer one."
        )
    if not _is_sound(content):
        raise InputError(
            f"{file} is not as this program writes it: an object with rule (a text), members (names of folders in it) "
            "and weights (a number >= 0 for each). The file is damaged or was edited; make the ensemble once more."
        )
    members = [directory / name for name in content["members"]]
    if missing := [str(member) for member in members if not member.is_dir()]:
        raise InputError(f"{file} names members that are missing: {', '.join(missing)}; copy the folder again.")
    return StoredEnsemble(members, content["rule"], [float(weight) for weight in content["weights"]])


def _is_sound(content: Any) -> bool:
    if not isinstance(content, dict) or not isinstance(content.get("rule"), str):
        return False
    names, weights = content.get("members"), content.get("weights")
    return (
        isinstance(names, list)
        and isinstance(weights, list)
        and len(names) == len(weights) > 0
        and all(isinstance(name, str) and name == Path(name).name and name not in ("", "..") for name in names)
        and all(isinstance(weight, (int, float)) and weight >= 0 and math.isfinite(weight) for weight in weights)
        and sum(weights) > 0
    )
