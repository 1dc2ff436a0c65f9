"""Text in, answers out."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from itertools import islice
from pathlib import Path
from typing import Any, overload

import torch
from torch import Tensor

from lightning_prefix.backbone.hub import local_folder
from lightning_prefix.data import TextDataModule, data_from
from lightning_prefix.data.checks import check_at_least
from lightning_prefix.data.preprocess import library_versions
from lightning_prefix.ensemble import Ensemble
from lightning_prefix.ensemble.folder import is_ensemble
from lightning_prefix.errors import InputError
from lightning_prefix.streaming import stream_text
from lightning_prefix.tasks import PrefixTask
from lightning_prefix.tasks.base import Batch

_POOL = 16
"""Batches that `Predictor.stream` reads ahead."""

Text = str | Sequence[Any] | Mapping[str, Any]
"""One input: a text, a pair of texts, the turns of a conversation, or the columns that the data had."""


class Predictor:
    """A trained prefix with its backbone, head and tokenizer, ready for raw text.

    Args:
        task: with weights, or an ensemble.
        data: reads the texts, as in training; it needs no source.
        batch_size: rows per forward pass, >= 1.

    Example:
        >>> import lightning_prefix as lp
        >>> predict = lp.Predictor.from_pretrained("lightning_logs/version_0/prefix")  # doctest: +SKIP
        >>> predict("A warm, funny film.")  # doctest: +SKIP
        {'label': 'positive', 'probabilities': {'negative': 0.02, 'positive': 0.98}}
    """

    def __init__(self, task: PrefixTask | Ensemble, data: TextDataModule, batch_size: int = 32) -> None:
        task.configure_model()
        self.task = task.eval()
        self.data = data
        if isinstance(task, PrefixTask):  # the readings of an ensemble serve its members already
            data.serve(task)
        library_versions(data.preprocess)  # what is missing is named now
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
        revision: str | None = None,
        token: str | bool | None = None,
        **overrides: Any,
    ) -> "Predictor":
        """Load what `fit`, `PrefixTask.save_pretrained` or `Ensemble.save_pretrained` wrote.

        Args:
            directory: the folder, or the id of a repository on the Hugging Face hub, `user/name`.
            device: where the model runs.
            batch_size: rows per forward pass, >= 1.
            revision: branch, tag or commit of the repository.
            token: for a private one; the one of `hf auth login` or `HF_TOKEN` when None.
            overrides: arguments of the task to replace, such as `backbone` where it lies elsewhere now.

        Raises:
            InputError: if there is no such folder, or it is damaged or holds no task.
        """
        directory = local_folder(directory, revision, token)
        if is_ensemble(directory):
            ensemble = Ensemble.from_pretrained(directory, **overrides)
            return cls(ensemble.to(device), ensemble.readings[0], batch_size)
        task, description = PrefixTask.load_folder(directory, **overrides)
        return cls(task.to(device), data_from(description, directory), batch_size)

    @overload
    def __call__(self, texts: str) -> Any: ...
    @overload
    def __call__(self, texts: list[Text]) -> list[Any]: ...

    def __call__(self, texts: str | list[Text]) -> Any:
        """Results in the order of the inputs, plain dicts.

        Their types, for annotations: `Classified`, `Rated`, `Tagged` (entities), `FoundAnswer` (extractive QA) and
        `Written` (generation), in `lightning_prefix`.

        Args:
            texts: one text, or a list of texts, of pairs, or of dicts with the columns of the data.

        Raises:
            InputError: for an input that is empty or lacks a column.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        if not texts:
            return []
        return self._answers(texts, 0)

    def stream(self, texts: Iterable[Text], pool: int | None = None) -> Iterator[Any]:
        """Results for any number of inputs, one by one in their order, in constant memory.

        Inputs are read as results are taken, a pool at a time, within which those of like lengths share a pass.

        Args:
            texts: as in a call, or any iterable of such, such as an open file or a `datasets.IterableDataset`.
            pool: inputs that are read ahead, >= 1; 16 times `batch_size` when None. The first result waits for so many.

        Raises:
            InputError: for an input that is empty or lacks a column, when its pool is read, by its number of all.

        Example:
            >>> import lightning_prefix as lp
            >>> predict = lp.Predictor.from_pretrained("lightning_logs/version_0/prefix")  # doctest: +SKIP
            >>> with open("texts.txt") as lines:  # doctest: +SKIP
            ...     for result in predict.stream(lines):
            ...         print(result["label"])
        """
        size = _POOL * self.batch_size if pool is None else pool
        check_at_least("pool", size, 1)
        if isinstance(texts, str):
            raise InputError("stream was given one text, whose characters would be the inputs; give [text].")
        return self._stream(iter(texts), size)

    def _stream(self, texts: Iterator[Text], size: int) -> Iterator[Any]:
        first = 0
        while read := list(islice(texts, size)):
            yield from self._answers(read, first)
            first += len(read)

    def _answers(self, texts: list[Text], first: int) -> list[Any]:
        """Results in order; `first` is the number of the first input, for messages."""
        rows = self.data.encode_inputs(texts, first)
        results: list[Any] = [None for _ in rows]
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))  # little padding
        with torch.inference_mode():
            for start in range(0, len(rows), self.batch_size):
                chosen = by_length[start : start + self.batch_size]
                batch = self._batch([rows[i] for i in chosen], [texts[i] for i in chosen])
                for index, result in zip(chosen, self.task.answers(batch), strict=True):
                    results[index] = result
        return results

    def stream_text(self, text: Text, **generation: Any) -> Iterator[str]:
        """The generated text for one input, piece by piece as it is written; all pieces together are the text.

        One at a time: nothing else may use the model meanwhile. Closing the iterator ends the generation.

        Args:
            text: as in a call.
            generation: options of transformers' `generate` that count more than those of the task.

        Raises:
            InputError: if the task writes no texts or several at a time, or the input lacks a column.

        Example:
            >>> import lightning_prefix as lp
            >>> predict = lp.Predictor.from_pretrained("lightning_logs/version_0/prefix")  # doctest: +SKIP
            >>> for piece in predict.stream_text("Hello, how is it going?"):  # doctest: +SKIP
            ...     print(piece, end="", flush=True)
        """
        return stream_text(self.task, self._batch(self.data.encode_inputs([text]), [text]), generation, nullcontext())

    def _batch(self, rows: list[dict[str, Any]], inputs: list[Text]) -> Batch:
        """Encoded rows on the device, with what they were."""
        batch = {**self.data.collator()(rows), "inputs": inputs}
        return {key: value.to(self.task.device) if isinstance(value, Tensor) else value for key, value in batch.items()}
