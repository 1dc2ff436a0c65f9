"""The YAMLs that come with the package."""

import inspect
from functools import cache
from pathlib import Path
from typing import Any

import yaml


def first_sentence(cls: type[Any]) -> str:
    """Of its docstring, which may go over two lines."""
    return (inspect.getdoc(cls) or "").split("\n\n")[0]


def config_folder() -> Path:
    """Where they lie: in the installed package, or beside it in the repository."""
    package = Path(__file__).parents[1]
    return next(folder for folder in (package / "configs", package.parent / "configs") if folder.is_dir())


@cache
def _models() -> dict[Path, dict[str, Any]]:
    """The model's section of each."""
    paths = sorted(config_folder().rglob("*.yaml"))
    return {path: yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {}) for path in paths}


def config_of(task: str) -> Path:
    """A complete YAML of a task: one whose backbone needs no hub if there is one, that with the shortest name."""
    found = {
        path: model["init_args"]["backbone"] for path, model in _models().items() if model.get("class_path") == task
    }
    return min(found, key=lambda path: (not found[path].startswith("asset:"), len(path.name)))
