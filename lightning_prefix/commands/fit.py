"""fit, validate, test and predict: LightningCLI with its known traps closed."""

import itertools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import yaml
from jsonargparse import Namespace
from lightning.pytorch import Callback
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.trainer.states import TrainerStatus
from lightning.pytorch.utilities import rank_zero_info

import lightning_prefix
from lightning_prefix.callbacks import PredictionWriter, PrefixCheckpoint
from lightning_prefix.callbacks.progress import EpochLines, FoundData, LogInterval
from lightning_prefix.commands.next_steps import next_steps
from lightning_prefix.commands.parser import SuggestingParser
from lightning_prefix.data import TextDataModule
from lightning_prefix.ensemble import Ensemble
from lightning_prefix.ensemble.folder import is_ensemble, read_ensemble
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.tasks.arguments import safe_arguments
from lightning_prefix.tasks.base import stored_task
from lightning_prefix.tasks.checkpoint import read_checkpoint
from lightning_prefix.training import EPOCHS, is_unlimited

_EPILOG = (
    "Help on one class: `fit --model.help TextClassification`, `fit --data.help TextClassificationDataModule`. "
    "A complete YAML: `fit --config FILE --print_config`."
)
_KEYWORDS = ("best", "last", "hpc")
"""Of `ckpt_path`, which Lightning resolves itself."""
_HELP = {
    "trainer.max_epochs": f"Epochs to train; -1 for no limit. {EPOCHS} where neither this nor max_steps, max_time or "
    "fast_dev_run is given",
    "trainer.max_steps": "Optimizer steps to train; -1 for no limit",
    "trainer.log_every_n_steps": "Steps between two entries of the log. 50 when null, or a tenth of an epoch that has "
    "less than 50 batches",
    "trainer.enable_progress_bar": "Whether to draw a progress bar. When null, on a terminal only; elsewhere each "
    "epoch is a line",
}
"""Of options whose defaults are not Lightning's."""


