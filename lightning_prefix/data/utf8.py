"""Text files, opened as UTF-8, with an error that says where they are not and how to convert them."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from lightning_prefix.errors import InputError

__all__ = ["not_utf8", "open_utf8"]


@contextmanager
def open_utf8(path: Path, newline: str = "") -> Iterator[TextIO]:
    r"""Open a text file; a byte order mark is left out.

    Args:
        path: an existing file.
        newline: as in `open`: "" ends lines at any of \n, \r\n and \r, "\n" at that alone.

    Raises:
        InputError: where it is read and is not UTF-8.
    """
    with path.open(encoding="utf-8-sig", newline=newline) as stream:
        try:
            yield stream
        except UnicodeDecodeError:
            raise not_utf8(path) from None


def not_utf8(path: Path) -> InputError:
    """The error for a file that is not UTF-8, with the first such byte."""
    place = ""
    encoding = "latin-1"
    with path.open("rb") as stream:
        if stream.read(2) in (b"\xff\xfe", b"\xfe\xff"):
            encoding = "utf-16"
        stream.seek(0)
        for number, line in enumerate(stream, start=1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:  # noqa: PERF203
                place = f"byte {error.start + 1} of line {number} is 0x{line[error.start]:02x}"
                break
    return InputError(
        f"{path} is not UTF-8 text: {place}. Text files must be UTF-8. Convert it, for instance (if it is "
        f"{encoding}) with `iconv -f {encoding} -t utf-8 {path.name} > converted{path.suffix.lower()}`."
    )
