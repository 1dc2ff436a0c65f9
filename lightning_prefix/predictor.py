"""Text in, answers out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, overload

import torch

from lightning_prefix.data.collate import Collator
from lightning_prefix.data.preprocess import Preprocessing, library_versions
from lightning_prefix.data.tokenize import encode_rows, padding_values, resolve_max_length
from lightning_prefix.errors import InputError
from lightning_prefix.tasks import PrefixTask

Text = str | Sequence[str] | Mapping[str, str]
"""One input: a text, a pair of texts, or the columns that the template names."""


class Predictor:
    """A trained prefix with its backbone, head and tokenizer, ready for raw text.

    Args:
        task: with weights.
        columns: names of the text columns, in the order of a pair.
        template: as in training, or None.
        tokenizer: name of the tokenizer; the backbone's when None.
        max_length: tokens a text may have; the tokenizer's limit when None. Longer texts are cut.
        batch_size: rows per forward pass, >= 1.
        preprocess: as in training; nothing by default.

    Example:
        >>> import lightning_prefix as lp
        >>> predict = lp.Predictor.from_pretrained("lightning_logs/version_0/prefix")  # doctest: +SKIP
        >>> predict("A warm, funny film.")  # doctest: +SKIP
        {'label': 'positive', 'probabilities': {'negative': 0.02, 'positive': 0.98}}
    """

    def __init__(
        self,
        task: PrefixTask,
        columns: Sequence[str] = ("text",),
        template: str | None = None,
        tokenizer: str | None = None,
        max_length: int | None = None,
        batch_size: int = 32,
        preprocess: Preprocessing = Preprocessing(),
    ) -> None:
        task.configure_model()
        self.task = task.eval()
        self.columns = list(columns)
        self.template = template
        library_versions(preprocess)  # what is missing is named now
        self.preprocess = preprocess
        self.tokenizer = tokenizer or task.backbone_name
        self.max_length = resolve_max_length(self.tokenizer, max_length)
        self.batch_size = batch_size

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
        **overrides: Any,
    ) -> "Predictor":
        """Load what `fit` or `PrefixTask.save_pretrained` wrote.

        Args:
            directory: the folder.
            device: where the model runs.
            batch_size: rows per forward pass, >= 1.
            overrides: arguments of the task to replace, such as `backbone` where it lies elsewhere now.

        Raises:
            InputError: if the folder is damaged or holds no task.
        """
        task, data = PrefixTask.load_folder(directory, **overrides)
        if unknown := data.keys() - {"columns", "template", "preprocess", "tokenizer", "max_length"}:
            raise InputError(
                f"{directory} says {', '.join(sorted(unknown))} of its texts, which a Predictor does not know; load "
                "it with PrefixTask.from_pretrained and make the Predictor yourself, or save the prefix once more."
            )
        preprocess = Preprocessing(**data.pop("preprocess", {}))
        return cls(task.to(device), **data, preprocess=preprocess, batch_size=batch_size)

    @overload
    def __call__(self, texts: str) -> dict[str, Any]: ...
    @overload
    def __call__(self, texts: list[Text]) -> list[dict[str, Any]]: ...

    def __call__(self, texts: str | list[Text]) -> dict[str, Any] | list[dict[str, Any]]:
        """Results in the order of the inputs: `label` and `probabilities`, or `value`.

        Args:
            texts: one text, or a list of texts, of pairs, or of dicts with the template's columns.

        Raises:
            InputError: for an input that is empty or lacks a column.
        """
        if isinstance(texts, str):
            return self([texts])[0]
        if not texts:
            return []
        rows = self._tokenise([self._row(text) for text in texts])
        collate = Collator(padding_values(self.tokenizer))
        results: list[dict[str, Any]] = [{} for _ in rows]
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))  # little padding
        with torch.inference_mode():
            for start in range(0, len(rows), self.batch_size):
                chosen = by_length[start : start + self.batch_size]
                batch = {k: v.to(self.task.device) for k, v in collate([rows[i] for i in chosen]).items()}
                for index, result in zip(chosen, self.task.describe(self.task(batch)), strict=True):
                    results[index] = result
        return results

    def _row(self, text: Text) -> dict[str, str]:
        values = [text] if isinstance(text, str) else text
        if not isinstance(values, Mapping):
            if len(values) != len(self.columns):
                raise InputError(f"{text!r} is given; this prefix reads {' and '.join(self.columns)} per input.")
            values = dict(zip(self.columns, values, strict=True))
        if missing := [column for column in self.columns if column not in values]:
            raise InputError(f"{text!r} is given; it lacks {', '.join(missing)}.")
        return {column: values[column] for column in self.columns}

    def _tokenise(self, texts: list[dict[str, str]]) -> list[dict[str, Any]]:
        columns = encode_rows(
            {column: [text[column] for text in texts] for column in self.columns},
            list(range(len(texts))),
            split="texts",
            tokenizer=self.tokenizer,
            fingerprint="",
            version=0,
            text_columns=self.columns,
            preprocess=self.preprocess,
            template=self.template,
            max_length=self.max_length,
            drop_empty=False,
            label_column=None,
            label_name=None,
            read_label=None,
        )
        kept = [name for name in columns if name not in ("row", "cut")]
        return [dict(zip(kept, row, strict=True)) for row in zip(*(columns[name] for name in kept), strict=True)]
