"""From what the user names to streams: files here and on any file system of fsspec, and data sets of the hub."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.assets import asset_path, is_asset
from lightning_prefix.data.files import EXTENSIONS, check_parallel, is_path_like, missing_file, unknown_kind
from lightning_prefix.data.formats.parallel import parallel_rows
from lightning_prefix.data.formats.squad import is_squad
from lightning_prefix.data.readers import READERS, empty_file, extension
from lightning_prefix.data.sources import from_hub, has_split, is_hub_id, split_files
from lightning_prefix.data.streams.rows import Row, RowStream, Source
from lightning_prefix.data.utf8 import open_utf8
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["FileRows", "HubRows", "RemoteFile", "load_predict_stream", "load_streams", "names_with_validation"]

_READ_AT_ONCE = 256
"""Rows of a parquet file or a hub data set in memory at a time."""
_VALIDATION_ROWS = 1000
"""Cut off the train split where there is no other validation split."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a file system of fsspec, with what the readers need of a `pathlib.Path`.

    Args:
        url: such as "s3://bucket/reviews.csv" or "https://...".
    """

    url: str

    @property
    def name(self) -> str:
        """Without folders."""
        return self.url.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        """With its dot."""
        return Path(self.name).suffix

    def open(self, mode: str = "r", **options: Any) -> IO[Any]:
        """As of a path."""
        import fsspec

        try:
            return cast("IO[Any]", fsspec.open(self.url, mode, **options).open())
        except (OSError, ImportError, ValueError) as error:
            raise InputError(
                f"{self.url} cannot be read: {str(error) or type(error).__name__}. Check the address and the rights, "
                "and install what fsspec needs for it (s3fs, gcsfs, aiohttp, ...)."
            ) from error

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True)
class FileRows(Source):
    """Rows of one file, checked as `read_file` checks them.

    Args:
        path: of the file.
        text_column: for the lines of a txt file.
    """

    path: Path | RemoteFile
    text_column: str = "text"

    @property
    def is_remote(self) -> bool:
        """Whether it lies on another machine."""
        return isinstance(self.path, RemoteFile)

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number on."""
        path = cast("Path", self.path)
        if extension(path) == "parquet":
            yield from _parquet_rows(path, first)
            return
        is_text, number = extension(path) == "txt", -1
        for number, row in enumerate(READERS[extension(path)](path)):
            if number >= first:
                yield {self.text_column: row["text"]} if is_text else row
        if number < 0:
            raise empty_file(path)


@dataclass(frozen=True)
class ParallelRows(Source):
    """Rows of parallel text files, language -> file."""

    files: tuple[tuple[str, Path], ...]

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number on."""
        rows = parallel_rows(dict(self.files))
        yield from (row for number, row in enumerate(rows) if number >= first)


@dataclass(frozen=True)
class ListRows(Source):
    """Rows in memory: the texts that are given to `predict`."""

    given: tuple[Row, ...]

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number on."""
        return iter(self.given[first:])


@dataclass(frozen=True)
class HubRows(Source):
    """Rows of a `datasets.IterableDataset`."""

    dataset: Any
    is_far: bool = True

    @property
    def is_remote(self) -> bool:
        """Unless it was given in Python, where nothing is known."""
        return self.is_far

    @property
    def shards(self) -> int:
        """Its files, or parts of them."""
        return int(self.dataset.num_shards)

    @property
    def features(self) -> Any:
        """As it declares them."""
        return self.dataset.features

    def rows(self, first: int = 0) -> Iterator[Row]:
        """The rows from this number on."""
        dataset = self.dataset.skip(first) if first else self.dataset
        # by batches: row by row, `datasets` would share the rows out among the workers of a loader a second time
        for batch in dataset.iter(_READ_AT_ONCE):
            yield from (dict(zip(batch, cells, strict=True)) for cells in zip(*batch.values(), strict=True))

    def shard(self, number: int, of: int) -> Source:
        """One of so many parts."""
        return HubRows(self.dataset.shard(of, number), self.is_far)


def load_streams(source: Any, *, subset: str | None = None, revision: str | None = None) -> dict[str, RowStream]:
    """The splits of a source, to be read as they are needed.

    Args:
        source: as of `load_splits`, also the address of a file on a file system of fsspec, "s3://bucket/a.csv". From
            Python also a `datasets.IterableDataset` or a split -> any of these.
        subset: configuration of a hub data set.
        revision: branch, tag or commit of a hub data set.

    Raises:
        InputError: if there are no such data, or they cannot be streamed.
    """
    if isinstance(source, str | Path):
        sources = _named(str(source), subset, revision)
    elif isinstance(source, dict):
        sources = {str(name): _source(part, f"split {name!r}") for name, part in source.items()}
    else:
        sources = {"train": _source(source, "the source")}
    if not sources:
        raise InputError("the source is an empty dict. Give at least one split, such as {'train': 'train.csv'}.")
    return {name: RowStream(rows, name) for name, rows in sources.items()}


def load_predict_stream(predict: str | list[str], text_column: str) -> RowStream:
    """What `predict` names: a file, an address, or the texts themselves (as the column `text_column`).

    Raises:
        InputError: if the file is missing or cannot be streamed, or there are no texts.
    """
    if isinstance(predict, list):
        return RowStream(ListRows(tuple({text_column: text} for text in predict)), "predict")
    path = Path(predict).expanduser() if len(predict) < 1000 else Path()
    if _is_url(predict) or (path.exists() and path != Path()) or (is_path_like(predict) and "\n" not in predict):
        return RowStream(_file(predict, text_column), "predict")
    return RowStream(ListRows(({text_column: predict},)), "predict")


