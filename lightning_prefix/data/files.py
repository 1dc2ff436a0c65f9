"""Local files to data sets: tables, json, SQuAD's json, translations, and plain text."""

import difflib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_prefix.data.formats.parallel import parallel_rows
from lightning_prefix.data.formats.squad import is_squad, squad_features
from lightning_prefix.data.readers import READERS, TEXT_COLUMNS, empty_file, extension
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = [
    "EXTENSIONS",
    "check_parallel",
    "is_path_like",
    "missing_file",
    "read_file",
    "read_parallel",
    "unknown_kind",
]

EXTENSIONS = ("csv", "tsv", "json", "jsonl", "parquet", "tmx", "po", "conll")
"""Kinds of files that hold labelled rows, by extension."""

_PATH_STARTS = ("./", "../", "/", "~", ".\\", "..\\")
_READER_VERSION = "2"  # part of the cache's key: raise it when a file is read differently than before


def is_path_like(name: str) -> bool:
    """Whether a name that does not exist as a path was meant as one: `./reviews`, `reviews.csv`."""
    return name.startswith(_PATH_STARTS) or extension(Path(name)) in (*EXTENSIONS, "txt")


def missing_file(path: Path) -> InputError:
    """The error for a path that does not exist, with the names nearest to it in its folder."""
    folder = path.parent
    if not folder.is_dir():
        return InputError(
            f"{path} does not exist, nor does its folder {folder}; relative paths start at {Path.cwd()}. "
            "Correct the path."
        )
    near = difflib.get_close_matches(path.name, [entry.name for entry in folder.iterdir()], n=2)
    advice = f"Did you mean {' or '.join(near)}?" if near else "Correct the path."
    return InputError(f"{path} does not exist; {folder.resolve()} holds no such file. {advice}")


def unknown_kind(path: Path, allowed: Sequence[str]) -> InputError:
    """The error for a path that is no file of a kind that can be read."""
    is_folder = isinstance(path, Path) and path.is_dir()
    return InputError(
        f"{path} is {'a folder' if is_folder else f'a file of unknown kind (extension {extension(path)!r})'}; "
        f"files that can be read end in {', '.join('.' + name for name in allowed)}. "
        "Convert it to one of these, for instance with pandas."
    )


def read_file(path: Path, *, text_column: str | None = None) -> "datasets.Dataset":
    """Read one file, once: later calls read `datasets`' cache until the file changes.

    Columns of csv and tsv files are text, as they are written; empty fields are None. A json file in SQuAD's format is
    one row a question, a tmx file one row a unit, a po file one row a translation.

    Args:
        path: an existing file.
        text_column: column for the lines of a txt file; None where such files are not allowed.

    Raises:
        InputError: if the kind of file is unknown, or its content is broken; the message names the row.
    """
    import datasets

    kind = extension(path)
    allowed = EXTENSIONS if text_column is None else (*EXTENSIONS, "txt")
    if not path.is_file() or kind not in allowed:
        raise unknown_kind(path, allowed)
    if kind == "parquet":
        return _generate(path, datasets.Dataset.from_parquet, str(path))
    arguments = {"path": str(path.resolve()), "text_column": text_column, "version": _version(path)}
    return _generate(path, datasets.Dataset.from_generator, _rows, gen_kwargs=arguments, features=_features(path))


def read_parallel(files: dict[str, Path]) -> "datasets.Dataset":
    """Read parallel text files, once, as `read_file` does: one row a line, one column of text a language.

    Args:
        files: language -> existing text file, one sentence a line.

    Raises:
        InputError: if one is no file or not UTF-8, or their numbers of lines differ.
    """
    import datasets

    check_parallel(files)
    return _generate(
        next(iter(files.values())),
        datasets.Dataset.from_generator,
        _parallel_rows,
        gen_kwargs={
            "paths": {language: str(path.resolve()) for language, path in files.items()},
            "version": " ".join(map(_version, files.values())),
        },
        features=datasets.Features(dict.fromkeys(files, datasets.Value("string"))),
    )


def check_parallel(files: Mapping[str, Path]) -> None:
    """Raise `InputError` unless all of them are files."""
    for path in files.values():
        if not path.exists():
            raise missing_file(path)
        if path.is_dir():
            raise InputError(f"{path} is a folder; parallel text is one text file for each language. Give the files.")


def _version(path: Path) -> str:
    stat = path.stat()
    return f"{_READER_VERSION} {stat.st_size} {stat.st_mtime_ns}"


def _features(path: Path) -> Any:
    """The types of the columns where the first rows do not tell them; else None."""
    import datasets

    if is_squad(path):
        return squad_features()
    columns = TEXT_COLUMNS.get(extension(path))
    return None if columns is None else datasets.Features(dict.fromkeys(columns(path), datasets.Value("string")))


def _generate(path: Path, function: Any, *arguments: Any, **options: Any) -> "datasets.Dataset":
    import datasets

    try:
        return function(*arguments, **options)
    except (datasets.exceptions.DatasetGenerationError, OSError, ValueError) as error:
        cause: BaseException | None = error
        while cause is not None:
            if isinstance(cause, InputError):
                raise cause from None
            reason = cause
            cause = cause.__cause__
        if "corresponds to no data" in str(reason):  # a parquet file
            raise empty_file(path) from error
        raise InputError(
            f"{path} cannot be read: {reason}. Files must be whole, and hold one type of value in each "
            "column. Write it again, or convert it to jsonl."
        ) from error


def _rows(path: str, text_column: str | None, version: str) -> Iterator[dict[str, Any]]:  # noqa: ARG001
    row = None
    for row in READERS[extension(Path(path))](Path(path)):
        yield {text_column: row["text"]} if text_column and extension(Path(path)) == "txt" else row
    if row is None:
        raise empty_file(Path(path))


def _parallel_rows(paths: dict[str, str], version: str) -> Iterator[dict[str, Any]]:  # noqa: ARG001
    row = None
    for row in parallel_rows({language: Path(path) for language, path in paths.items()}):
        yield row
    if row is None:
        raise empty_file(Path(next(iter(paths.values()))))
