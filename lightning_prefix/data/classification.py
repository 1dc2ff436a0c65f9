"""`TextClassificationDataModule`: texts with one class, or several."""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.data.base import TextDataModule
from lightning_prefix.data.checks import check_columns
from lightning_prefix.data.sources import has_split, select_split
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["TextClassificationDataModule", "class_number", "class_vector", "label_name"]


class TextClassificationDataModule(TextDataModule):
    """Texts, or pairs of texts, each with one class or, with `multi_label`, any number of classes.

    `labels` of a batch are class numbers, long, (batch,); with `multi_label` float zeros and ones,
    (batch, num_labels). The attribute `labels` holds the names of the classes in the order of their numbers.

    Args:
        source: where the rows are: the id of a data set on the Hugging Face hub ("stanfordnlp/sst2"), a
            local file (csv, tsv, json, SQuAD's json, jsonl, parquet, tmx, po, conll, or txt with one text a line), a
            local folder with files named train, validation and test (parallel text: train.en, train.de, ...),
            "asset:NAME", or {"train": file, "validation": file, "test": file}, where file may be
            {"en": text file, "de": text file}. From Python also a `datasets.Dataset`, a `DatasetDict`, a list
            of dicts, or split -> any of these. A single file or list is the train split.
        labels: names of the classes in the order of their numbers; None for those that the data set
            declares, else the distinct values of the train split, sorted (as numbers if all are). Where
            these are given and a row holds a number that is no name, it is taken for a class number.
        multi_label: whether a row may have several labels, or none: a list, or a text with a separator.
        label_separator: what stands between the labels of a text, with `multi_label`.
        **options: see `TextDataModule`.
    """

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        labels: list[str] | None = None,
        multi_label: bool = False,
        label_separator: str = ",",
        **options: Any,
    ) -> None:
        super().__init__(source, **options)
        self.multi_label = multi_label
        self.label_separator = label_separator
        self._given_labels = checked_names(labels)

    def find_labels(self) -> tuple[str, ...]:
        """The names given, else those that the data set declares, else the values of the train split."""
        return class_names(self, self._given_labels, self._distinct, "label_column")

    def label_reader(self, rows: "datasets.Dataset") -> Callable[[Any], Any]:
        """`class_number`, or `class_vector` with `multi_label`, with the names of this split."""
        declared = declared_names(rows.features[self.label_column])
        if self.multi_label:
            return functools.partial(
                class_vector, labels=self.labels, declared=declared, separator=self.label_separator
            )
        return functools.partial(class_number, labels=self.labels, declared=declared)

    def cut_validation(self, rows: "datasets.Dataset") -> "tuple[datasets.Dataset, datasets.Dataset]":
        """Cut the validation rows off, with the same share of every class where each has enough rows."""
        import datasets

        if self.multi_label:
            return super().cut_validation(rows)
        counts = [0] * len(self.labels)
        for number in rows["labels"][:]:
            counts[number] += 1
        present = sum(count > 0 for count in counts)
        cut = math.ceil(len(rows) * self.validation_fraction)
        if 1 in counts or not present <= cut <= len(rows) - present:
            rank_zero_info(
                "The validation rows are cut off without regard to the classes: a class has one row, or "
                "there are too few rows for one of every class on both sides."
            )
            return super().cut_validation(rows)
        classed = rows.cast_column("labels", datasets.ClassLabel(names=list(self.labels)))
        parts = classed.train_test_split(self.validation_fraction, seed=self.seed, stratify_by_column="labels")
        return parts["train"], parts["test"]

    def _distinct(self, train: "datasets.Dataset") -> tuple[str, ...]:
        if self.multi_label:
            cells = (split_labels(value, self.label_separator) for value in train[self.label_column])
            flat = {label for cell in cells for label in cell}
        else:
            flat = set(train.unique(self.label_column))
        names = {label_name(value) for value in flat if value is not None and value != ""}
        try:
            return tuple(sorted(names, key=float))
        except ValueError:
            return tuple(sorted(names))


