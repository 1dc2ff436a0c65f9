"""A space over the config of `fit`: its keys are those of the command line."""

import copy
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import yaml
from jsonargparse import ArgumentParser, Namespace

from lightning_prefix.commands.experiment import ExperimentCLI
from lightning_prefix.commands.parser import plain_lines
from lightning_prefix.errors import InputError, input_error_behind
from lightning_prefix.tuning.defaults import DEFAULT_SPACES
from lightning_prefix.tuning.space import Space, did_you_mean


def flat(config: Any, key: str = "") -> dict[str, Any]:
    """Dotted keys as on the command line -> values, without `init_args`; that of a class is its path.

    Examples:
        >>> flat({"model": {"class_path": "a.Task", "init_args": {"rate": 0.1}}, "trainer": {"max_epochs": 2}})
        {'model': 'a.Task', 'model.rate': 0.1, 'trainer': None, 'trainer.max_epochs': 2}
    """
    if not isinstance(config, Mapping):
        return {key: config}
    keys = {key: config.get("class_path")} if key else {}
    for name, value in (config.get("init_args") or {} if "class_path" in config else config).items():
        keys |= flat(value, f"{key}.{name}" if key else name)
    return keys


def read_space(given: Mapping[str, Any] | str | None, config: Mapping[str, Any]) -> Space:
    """The space of a command's option.

    Args:
        given: a mapping, a YAML file, or None for the default space of the config's prefix.
        config: of `fit`.

    Raises:
        InputError: if it cannot be read.
    """
    fixed = flat(config)
    if given is None:
        variant = str(fixed.get("model.prefix")).rpartition(".")[2]
        if variant not in DEFAULT_SPACES:
            raise InputError(
                f"there is no default space for {variant}, only for {', '.join(DEFAULT_SPACES)}; give --space FILE."
            )
        given = DEFAULT_SPACES[variant]
    if isinstance(given, str):
        given = _read_file(given)
    return Space.parse(given, fixed)


def with_values(cli: ExperimentCLI, config: Mapping[str, Any], values: Mapping[str, Any]) -> Namespace:
    """The config with other values; a chosen class keeps those options of the old one that it knows.

    Classes are set as words of the command line, which knows what they keep; the rest is not, since jsonargparse 4.53
    reads a null two classes deep as the text "None".

    Raises:
        InputError: if they are none.
    """
    exits, cli.parser.exit_on_error = cli.parser.exit_on_error, False
    try:
        classes = {key: value for key, value in values.items() if isinstance(value, str) and _is_class(config, key)}
        words = [f"--{key}={classes[key]}" for key in sorted(classes, key=_depth)]
        if words:
            config = cli.run_config(cli.parser.parse_args(["--config", yaml.safe_dump(dict(config)), *words]))
        changed = copy.deepcopy(dict(config))
        for key, value in values.items():
            if key not in classes:
                *parents, name = key.split(".")
                _node(changed, parents)[name] = value
        return cli.parse(changed)
    except Exception as error:  # jsonargparse has many, and ours may be behind it
        if cause := input_error_behind(error):
            raise cause from error
        raise InputError("; ".join(line.strip(" -:") for line in plain_lines(str(error)))) from error
    finally:
        cli.parser.exit_on_error = exits


def _node(config: Any, parents: Iterable[str]) -> Any:
    """The mapping below these keys, of a class its `init_args`."""
    for name in [*parents, None]:
        if "class_path" in config:
            config = config.setdefault("init_args", {})
        if name is not None:
            config = config[name]
    return config


def _is_class(config: Mapping[str, Any], key: str) -> bool:
    *parents, name = key.split(".")
    value = _node(config, parents)[name]
    return isinstance(value, Mapping) and "class_path" in value


def _depth(key: str) -> int:
    return key.count(".")


def check_space(cli: ExperimentCLI, config: Mapping[str, Any], space: Space) -> None:
    """Make what a trial would make, once for every distribution and every choice.

    Raises:
        InputError: naming the key that is unknown, with near ones, or whose value cannot be used.
    """
    for values in space.examples():
        try:
            made = with_values(cli, config, values)
        except InputError:
            _find_unfit(cli, config, values)
            raise
        try:
            cli.make(made)
        except Exception as error:  # whatever a class does with its arguments
            cause = input_error_behind(error)
            raise InputError(f"{values} out of the space cannot be used: {cause or error}") from error


def _find_unfit(cli: ExperimentCLI, config: Mapping[str, Any], values: Mapping[str, Any]) -> None:
    """Raise for the first that cannot be set; classes first, since the keys below them depend on them."""
    for key in sorted(values, key=_depth):
        known = flat(config)
        if key not in known:
            classes = ", ".join(f"{name}: {values[name]}" for name in _parents(key) if name in values)
            raise InputError(
                f"{key} is in the space; the config has no such key{f' with {classes}' if classes else ''}."
                f"{did_you_mean(key, list(known))}"
            )
        try:
            config = cli.run_config(with_values(cli, config, {key: values[key]}))
        except InputError as error:
            raise InputError(f"{key}: {values[key]!r} out of the space cannot be used: {error}") from error


def _parents(key: str) -> Iterator[str]:
    while "." in key:
        key = key.rpartition(".")[0]
        yield key


def _read_file(path: str) -> Mapping[str, Any]:
    """A YAML, by the reader that `--config` has, which knows 5e-3 as a number."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--space", type=dict[str, Any], sub_configs=True)
    try:
        space: dict[str, Any] = parser.parse_args(["--space", path]).space
    except Exception as error:
        reason = str(error).strip().splitlines()[-1].strip()
        raise InputError(f"--space {path} is no YAML file with a mapping ({reason}); see configs/tune.") from error
    return {key: value for key, value in space.items() if key != "__path__"}  # jsonargparse's own note
