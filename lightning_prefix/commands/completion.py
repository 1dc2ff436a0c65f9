"""The command `completion`: print the script that lets a shell complete commands, options and their values."""

import argparse
import inspect
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any, Literal, get_args, get_origin

from lightning_prefix.assets.registry import ASSETS
from lightning_prefix.commands.schema import config_schema
from lightning_prefix.commands.tasks import task_names
from lightning_prefix.errors import InputError

_HELP = """\
Print the script that lets a shell complete `lightning-prefix`: commands, options and their values. In bash:
  lightning-prefix completion bash > ~/.local/share/bash-completion/completions/lightning-prefix
In zsh, in a folder of $fpath:
  lightning-prefix completion zsh > ~/.zfunc/_lightning-prefix
Needs pip install 'lightning-prefix[completion]'."""

_FILES = ("--config", "--ckpt_path", "--space", "--output")
_WORDS = {
    "assets": ["fetch", "path", *ASSETS],
    "backbones": [f"asset:{name}" for name, asset in ASSETS.items() if asset.kind == "backbone"],
    "completion": ["bash", "zsh"],
    "tasks": task_names(),
}
"""What follows a command that has no options."""


def run(args: list[str]) -> None:
    """Run the command with these words.

    Raises:
        InputError: if shtab is not installed.
    """
    parser = argparse.ArgumentParser(
        prog="lightning_prefix completion", description=_HELP, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("shell", choices=_WORDS["completion"])
    shell = parser.parse_args(args).shell
    try:
        import shtab
    except ImportError as error:
        raise InputError("`completion` needs shtab: pip install 'lightning-prefix[completion]'.") from error
    print(shtab.complete(_all_words(shtab.FILE), shell))


def _all_words(files: Any) -> argparse.ArgumentParser:
    """A parser that only knows words: commands, options and choices.

    Args:
        files: shtab's mark of an option that takes a file.
    """
    from lightning_prefix.commands.overview import COMMANDS, all_commands  # which imports this module

    parser = argparse.ArgumentParser(prog="lightning-prefix")
    commands = parser.add_subparsers(dest="command")
    of_fit = {"--config": [], **dict(_config_options(config_schema(), ""))}
    for name, text in all_commands().items():
        command = commands.add_parser(name, help=text)
        module = COMMANDS.get(name)
        takes_config = module is None or hasattr(module, "GIVEN")
        options = {**(of_fit if takes_config else {}), **(_function_options(module, name) if module else {})}
        for option, choices in options.items():
            action = command.add_argument(option, choices=choices or None)
            if option in _FILES:
                action.complete = files  # type: ignore[attr-defined]
        if name in _WORDS:
            command.add_argument("word", choices=_WORDS[name])
    return parser


def _config_options(schema: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, list[str]]]:
    """Option and choices of each key of the config; of classes, the options of all that can be chosen."""
    for name, given in schema.get("properties", {}).items():
        if name == "$schema":
            continue
        alternatives = _alternatives(given)
        yield f"--{prefix}{name}", list(dict.fromkeys(value for a in alternatives for value in _values(a)))
        for alternative in alternatives:
            of_any_class = [c["then"]["properties"] for c in alternative.get("allOf", []) if "not" in c["if"]]
            if of_any_class:
                yield from _config_options(of_any_class[0]["init_args"], f"{prefix}{name}.")
            elif "class_path" not in alternative.get("properties", {}):  # else it is an item of a list
                yield from _config_options(alternative, f"{prefix}{name}.")


def _alternatives(schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "$ref" in schema:
        return _alternatives(config_schema()["$defs"][schema["$ref"].rpartition("/")[2]])
    if "anyOf" in schema:
        return [inner for alternative in schema["anyOf"] for inner in _alternatives(alternative)]
    return [schema]


def _values(schema: Mapping[str, Any]) -> list[str]:
    """The short ones that can be completed."""
    if "enum" in schema:
        return [str(value) for value in schema["enum"] if "." not in str(value)]
    return ["true", "false"] if "boolean" in schema.get("type", "") else []


def _function_options(module: ModuleType, command: str) -> dict[str, list[str]]:
    """Options of the function that has the command's name, if there is one."""
    name = command.replace("-", "_")
    parameters = inspect.signature(getattr(module, name)).parameters if hasattr(module, name) else {}
    options = {}
    for parameter in parameters.values():
        if parameter.name not in getattr(module, "GIVEN", ()):
            options[f"--{parameter.name}"] = [str(choice) for choice in _choices(parameter.annotation)]
    return options


def _choices(annotation: Any) -> list[Any]:
    if annotation is bool:
        return ["true", "false"]
    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _choices(part)]
