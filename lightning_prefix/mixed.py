"""`MixedPredictor`: many trained prefixes on one backbone, which answer in one batch."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.functional import pad

from lightning_prefix.backbone import PrefixedModel, files
from lightning_prefix.backbone.hub import local_folder
from lightning_prefix.data import data_from
from lightning_prefix.data.collate import join
from lightning_prefix.errors import InputError
from lightning_prefix.predictor import Predictor, Text
from lightning_prefix.row_writer import RowsStreamer, RowWriter
from lightning_prefix.streaming import stream_text
from lightning_prefix.tasks import PrefixTask, TextGeneration
from lightning_prefix.tasks import checkpoint as checkpoints
from lightning_prefix.tasks.arguments import task_from
from lightning_prefix.tasks.base import Batch, stored_task
from lightning_prefix.tasks.heads import Head
from lightning_prefix.tasks.known_outputs import reads_shared_states, scores_of_rows

__all__ = ["MixedPredictor"]


class MixedPredictor:
    """Trained prefixes on one frozen backbone, each with its name; rows for different ones are read in one pass.

    Tasks may differ as long as the backbone is loaded as the same class: classification beside regression with the
    model's own head; any of these and entities with heads of their own on `AutoModel`; generation beside label words.
    One pass is made of all rows with scores, one for each prefix with label words, and one for each way of writing
    (`generation`) of texts. Results are those of a `Predictor` of the folder. It is not safe to call from two threads
    at the same time.

    Args:
        folders: name -> folder, or id on the Hugging Face hub.
        device: where the model runs.
        batch_size: rows per forward pass, >= 1.
        overrides: arguments of every task to replace, such as `backbone` where it lies elsewhere now.

    Raises:
        InputError: if a folder is damaged, or was trained on another backbone or class of it than the first.

    Example:
        >>> import lightning_prefix as lp
        >>> predict = lp.MixedPredictor({"mood": "mood/prefix", "stars": "stars/prefix"})  # doctest: +SKIP
        >>> predict([("mood", "A warm film."), ("stars", "A warm film.")])  # doctest: +SKIP
        [{'label': 'positive', 'probabilities': {...}}, {'value': 4.2}]
    """

    def __init__(
        self,
        folders: Mapping[str, str | Path],
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
        **overrides: Any,
    ) -> None:
        if not folders:
            raise InputError("no prefix is given; give at least one name and folder.")
        self.batch_size = batch_size
        self._device, self._overrides = device, overrides
        self.model: PrefixedModel
        self._predictors: dict[str, Predictor] = {}
        self._trained: dict[str, dict[str, Tensor]] = {}
        self._hooked: set[str] = set()
        self._counts: Mapping[str, int] | None = None
        for name, folder in folders.items():
            self.add(name, folder)

    @property
    def names(self) -> tuple[str, ...]:
        """Of all prefixes."""
        return tuple(self._predictors)

    def predictor(self, name: str) -> Predictor:
        """The task and the data of a prefix.

        Raises:
            InputError: if there is none of that name.
        """
        if name not in self._predictors:
            raise InputError(f"there is no prefix {name!r}; there are {', '.join(map(repr, self.names))}.")
        return self._predictors[name]

    def add(self, name: str, folder: str | Path) -> None:
        """Put one more prefix on the backbone.

        Raises:
            InputError: if the name is taken, or the folder is damaged or does not fit.
        """
        folder = local_folder(folder)
        stored = files.read(folder)
        task = self._task(folder, stored) if self._predictors else PrefixTask.load_folder(folder, **self._overrides)[0]
        data = data_from(stored_task(folder)["data"], folder)
        predictor = Predictor(task.to(self._device), data, self.batch_size)
        if self._predictors:
            self.model.add_stored_prefix(name, stored)
        else:
            self.model = cast("PrefixedModel", task.model)
            if name != "default":
                self.model.rename_prefix("default", name)
        self._predictors[name] = predictor
        self._trained[name] = {key: value.to(self._device) for key, value in stored.backbone_tensors.items()}
        for path in {key.rpartition(".")[0] for key in stored.backbone_tensors} - self._hooked:
            self._hooked.add(path)
            self.model.backbone.get_submodule(path).register_forward_hook(self._hook(path), with_kwargs=True)

    def _task(self, folder: Path, stored: files.StoredPrefix) -> PrefixTask:
        """The task of a folder, on the model that is there."""
        first, trained = self.names[0], list(self._trained[self.names[0]])

        def build(task: PrefixTask) -> None:
            task.head = task.make_head()
            auto_class = cast("Head", self._predictors[first].task.head).auto_class
            if task.head.auto_class != auto_class:
                raise InputError(
                    f"{folder} reads the backbone as {task.head.auto_class}, {first!r} as {auto_class}; prefixes in "
                    "one batch need the same. Serve them apart."
                )
            task.head.attach(self.model.backbone)
            checkpoints.check_state(stored.head_tensors, task.head.state_dict(), f"the head in {folder}")
            task.head.load_state_dict(stored.head_tensors)
            task.model = self.model

        if trained != list(stored.backbone_tensors):
            raise InputError(
                f"{folder} trained {list(stored.backbone_tensors) or 'nothing'} of the backbone, {first!r} "
                f"{trained or 'nothing'}; prefixes in one batch need the same. Serve them apart."
            )
        arguments = stored_task(folder)["hyper_parameters"]
        task: PrefixTask = task_from(cast("Any", PrefixTask), arguments, self._overrides, build, folder)
        return task.eval()

    def __call__(self, rows: Sequence[tuple[str, Text]]) -> list[Any]:
        """Results in the order of the rows.

        Args:
            rows: name of the prefix, and the text, pair, or dict with columns that it reads.

        Raises:
            InputError: for a name that is not there, or an input that is empty or lacks a column.
        """
        encoded: list[dict[str, Any]] = [{} for _ in rows]
        passes: dict[str, list[int]] = defaultdict(list)
        for name in dict.fromkeys(name for name, _ in rows):
            own = [index for index, (other, _) in enumerate(rows) if other == name]
            predictor = self.predictor(name)
            for index, row in zip(own, predictor.data.encode_inputs([rows[i][1] for i in own]), strict=True):
                encoded[index] = row
            passes[_pass_of(name, predictor.task)] += own
        results: list[Any] = [None for _ in rows]
        with torch.inference_mode():
            for chosen in passes.values():
                chosen.sort(key=lambda i: len(encoded[i]["input_ids"]))  # little padding
                for start in range(0, len(chosen), self.batch_size):
                    self._answer(chosen[start : start + self.batch_size], rows, encoded, results)
        return results

    def _answer(
        self,
        chosen: Sequence[int],
        rows: Sequence[tuple[str, Text]],
        encoded: Sequence[dict[str, Any]],
        results: list[Any],
    ) -> None:
        """One pass."""
        by_name: dict[str, list[int]] = defaultdict(list)
        for index in chosen:
            by_name[rows[index][0]].append(index)
        batches = {
            name: self._predictors[name]._batch([encoded[i] for i in own], [rows[i][1] for i in own])
            for name, own in by_name.items()
        }
        for name, answers in self._described(batches):
            for index, answer in zip(by_name[name], answers, strict=True):
                results[index] = answer

    def _described(self, batches: Mapping[str, Batch]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
        tasks: dict[str, Any] = {name: self._predictors[name].task for name in batches}
        inputs = {name: PrefixTask.inputs(tasks[name], batch) for name, batch in batches.items()}
        counts = {name: len(own["input_ids"]) for name, own in inputs.items()}
        first = next(iter(batches))
        with self._reading(counts):
            if isinstance(tasks[first], TextGeneration):
                scores = _split(tasks[first].write(self._joined(first, inputs)), counts)
            elif reads_shared_states(tasks[first]):
                outputs = self.model(**self._joined(first, inputs))
                places = _split(range(sum(counts.values())), counts)
                scores = [
                    tasks[name].scores(scores_of_rows(tasks[name].head, outputs, rows, inputs[name]), batches[name])
                    for name, rows in zip(batches, places, strict=True)
                ]
            else:  # alone
                yield first, tasks[first].answers(batches[first])
                return
        for (name, batch), own in zip(batches.items(), scores, strict=True):
            yield name, tasks[name].describe(own, batch)

    def _joined(self, first: str, inputs: Mapping[str, Batch]) -> Batch:
        return join(list(inputs.values()), cast("Any", self._predictors[first].data.collator()).padding)

    @contextmanager
    def _reading(self, counts: Mapping[str, int]) -> Iterator[None]:
        """Inside, rows belong to prefixes: so many to the first, and so on."""
        self._counts = counts
        try:
            with self.model.rows_with([name for name, count in counts.items() for _ in range(count)]):
                yield
        finally:
            self._counts = None

    def _hook(self, path: str) -> Callable[..., Any]:
        """Calls a trained module once for the rows of each prefix, with its values; fewer outputs are padded."""

        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], _: Tensor) -> Tensor | None:
            if self._counts is None:
                return None
            counts, self._counts = self._counts, None  # the calls below are not to come here again
            try:
                each = len(args[0]) // sum(counts.values())
                found = []
                for name, part in zip(counts, torch.split(args[0], [n * each for n in counts.values()]), strict=True):
                    trained = self._trained[name]
                    own = {k.rpartition(".")[2]: v for k, v in trained.items() if k.rpartition(".")[0] == path}
                    found.append(functional_call(module, own, (part,), kwargs))
            finally:
                self._counts = counts
            width = max(part.shape[-1] for part in found)
            return torch.cat([pad(part, (0, width - part.shape[-1])) for part in found])

        return hook

    def write(self, rows: Sequence[tuple[str, Text]], writers: Sequence[RowWriter], **generation: Any) -> None:
        """Texts of several rows in one pass, each told to its writer as it is written.

        Args:
            rows: name of the prefix, and what it reads; the prefixes are to write alike (`way_of_writing`).
            writers: one for each row.
            generation: options of transformers' `generate` that count more than those of the tasks.

        Raises:
            InputError: for a name that is not there, an input that lacks a column, prefixes that write no texts,
                several at a time, or each in another way.
        """
        ways = {self.way_of_writing(name) for name, _ in rows}
        if len(ways) > 1 or None in ways:
            raise InputError(
                f"{', '.join(dict.fromkeys(name for name, _ in rows))} do not write one text a row in one way; call "
                "the predictor instead, or ask for each alone."
            )
        by_name: dict[str, list[int]] = defaultdict(list)
        for index, (name, _) in enumerate(rows):
            by_name[name].append(index)
        inputs = {}
        for name, own in by_name.items():
            texts, predictor = [rows[i][1] for i in own], self._predictors[name]
            batch = predictor._batch(predictor.data.encode_inputs(texts), texts)
            inputs[name] = PrefixTask.inputs(cast("Any", predictor.task), batch)
        first = next(iter(by_name))
        task = cast("TextGeneration", self._predictors[first].task)
        joined = self._joined(first, inputs)
        read = joined["attention_mask"].sum(1).tolist()
        chosen = [writers[i] for own in by_name.values() for i in own]
        streamer = RowsStreamer(chosen, task.tokenizer, task.ends(generation), read, task.is_encoder_decoder)
        with torch.inference_mode(), self._reading({name: len(own) for name, own in by_name.items()}):
            task.write(joined, streamer=streamer, stopping_criteria=[streamer], **generation)

    def way_of_writing(self, name: str) -> str | None:
        """Equal for prefixes whose rows `write` takes together; None for one that does not write one text a row."""
        task: Any = self.predictor(name).task
        if not isinstance(task, TextGeneration):
            return None
        several = [key for key in ("num_beams", "num_return_sequences") if task.generation.get(key, 1) != 1]
        return None if several else _pass_of(name, task)

    def stream_text(self, name: str, text: Text, **generation: Any) -> Iterator[str]:
        """The generated text for one input, piece by piece, as of `Predictor.stream_text`.

        Args:
            name: of the prefix.
            text: what it reads.
            generation: options of transformers' `generate` that count more than those of the task.

        Raises:
            InputError: for a name that is not there, or as of `Predictor.stream_text`.
        """
        predictor = self.predictor(name)
        batch = predictor._batch(predictor.data.encode_inputs([text]), [text])
        return stream_text(predictor.task, batch, generation, self._reading({name: 1}))


def _pass_of(name: str, task: Any) -> str:
    """Equal for prefixes whose rows are read in one pass."""
    if isinstance(task, TextGeneration):
        return f"write {task._generation_arguments()}"
    return "scores" if reads_shared_states(task) else f"alone {name}"


def _split(values: Any, counts: Mapping[str, int]) -> list[Any]:
    ends = list(accumulate(counts.values()))
    return [values[end - count : end] for end, count in zip(ends, counts.values(), strict=True)]
