"""The options of `fit`, for commands that make many runs of one config."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser

from lightning_prefix.commands.fit import PrefixCLI
from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.training import limited

_ONLY_OF_FIT = ("ckpt_path", "weights_only")
"""Options in the `config.yaml` of a run of `fit` that mean nothing here."""


class ExperimentCLI(PrefixCLI):
    """Reads a config of `fit` together with the arguments of a function, and makes what a run needs.

    Nothing is made on construction: `make` gives a new task and new data each time, `make_trainer` a new Trainer.

    Args:
        command: the word on the command line.
        function: what the command does; its first docstring line is the help, and those of its arguments that are not
            in `given` are options.
        args: what follows the command.
        given: names of arguments of the function that are no options.
    """

    def __init__(self, command: str, function: Callable[..., Any], args: ArgsType, given: set[str]) -> None:
        self._function, self._given = function, given
        description = str(function.__doc__).splitlines()[0]
        super().__init__(args, run=False, prog=f"lightning_prefix {command}", description=description)

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Those of the function, so that they come first in the help."""
        self.function_options = parser.add_function_arguments(self._function, skip=set(self._given))
        super().add_default_arguments_to_parser(parser)

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """As for `fit`."""
        super().add_arguments_to_parser(parser)
        for name in _ONLY_OF_FIT:
            parser.add_argument(f"--{name}", type=Any, default=None, help="Must be null here.")

    def before_instantiate_classes(self) -> None:
        """Refuse what only `fit` can do.

        Raises:
            InputError: for a checkpoint.
        """
        if self.config.ckpt_path:
            raise InputError(
                f"ckpt_path {self.config.ckpt_path!r} is given; this command starts every run anew. Leave it out."
            )

    def instantiate_classes(self) -> None:
        """Nothing yet: see `make` and `make_trainer`."""

    @property
    def options(self) -> dict[str, Any]:
        """The values of the function's options."""
        return {name: self.config[name] for name in self.function_options}

    @property
    def seed(self) -> int:
        """`seed_everything`, or the number that was drawn for it."""
        return int(self.config.seed_everything)

    def run_config(self, config: Namespace | None = None) -> dict[str, Any]:
        """Plain data that `fit` takes as a YAML, without the options of the function."""
        text = self.parser.dump(self.config if config is None else config, skip_none=False, format="yaml")
        left_out = (*self.function_options, *_ONLY_OF_FIT, "config")
        return {key: value for key, value in yaml.safe_load(text).items() if key not in left_out}

    def parse(self, config: Mapping[str, Any]) -> Namespace:
        """A config such as `run_config` returns, checked.

        Raises:
            InputError: if it is none; other errors end the program as they do for `fit`.
        """
        return self.parser.parse_object(dict(config), defaults=True)

    def make(self, config: Namespace | None = None) -> tuple[PrefixTask, TextDataModule]:
        """A new task and new data."""
        config = self.config if config is None else config
        text = self.parser.dump(config, skip_link_targets=False, skip_none=False, format="yaml")
        self.config_dump = yaml.safe_load(text)  # from which Lightning takes the hyper-parameters of what it makes
        made = self.parser.instantiate_classes(config)
        return made.model, made.data

    def trainer_factory(self, config: Namespace | None = None) -> Callable[..., Trainer]:
        """A `MakeTrainer`: the Trainer of the config with new callbacks; `checkpoint` and `predictions` left out."""

        def make(callbacks: Sequence[Callback] = (), **options: Any) -> Trainer:
            own = dict(self.parser.instantiate_classes(self.config if config is None else config).trainer)
            given = own.pop("callbacks", None) or []
            given = given if isinstance(given, list) else [given]
            return Trainer(**limited({**own, **options}), callbacks=[*given, *callbacks])

        return make
