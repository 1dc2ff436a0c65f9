"""The YAMLs that come with the package."""

import inspect
from collections.abc import Iterator
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


def configs_of(task: str) -> Iterator[Path]:
    """The complete YAMLs of a task; first those whose backbone needs no hub, the shortest names first."""
    found = []
    for path in config_folder().rglob("*.yaml"):
        model = yaml.safe_load(path.read_text(encoding="utf-8")).get("model", {})
        if model.get("class_path") == task:
            found.append((not model["init_args"]["backbone"].startswith("asset:"), len(path.name), path))
    yield from (path for _, _, path in sorted(found))