def checked_names(labels: list[str] | None) -> tuple[str, ...] | None:
    """The names that the user gave for the classes.

    Raises:
        InputError: if they are not two or more different ones.
    """
    if labels is not None and (len(labels) < 2 or len(set(map(str, labels))) < len(labels)):
        raise InputError(f"labels={labels} was given; it must be two or more different names. Correct the list.")
    return None if labels is None else tuple(map(str, labels))


def class_names(
    data: TextDataModule,
    given: tuple[str, ...] | None,
    distinct: "Callable[[datasets.Dataset], tuple[str, ...]]",
    option: str,
) -> tuple[str, ...]:
    """The names given, else those that a split declares, else the values of the train split.

    Args:
        data: its splits are read.
        given: the names that the user gave.
        distinct: from the train rows to the values in the label column.
        option: the one that names the label column, for messages.

    Raises:
        InputError: if they cannot be known, or there are fewer than two.
    """
    if given is not None:
        return given
    for name in data.split_names.values():
        rows = select_split(data.splits, name) if has_split(data.splits, name) else None
        if rows is not None and declared_names(rows.features.get(data.label_column)):
            return declared_names(rows.features[data.label_column])
    if not has_split(data.splits, data.split_names["train"]):
        raise InputError(
            f"the names of the classes are unknown: labels were not given, and the source has no split "
            f"{data.split_names['train']!r} to read them from. Give labels=, in the order of their "
            "numbers."
        )
    train = select_split(data.splits, data.split_names["train"])
    check_columns(train, [data.label_column], data.split_names["train"], option)
    names = distinct(train)
    if len(names) < 2 and not data.multi_label:
        raise InputError(
            f"the column {data.label_column!r} of {data.split_names['train']!r} holds "
            f"{'only the label ' + repr(names[0]) if names else 'no label'}; a classifier needs two "
            f"classes. Name another {option}, take more rows, or give labels=."
        )
    return names


def declared_names(feature: Any) -> tuple[str, ...]:
    """The names of a `datasets.ClassLabel`, or of a list of them; empty for other features."""
    names = getattr(feature, "names", None) or getattr(getattr(feature, "feature", None), "names", None)
    return tuple(names or ())


def label_name(value: Any) -> str:
    """The name that a label in the data stands for.

    Examples:
        >>> label_name(1.0), label_name(" good "), label_name(True)
        ('1', 'good', 'True')
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


def split_labels(value: Any, separator: str) -> list[Any]:
    """The labels in a cell: a list, a text with separators, one label, or None for no label."""
    if value is None:
        return []
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    return list(value) if isinstance(value, list | tuple) else [value]


def class_number(value: Any, labels: tuple[str, ...], declared: tuple[str, ...]) -> int:
    """The number of a label.

    Args:
        value: a name; a number, where `declared` or `labels` says what it stands for.
        labels: names in the order of their numbers.
        declared: names that the split itself declares for its numbers.

    Raises:
        ValueError: if it is none of the labels.

    Examples:
        >>> class_number("good", ("bad", "good"), ()), class_number(0, ("bad", "good"), ("good", "bad"))
        (1, 1)
    """
    allowed = ", ".join(labels[:20]) + (", ..." if len(labels) > 20 else "")
    advice = f"the allowed ones are {allowed}. Correct the row, or give labels= with every name."
    if value is None or isinstance(value, list | dict):
        raise ValueError(advice if value is None else f"several labels need multi_label=True; {advice}")
    name = label_name(value)
    if declared and isinstance(value, int):
        name = declared[value] if 0 <= value < len(declared) else name
    if name in labels:
        return labels.index(name)
    if not declared and name.isdecimal() and int(name) < len(labels):
        return int(name)
    raise ValueError(advice)


def class_vector(value: Any, labels: tuple[str, ...], declared: tuple[str, ...], separator: str) -> list[float]:
    """One 0 or 1 per label.

    Args:
        value: a list of labels, a text with separators, one label, or None for no label.
        labels: names in the order of their numbers.
        declared: names that the split itself declares for its numbers.
        separator: between labels in a text.

    Raises:
        ValueError: if one is none of the labels.

    Examples:
        >>> class_vector("sport, news", ("news", "art", "sport"), (), ",")
        [1.0, 0.0, 1.0]
    """
    numbers = {class_number(label, labels, declared) for label in split_labels(value, separator)}
    return [float(number in numbers) for number in range(len(labels))]