def names_with_validation(names: dict[str, str], splits: dict[str, RowStream]) -> dict[str, str]:
    """Names of the splits, in which the first train rows are the validation split where there is none.

    Raises:
        InputError: if the train rows are too few for that, or are a slice already.
    """
    train = names["train"]
    if names["validation"] != "validation" or has_split(splits, "validation"):
        return names
    advice = (
        "Name both, such as validation_split='train[:500]' and train_split='train[500:]', or give a file: "
        "source={'train': FILE, 'validation': FILE}."
    )
    if train not in splits:
        raise InputError(
            f"the source has no split 'validation', and of a stream {train!r} no rows are cut off for it. {advice}"
        )
    if next(splits[train].source.rows(_VALIDATION_ROWS), None) is None:
        raise InputError(
            f"the source has no split 'validation', and {train!r} has {_VALIDATION_ROWS} rows or less, of which a "
            f"stream would take the first {_VALIDATION_ROWS} for it. {advice} So few rows need no streaming."
        )
    rank_zero_info(
        f"The source has no split 'validation': the first {_VALIDATION_ROWS} rows of {train!r} are for validation and "
        f"not trained on. If the rows are sorted, give a validation split. {advice}"
    )
    return {**names, "train": f"{train}[{_VALIDATION_ROWS}:]", "validation": f"{train}[:{_VALIDATION_ROWS}]"}


def _is_url(name: str) -> bool:
    return re.match(r"\w[\w+.-]*://", name) is not None


def _named(name: str, subset: str | None, revision: str | None) -> dict[str, Source]:
    if _is_url(name):
        return {"train": _file(name, "text")}
    path = asset_path(name) if is_asset(name) else Path(name).expanduser()
    if path.is_dir():
        return {
            split: _parallel(files) if isinstance(files, dict) else _file(files, "text")
            for split, files in split_files(path).items()
        }
    if path.exists() or not is_hub_id(name):
        return {"train": _file(path, "text")}
    return _hub(name, subset, revision)


def _source(given: Any, what: str) -> Source:
    import datasets

    if isinstance(given, str | Path):
        return _file(given, "text")
    if isinstance(given, datasets.IterableDataset):
        return HubRows(given, is_far=False)
    if isinstance(given, dict) and given and all(isinstance(path, str | Path) for path in given.values()):
        return _parallel({str(language): Path(path).expanduser() for language, path in given.items()})
    raise InputError(
        f"streaming=True was given, but {what} is of type {type(given).__name__}; rows that are in memory or in "
        "`datasets`' cache need no stream. Leave streaming out, or give a file, an address, a hub data set or a "
        "datasets.IterableDataset."
    )


def _parallel(files: dict[str, Path]) -> ParallelRows:
    check_parallel(files)
    return ParallelRows(tuple(files.items()))


def _file(given: str | Path, text_column: str) -> FileRows:
    """A file that can be read row by row.

    Raises:
        InputError: if it is missing, of unknown kind, or can only be read whole.
    """
    path: Any = RemoteFile(str(given)) if _is_url(str(given)) else Path(given).expanduser()
    if isinstance(path, Path) and not path.exists():
        raise missing_file(path)
    kind = extension(path)
    if kind not in (*EXTENSIONS, "txt") or (isinstance(path, Path) and not path.is_file()):
        raise unknown_kind(path, (*EXTENSIONS, "txt"))
    reason = None
    if kind == "po":
        reason = "polib reads po files whole"
    elif kind == "json":
        with open_utf8(path) as stream:
            if stream.read(1000).lstrip().startswith("["):
                reason = "it is one list, which json reads whole"
        if is_squad(path):
            reason = "SQuAD's json is one object, which is read whole"
    if reason is not None:
        raise InputError(
            f"streaming=True was given, but {path} cannot be streamed: {reason}. Leave streaming out, or write it as "
            "jsonl, one row a line."
        )
    return FileRows(path, text_column)


def _parquet_rows(path: Path | RemoteFile, first: int) -> Iterator[Row]:
    """The rows of a parquet file; row groups before the first row are not read."""
    import pyarrow as pa
    import pyarrow.parquet

    with path.open("rb") as stream:
        try:
            file = pyarrow.parquet.ParquetFile(stream)
            group = 0
            while group < file.num_row_groups and file.metadata.row_group(group).num_rows <= first:
                first -= file.metadata.row_group(group).num_rows
                group += 1
            groups = list(range(group, file.num_row_groups))
            for batch in file.iter_batches(_READ_AT_ONCE, row_groups=groups):
                yield from batch.to_pylist()[min(first, len(batch)) :]
                first = max(0, first - len(batch))
        except pa.ArrowException as error:
            raise InputError(f"{path} cannot be read: {error}. Write it again, or convert it to jsonl.") from error


def _hub(name: str, subset: str | None, revision: str | None) -> dict[str, Source]:
    loaded: dict[str, datasets.IterableDataset] = from_hub(name, subset, revision, streaming=True)
    return {split: HubRows(rows) for split, rows in loaded.items()}
