"""Which rows a fold trains on and which it tests on."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from lightning_prefix.cross_validation.extra import imported
from lightning_prefix.data import TextClassificationDataModule, TextDataModule, TokenClassificationDataModule
from lightning_prefix.data.checks import check_at_least, check_columns, row_error
from lightning_prefix.data.classification import declared_names, label_name
from lightning_prefix.data.sources import select_split
from lightning_prefix.data.tokenize import label_of_row
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["Fold", "leave_one_out", "make_folds", "rows_of"]


@dataclass(frozen=True)
class Fold:
    """Rows to train on and rows to test on.

    Args:
        name: of its folder.
        train: row numbers, from 0, ascending.
        test: row numbers, from 0, ascending; none of them in `train`.
        repeat: number of the repeat, from 0.
    """

    name: str
    train: list[int]
    test: list[int]
    repeat: int = 0


def rows_of(data: TextDataModule) -> "datasets.Dataset":
    """The raw rows of the train split, which the folds share out.

    Raises:
        InputError: of a stream.
    """
    if data.streaming:
        raise InputError("data.streaming is on, but folds are random rows of the whole split; set streaming to false.")
    return select_split(data.splits, data.split_names["train"])


def make_folds(
    data: TextDataModule,
    folds: int = 5,
    repeats: int = 1,
    stratify: bool | None = None,
    group_column: str | None = None,
    seed: int = 0,
) -> list[Fold]:
    """Share the rows of the train split out, so that each is tested once in every repeat.

    Every row takes part: one without a label is an error, as in `fit`.

    Args:
        data: its train split is read.
        folds: k, >= 2.
        repeats: how many times, each with other folds, >= 1.
        stratify: give every fold the same share of each class; None for yes where every row has one class.
        group_column: column whose equal values stay together; None for the data's own, the context of `ExtractiveQA`.
        seed: of the first repeat; the others add their number.

    Returns:
        `fold_0`, ..., or with repeats `repeat_0_fold_0`, ....

    Raises:
        InputError: if the rows, the groups or a class are fewer than the folds, or the groups are not known.
    """
    check_at_least("folds", folds, 2)
    check_at_least("repeats", repeats, 1)
    rows = rows_of(data)
    classes, groups = _classes(data, rows, stratify, folds), _groups(data, rows, group_column, folds)
    if folds > len(rows):
        raise InputError(f"folds={folds} was given for {len(rows)} rows; every fold tests at least one row. Use fewer.")
    kind = ("Stratified" if classes is not None else "") + ("Group" if groups is not None else "") + "KFold"
    made = []
    for repeat in range(repeats):
        splitter = getattr(imported("sklearn.model_selection"), kind)(folds, shuffle=True, random_state=seed + repeat)
        parts = splitter.split(np.zeros(len(rows)), classes, groups)
        start = f"repeat_{repeat}_" if repeats > 1 else ""
        made += [Fold(f"{start}fold_{n}", a.tolist(), b.tolist(), repeat) for n, (a, b) in enumerate(parts)]
    if empty := [fold.name for fold in made if not fold.train or not fold.test]:
        raise InputError(f"{empty[0]} has no rows to test: the groups are too unlike for {folds} folds. Use fewer.")
    return made


def leave_one_out(data: TextDataModule, sources: Mapping[str, Any]) -> tuple[TextDataModule, list[Fold]]:
    """Test on one data set, train on the others, for each of them.

    Classes are brought together by name: their names are those of all sources, and numbers that a source declares
    names for count as these names.

    Args:
        data: says how the sources are read.
        sources: name -> what `data.source` takes, two or more; the train split of each is used, with `data.subset` and
            `data.revision` where it is on the hub.

    Returns:
        The data module with the rows of all sources, and one fold a source, called `without_` and its name.

    Raises:
        InputError: if a source has not the columns that are read, or the types of two differ.
    """
    if len(sources) < 2:
        raise InputError(f"leave_out={dict(sources)} was given; it needs two or more named sources.")
    for name in sources:
        if not name.strip() or "/" in name or "\\" in name:
            raise InputError(f"leave_out names a source {name!r}; a fold's folder is called so. Use another name.")
    parts = {name: _as_text(data, rows_of(data.with_source(source)), name) for name, source in sources.items()}
    whole = data.with_source({"train": _joined(parts)})
    whole.split_names = {role: role for role in data.split_names}
    owners = [name for name, rows in parts.items() for _ in range(len(rows))]
    folds = [
        Fold(
            f"without_{name}",
            [row for row, owner in enumerate(owners) if owner != name],
            [row for row, owner in enumerate(owners) if owner == name],
        )
        for name in parts
    ]
    return whole, folds


def _classes(data: TextDataModule, rows: "datasets.Dataset", stratify: bool | None, folds: int) -> Sequence[int] | None:
    """The class number of every row; None for folds that do not look at classes."""
    has_classes = isinstance(data, TextClassificationDataModule) and not data.multi_label
    if stratify and not has_classes:
        raise InputError(
            f"stratify=True was given for {'multi-label data' if data.multi_label else type(data).__name__}; only rows "
            "with one class each can be stratified. Leave stratify out."
        )
    if not has_classes or stratify is False:
        return None
    split, column = data.split_names["train"], data.label_column
    check_columns(rows, [column], split, "label_column")
    data.labels = data.find_labels()
    read = data.label_reader(rows)
    numbers = [
        # a blank row that is left out needs no label; for others `fit` finds out
        -1 if cell is None and data.drop_empty else label_of_row(cell, row, column, split, read)
        for row, cell in enumerate(rows[column][:])
    ]
    counts = Counter(number for number in numbers if number >= 0)
    rarest, count = min(counts.items(), key=lambda item: item[1], default=(0, folds))
    if folds > count:
        less = f"use --folds {count} or fewer, --stratify false," if count > 1 else "use --stratify false,"
        raise InputError(
            f"the class {data.labels[rarest]!r} has {count} row{'s' * (count > 1)}, too few for {folds} folds; {less} "
            "or merge classes."
        )
    return numbers


def _groups(data: TextDataModule, rows: "datasets.Dataset", column: str | None, folds: int) -> list[int] | None:
    """A number for every row, equal in a group; None without groups."""
    column = column or data.group_column
    if column is None:
        return None
    split = data.split_names["train"]
    check_columns(rows, [column], split, "group_column")
    values = rows[column][:]
    if None in values:
        raise row_error(split, values.index(None), f"has no {column!r}", "Give it a group, or remove the row.")
    numbers: dict[str, int] = {}
    groups = [numbers.setdefault(repr(value), len(numbers)) for value in values]
    if folds > len(numbers):
        raise InputError(
            f"the column {column!r} has {len(numbers)} different values, too few for {folds} folds; use fewer folds or "
            "another group_column."
        )
    return groups


def _as_text(data: TextDataModule, rows: "datasets.Dataset", source: str) -> "datasets.Dataset":
    """The columns that are read, with the names of classes in place of their numbers."""
    check_columns(rows, data.read_columns, source, "the option of the data that names it")
    rows = rows.select_columns(data.read_columns)
    if not isinstance(data, TextClassificationDataModule | TokenClassificationDataModule):
        return rows
    declared = declared_names(rows.features[data.label_column])

    def named(cell: Any) -> Any:
        if isinstance(cell, list):
            return [named(label) for label in cell]
        if declared and isinstance(cell, int):
            return declared[cell] if 0 <= cell < len(declared) else None
        return None if cell is None else label_name(cell)

    cells = [named(cell) for cell in rows[data.label_column][:]]
    return rows.remove_columns(data.label_column).add_column(data.label_column, cells)


def _joined(parts: "Mapping[str, datasets.Dataset]") -> "datasets.Dataset":
    """All rows; columns of plain values whose types differ become text."""
    import datasets

    names = next(iter(parts.values())).column_names
    columns = {column: {name: rows.features[column] for name, rows in parts.items()} for column in names}
    mixed = [column for column, features in columns.items() if len({str(feature) for feature in features.values()}) > 1]
    for column in mixed:
        if all(isinstance(feature, datasets.Value) for feature in columns[column].values()):
            parts = {name: rows.cast_column(column, datasets.Value("string")) for name, rows in parts.items()}
    try:
        return datasets.concatenate_datasets(list(parts.values()))
    except (TypeError, ValueError) as error:
        column = mixed[0]
        raise InputError(
            f"the column {column!r} differs between the sources: "
            + ", ".join(f"{feature} in {name!r}" for name, feature in columns[column].items())
            + ". Convert one of them."
        ) from error
