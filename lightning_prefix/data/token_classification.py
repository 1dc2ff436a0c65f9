"""`TokenClassificationDataModule`: sentences as words, each with a tag."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_prefix.data.base import TextDataModule
from lightning_prefix.data.checks import check_columns
from lightning_prefix.data.classification import checked_names, class_names, class_number, declared_names, label_name
from lightning_prefix.data.collate import Collator
from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.data.tokenize import padding_values
from lightning_prefix.data.words import encode_words, tags_of
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["TokenClassificationDataModule"]


class TokenClassificationDataModule(TextDataModule):
    """Sentences as words, each with a tag: named entities, parts of speech.

    A batch has, beside the tokens, `word_positions`: per row and word the position of its first token, -1 for a word
    without one, which was cut or is blank. With tags also `labels`, long (batch, tokens): tag numbers at these
    positions, -100 elsewhere, and `tags`: per row the names for all words. Without tags also `words`, per row. A
    word's tokens are those that it has within running text: GPT-2's and RoBERTa's tokenizers see a blank before it.

    Args:
        source: where the rows are: the id of a data set on the Hugging Face hub ("tomaarsen/conll2003"), a local file
            (conll, jsonl, json, parquet, csv or tsv), a local folder with files named train, validation and test,
            "asset:NAME", or {"train": file, "validation": file, "test": file}. From Python also a
            `datasets.Dataset`, a `DatasetDict`, a list of dicts, or split -> any of these.
        tokens_column: column of the words: a list of texts, or a text with blanks between the words.
        tags_column: column of the tags, one for each word: a list of names or numbers, or a text with blanks.
        labels: names of the tags in the order of their numbers; None for those that the data set declares, else the
            distinct values of the train split, sorted, "O" first.
        **options: see `TextDataModule`; of `preprocess` the steps that keep every word: `unicode` and `lower_case`.
    """

    stored: ClassVar[tuple[str, ...]] = ("tokens_column", "preprocess", "tokenizer", "max_length")
    encode_function: ClassVar[Callable[..., dict[str, list[Any]]]] = staticmethod(encode_words)

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        tokens_column: str = "tokens",
        tags_column: str = "tags",
        labels: list[str] | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            source, text_column=tokens_column, label_column=tags_column, pair_column=None, template=None, **options
        )
        if replace(self.preprocess, unicode=None, lower_case=False) != Preprocessing():
            raise InputError(
                f"{self.preprocess} was given; steps that may change the number of words would move the tags. Give "
                "preprocess.unicode and preprocess.lower_case only."
            )
        self.tokens_column = tokens_column
        self._given_labels = checked_names(labels)

    def find_labels(self) -> tuple[str, ...]:
        """The names given, else those that the data set declares, else the values of the train split."""
        return class_names(self, self._given_labels, self._distinct, "tags_column")

    def label_reader(self, rows: "datasets.Dataset") -> Callable[[Any], int]:
        """`class_number` of one tag, with the names of this split."""
        declared = declared_names(rows.features[self.label_column])
        return functools.partial(class_number, labels=self.labels, declared=declared)

    def encode_options(self, rows: "datasets.Dataset | None", role: str) -> dict[str, Any]:
        """The names of the tags."""
        return {"labels": self.labels}

    def is_labelled(self, rows: "datasets.Dataset") -> bool:
        """Whether any row has tags."""
        return self.label_column in rows.column_names and any(map(bool, rows[self.label_column]))

    def check_labels(self, rows: "datasets.Dataset", role: str) -> None:
        """Raise `InputError` unless the rows have words and tags."""
        check_columns(rows, [self.tokens_column], self.split_names[role], "tokens_column")
        check_columns(rows, [self.label_column], self.split_names[role], "tags_column")
        if not self.is_labelled(rows):
            raise InputError(
                f"the split {self.split_names[role]!r} has no tags: every {self.label_column!r} is missing. Name "
                f"another split with {role}_split."
            )

    def input_row(self, given: Any) -> dict[str, Any]:
        """The words of one input of a `Predictor`: a list, a text with blanks between them, or a dict with either."""
        return super().input_row(given if isinstance(given, Mapping) else {self.tokens_column: given})

    def collator(self) -> Collator:
        """Hands `word_positions` on as lists."""
        return Collator(padding_values(self.tokenizer_name), kept=("word_positions",))

    def _distinct(self, train: "datasets.Dataset") -> tuple[str, ...]:
        names = {label_name(tag) for cell in train[self.label_column] for tag in tags_of(cell) if tag is not None}
        return tuple(sorted(names, key=lambda name: (name != "O", name)))