class PrefixCLI(LightningCLI):
    """fit, validate, test and predict for `PrefixTask` and `TextDataModule` classes.

    Args:
        args: as on the command line, a list or a dict; `sys.argv` when None.
        run: as in LightningCLI.
        parser_kwargs: of the parser, beyond its name.
    """

    datamodule: TextDataModule
    model: Any  # a PrefixTask, or an Ensemble

    def __init__(self, args: ArgsType = None, run: bool = True, **parser_kwargs: Any) -> None:
        super().__init__(
            PrefixTask,
            TextDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_kwargs={"overwrite": True},
            parser_class=SuggestingParser,
            parser_kwargs={
                "prog": "lightning_prefix",
                "description": lightning_prefix.__doc__,
                "epilog": _EPILOG,
                "version": f"lightning_prefix {lightning_prefix.__version__}",
                **parser_kwargs,
            },
            args=args,
            run=run,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Options beside model, data and trainer; and what Lightning's help says of defaults that are ours."""
        for action in parser._actions:
            if action.dest in _HELP:
                action.help = _HELP[action.dest]
        parser.add_lightning_class_args(PrefixCheckpoint, "checkpoint")
        parser.add_lightning_class_args(PredictionWriter, "predictions")
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="After `fit`, test the best checkpoint if there is a test split.",
        )
        parser.add_argument(
            "--untrained",
            type=bool,
            default=False,
            help="Without a checkpoint, let validate, test and predict run the frozen backbone, without a prefix.",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse with a checkpoint's stored model as defaults: what the user gives counts more."""
        if args is None:
            args = sys.argv[1:]
        path = _checkpoint_path(args)
        if path is None:
            self.config = _parse(parser, args)
            path = self.config.get("subcommand") and self.config[self.config.subcommand].get("ckpt_path")
        if not path or path in _KEYWORDS:
            return
        stored = _stored_model(path)
        self.config = _parse(parser, _with_defaults(args, {"model": stored}))
        if is_ensemble(path):
            rank_zero_info("the members of the ensemble are as they were stored; options of the model are not used")
            return
        arguments = self.config[self.config.subcommand].model.init_args
        for key, trained, now in _differences(stored["init_args"], arguments):
            if now is None:  # null means "as it comes", and it comes from the checkpoint
                arguments[key] = trained
                continue
            rank_zero_info(f"model.{key}: {now!r} as given; the checkpoint was trained with {trained!r}")

    def _parse_ckpt_path(self) -> None:
        """Nothing: stored values were read as defaults in `parse_arguments`."""

    def before_instantiate_classes(self) -> None:
        """Refuse to score a prefix that was never trained.

        Raises:
            InputError: if validate, test or predict have no checkpoint.
        """
        config = self.config[self.subcommand]
        if self.subcommand != "fit" and not config.get("ckpt_path") and not config.untrained:
            raise InputError(
                f"`{self.subcommand}` needs a trained prefix: give --ckpt_path FILE.ckpt (`fit` prints it at its end), "
                "or --untrained true to run the frozen backbone alone, without a prefix, for a comparison."
            )
        if self.subcommand == "fit" and config.get("ckpt_path") and Path(config.ckpt_path).is_dir():
            raise InputError(
                f"ckpt_path {config.ckpt_path} is a folder; `fit` goes on from a .ckpt, which has the optimizer's "
                "state. To start from a trained prefix give --model.prefix.init file --model.prefix.init_file FOLDER."
            )
        if is_unlimited(config.trainer):
            config.trainer.max_epochs = EPOCHS
            if self.subcommand == "fit":
                rank_zero_info(f"training takes {EPOCHS} epochs, since no limit is given (--trainer.max_epochs)")
        if self.subcommand == "predict":
            config.return_predictions = False  # the writer has them; memory stays flat
            self._keep_predictions_with_the_run(config)

    def _keep_predictions_with_the_run(self, config: Namespace) -> None:
        """Without a folder of its own, since a prediction is no run."""
        self.save_config_callback = None
        if config.trainer.logger is None:
            config.trainer.logger = False
        if config.predictions.path is None:
            config.predictions.path = str(_free(_run_folder(config.get("ckpt_path")) / "predictions.jsonl"))

    def instantiate_classes(self) -> None:
        """As Lightning's; a folder in place of a checkpoint is loaded, without either the backbone runs alone."""
        super().instantiate_classes()
        config = self.config[self.subcommand]
        self.model.without_prefix = self.subcommand != "fit" and not config.get("ckpt_path")
        if config.get("ckpt_path") and Path(config.ckpt_path).is_dir():
            self.config_init[self.subcommand].ckpt_path = None  # it is loaded here, not by the Trainer
            if is_ensemble(config.ckpt_path):
                self.model = Ensemble.from_pretrained(config.ckpt_path)
            else:
                self.model.configure_from(config.ckpt_path)

    def instantiate_trainer(self, **kwargs: Any) -> Any:
        """The trainer, without our checkpoints where they are turned off."""
        config = self.config_init[self.subcommand]
        config.trainer.callbacks = _with_progress(config.trainer)
        if config.trainer.get("enable_checkpointing") is False:
            callbacks = [config[key] for key in self._parser(self.subcommand).callback_keys if key != "checkpoint"]
            return self._instantiate_trainer({**config.trainer, **kwargs}, callbacks)
        return super().instantiate_trainer(**kwargs)

    def after_fit(self) -> None:
        """Test the best checkpoint, write the prefix for use, and say what to type next."""
        checkpoint = self._trained_checkpoint()
        if self.trainer.state.status != TrainerStatus.FINISHED or not checkpoint:
            return
        stored = read_checkpoint(checkpoint)
        self.model.on_load_checkpoint(stored)
        self.model.load_state_dict(stored["state_dict"])
        if self.config.fit.test_after_fit and self.datamodule.has_test:
            self.trainer.test(self.model, self.datamodule, ckpt_path=checkpoint)
        folder = Path(os.path.relpath(self.trainer.log_dir or self.trainer.default_root_dir))
        checkpoint = os.path.relpath(checkpoint)
        if not self.trainer.is_global_zero:
            return
        self.model.save_pretrained(folder / "prefix", self.datamodule.description())
        rank_zero_info("\n" + next_steps(self.model, self.datamodule, folder, checkpoint))

    def _trained_checkpoint(self) -> str:
        """The best checkpoint; the last where no validation ran; empty where none is kept."""
        callbacks = [c for c in self.trainer.checkpoint_callbacks if isinstance(c, PrefixCheckpoint)]
        if not callbacks:
            return ""
        if not callbacks[0].best_model_path:
            rank_zero_info("no validation ran, so there is no best checkpoint; the last one is used")
        return callbacks[0].best_model_path or callbacks[0].last_model_path


def _parse(parser: LightningArgumentParser, args: Any) -> Any:
    return parser.parse_object(args) if isinstance(args, Mapping) else parser.parse_args(list(args))


def _free(path: Path) -> Path:
    """The path, or one with a number behind it where a file is there: earlier predictions are kept."""
    others = (path.with_stem(f"{path.stem}-{number}") for number in itertools.count(2))
    return next(candidate for candidate in itertools.chain([path], others) if not candidate.exists())


def _run_folder(checkpoint: str | None) -> Path:
    """The folder of the run that a checkpoint, or the folder of a prefix, belongs to; here where it is of none."""
    if checkpoint is None:
        return Path()
    path = Path(checkpoint)
    if path.is_dir():  # which may go to the hub, so nothing is written into it
        return path.parent if (path.parent / "config.yaml").exists() else Path()
    return path.parent.parent if path.parent.name == "checkpoints" else path.parent


def _with_progress(trainer: Namespace) -> list[Callback]:
    """The callbacks of a Trainer's options, and those that stand in for options that are left open."""
    given = trainer.get("callbacks") or []
    callbacks = [*(given if isinstance(given, list) else [given]), FoundData()]
    if trainer.log_every_n_steps is None:
        callbacks.append(LogInterval())
    if trainer.enable_progress_bar is None and not sys.stdout.isatty():
        trainer.enable_progress_bar = False
        callbacks.append(EpochLines())
    return callbacks


def _checkpoint_path(args: Any) -> str | None:
    """The checkpoint that the arguments name, before they are parsed."""
    if isinstance(args, Mapping):
        return cast("str | None", args.get(args.get("subcommand"), {}).get("ckpt_path"))
    for index, word in enumerate(args):
        if word == "--ckpt_path" and index + 1 < len(args):
            return str(args[index + 1])
        if word.startswith("--ckpt_path="):
            return str(word.split("=", 1)[1])
    return None


def _stored_model(path: str) -> dict[str, Any]:
    """The model's section of a config, as the checkpoint, or the prefix in a folder, was trained with it."""
    if Path(path).is_dir():
        folder = read_ensemble(Path(path)).members[0] if is_ensemble(path) else Path(path)
        arguments = safe_arguments(stored_task(folder)["hyper_parameters"])
    else:
        arguments = safe_arguments(read_checkpoint(path)["hyper_parameters"])
    return {"class_path": arguments.pop("_class_path"), "init_args": arguments}


def _with_defaults(args: Any, defaults: dict[str, Any]) -> Any:
    """The arguments with a config before all others, which the others override."""
    if isinstance(args, Mapping):
        subcommand = args["subcommand"]
        return {**args, subcommand: _merged(defaults, args[subcommand])}
    place = next(i for i, word in enumerate(args) if word in PrefixCLI.subcommands()) + 1
    return [*args[:place], "--config", yaml.safe_dump(defaults), *args[place:]]


def _merged(base: Any, over: Any) -> Any:
    if isinstance(base, Mapping) and isinstance(over, Mapping):
        return {**base, **{key: _merged(base.get(key), value) for key, value in over.items()}}
    return over


def _differences(stored: Any, given: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(stored, Mapping):
        for name, value in stored.items():
            now = given.get(name) if hasattr(given, "get") else None
            yield from _differences(value, now, f"{key}.{name}" if key else name)
    elif stored != given:
        yield key, stored, given
