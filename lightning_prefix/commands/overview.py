"""All commands, and what each is for."""

import difflib
import sys
from collections.abc import Mapping
from types import ModuleType

import lightning_prefix
from lightning_prefix.commands import (
    assets,
    backbones,
    chat,
    completion,
    cross_validate,
    ensemble,
    export,
    learning_rate,
    plot,
    prefixes,
    schema,
    serve,
    tasks,
    tune,
)

LIGHTNING: Mapping[str, str] = {
    "fit": "train a prefix, test it, and write the folder for use",
    "validate": "score a trained prefix on the validation split",
    "test": "score a trained prefix on the test split",
    "predict": "answer the rows of a file with a trained prefix",
}
"""What Lightning's Trainer does."""

COMMANDS: Mapping[str, ModuleType] = {
    "assets": assets,
    "backbones": backbones,
    "chat": chat,
    "completion": completion,
    "cross-validate": cross_validate,
    "ensemble": ensemble,
    "export": export,
    "learning-rate": learning_rate,
    "plot": plot,
    "prefixes": prefixes,
    "schema": schema,
    "serve": serve,
    "tasks": tasks,
    "tune": tune,
}
"""The others, each a module whose first line says what it is for, with a function `run`."""

_EXAMPLES = """\
start:     python -m lightning_prefix tasks TextClassification > my.yaml
           python -m lightning_prefix fit --config my.yaml
help:      python -m lightning_prefix COMMAND --help
one class: python -m lightning_prefix fit --model.help TextClassification
a complete YAML: python -m lightning_prefix fit --config my.yaml --print_config
`lightning-prefix` is the same program as `python -m lightning_prefix`."""


def all_commands() -> dict[str, str]:
    """Every command, and a line about it."""
    first_lines = {name: str(module.__doc__).splitlines()[0] for name, module in COMMANDS.items()}
    return {**LIGHTNING, **{name: line.partition(": ")[2].rstrip(".") for name, line in first_lines.items()}}


def overview() -> str:
    """The help on the program."""
    lines = [f"  {name:16}{text}" for name, text in all_commands().items()]
    usage = "usage: lightning_prefix COMMAND [options], or --version"
    return "\n".join([usage, "", str(lightning_prefix.__doc__), "", "commands:", *lines, "", _EXAMPLES])


def check_command(word: str) -> None:
    """End the program, with code 2, at a word that is no command."""
    known = list(all_commands())
    if word not in known:
        near = difflib.get_close_matches(word, known, 3)
        print(f"error: {word!r} is no command; there are {', '.join(known)}", file=sys.stderr)
        print(f"did you mean {' or '.join(near)}?" if near else "help: lightning_prefix --help", file=sys.stderr)
        raise SystemExit(2)
