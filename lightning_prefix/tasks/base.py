"""`PrefixTask`: the LightningModule under every task."""

import inspect
import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, ClassVar, Literal, cast

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import OptimizerCallable
from lightning.pytorch.core.saving import _default_map_location, load_hparams_from_yaml
from lightning.pytorch.utilities import rank_zero_warn
from lightning.pytorch.utilities.model_helpers import _restricted_classmethod
from torch import Tensor
from torch.nn.modules.module import _IncompatibleKeys
from torchmetrics import MeanMetric, MetricCollection

from lightning_prefix.backbone import (
    ActivationCacheOptions,
    BackboneOptions,
    Positions,
    PrefixedModel,
    load_config,
    max_positions,
)
from lightning_prefix.backbone import files as prefix_files
from lightning_prefix.backbone.card import name_card, read_card, write_card
from lightning_prefix.backbone.fingerprint import check_fingerprint
from lightning_prefix.backbone.hub import local_folder, push_to_hub
from lightning_prefix.backbone.load import check_float16
from lightning_prefix.errors import InputError, NotFiniteError
from lightning_prefix.prefix import GatedPrefixConfig, PrefixConfig
from lightning_prefix.strategy import check_strategy
from lightning_prefix.tasks import checkpoint as checkpoints
from lightning_prefix.tasks.activations import cache_activations
from lightning_prefix.tasks.arguments import import_path, plain_data, task_from
from lightning_prefix.tasks.card import model_card
from lightning_prefix.tasks.collapse import OutputSpread
from lightning_prefix.tasks.heads import Head, load_with_head
from lightning_prefix.tasks.optimization import LRSchedulerCallable, Optimization, trained_parameters
from lightning_prefix.tasks.precision import round_frozen_only
from lightning_prefix.tasks.random_state import RandomState, random_state, set_random_state

Batch = dict[str, Any]

_NO_INPUTS = ("labels", "index", "prompt_length")

_TOO_FAST = (
    "Lower the learning_rate, set trainer.gradient_clip_val (for example 1.0), or use bf16-mixed or 32-true precision."
)

_COLLAPSED = (
    "{name}: the answer is the same for every row. If it stays so in training, the learning rate is too high or the "
    "warm-up too short: try a tenth as head_learning_rate, then a lower learning_rate, a longer warmup, or, if not "
    "used, GatedPrefixConfig, which starts as the frozen model; for classes of unequal size, class_weights."
)


