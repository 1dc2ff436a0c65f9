"""The command `schema`: write the JSON Schema of the YAML that `fit --config` takes, for editors."""

import json
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Union

from jsonargparse import ArgumentParser, Namespace
from jsonschema import Draft7Validator
from lightning.pytorch import Trainer, callbacks
from lightning.pytorch.cli import ArgsType, LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler

from lightning_prefix.commands.fit import PrefixCLI

if TYPE_CHECKING:
    Callback = callbacks.Callback
else:  # the hints of ModelPruning lead to every torch.nn.Module: 4 MB, which no editor reads at ease
    _LEFT_OUT = ("Callback", "ModelPruning")
    Callback = Union[tuple(getattr(callbacks, name) for name in callbacks.__all__ if name not in _LEFT_OUT)]  # noqa: UP007

_FOREIGN = {"type": "string", "pattern": r"^(?!(lightning_prefix|torch\.optim|torch\.optim\.lr_scheduler)\.\w+$).*[./]"}
"""A class that is not known here, by its import path, or a YAML with the class."""
_GIVEN = {"params", "optimizer"}
"""Required arguments of optimizers and schedulers, which the task gives."""


class _UsualTrainer(Trainer):
    """Lightning's, without the type hints that lead to every class of torch.

    Args:
        accelerator: cpu, gpu, mps, tpu, or auto for what is there.
        strategy: auto, ddp, fsdp and so on, or a class of lightning.pytorch.strategies.
        logger: true for TensorBoard where it is installed and CSV elsewhere, false for none, or loggers.
        callbacks: one or a list.
        profiler: simple, advanced, pytorch, or a class.
        plugins: classes of lightning.pytorch.plugins.
    """

    def __init__(
        self,
        accelerator: str | dict[str, Any] = "auto",
        strategy: str | dict[str, Any] = "auto",
        logger: Logger | list[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        profiler: Profiler | str | None = None,
        plugins: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(**options)


class _SchemaCLI(PrefixCLI):
    """The options of `fit`, of which nothing is parsed or made."""

    def __init__(self) -> None:
        super().__init__([], run=False)

    def add_core_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        self.trainer_class = _UsualTrainer
        super().add_core_arguments_to_parser(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        super().add_arguments_to_parser(parser)
        parser.add_argument("--ckpt_path", type=str | None, help="Go on from this .ckpt, or use this trained prefix.")
        parser.add_argument("--weights_only", type=bool | None, help="As in torch.load, for the checkpoint.")

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        self.config = Namespace(seed_everything=False)

    def before_instantiate_classes(self) -> None: ...

    def instantiate_classes(self) -> None: ...


@cache
def config_schema() -> dict[str, Any]:
    """The schema: jsonargparse's, with short class names, and without demands on what another YAML may give.

    A class is a condition on its name instead of one of many alternatives, so that a wrong option is reported as that.
    It is of draft 7, which editors know best. A process of its own makes it: here training, a notebook or a test may
    have defined further classes, of which some cannot be imported.
    """
    code = f"import json; from {__name__} import make_schema; print(json.dumps(make_schema()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:  # such a process does not find the package
        return make_schema()
    schema: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return schema


def make_schema() -> dict[str, Any]:
    """As `config_schema`, of all classes that are defined in this process."""
    made = json.loads(_SchemaCLI().parser.get_completion_script("jsonschema"))
    definitions = made.pop("$defs")
    in_lists = _references_in_lists([made, *definitions.values()])
    schema = _rewritten(made, definitions, is_whole=False)
    return {
        **schema,
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A config of `python -m lightning_prefix fit`",
        "properties": {"$schema": {"type": "string"}, **schema["properties"]},
        "$defs": {name: _rewritten(made, definitions, name in in_lists) for name, made in definitions.items()},
    }


@dataclass(frozen=True)
class Problem:
    """What the schema does not allow.

    Args:
        path: keys and numbers that lead to it.
        is_key: whether the key is unknown; else its value is wrong.
        allowed: keys or values that are known there.
    """

    path: tuple[str | int, ...]
    is_key: bool
    allowed: frozenset[str]


def problems(config: Any) -> list[Problem]:
    """What the schema does not allow in a config, the deepest first."""
    found = []
    for error in _leaves(Draft7Validator(config_schema()).iter_errors(config)):
        path = tuple(error.absolute_path)
        if error.validator == "additionalProperties":
            known = frozenset(error.schema["properties"])
            found += [Problem((*path, key), True, known) for key in error.instance if key not in known]
        else:
            known = frozenset(map(str, error.validator_value)) if error.validator == "enum" else frozenset()
            found.append(Problem(path, False, known))
    return sorted(found, key=lambda problem: -len(problem.path))


def _leaves(errors: Iterable[Any]) -> Iterator[Any]:
    for error in errors:
        yield from _leaves(error.context) if error.context else [error]


def _references_in_lists(node: Any, is_in_list: bool = False) -> set[str]:
    """Names of definitions that are items of a list, which is given as a whole."""
    if isinstance(node, list):
        return set().union(*(_references_in_lists(item, is_in_list) for item in node))
    if not isinstance(node, dict):
        return set()
    own = {_name(node)} if is_in_list and "$ref" in node else set()
    return own.union(*(_references_in_lists(value, key == "items" or is_in_list) for key, value in node.items()))


def _name(reference: Mapping[str, Any]) -> str:
    return str(reference["$ref"]).rpartition("/")[2]


def _classes(alternatives: Sequence[Mapping[str, Any]], definitions: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Import path -> schema of each class among the alternatives, and among those that they refer to."""
    found: dict[str, Mapping[str, Any]] = {}
    for alternative in alternatives:
        if "$ref" in alternative:
            found |= _classes(definitions[_name(alternative)].get("anyOf", []), definitions)
        elif path := alternative.get("properties", {}).get("class_path", {}).get("const"):
            found[path] = alternative
    return found


def _rewritten(node: Any, definitions: Mapping[str, Any], is_whole: bool) -> Any:
    """A schema with its classes as conditions; `required` only where it `is_whole`."""
    if isinstance(node, list):
        return [_rewritten(item, definitions, is_whole) for item in node]
    if not isinstance(node, dict):
        return node
    new: dict[str, Any] = {}
    for key, value in node.items():
        if key == "properties":
            new[key] = {
                name: _rewritten(child, definitions, is_whole) for name, child in value.items() if name != "$schema"
            }
        elif key == "items":
            new[key] = _rewritten(value, definitions, is_whole=True)
        elif key == "anyOf":
            new |= _alternatives(value, definitions, is_whole)
        elif key != "required" or is_whole:
            new[key] = value if key in ("default", "enum") else _rewritten(value, definitions, is_whole)
    return new


def _alternatives(alternatives: list[Any], definitions: Mapping[str, Any], is_whole: bool) -> dict[str, Any]:
    """Those of an `anyOf`; its classes, if there are several, become one."""
    is_class = [bool(_classes([alternative], definitions)) for alternative in alternatives]
    if sum(is_class) < 2 and not any(c and "$ref" not in a for c, a in zip(is_class, alternatives, strict=True)):
        return {"anyOf": _rewritten(alternatives, definitions, is_whole)}
    rest = [a for a, c in zip(alternatives, is_class, strict=True) if not c and a != {"type": "string"}]
    one = _one_of_classes(_classes(alternatives, definitions), definitions, is_whole)
    return {"anyOf": [*_rewritten(rest, definitions, is_whole), *one]}


def _one_of_classes(
    classes: Mapping[str, Mapping[str, Any]], definitions: Mapping[str, Any], is_whole: bool
) -> list[dict[str, Any]]:
    """The name of one of the classes, or a mapping with the name and options."""
    names: list[Any] = [
        {
            "enum": [path.rpartition(".")[2] for path in classes],
            "markdownEnumDescriptions": [made.get("description", "") for made in classes.values()],
        },
        {"enum": list(classes)},
        _FOREIGN,
    ]
    options = {}
    any_class: dict[str, list[Any]] = {}
    for path, made in classes.items():
        arguments = made["properties"]["init_args"]
        given = _GIVEN & set(arguments.get("required", []))
        needed = [name for name in arguments.get("required", []) if name not in given]
        known = {name: option for name, option in arguments.get("properties", {}).items() if name not in given}
        options[path] = _rewritten({**arguments, "properties": known, "required": needed}, definitions, is_whole)
        for name, option in options[path]["properties"].items():
            if option not in any_class.setdefault(name, []):
                any_class[name].append(option)
    conditions: list[Any] = [
        {
            "if": {"required": ["class_path"], "properties": {"class_path": {"enum": [path.rpartition(".")[2], path]}}},
            "then": {
                "properties": {"init_args": made},
                **({"required": ["init_args"]} if made.get("required") else {}),
            },
        }
        for path, made in options.items()
    ]
    mapping = {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "class_path": {"anyOf": names},
            "init_args": {"type": "object"},
            "dict_kwargs": {"type": "object"},
        },
    }
    if is_whole:
        mapping["required"] = ["class_path"]
    else:  # another YAML has the class
        union = {name: found[0] if len(found) == 1 else {"anyOf": found} for name, found in any_class.items()}
        partial = {"type": "object", "additionalProperties": False, "properties": union}
        conditions.append({"if": {"not": {"required": ["class_path"]}}, "then": {"properties": {"init_args": partial}}})
    return [*names, {**mapping, "allOf": conditions}]


def schema(output: str | None = None) -> None:
    """Write the JSON Schema of the YAML that `fit --config` takes, for editors.

    Args:
        output: file to write; printed when null.
    """
    text = json.dumps(config_schema(), indent=1, ensure_ascii=False)
    if output is None:
        print(text)
        return
    Path(output).write_text(text + "\n", encoding="utf-8")
    print(f"written. First line of a YAML:\n# yaml-language-server: $schema={output}")


def run(args: list[str]) -> None:
    """Run the command with these words."""
    parser = ArgumentParser(prog="lightning_prefix schema", description=str(schema.__doc__).splitlines()[0])
    parser.add_function_arguments(schema)
    schema(**parser.parse_args(args).as_dict())
