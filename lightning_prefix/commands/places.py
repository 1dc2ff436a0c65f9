"""Where an error of the parser is: the line of a YAML, or the option on the command line."""

import inspect
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from lightning_prefix.data import TextDataModule
from lightning_prefix.tasks import PrefixTask

_KEY = re.compile(
    r"Parser key \"([\w.]+)\"|[Oo]ption '([\w.]+)' is not accepted|does not accept option '([\w.]+)'"
    r"|nrecognized arguments: --([\w.]+)|arguments are required: ([\w.]+)"
)
_VALUE = re.compile(
    r"Got value: (.+)|Given value: (.+)|dot import path string: (\S+)|given class_path '(.+?)'|\(class_path='(.+?)'"
    r"|does not exist: '(.+?)'"
)


@dataclass(frozen=True)
class Place:
    """Where an error is.

    Args:
        text: the place, and what stands there.
        file: the YAML, empty on the command line.
        word: what should not stand there.
        allowed: what may, where that is known.
    """

    text: str
    file: str = ""
    word: str = ""
    allowed: frozenset[str] = frozenset()


@dataclass(frozen=True)
class _Part:
    """One value of a YAML file.

    Args:
        path: keys and numbers that lead to it, from the config's root.
        key: node of its key; that of the value where it has none.
        value: its node.
    """

    path: tuple[str | int, ...]
    key: yaml.Node
    value: yaml.Node

    def is_one_of(self, values: set[str]) -> bool:
        """Whether it is a scalar with one of these texts."""
        return isinstance(self.value, yaml.ScalarNode) and self.value.value in values


def find_place(message: str, words: Sequence[str]) -> Place | None:
    """Where the error of this message is, or None where it is about nothing that was given.

    Args:
        message: jsonargparse's.
        words: what was parsed.
    """
    options = list(_options(words))
    files = {value: name for name, value in options if value and "." not in name and _is_readable(value)}
    if "parsing config" in message or "Unexpected config" in message:
        return next((place for file in files if (place := _unreadable(file))), None)
    if not (keys := list(_KEY.finditer(message))):
        return None
    key = _groups(keys[-1])[0].split(".")  # the innermost
    given = [group.strip() for match in _VALUE.finditer(message, keys[-1].start()) for group in _groups(match)]
    values = {value for value in given if not value.startswith(("{", "[", "Namespace(", "NestedArg("))}
    for name, value in options:
        if name.split(".")[-len(key) :] == key and (not values or {value, os.path.abspath(value or "")} & values):  # noqa: PTH100
            return Place(f"  on the command line: --{name} {value or ''}".rstrip())
    for file, option in files.items():
        root = () if option == "config" else tuple(option.split("."))
        if place := _in_file(file, root, key, values, "are required" in message):
            return place
    return None


def _groups(match: re.Match[str]) -> list[str]:
    return [group for group in match.groups() if group]


def _options(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Name and value of each option among the words."""
    for word, following in zip(words, [*words, "--"][1:], strict=True):
        if word.startswith("-"):
            name, is_one_word, value = word.lstrip("-").partition("=")
            has_none = following.startswith("--") and not is_one_word
            yield "config" if name == "c" else name, None if has_none else value if is_one_word else following


def _is_readable(name: str) -> bool:
    return name.endswith((".yaml", ".yml", ".json")) and os.path.isfile(name)  # noqa: PTH113  # it may be a YAML's text


def _unreadable(file: str) -> Place | None:
    """Where a file stops to be YAML, or begins to be no mapping."""
    try:
        root = yaml.compose(Path(file).read_text(encoding="utf-8"), yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        return _place(file, error.problem_mark or error.context_mark)
    return _place(file, root.start_mark) if root and not isinstance(root, yaml.MappingNode) else None


def _in_file(file: str, root: tuple[str, ...], key: list[str], values: set[str], is_lacking: bool) -> Place | None:
    """Where the key, or one of the values, is in a YAML file.

    Args:
        file: the YAML.
        root: keys of the option that the file is for.
        key: its last parts.
        values: what the key may have, where the message tells.
        is_lacking: whether a class in the file lacks the key.
    """
    text = Path(file).read_text(encoding="utf-8")
    try:
        tree = yaml.compose(text, yaml.SafeLoader)
        config: Any = yaml.safe_load(text)
    except yaml.YAMLError:  # of a file behind the one with the error
        return None
    parts = {part.path: part for part in _parts(tree, root)} if tree else {}
    if is_lacking:
        classes = (part.value for part in parts.values() if part.path[-1:] == ("class_path",))
        return next((_place(file, n.start_mark, n.end_mark) for n in classes if _needs(n.value, key[-1])), None)
    # the schema knows which of several is meant
    from lightning_prefix.commands.schema import problems

    for name in reversed(root):
        config = {name: config}
    for problem in problems(config):
        part = parts.get(problem.path)  # None below merged keys, which stand elsewhere, and keys that are numbers
        if part and (set(key) & set(problem.path) or part.is_one_of(values)):
            node = part.key if problem.is_key else part.value
            return _place(file, node.start_mark, node.end_mark, problem.allowed)
    for part in parts.values():
        if part.path[-1:] == (key[-1],) and (not values or part.is_one_of(values)):
            return _place(file, part.key.start_mark, part.key.end_mark)
    return None


def _parts(node: yaml.Node, path: tuple[str | int, ...], key: yaml.Node | None = None) -> Iterator[_Part]:
    yield _Part(path, key or node, node)
    if isinstance(node, yaml.MappingNode):
        for name, value in node.value:
            yield from _parts(value, (*path, name.value), name)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield from _parts(value, (*path, index))


def _needs(name: str, argument: str) -> bool:
    """Whether a task or data module of this name cannot be made without the argument."""
    classes: list[type[Any]] = [PrefixTask, TextDataModule]
    for parent in classes:
        classes += parent.__subclasses__()
    needed = [
        parameter.default is parameter.empty
        for cls in classes
        if cls.__name__ == name.rpartition(".")[2]
        for parent in cls.__mro__
        for parameter in inspect.signature(parent).parameters.values()
        if parameter.name == argument
    ]
    return any(needed)


def _place(
    file: str, start: yaml.Mark | None, end: yaml.Mark | None = None, allowed: frozenset[str] = frozenset()
) -> Place:
    """FILE:LINE:COLUMN, counted from 1, the line, and a mark below it."""
    line, column = (start.line, start.column) if start else (0, 0)
    text = (Path(file).read_text(encoding="utf-8").splitlines() or [""])[line : line + 1] or [""]
    width = end.column - column if end and end.line == line else 1
    lines = [
        f"  {file}:{line + 1}:{column + 1}",
        f"{line + 1:>6} | {text[0]}",
        f"{'':6} | {' ' * column}{'^' * max(width, 1)}",
    ]
    return Place("\n".join(lines), file, text[0][column : column + width], allowed)
