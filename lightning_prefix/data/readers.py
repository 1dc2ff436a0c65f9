"""Rows of text files, with the row and line in every error.

`datasets`' own loaders guess types per block of rows, read the texts "NA" and "null" as missing, take a
surplus field for an index, and do not say in which row a file is broken.
"""

import csv
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from lightning_prefix.data.checks import MOST_ERRORS
from lightning_prefix.data.formats.conll import conll_rows
from lightning_prefix.data.formats.po import po_rows
from lightning_prefix.data.formats.squad import is_squad, squad_rows
from lightning_prefix.data.formats.tmx import tmx_languages, tmx_rows
from lightning_prefix.data.utf8 import open_utf8
from lightning_prefix.errors import InputError

__all__ = ["READERS", "TEXT_COLUMNS", "empty_file", "extension"]


def extension(path: Path) -> str:
    """The file's extension in lower case, without its dot."""
    return path.suffix[1:].lower()


def empty_file(path: Path) -> InputError:
    """The error for a file without rows."""
    return InputError(f"{path} is empty. Give a file with at least one row.")


def _table_header(path: Path) -> list[str]:
    with open_utf8(path) as stream:
        first = next(csv.reader(stream, delimiter=_delimiter(path)), [])
    names = [name.strip() for name in first]
    if not names:
        raise InputError(f"{path} is empty. Its first line must name the columns; give a file with rows below it.")
    if "" in names or len(set(names)) < len(names):
        raise InputError(
            f"the first line of {path} names the columns {names}; each column needs a name of its own. "
            "Correct it, or put such a line first if the file begins with data."
        )
    return names


def _delimiter(path: Path) -> str:
    return "\t" if extension(path) == "tsv" else ","


def _table_rows(path: Path) -> Iterator[dict[str, Any]]:
    names = _table_header(path)
    limit = csv.field_size_limit(sys.maxsize)  # 131072 characters otherwise: less than a long document
    try:
        with open_utf8(path) as stream:
            reader = csv.reader(stream, delimiter=_delimiter(path), strict=True)
            next(reader)
            number = 0
            wrong: list[str] = []
            try:
                for fields in reader:
                    if not fields:
                        continue  # an empty line
                    number += 1
                    if len(fields) != len(names):
                        of = "" if wrong else f" of {path}"
                        wrong.append(f"row {number}{of} (line {reader.line_num}) has {len(fields)} fields")
                    if len(wrong) == MOST_ERRORS:
                        break
                    if not wrong:
                        yield {name: field or None for name, field in zip(names, fields, strict=True)}
            except csv.Error as error:
                raise InputError(
                    f"row {number + 1} of {path} (line {reader.line_num}) is malformed: {error}. A field "
                    "that starts with a double quote must end with one, and quotes inside it are doubled. "
                    "Correct the row."
                ) from None
        if wrong:
            raise InputError(
                f"{', '.join(wrong)}; the header names {len(names)} columns: {', '.join(names)}. Put fields that "
                f"contain {_delimiter(path)!r} in double quotes."
            )
    finally:
        csv.field_size_limit(limit)


def _text_rows(path: Path) -> Iterator[dict[str, Any]]:
    with open_utf8(path) as stream:
        for line in stream:
            yield {"text": line.rstrip("\r\n")}


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    if is_squad(path):
        yield from squad_rows(path)
        return
    columns = dict.fromkeys(column for row in _json_objects(path) for column in row)
    for row in _json_objects(path):
        yield {column: row.get(column) for column in columns}


def _json_objects(path: Path) -> Iterator[dict[str, Any]]:
    with open_utf8(path) as stream:
        if extension(path) == "json" and stream.read(1000).lstrip().startswith("["):
            stream.seek(0)
            rows = [(f"row {number}", row) for number, row in enumerate(_json_list(path, stream), start=1)]
            yield from (_json_row(path, place, row) for place, row in rows)
            return
        stream.seek(0)
        number = 0
        for line_number, line in enumerate(stream, start=1):
            if line.strip():
                number += 1
                place = f"row {number} (line {line_number})"
                try:
                    value = json.loads(line)
                except json.JSONDecodeError as error:
                    raise InputError(
                        f"{place} of {path} is not JSON: {error.msg} at character {error.colno}. Each line "
                        "of a jsonl "
                        'file holds one object, like {"text": "fine", "label": "good"}. Correct the line.'
                    ) from None
                yield _json_row(path, place, value)


def _json_list(path: Path, stream: TextIO) -> list[Any]:
    try:
        rows: list[Any] = json.load(stream)
    except json.JSONDecodeError as error:
        raise InputError(
            f"{path} is not JSON: {error.msg} at line {error.lineno}, character {error.colno}. A json file "
            "holds a list of objects, or one object a line. Correct it there."
        ) from None
    return rows


def _json_row(path: Path, place: str, row: Any) -> dict[str, Any]:
    if not isinstance(row, dict):
        raise InputError(
            f"{place} of {path} is {type(row).__name__}, not an object; rows look like "
            '{"text": "fine", "label": "good"}. Write each row as an object.'
        )
    return row


READERS: dict[str, Callable[[Path], Iterator[dict[str, Any]]]] = {
    "csv": _table_rows,
    "tsv": _table_rows,
    "json": _json_rows,
    "jsonl": _json_rows,
    "txt": _text_rows,
    "tmx": tmx_rows,
    "po": po_rows,
    "conll": conll_rows,
}
"""Extension to a function from a path to its rows."""

TEXT_COLUMNS: dict[str, Callable[[Path], list[str]]] = {
    "csv": _table_header,
    "tsv": _table_header,
    "tmx": tmx_languages,
}
"""Extension to a function from a path to its columns, for files that hold text in all of them."""