class PrefixTask(LightningModule, ABC):
    """A frozen backbone, a trained prefix and a head, for one kind of task.

    Construction is instant: weights are loaded when Lightning calls `configure_model`.

    Args:
        backbone: hub id, folder, or `asset:minilm-l6` (needs no hub).
        prefix: which prefix: `GatedPrefixConfig`, `FlatPrefixConfig`, `MLPPrefixConfig`, `PromptPrefixConfig` or
            `OutputPrefixConfig`, with its options.
        positions: `keep`: the text keeps its positions; `shift`: it starts after the prefix (as PEFT does).
        backbone_options: revision, dtype and so on of the backbone.
        backbone_dropout: apply the backbone's own dropout in training.
        activation_cache: compute what the layers below the first prefix give once per row and keep it; for a prefix
            with `layers`. Off when null.
        learning_rate: of the prefix, per optimizer step, > 0; the variant's default when null (gated 2e-2,
            MLP 1e-3, the others 1e-2).
        key_learning_rate: of the keys of a flat or gated prefix; when null as `learning_rate`, or five times that for
            a gated prefix.
        head_learning_rate: of a trained head; when null as `learning_rate`, or 1e-2 where that is null too.
        weight_decay: of the head, >= 0; a prefix is never decayed.
        warmup: steps (a whole number), or share of all steps (below 1), in which the learning rate rises from zero.
        optimizer: takes the parameter groups; AdamW when null. Its own `lr` counts where no rate is given above.
        lr_scheduler: stepped after every optimizer step; warm-up and linear decay to zero when null.
    """

    monitor: str
    """The metric that picks the best checkpoint."""
    mode: ClassVar[Literal["min", "max"]] = "max"
    pipeline_tag: ClassVar[str | None] = None
    """What the Hugging Face hub calls such a task."""
    shares: ClassVar[tuple[str, ...]] = ()
    """Metrics that are the share of rows, each read alone, which are right; their intervals are known."""

    def __init__(
        self,
        backbone: str,
        prefix: PrefixConfig = GatedPrefixConfig(),
        positions: Positions = "keep",
        backbone_options: BackboneOptions = BackboneOptions(),
        backbone_dropout: bool = False,
        activation_cache: ActivationCacheOptions | None = None,
        learning_rate: float | None = None,
        key_learning_rate: float | None = None,
        head_learning_rate: float | None = None,
        weight_decay: float = 0.0,
        warmup: int | float = 0.1,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
    ) -> None:
        super().__init__()
        prefix.check()
        self.backbone_name = backbone
        self.prefix_config = prefix
        self.positions: Positions = positions
        self.backbone_options = backbone_options
        self.backbone_dropout = backbone_dropout
        self.activation_cache = activation_cache
        if activation_cache is not None:
            activation_cache.check()
            if backbone_options.compile:
                raise InputError(
                    "activation_cache and backbone_options.compile are given; a compiled graph leaves no layers out. "
                    "Use one of the two."
                )
        self.optimization = Optimization(
            learning_rate, key_learning_rate, head_learning_rate, weight_decay, warmup, optimizer, lr_scheduler
        )
        self.optimization.check()
        self.model: PrefixedModel | None = None
        self.head: Head | None = None
        self.without_prefix = False
        """Whether the frozen backbone runs alone, for a comparison; set it before `configure_model`."""
        self.measured: dict[str, float] = {}
        """Metrics of the weights as they are, by the names that are logged; empty once training goes on."""
        self._random_state: RandomState | None = None
        self._card: str | None = None
        self._keep_hyperparameters(inspect.currentframe())

    # What a task defines.

    @abstractmethod
    def make_head(self) -> Head:
        """The head, before the backbone is loaded."""

    @abstractmethod
    def make_metrics(self) -> MetricCollection:
        """The metrics of validation and test."""

    @abstractmethod
    def loss(self, outputs: Tensor, batch: Batch) -> Tensor:
        """What is minimised: scalar, with its gradient.

        Args:
            outputs: of `forward`, for this batch.
            batch: with `labels`.
        """

    @abstractmethod
    def evaluate(self, batch: Batch, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        """Count one batch of validation or test."""

    @abstractmethod
    def answers(self, batch: Batch) -> Sequence[Mapping[str, Any]]:
        """Results for people, one plain dict per row; see `lightning_prefix.tasks.results`."""

    def before_compute(self, metrics: MetricCollection) -> None:
        """Tell the metrics what only this task knows; called before they are computed."""

    def start_from(self, data: Any, state: Mapping[str, Tensor]) -> None:
        """Set what follows from the train rows before training begins; here nothing does.

        Args:
            data: the data module, set up for `fit`; None without one.
            state: the trained tensors by their names, to be changed in place.
        """

    def instruction(self) -> str:
        """Text that `init: text` starts from when the prefix names none."""
        return "Read the text and answer:"

    @cached_property
    def position_limit(self) -> int | None:
        """The most tokens that the backbone's configuration has positions for; None where it names none."""
        config = load_config(self.backbone_name, self.backbone_options).get_text_config()
        return getattr(config, "max_position_embeddings", None)

    # Life cycle.

    def setup(self, stage: str) -> None:
        """Fit the trainer's precision to a frozen backbone.

        Raises:
            InputError: for float16 where the backbone overflows in it, and for strategies that would train wrongly.
        """
        check_strategy(self.trainer.strategy)
        round_frozen_only(self.trainer)
        if self.trainer.precision in ("16-mixed", "16-true"):
            model_type = load_config(self.backbone_name, self.backbone_options).model_type
            check_float16(model_type, f"trainer.precision {self.trainer.precision}", self.backbone_options)

    def configure_model(self) -> None:
        """Load the backbone, freeze it and put the prefix on it; once."""
        if self.model is None:
            self._build(None)
            if self._trainer is not None and self.trainer.training:
                self.start_from(getattr(self.trainer, "datamodule", None), self.state_dict())
        reads_rows_again = self._trainer is not None and not (self.trainer.predicting or self.without_prefix)
        if self.activation_cache is not None and reads_rows_again:
            assert self.model is not None  # noqa: S101  # for the type checker
            cache_activations(self.model, self.activation_cache)

    def configure_from(self, directory: str | Path) -> None:
        """Load the backbone, freeze it and put the prefix of a folder on it, which `save_pretrained` wrote.

        Raises:
            InputError: if the folder is damaged or does not fit.
        """
        self._build(prefix_files.read(Path(directory)))
        self._card = read_card(Path(directory))

    def _build(self, stored: prefix_files.StoredPrefix | None) -> None:
        self.head = self.make_head()
        backbone, trained = load_with_head(self.backbone_name, self.head, self.backbone_options)
        if stored is not None:
            checkpoints.check_state(stored.head_tensors, self.head.state_dict(), f"the head in {stored.directory}")
        if stored is None:
            self.model = PrefixedModel(
                backbone,
                self._prefix_with_text(),
                positions=self.positions,
                tokenizer=self._tokenizer(),
                trained=trained,
                backbone_dropout=self.backbone_dropout,
            )
        else:
            self.model = PrefixedModel.from_pretrained(
                stored.directory, backbone, backbone_dropout=self.backbone_dropout
            )
            self.head.load_state_dict(stored.head_tensors)
        if self.backbone_options.compile:
            self.model.compile()
        if self.without_prefix:
            self.model.set_prefix(None)
        names = {name for name, _ in (*self.named_parameters(), *self.named_buffers())}
        # what DDP sends to other processes neither at the start nor at each step: all have read the same file
        self._ddp_params_and_buffers_to_ignore = sorted(names - checkpoints.trained_names(self))
        self._make_metrics()
        self._check_length()

    def _make_metrics(self) -> None:
        metrics = self.make_metrics()
        self.val_metrics, self.test_metrics = metrics.clone(prefix="val/"), metrics.clone(prefix="test/")
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.spread = OutputSpread()

    def forward(self, batch: Batch) -> Tensor:
        """Outputs of the head, float32: for a classification (batch, labels).

        Args:
            batch: every tensor but `labels`, `index` and `prompt_length` goes to the backbone.
        """
        if self.model is None or self.head is None:
            raise InputError("the task has no weights yet; call configure_model() or load_from_checkpoint first.")
        return cast("Tensor", self.head(self.model, self.inputs(batch))).float()

    def inputs(self, batch: Batch) -> dict[str, Tensor]:
        """What of a batch goes to the head and the backbone."""
        return {name: value for name, value in batch.items() if isinstance(value, Tensor) and name not in _NO_INPUTS}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch.

        Raises:
            NotFiniteError: if it is not a finite number.
        """
        self.measured, self._card = {}, None
        loss = self.loss(self(batch), batch)
        if not torch.isfinite(loss):
            raise NotFiniteError(
                f"the training loss is {loss.item()} at step {self.global_step} (epoch {self.current_epoch}); training "
                f"stopped, and the checkpoints on disk are from before. {_TOO_FAST}"
            )
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch["input_ids"]))
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        self.evaluate(batch, self.val_metrics, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Count one batch."""
        self.evaluate(batch, self.test_metrics, self.test_loss)

    def on_validation_epoch_end(self) -> None:
        """Log what was counted."""
        self._log_metrics("val", self.val_metrics, self.val_loss)

    def on_test_epoch_end(self) -> None:
        """Log what was counted."""
        self._log_metrics("test", self.test_metrics, self.test_loss)

    def _log_metrics(self, name: str, metrics: MetricCollection, mean_loss: MeanMetric) -> None:
        """The same numbers on every process, since metrics gather their states."""
        self.before_compute(metrics)
        values = {f"{name}/loss": mean_loss.compute(), **metrics.compute()}
        self.measured |= {key: float(value) for key, value in values.items()}
        self.log_dict(values, prog_bar=name == "val", sync_dist=True)
        if self.spread.compute() and not (self.trainer.sanity_checking or self.without_prefix):
            rank_zero_warn(_COLLAPSED.format(name=name))
        for metric in (mean_loss, metrics, self.spread):
            metric.reset()

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """One plain dict per row; `index` is its row number in the data."""
        results = self.answers(batch)
        return [{"index": i, **result} for i, result in zip(batch["index"].tolist(), results, strict=True)]

    def configure_optimizers(self) -> Any:
        """AdamW with warm-up and linear decay, or what was given; trained parameters only."""
        assert self.model is not None  # noqa: S101  # Lightning calls configure_model first
        return self.optimization.configure(
            trained_parameters(self.model.prefix, self.parameters()),
            self.trainer.estimated_stepping_batches,
            type(self.prefix_config),
            self.monitor,
        )

    # Files.

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:  # type: ignore[override]
        """The trained tensors, nothing of the frozen backbone."""
        names = checkpoints.trained_names(self)
        return {name: t for name, t in super().state_dict(*args, **kwargs).items() if name in names}

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load trained tensors; always strict about their names and shapes.

        Raises:
            InputError: if they are not exactly those of this task.
        """
        checkpoints.check_state(state_dict, self.state_dict())
        super().load_state_dict(state_dict, strict=False, assign=assign)
        return _IncompatibleKeys([], [])

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add which backbone it belongs to, and the state of the random generators.

        Raises:
            InputError: if a trained tensor is not finite, before anything is written.
        """
        assert self.model is not None  # noqa: S101
        if bad := [name for name, t in checkpoint["state_dict"].items() if not t.isfinite().all()]:
            raise InputError(
                f"{bad[0]} is not finite after step {self.global_step}; no checkpoint was written over the last good "
                f"one. {_TOO_FAST}"
            )
        checkpoint[checkpoints.KEY] = {
            "format": checkpoints.FORMAT,
            "backbone": self.backbone_name,
            "revision": self.backbone_options.revision,
            "fingerprint": self.model.fingerprint(),
            "metrics": dict(self.measured),
        }
        checkpoint["random_state"] = random_state(self.device)
        start = checkpoint["hyper_parameters"]["prefix"]["init_args"]
        if start.get("init") == "file":  # the trained values are here, and the file may be gone when they are loaded
            start = {**start, "init": self._other_start(), "init_file": None}
            checkpoint["hyper_parameters"]["prefix"] = {**checkpoint["hyper_parameters"]["prefix"], "init_args": start}

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that it belongs to this backbone.

        Raises:
            InputError: if not.
        """
        checkpoints.check_origin(checkpoint)
        assert self.model is not None  # noqa: S101
        record = checkpoint[checkpoints.KEY]
        origin = f"the checkpoint was trained on {record['backbone']!r}"
        check_fingerprint(record["fingerprint"], self.model.fingerprint(), origin, self.backbone_name)
        self.measured = dict(record.get("metrics", {}))
        self._random_state = checkpoint["random_state"]

    def on_fit_start(self) -> None:
        """The frozen backbone is in eval mode on purpose, about which Lightning would warn."""
        warnings.filterwarnings("ignore", message=r".*in eval mode at the start of training")

    def on_train_start(self) -> None:
        """When resuming, go on with the stored random numbers."""
        if self._random_state is not None:
            set_random_state(self._random_state, self.device)
            self._random_state = None

    def save_pretrained(self, directory: str | Path, data: dict[str, Any] | None = None) -> None:
        """Write the prefix (flattened), the head, what a `Predictor` needs, and a model card; kilobytes.

        The card says what is known of the run: metrics, data, options, versions. Of a task that was loaded from a
        folder and not trained since, it is that folder's.

        Args:
            directory: made when missing; a `README.md` that a person has written or changed stays as it is.
            data: plain data about the texts for the `Predictor`, as `TextDataModule.description` returns it.
        """
        if self.model is None or self.head is None:
            raise InputError("the task has no weights yet; fit it or load a checkpoint before saving.")
        task = {"hyper_parameters": dict(self.hparams), "data": data or {}}
        self.model.save_pretrained(directory, head=self.head.state_dict(), task=task)
        write_card(Path(directory), self._card or model_card(self, task["data"], Path(directory)))
        name_card(Path(directory), Path(directory).as_posix())

    def push_to_hub(self, repo_id: str, data: dict[str, Any] | None = None, **options: Any) -> str:
        """Save, and put the folder on the Hugging Face hub.

        Args:
            repo_id: `user/name`; made when missing.
            data: as in `save_pretrained`.
            options: `private`, `token`, `revision` and `commit_message` of `lightning_prefix.push_to_hub`.

        Returns:
            The address of the commit.

        Raises:
            InputError: if the task has no weights, or the hub refuses.
        """
        with TemporaryDirectory() as directory:
            folder = Path(directory) / repo_id.rpartition("/")[2]
            self.save_pretrained(folder, data)
            return push_to_hub(folder, repo_id, **options)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> "PrefixTask":
        """The task that `save_pretrained` wrote, with weights, in eval mode.

        Args:
            directory: the folder, or the id of a repository on the Hugging Face hub, `user/name`.
            revision: branch, tag or commit of the repository.
            token: for a private one; the one of `hf auth login` or `HF_TOKEN` when None.
            overrides: arguments to replace, such as `backbone` where it lies elsewhere now.

        Raises:
            InputError: if there is no such folder, or it is damaged or holds no task.
        """
        return cls.load_folder(local_folder(directory, revision, token), **overrides)[0]

    @classmethod
    def load_folder(cls, directory: str | Path, **overrides: Any) -> tuple["PrefixTask", dict[str, Any]]:
        """As `from_pretrained` of a folder, with what was stored about the data."""
        description = stored_task(directory)
        arguments = description["hyper_parameters"]
        task = task_from(cls, arguments, overrides, lambda task: task.configure_from(directory), directory)
        return task.eval(), description["data"]

    @_restricted_classmethod
    def load_from_checkpoint(
        cls,  # noqa: N805
        checkpoint_path: str | Path | IO[bytes],
        map_location: Any = None,
        hparams_file: str | Path | None = None,
        strict: bool | None = None,
        weights_only: bool | None = None,
        **kwargs: Any,
    ) -> "PrefixTask":
        """The task that `fit` wrote, with weights; as Lightning's, and safe with the file of a stranger.

        Args:
            checkpoint_path: a `.ckpt` of `fit` on any file system, or an open file.
            map_location: of `torch.load`; the device that it was saved on, if it is here, when None.
            hparams_file: a YAML of arguments to use in place of the stored ones.
            strict: names and shapes are always compared.
            weights_only: always true.
            kwargs: arguments to replace, such as `backbone` where it lies elsewhere now. No file turns on
                `trust_remote_code`; `backbone_options` given here can.

        Raises:
            InputError: if it is missing, damaged, of another backbone, or its arguments cannot be used.
        """
        checkpoint = checkpoints.read_checkpoint(checkpoint_path, map_location or _default_map_location)
        stored = load_hparams_from_yaml(hparams_file) if hparams_file else checkpoint["hyper_parameters"]
        task = task_from(cls, stored, kwargs, lambda task: task.configure_model(), checkpoint_path)
        task.on_load_checkpoint(checkpoint)
        task.load_state_dict(checkpoint["state_dict"])
        return task.to(next(iter(checkpoint["state_dict"].values())).device)

    # Details.

    def _keep_hyperparameters(self, frame: Any) -> None:
        """Store the arguments of the concrete class as plain data, the same from the CLI and from Python."""
        self.save_hyperparameters(frame=frame)
        arguments = plain_data({k: v for k, v in self.hparams.items() if not k.startswith("_")})
        self.hparams.clear()
        self.save_hyperparameters(
            {
                "_class_path": import_path(type(self)),
                "_instantiator": "lightning.pytorch.cli.instantiate_module",
                **arguments,
            }
        )

    def _other_start(self) -> str:
        """The variant's own start values."""
        return str(next(f.default for f in fields(self.prefix_config) if f.name == "init"))

    def _prefix_with_text(self) -> PrefixConfig:
        config = self.prefix_config
        if config.init == "text" and not config.init_text:
            return replace(config, init_text=self.instruction())
        return config

    def _tokenizer(self) -> Any:
        from lightning_prefix.backbone import load_tokenizer

        return load_tokenizer(self.backbone_name, self.backbone_options) if self.prefix_config.init == "text" else None

    def _check_length(self) -> None:
        """Texts longer than the backbone's positions would fail in the middle of an epoch."""
        assert self.model is not None  # noqa: S101
        data = None if self._trainer is None else getattr(self._trainer, "datamodule", None)
        longest, limit = getattr(data, "max_length", None), max_positions(self.model.backbone)
        reserved = getattr(data, "reserved", 0)
        if longest is not None and limit is not None and longest + reserved > limit:
            raise InputError(
                f"data.max_length {longest} is given, but {self.backbone_name!r} has positions for {limit} tokens"
                + (f", and {reserved} of them are kept for the target" if reserved else "")
                + f"; use max_length <= {limit - reserved}."
            )


def stored_task(directory: str | Path) -> dict[str, Any]:
    """What a folder says of its task: `hyper_parameters`, and of the `data` for a `Predictor`.

    Raises:
        InputError: if it is damaged, or holds a prefix without a task.
    """
    description = prefix_files.read(Path(directory)).description.get("task")
    if description is None:
        raise InputError(
            f"{directory} holds a prefix without a task; load it with PrefixedModel.from_pretrained instead."
        )
    return cast("dict[str, Any]", description)
