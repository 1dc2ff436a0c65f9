"""Errors of the command line: short, and with the name that was probably meant."""

import difflib
import inspect
import re
import sys
from argparse import SUPPRESS, RawDescriptionHelpFormatter
from collections.abc import Iterator, Sequence, Set
from contextvars import ContextVar
from pydoc import locate
from typing import Any, NoReturn

from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.cli import LightningArgumentParser

from lightning_prefix.commands.places import Place, find_place
from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import input_error_behind
from lightning_prefix.prefix import PrefixConfig
from lightning_prefix.tasks import PrefixTask

_UNKNOWN = re.compile(
    r"Expected a dot import path string: (\S+)|Option '([\w.]+)' is not accepted|does not accept option '([\w.]+)'"
    r"|invalid choice: '(\w+)'|has no attribute '(\w+)'|[Uu]nrecognized arguments: --([\w.]+)"
)
_CLASS_HELP = re.compile(r"Help for --\S+?=([\w.]+)")
_REQUIRED = re.compile(r"arguments are required: ([\w.]+(?:, [\w.]+)*)")
_REQUIRED_OPTIONS = {"model": PrefixTask, "data": TextDataModule}
_NOISE = re.compile(
    r"^\s*(-\s*)?(Expected a <class 'NoneType'>|Given value type:.*|Given value:.*|Subtypes:.*"
    r"|Does not validate against any of the Union subtypes|Expected a path but .*|Errors:"
    r"|Not a valid subclass of .*|Subclass types expect one of:|a class path \(str\)|a dict with(out)? .*)\s*$"
)

_PARSED: ContextVar[tuple[str, Sequence[str]] | None] = ContextVar("parsed", default=None)
"""The program and its words, while they are parsed: errors come from parsers of parts, which know neither."""


class _PageFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):  # type: ignore[misc]
    """Leaves the lines of a docstring as they are."""


class SuggestingParser(LightningArgumentParser):
    """A LightningCLI parser that answers an error with what was probably meant, not with all its options."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message and exit with code 2; an `InputError` behind it says it better and is raised."""
        if cause := input_error_behind(ex):
            raise cause
        if not self.exit_on_error:
            super().error(message, ex)
        program, words = _PARSED.get() or (self.prog, [])
        if place := find_place(message, words):
            message = message.replace("<unicode string>", place.file)
        missing = "" if place else missing_options(message)
        sys.stderr.write("error: " + (missing or "\n".join(plain_lines(message))) + "\n")
        sys.stderr.write(f"{place.text}\n" if place else "")
        if near := self._meant(message, place):
            sys.stderr.write(f"did you mean {' or '.join(near)}?\n")
        sys.stderr.write(f"help: {program} --help\n")
        raise SystemExit(2)

    def parse_args(self, args: Sequence[str] | None = None, *more: Any, **options: Any) -> Any:
        """As jsonargparse's; the words are kept for the errors."""
        if args is None or _PARSED.get():  # jsonargparse parses parts of them again
            return super().parse_args(args, *more, **options)
        subcommand = [word for word in args[:1] if not word.startswith("-")]
        token = _PARSED.set((" ".join([self.prog, *subcommand]), args))
        try:
            return super().parse_args(args, *more, **options)
        finally:
            _PARSED.reset(token)

    def print_help(self, *args: Any, **options: Any) -> None:
        """As argparse's; the help on one class begins with what its docstring says before its arguments."""
        description = str(self.description)  # type: ignore[has-type]
        if name := _CLASS_HELP.fullmatch(description):
            cls: Any = locate(name.group(1))
            self.description = f"{description}\n\n{page(cls)}"
            self.formatter_class, self.usage = _PageFormatter, SUPPRESS
        super().print_help(*args, **options)

    def _meant(self, message: str, place: Place | None) -> list[str]:
        if place and place.allowed:
            return _near(place.word.rpartition(".")[2], place.allowed)
        unknown = next((name for match in _UNKNOWN.finditer(message) for name in match.groups() if name), None)
        return _near(unknown, self._known()) if unknown else []

    def _known(self) -> set[str]:
        """Classes that can be chosen, their arguments, and the options and subcommands of this parser."""
        known = set()
        for parent in (PrefixTask, TextDataModule, PrefixConfig):
            for cls in _subclasses(parent):
                known |= {cls.__name__, *inspect.signature(cls).parameters}
        for action in self._actions:
            known |= {option.lstrip("-") for option in action.option_strings} | {*map(str, action.choices or ())}
        return known | {"model", "data", "trainer"}


def page(cls: type[Any]) -> str:
    """What the docstring of a class says before its arguments: what it does, data, a YAML, metrics."""
    return re.split(r"\n\n(?:Args|Example|Examples):\n", inspect.getdoc(cls) or "")[0].replace("::\n", ":\n")


def missing_options(message: str) -> str:
    """What is missing, as it is typed, and what it can be; empty where the message is about something else.

    Example:
        >>> missing_options("the following arguments are required: fit.data")[:28]
        '--data is missing: give --da'
    """
    found = _REQUIRED.search(message)
    names = [name.strip().rpartition(".")[2] for name in found.group(1).split(",")] if found else []
    lines = [_missing(name) for name in sorted(names, key=lambda name: name != "model") if name in _REQUIRED_OPTIONS]
    if "backbone" in names:
        lines.append(
            "--model.backbone is missing: the id of a model on the Hugging Face hub, a folder, or asset:minilm-l6"
        )
    if not lines:
        return ""
    return "\n".join(
        [*lines, "or give --config FILE, a YAML; `python -m lightning_prefix tasks NAME` prints one to start from"]
    )


def _missing(name: str) -> str:
    parent: type[Any] = _REQUIRED_OPTIONS[name]
    classes = sorted(cls.__name__ for cls in _subclasses(parent) if not inspect.isabstract(cls) and cls is not parent)
    example = "TextClassification" + ("DataModule" if name == "data" else "")
    return (
        f"--{name} is missing: give --{name} {example}, or another of {', '.join(c for c in classes if c != example)}"
    )


def plain_lines(message: str) -> list[str]:
    """The lines of jsonargparse's message that say something to users."""
    lines = [line for line in message.splitlines() if line.strip() and not _NOISE.match(line)]
    if len(lines) == 1 and "a dict with class_path" in message:
        lines.append("  no class is given: class_path is missing")
    return lines


def _subclasses(parent: type[Any]) -> Iterator[type[Any]]:
    yield parent
    for child in parent.__subclasses__():
        yield from _subclasses(child)


def _near(name: str, known: Set[str]) -> list[str]:
    """Near names; of a dotted one, those with a near first part too."""
    if "." in name and name not in known and not difflib.get_close_matches(name, known, 1):
        name = name.split(".", 1)[0]
    return difflib.get_close_matches(name, sorted(known), 3, cutoff=0.7)
