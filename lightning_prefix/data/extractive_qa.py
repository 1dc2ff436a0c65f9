"""`ExtractiveQADataModule`: questions whose answers are spans of a context."""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.data.answers import Answer, has_answer, read_answers
from lightning_prefix.data.base import TextDataModule
from lightning_prefix.data.checks import check_at_least, check_columns
from lightning_prefix.data.collate import Collator
from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.data.questions import encode_questions
from lightning_prefix.data.sources import select_split
from lightning_prefix.data.streams.rows import first_rows
from lightning_prefix.data.tokenize import padding_values
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets
    from typing_extensions import Self

__all__ = ["ExtractiveQADataModule", "WindowCollator"]

_MAX_LENGTH = 384


class ExtractiveQADataModule(TextDataModule):
    """Questions with a context in which the answer stands: SQuAD 1.1 and 2.0, and tables.

    A context that is too long is read in windows that overlap. A training batch is windows: `input_ids` and so on,
    long (windows, tokens), and `labels`, long (windows, 2), the first and the last token of the answer. A batch of
    evaluation or prediction holds all windows of its examples: `windows`, how many each example has; `offsets`, one
    array (tokens, 2) a window, see `context_windows`; `null`, one position a window; `context` and `references`, one
    an example. `index` is one an example too.

    Args:
        source: as in `TextDataModule`; SQuAD's json files and data sets fit without further options.
        question_column: column of the question.
        context_column: column of the text in which the answer stands.
        answers_column: column of the answers: SQuAD's {"text": [...], "answer_start": [...]}, a text, or a list of
            texts that are all right; empty where there is no answer. The first one is trained on.
        answer_start_column: where the answer is a text, the column of its first character's number in the context,
            from 0; None for its first occurrence.
        stride: tokens of the context that a window shares with the one before, >= 0.
        max_length: tokens of a window, special ones included, >= 8; None for 384, or the tokenizer's limit if that is
            lower.
        **options: see `TextDataModule`. Where the source has no validation split, whole contexts are cut off, so that
            none is on both sides.
    """

    stored: ClassVar[tuple[str, ...]] = (
        "question_column",
        "context_column",
        "preprocess",
        "tokenizer",
        "max_length",
        "stride",
    )
    encode_function: ClassVar[Callable[..., dict[str, list[Any]]]] = staticmethod(encode_questions)

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        question_column: str = "question",
        context_column: str = "context",
        answers_column: str = "answers",
        answer_start_column: str | None = None,
        stride: int = 128,
        max_length: int | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            source,
            text_column=question_column,
            pair_column=context_column,
            label_column=answers_column,
            template=None,
            max_length=max_length,
            **options,
        )
        check_at_least("stride", stride, 0)
        if self.preprocess != Preprocessing():
            raise InputError(
                f"preprocess={self.preprocess} was given; it would move the characters of the context, by whose "
                "numbers answers are found. Leave preprocess out, or change the texts and answer_start in the source."
            )
        self.question_column, self.context_column = question_column, context_column
        self.answers_column, self.answer_start_column = answers_column, answer_start_column
        self.stride = stride
        self._has_no_answers: dict[str, bool] = {}

    @property
    def has_no_answers(self) -> bool:
        """Whether some questions of the train split have no answer; of the split that is read where none is trained."""
        read = [self._has_no_answers[role] for role in ("train", "validation", "test") if role in self._has_no_answers]
        return bool(read) and read[0]

    @property
    def read_columns(self) -> list[str]:
        """With the places of the answers."""
        return [*super().read_columns, *([self.answer_start_column] if self.answer_start_column else [])]

    @property
    def group_column(self) -> str:
        """The context: a question about a context that was trained on tells little of new contexts."""
        return self.context_column

    def with_source(self, source: Any) -> "Self":
        """As for every data module; whether questions have no answer is found anew."""
        copied = super().with_source(source)
        copied._has_no_answers = {}
        return copied

    def find_labels(self) -> tuple[str, ...]:
        """No names: the labels are places in the context."""
        return ()

    def label_reader(self, rows: "datasets.Dataset") -> Callable[[Any], list[Answer]]:
        """`read_answers`, for every split."""
        return read_answers

    def is_labelled(self, rows: "datasets.Dataset") -> bool:
        """Whether any question has an answer."""
        return self.label_column in rows.column_names and any(map(has_answer, rows[self.label_column][:]))

    def check_labels(self, rows: "datasets.Dataset", role: str) -> None:
        """Raise `InputError` unless there are answers; take down whether some questions have none."""
        split = self.split_names[role]
        check_columns(rows, [self.answers_column], split, "answers_column")
        if self.answer_start_column is not None:
            check_columns(rows, [self.answer_start_column], split, "answer_start_column")
        if not self.is_labelled(rows):
            raise InputError(
                f"the split {split!r} has no answers: every {self.answers_column!r} is empty, as in hidden test sets. "
                f"Name another split with {role}_split, such as 'validation'."
            )
        self._has_no_answers[role] = not all(map(has_answer, rows[self.answers_column][:]))

    def encode_options(self, rows: "datasets.Dataset | None", role: str) -> dict[str, Any]:
        """How windows and answers are read."""
        options: dict[str, Any] = {"stride": self.stride, "is_training": role == "train"}
        if rows is None or self.answer_start_column is None:
            return options
        return {**options, "more_columns": [self.answer_start_column], "answer_start_column": self.answer_start_column}

    def collator(self) -> "WindowCollator":
        """Puts the windows of all rows into one batch."""
        return WindowCollator(padding_values(self.tokenizer_name))

    def cut_validation(self, rows: "datasets.Dataset") -> "tuple[datasets.Dataset, datasets.Dataset]":
        """Cut `validation_fraction` of the contexts off, with their questions.

        Args:
            rows: the windows to train on.
        """
        raw = select_split(self.splits, self.split_names["train"])
        all_contexts = raw[self.context_column][:]
        contexts = list(dict.fromkeys(all_contexts))
        count = math.ceil(len(contexts) * self.validation_fraction)
        if count >= len(contexts):
            raise InputError(
                f"the train rows have {len(contexts)} different contexts, too few to cut {self.validation_fraction:g} "
                "of them off for validation. Give a validation split, more contexts, or another validation_fraction."
            )
        held = set(random.Random(self.seed).sample(contexts, count))  # noqa: S311
        is_held = [context in held for context in all_contexts]
        train = rows.select([n for n, row in enumerate(rows["row"][:]) if not is_held[row]])
        validation = raw.select([row for row, away in enumerate(is_held) if away])
        return train, self._encode("validation", validation, is_labelled=True)

    def _encode(self, role: str, rows: "datasets.Dataset", *, is_labelled: bool) -> "datasets.Dataset":
        split = self.split_names.get(role, role)
        check_columns(rows, [self.question_column], split, "question_column")
        check_columns(rows, [self.context_column], split, "context_column")
        if self.streaming and role == "train" and not self.has_no_answers:
            rank_zero_info(
                f"none of the first {len(first_rows(rows))} questions of {split!r} lacks an answer; if a later one "
                "does, give model.no_answer true."
            )
        return super()._encode(role, rows, is_labelled=is_labelled)

    def _resolve_max_length(self) -> int:
        resolved = super()._resolve_max_length()
        return resolved if self._given_max_length else min(_MAX_LENGTH, resolved)


@dataclass(frozen=True)
class WindowCollator:
    """Makes a batch of windows, or of examples with all their windows.

    Args:
        padding: key -> number that fills the end of shorter windows; 0 for keys that are not named.
    """

    padding: dict[str, int]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """Flatten, pad and stack; see `ExtractiveQADataModule` for what is in a batch."""
        collate = Collator(self.padding)
        if "offsets" not in rows[0]:  # to train on: one window a row
            return collate(rows)
        counts = [len(row["input_ids"]) for row in rows]
        texts = [name for name in ("context", "references") if name in rows[0]]
        tensors = [name for name in rows[0] if name not in (*texts, "offsets", "null", "index")]
        windows = [{name: row[name][n] for name in tensors} for row in rows for n in range(len(row["input_ids"]))]
        batch: dict[str, Any] = {**collate(windows), "windows": counts}
        for name in texts:
            batch[name] = [row[name] for row in rows]
        # arrays, since Lightning looks into every list of a batch
        batch["offsets"] = [np.array(offsets) for row in rows for offsets in row["offsets"]]
        batch["null"] = [position for row in rows for position in row["null"]]
        if "index" in rows[0]:
            batch["index"] = torch.tensor([row["index"] for row in rows])
        return batch
