"""TMX, translation memories: one row a unit, one column a language.

TMX 1.4b, https://www.gala-global.org/tmx-14b. Files are streamed, and no entity is declared, expanded or fetched.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.parsers import expat

from lightning_prefix.errors import InputError

__all__ = ["tmx_languages", "tmx_rows"]

_CODES = {"bpt", "ept", "it", "ph", "ut"}  # what they hold is markup of the original document; <hi> holds text
_CHUNK = 1 << 16  # bytes


def tmx_languages(path: Path) -> list[str]:
    """The languages of a file in the order of their first use, which are its columns.

    Raises:
        InputError: if it is not TMX, not well-formed, declares entities, or holds no translation.
    """
    found: dict[str, None] = {}
    parser = _safe_parser(path)
    names: list[str] = []

    def start(name: str, attributes: dict[str, str]) -> None:
        if not names:
            names.append(name)
            if name != "tmx":
                raise InputError(
                    f"{path} is XML, but its root is <{name}>, not <tmx>. Export it as TMX, or convert it to jsonl."
                )
        if name == "tuv":
            found[_language(attributes, path, parser)] = None

    parser.StartElementHandler = start
    for _ in _parse(path, parser):
        pass
    if not found:
        raise InputError(f"{path} holds no <tuv> in any <tu>. Give a file with at least one translation unit.")
    return list(found)


def tmx_rows(path: Path) -> Iterator[dict[str, Any]]:
    """One row a <tu>: the text of each language without inline codes; None where a language is missing or empty.

    Raises:
        InputError: as `tmx_languages`, or if a unit holds two texts of one language.
    """
    columns = tmx_languages(path)
    parser = _safe_parser(path)
    units = _Units(path, parser)
    for _ in _parse(path, parser):
        for unit in units.complete:
            yield {column: unit.get(column) for column in columns}
        units.complete.clear()


class _Units:
    """Receives the parser's events."""

    def __init__(self, path: Path, parser: expat.XMLParserType) -> None:
        self.path, self.parser = path, parser
        self.complete: list[dict[str, str | None]] = []
        self._unit: dict[str, str | None] = {}
        self._language = ""
        self._text: list[str] = []
        self._in_segment = False
        self._codes = 0  # how many inline codes are open
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._characters

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        if name == "tu":
            self._unit = {}
        elif name == "tuv":
            self._language = _language(attributes, self.path, self.parser)
            if self._language in self._unit:
                raise InputError(
                    f"the <tu> around line {self.parser.CurrentLineNumber} of {self.path} holds two texts in "
                    f"{self._language!r}; one is allowed. Split it into two units, or remove one."
                )
            self._unit[self._language] = None
        elif name == "seg":
            self._in_segment, self._text = True, []
        elif name in _CODES:
            self._codes += 1

    def _end(self, name: str) -> None:
        if name == "tu":
            self.complete.append(self._unit)
        elif name == "seg":
            self._in_segment = False
            self._unit[self._language] = "".join(self._text) or None
        elif name in _CODES:
            self._codes -= 1

    def _characters(self, text: str) -> None:
        if self._in_segment and not self._codes:
            self._text.append(text)


def _language(attributes: dict[str, str], path: Path, parser: expat.XMLParserType) -> str:
    language = attributes.get("xml:lang") or attributes.get("lang")  # the latter until TMX 1.1
    if not language:
        raise InputError(
            f"the <tuv> in line {parser.CurrentLineNumber} of {path} names no language. Each needs one, such as "
            '<tuv xml:lang="en">; add it.'
        )
    primary, hyphen, rest = language.partition("-")
    return primary.lower() + hyphen + rest


def _safe_parser(path: Path) -> expat.XMLParserType:
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(name: str, *_: Any) -> None:
        raise InputError(
            f"{path} declares or uses the entity {name!r} in line {parser.CurrentLineNumber}; entities can expand "
            "without bound or read other files, so none is allowed but &amp; &lt; &gt; &quot; &apos; and numbers. "
            "Take the declaration out of its DOCTYPE, and write the characters instead."
        )

    parser.EntityDeclHandler = refuse
    parser.SkippedEntityHandler = refuse  # one that an external DTD, which is not read, might declare
    return parser


def _parse(path: Path, parser: expat.XMLParserType) -> Iterator[None]:
    try:
        with path.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                parser.Parse(chunk, False)
                yield
        parser.Parse(b"", True)
    except (expat.ExpatError, LookupError, ValueError) as error:
        raise InputError(
            f"{path} is not well-formed XML: {error} (line {parser.CurrentLineNumber}). Correct it there, or "
            "export it again."
        ) from None
    yield
