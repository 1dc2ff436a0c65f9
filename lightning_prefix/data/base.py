"""`TextDataModule`: from a source to batches of tokens; its subclasses say what a label is."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any, ClassVar

from lightning.pytorch import LightningDataModule
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.data.checks import (
    check_at_least,
    check_columns,
    check_fraction,
    check_label_is_no_text,
    check_labelled,
    check_overfitting,
    check_packing,
    check_source,
    is_unlabelled,
)
from lightning_prefix.data.collate import Collator
from lightning_prefix.data.encode import as_rows, cut_off, describe_changes, encode_split
from lightning_prefix.data.loaders import evaluation_loader, packed_loader, train_loader
from lightning_prefix.data.packing import PackingCollator
from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.data.reading import Reading, cells_of
from lightning_prefix.data.resume import ResumableDataLoader
from lightning_prefix.data.sources import (
    Splits,
    has_split,
    load_predict_rows,
    load_splits,
    row_counts,
    select_split,
    source_facts,
)
from lightning_prefix.data.streams.loaders import EvaluationStreamLoader, TrainStreamLoader
from lightning_prefix.data.streams.rows import RowStream, first_rows
from lightning_prefix.data.streams.sources import load_predict_stream, load_streams, names_with_validation
from lightning_prefix.data.streams.stream import encoded_stream
from lightning_prefix.data.templates import text_columns
from lightning_prefix.data.tokenize import encode_rows, padding_values, resolve_max_length
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets
    from torch.utils.data import DataLoader
    from typing_extensions import Self

__all__ = ["TextDataModule"]


class TextDataModule(LightningDataModule, ABC):
    r"""Texts, or pairs of texts, with labels.

    A batch is a plain dict of tensors: what the tokenizer returns (`input_ids`, `attention_mask`, ...), long
    (batch, tokens), padded at the right; `labels`, absent when predicting; `index`, long (batch,), the row's
    position in its split. Training order is a function of `seed` and the epoch alone.

    Args:
        source: where the rows are: the id of a data set on the Hugging Face hub ("stanfordnlp/sst2"), a
            local file (csv, tsv, json, SQuAD's json, jsonl, parquet, tmx, po, conll, or txt with one text a line), a
            local folder with files named train, validation and test (parallel text: train.en, train.de, ...),
            "asset:NAME", or {"train": file, "validation": file, "test": file}, where file may be
            {"en": text file, "de": text file}. From Python also a `datasets.Dataset`, a `DatasetDict`, a list
            of dicts, or split -> any of these. A single file or list is the train split.
        subset: configuration of a hub data set, such as "sst2" of "nyu-mll/glue".
        revision: branch, tag or commit of a hub data set.
        train_split: name of the split to train on; a slice such as "train[:1000]" works for every source.
        validation_split: name of the split to validate on. If there is no split "validation",
            `validation_fraction` of the train split is cut off.
        test_split: name of the split to test on.
        predict: what `predict` reads: a txt file with one text a line, a csv, tsv, json, jsonl or parquet
            file with the text column, or the texts themselves; None for the test split.
        text_column: column of the text.
        pair_column: column of a second text, such as the hypothesis or the question.
        label_column: column of the label.
        tokenizer: hub id, folder or asset of the tokenizer; None for the task's backbone.
        template: a text with columns in braces, such as "Review: {text}\nSentiment:", which replaces the
            text. Where it is too long, its longest column is cut, not the words around it.
        preprocess: what is done to every text first, not to the words of the template; stored with the prefix, so
            that a `Predictor` does the same. Nothing by default, which is best for most pretrained models.
        max_length: tokens a text may have, special ones included, >= 8; longer texts are cut. None for the
            tokenizer's limit, or 512 if it has none.
        drop_empty: leave rows without text out; otherwise they are an error.
        batch_size: rows per training step on each device, >= 1.
        max_batch_tokens: tokens per training step on each device, padding included: batches then hold as many rows of
            like lengths as fit, `batch_size` at most, which can be large. Targets of an encoder-decoder count, too.
        packing: put several examples into a row in training, each of which sees the prefix and itself only, so that
            next to nothing is padded; the loss of the same examples is the same. For tasks that write texts, with a
            decoder. `batch_size` counts such rows, so a step reads more examples than without.
        packed_length: tokens of such a row, >= the longest train example; its length when null.
        eval_batch_size: rows per batch in validation, test and prediction, >= 1; None for `batch_size`.
        group_by_length: let rows of like lengths share a training batch, which saves padding; the order stays random
            within pools of 50 batches.
        num_workers: processes that load batches; 0 for the main one.
        streaming: read and tokenise rows as they are needed, from a file, the address of one ("s3://bucket/train.csv")
            or a hub data set, in constant memory and without a copy on disk. Training needs `trainer.max_steps`.
            Without a validation split the first 1000 train rows are it.
        shuffle_buffer: with `streaming`, rows that each loading process reads ahead and shuffles, >= 1.
        validation_fraction: share of the train split that becomes the validation split if there is none.
        seed: of the order of training rows and of the cut.
    """

    multi_label = False
    """Whether a row may have several labels."""
    can_pack: ClassVar[bool] = False
    """Whether several examples may share a row in training."""
    stored: ClassVar[tuple[str, ...]] = (
        "text_column",
        "pair_column",
        "template",
        "preprocess",
        "tokenizer",
        "max_length",
    )
    """Options that a `Predictor` needs to read texts as they were read here."""
    encode_function: ClassVar[Callable[..., dict[str, list[Any]]]] = staticmethod(encode_rows)
    """From rows to tokens; a top-level function with the first arguments of `encode_rows`."""

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        subset: str | None = None,
        revision: str | None = None,
        train_split: str = "train",
        validation_split: str = "validation",
        test_split: str = "test",
        predict: str | list[str] | None = None,
        text_column: str = "text",
        pair_column: str | None = None,
        label_column: str = "label",
        tokenizer: str | None = None,
        template: str | None = None,
        preprocess: Preprocessing = Preprocessing(),
        max_length: int | None = None,
        drop_empty: bool = False,
        batch_size: int = 32,
        max_batch_tokens: int | None = None,
        packing: bool = False,
        packed_length: int | None = None,
        eval_batch_size: int | None = None,
        group_by_length: bool = True,
        num_workers: int = 0,
        streaming: bool = False,
        shuffle_buffer: int = 10_000,
        validation_fraction: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("max_batch_tokens", max_batch_tokens, 1),
            ("num_workers", num_workers, 0),
            ("shuffle_buffer", shuffle_buffer, 1),
            ("max_length", max_length, 8),
        ):
            check_at_least(name, value, least)
        check_fraction("validation_fraction", validation_fraction)
        check_packing(type(self).__name__, self.can_pack, packing, packed_length, max_batch_tokens, streaming)
        self.source, self.subset, self.revision = source, subset, revision
        self.split_names = {"train": train_split, "validation": validation_split, "test": test_split}
        self.predict, self.template, self.tokenizer = predict, template, tokenizer
        self.preprocess = preprocess
        self.text_column, self.pair_column, self.label_column = text_column, pair_column, label_column
        self.drop_empty, self.group_by_length, self.num_workers = drop_empty, group_by_length, num_workers
        self.batch_size, self.max_batch_tokens = batch_size, max_batch_tokens
        self.packing, self.packed_length = packing, packed_length
        self.eval_batch_size = batch_size if eval_batch_size is None else eval_batch_size
        self.streaming, self.shuffle_buffer = streaming, shuffle_buffer
        self.validation_fraction, self.seed = validation_fraction, seed
        self.labels: tuple[str, ...] = ()
        self.max_length = max_length
        self.predict_rows: datasets.Dataset | None = None
        """Raw rows of the split that is predicted; a batch's `index` is a position in it."""
        self._given_max_length = max_length
        self.columns = text_columns(text_column, pair_column, template)
        """Names of the columns that are read as text."""
        check_label_is_no_text(label_column, self.columns)
        self._served_task: Any = None
        self._splits: Splits | None = None
        self._train_loader: ResumableDataLoader | TrainStreamLoader | None = None
        self._begin_at: dict[str, Any] = {}
        self._encoded: dict[tuple[Any, ...], datasets.Dataset] = {}
        self._raw: dict[str, datasets.Dataset] = {}
        self._ready: dict[str, datasets.Dataset] = {}
        self._has_cut = False
        self._cuts_validation = True
        self._kept_labels: tuple[str, ...] | None = None

    @property
    def reserved(self) -> int:
        """Tokens of the backbone's positions that the text leaves to a target after it."""
        return 0

    @property
    def task(self) -> Any:
        """The task that is being run, or the one given to `serve`; None without."""
        return self._served_task if self.trainer is None else self.trainer.lightning_module

    def serve(self, task: Any) -> None:
        """Read texts for this task outside of a Trainer."""
        self._served_task = task

    @property
    def tokenizer_name(self) -> str:
        """Name of the tokenizer: the user's, or the backbone of the task that is being run.

        Raises:
            InputError: without either.
        """
        name = self.tokenizer or getattr(self.task, "backbone_name", None)
        if name is None:
            raise InputError(
                f"{type(self).__name__} has no tokenizer: none was given and no task with a backbone is "
                "being run. Give tokenizer=, the hub id or folder of the backbone."
            )
        return name

    @property
    def splits(self) -> Splits:
        """The source's splits as they are, loaded at the first use."""
        if self._splits is None:
            check_source(self.source)
            load = load_streams if self.streaming else load_splits
            self._splits = load(self.source, subset=self.subset, revision=self.revision)
        return self._splits

    @property
    def read_columns(self) -> list[str]:
        """Names of all columns that are read of labelled rows."""
        return [*self.columns, *([self.label_column] if self.label_column else [])]

    @property
    def group_column(self) -> str | None:
        """Column whose equal values must not stand on both sides of a split; None for none."""
        return None

    def with_source(self, source: Any) -> "Self":
        """A copy, without a Trainer, that reads another source with the same options.

        Args:
            source: as in the class.
        """
        copied = copy.copy(self)
        copied.source, copied._splits = source, None
        copied._encoded, copied._ready, copied._raw, copied._begin_at = {}, {}, {}, {}
        copied._train_loader = copied.predict_rows = None
        copied.trainer = None
        copied._has_cut, copied._cuts_validation, copied._kept_labels = False, True, None
        return copied

    def fold(self, train: "datasets.Dataset", test: "datasets.Dataset", validation: bool = False) -> "Self":
        """A copy, without a Trainer, that trains on some rows and tests on others.

        The names of the classes stay those of the whole data: a class may be missing among the rows to train on.

        Args:
            train: raw rows.
            test: raw rows.
            validation: cut `validation_fraction` of the rows to train on off for validation; otherwise all are trained
                on, and the Trainer needs `limit_val_batches=0`.
        """
        copied = self.with_source({"train": train, "test": test})
        copied.split_names = {role: role for role in ("train", "validation", "test")}
        copied._kept_labels, copied._cuts_validation = self._label_names(), validation
        copied._has_cut = True  # it was asked for, so nothing needs to be said
        return copied

    @property
    def has_test(self) -> bool:
        """Whether the source has a test split with labels."""
        name = self.split_names["test"]
        if self.source is None or not has_split(self.splits, name):
            return False
        return self.is_labelled(first_rows(select_split(self.splits, name)))

    def is_labelled(self, rows: "datasets.Dataset") -> bool:
        """Whether the rows can be scored."""
        return self.label_column in rows.column_names and not is_unlabelled(
            rows, self.label_column, self._label_names()
        )

    def _label_names(self) -> tuple[str, ...]:
        names = self.find_labels() if self._kept_labels is None else self._kept_labels
        if self.streaming:  # of which finding them may have taken a pass
            self._kept_labels = names
        return names

    @abstractmethod
    def find_labels(self) -> tuple[str, ...]:
        """The names of the classes in the order of their numbers; empty where labels are no classes."""

    @abstractmethod
    def label_reader(self, rows: "datasets.Dataset") -> Callable[[Any], Any]:
        """The function from a cell of the label column of these rows to what is trained on.

        It must be a top-level function, or a `functools.partial` of one with plain arguments, so that what it
        returns is cached. It raises `ValueError("what is wrong. What to do.")`.
        """

    def cut_validation(self, rows: "datasets.Dataset") -> "tuple[datasets.Dataset, datasets.Dataset]":
        """Cut `validation_fraction` of the tokenised train rows off."""
        return cut_off(rows, self.validation_fraction, self.seed)

    def description(self) -> dict[str, Any]:
        """Plain data, with which `data_from` makes a data module that reads texts as they were read here."""
        options = {name: getattr(self, name) for name in self.stored}
        options["preprocess"] = asdict(self.preprocess)
        return {"class_path": f"{type(self).__module__}.{type(self).__qualname__}", "init_args": options}

    def summary(self) -> dict[str, Any]:
        """Plain data about the source for a model card: `source`, `hub_id`, `rows` of the splits that were read, ..."""
        facts = source_facts(self.source, self.subset, self.revision)
        return {**facts, "rows": row_counts(self._ready), "columns": self.read_columns}

    @property
    def example(self) -> list[Any]:
        """Inputs of a `Predictor`, for people to fill in."""
        return ["your text"] if len(self.columns) == 1 else [dict.fromkeys(self.columns, "your text")]

    def input_row(self, given: Any) -> dict[str, Any]:
        """The columns of one input of a `Predictor`.

        Args:
            given: a text, a pair of texts, or a dict with the columns.

        Raises:
            InputError: if it lacks one.
        """
        return cells_of(given, self.columns)

    def encode_inputs(self, inputs: Sequence[Any], first: int = 0) -> list[dict[str, Any]]:
        """Inputs of a `Predictor` as rows for the collator, without `datasets`; `first` is the first one's number."""
        rows = [self.input_row(given) for given in inputs]
        columns = type(self).encode_function(
            {column: [row[column] for row in rows] for column in self.columns},
            list(range(first, first + len(rows))),
            replace(self._reading("texts", None), drop_empty=False),
            **self.encode_options(None, "predict"),
        )
        return as_rows(columns, without=("row", "cut", "length"))

    def collator(self) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """The function from rows to a batch."""
        return Collator(padding_values(self.tokenizer_name))

    def source_template(self) -> str | None:
        """The template that is used."""
        return self.template

    def encode_options(self, rows: "datasets.Dataset | None", role: str) -> dict[str, Any]:
        """Arguments of `encode_function` beyond those of `encode_rows`; plain data.

        Args:
            rows: the raw rows; None where nothing is labelled.
            role: "train", "validation", "test" or "predict".
        """
        return {}

    def prepare_data(self) -> None:
        """Download, check and tokenise, in one process; `setup` finds the result in `datasets`' cache."""
        function = None if self.trainer is None else self.trainer.state.fn
        self._build("fit" if function is None else function.value)

    def setup(self, stage: str) -> None:
        """Make the rows of a stage ready, in every process.

        Args:
            stage: "fit", "validate", "test" or "predict".
        """
        self._ready.update(self._build(stage))
        if stage == "predict":
            self.predict_rows = self._raw["predict"]

    def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Count a training batch of a stream, of which the Trainer takes one ahead."""
        if isinstance(self._train_loader, TrainStreamLoader) and self.trainer is not None and self.trainer.training:
            self._train_loader.count()
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The place of the next training batch; empty outside training."""
        return {} if self._train_loader is None else self._train_loader.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Begin the next training at this place.

        Lightning also loads the loader's own state, but not where `estimated_stepping_batches` has made the loader
        before, as schedules of a known length do.
        """
        if self.trainer is not None and self.trainer.state.fn == "fit":
            self._begin_at = state_dict

    def train_dataloader(self) -> "ResumableDataLoader | TrainStreamLoader":
        """Batches to train on, in an order that a checkpoint can take up again."""
        self._train_loader = self._new_train_loader()
        if self._begin_at:
            self._train_loader.load_state_dict(self._begin_at)
            self._begin_at = {}
        return self._train_loader

    @property
    def batches_per_epoch(self) -> int | None:
        """Training batches of this process; None of a stream, whose length is not known."""
        loader: Any = None if self.streaming else self._new_train_loader()
        return None if loader is None else len(loader)

    def _new_train_loader(self) -> "ResumableDataLoader | TrainStreamLoader":
        rows, options = self._rows("train", "fit"), self._loader_options()
        options |= {"batch_size": self.batch_size, "seed": self.seed}
        check_overfitting(self.trainer, self.packing, self.max_batch_tokens)
        if self.packing:
            options["collate"] = PackingCollator(options["collate"].padding)
            return packed_loader(rows, packed_length=self.packed_length, **options)
        return train_loader(
            rows,
            group_by_length=self.group_by_length,
            max_batch_tokens=self.max_batch_tokens,
            shuffle_buffer=self.shuffle_buffer,
            trainer=self.trainer,
            **options,
        )

    def val_dataloader(self) -> "DataLoader[dict[str, Any]] | EvaluationStreamLoader":
        """Batches of the validation split, in order."""
        return self._evaluation_loader("validation", "validate")

    def test_dataloader(self) -> "DataLoader[dict[str, Any]] | EvaluationStreamLoader":
        """Batches of the test split, in order."""
        return self._evaluation_loader("test", "test")

    def predict_dataloader(self) -> "DataLoader[dict[str, Any]] | EvaluationStreamLoader":
        """Batches of the rows to predict, in order, without labels."""
        return self._evaluation_loader("predict", "predict")

    def _evaluation_loader(self, role: str, stage: str) -> "DataLoader[dict[str, Any]] | EvaluationStreamLoader":
        return evaluation_loader(
            self._rows(role, stage),
            role=role,
            batch_size=self.eval_batch_size,
            decoded_rows=getattr(self.task, "decoded_rows", 0),
            **self._loader_options(),
        )

    def _resolve_max_length(self) -> int:
        resolved = resolve_max_length(self.tokenizer_name, self._given_max_length)
        positions = getattr(self.task, "position_limit", None)
        return resolved if self._given_max_length or positions is None else min(resolved, positions - self.reserved)

    def _rows(self, role: str, stage: str) -> "datasets.Dataset":
        if role not in self._ready:
            raise InputError(f"the {role} rows are not ready. Call setup({stage!r}) first, as the Trainer does.")
        return self._ready[role]

    def _loader_options(self) -> dict[str, Any]:
        return {
            "collate": self.collator(),
            "num_workers": self.num_workers,
            "ranks": 1 if self.trainer is None else self.trainer.world_size,
            "rank": 0 if self.trainer is None else self.trainer.global_rank,
        }

    def raw_rows(self, role: str) -> "datasets.Dataset":
        """The rows in which the `index` of a batch is a position.

        Args:
            role: "train", "validation", "test" or "predict", which must be set up.
        """
        return self._raw[role]

    def _raw_predict_rows(self) -> "datasets.Dataset":
        if self.predict is not None:
            return (load_predict_stream if self.streaming else load_predict_rows)(self.predict, self.text_column)
        name = self.split_names["test"]
        if self.source is None or not has_split(self.splits, name):
            raise InputError(
                f"there is nothing to predict: predict was not given, and the source has no split {name!r}. "
                "Give predict= a txt, csv, tsv, json, jsonl or parquet file, or a list of texts."
            )
        return select_split(self.splits, name)

    def _build(self, stage: str) -> "dict[str, datasets.Dataset]":
        self.max_length = self._resolve_max_length()
        if stage == "predict":
            return {"predict": self._encode("predict", self._raw_predict_rows(), is_labelled=False)}
        self.labels = self._label_names()
        if stage == "test":
            return {"test": self._encode_split("test")}
        if stage == "fit" and not self._cuts_validation:
            return {"train": self._encode_split("train")}
        if self.streaming:
            self.split_names = names_with_validation(self.split_names, self.splits)
        name = self.split_names["validation"]
        if name != "validation" or has_split(self.splits, name):
            built = {"validation": self._encode_split("validation")}
            return built if stage == "validate" else {"train": self._encode_split("train"), **built}
        encoded = self._encode_split("train")
        self._raw["validation"] = self._raw["train"]  # unless the cut encodes other rows
        train, validation = self.cut_validation(encoded)
        if not self._has_cut:
            self._has_cut = True
            rank_zero_info(
                f"The source has no split 'validation' (it has {', '.join(map(repr, self.splits))}): "
                f"{len(validation)} of {len(train) + len(validation)} train rows were cut off for validation."
            )
        return {"train": train, "validation": validation}

    def _encode_split(self, role: str) -> "datasets.Dataset":
        rows = select_split(self.splits, self.split_names[role])
        self.check_labels(first_rows(rows), role)
        return self._encode(role, rows, is_labelled=True)

    def check_labels(self, rows: "datasets.Dataset", role: str) -> None:
        """Raise `InputError` unless the rows have labels."""
        check_columns(rows, [self.label_column], self.split_names[role], "label_column")
        check_labelled(rows, self.label_column, self.labels, self.split_names[role], f"{role}_split")

    def _encode(self, role: str, rows: "datasets.Dataset", *, is_labelled: bool) -> "datasets.Dataset":
        self._raw[role] = rows
        split = self.split_names.get(role, role)
        labelled = rows if is_labelled else None
        reading, options = self._reading(split, labelled), self.encode_options(labelled, role)
        if isinstance(rows, RowStream):
            stream = encoded_stream(rows, reading, function=type(self).encode_function, **options)
            self._raw[role] = stream.recent
            return stream
        key = (role, repr(reading), repr(options))
        if key not in self._encoded:
            self._encoded[key] = encode_split(rows, reading, function=type(self).encode_function, **options)
            for line in describe_changes(self._encoded[key], len(rows), split, reading.max_length):
                rank_zero_info(line)
        return self._encoded[key]

    def _reading(self, split: str, labelled: "datasets.Dataset | None") -> Reading:
        is_labelled = labelled is not None and bool(self.label_column)
        return Reading(
            split=split,
            tokenizer=self.tokenizer_name,
            text_columns=self.columns,
            max_length=self._resolve_max_length(),
            template=self.source_template(),
            preprocess=self.preprocess,
            drop_empty=self.drop_empty,
            label_column=self.label_column if is_labelled else None,
            read_label=self.label_reader(labelled) if is_labelled else None,
        )
