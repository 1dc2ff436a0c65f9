"""Interface texts of a program with their translations, from gettext's po files."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

from lightning_prefix.assets.splits import Row, in_hash_order, write_splits

__all__ = ["parse", "write_pairs"]

_MIN_WORDS = 5
_PLACEHOLDER_OR_MARKUP = re.compile(r"[%{}<>$\\&]|://")
_FUZZY = re.compile(r"#,.*\bfuzzy\b")
_FIELD = re.compile(r'(msgid|msgstr) ((?:".*"\n?)+)')


def parse(content: str) -> Iterator[tuple[str, str]]:
    r"""Text and translation of every finished entry of a po file that has no plural forms.

    Example:
        >>> list(parse('#: a.py:1\nmsgid "Log "\n"in"\nmsgstr "Entrar"\n'))
        [('Log in', 'Entrar')]
    """
    for entry in re.split(r"\n\s*\n", content):
        lines = [line for line in entry.splitlines() if not line.startswith("#") or _FUZZY.match(line)]
        fields = dict(_FIELD.findall("\n".join(lines)))
        if fields.keys() == {"msgid", "msgstr"} and not lines[0].startswith("#"):
            yield _unquote(fields["msgid"]), _unquote(fields["msgstr"])


def write_pairs(unpacked: Path, target: Path) -> None:
    """Write {"en", "pt"} to three JSONL files: 5 or more English words, no placeholder or markup.

    Of several translations of one text the first counts. The group of a row is its English text.
    """
    pairs: dict[str, str] = {}
    for path in sorted(unpacked.rglob("*.po")):
        for english, translation in parse(path.read_text("utf-8")):
            pairs.setdefault(english, translation)
    rows: list[Row] = [
        {"en": english, "pt": translation} for english, translation in pairs.items() if _fits(english, translation)
    ]
    write_splits(target, in_hash_order(rows), group=lambda row: row["en"])


def _fits(english: str, translation: str) -> bool:
    return (
        len(english.split()) >= _MIN_WORDS
        and translation not in ("", english)
        and not _PLACEHOLDER_OR_MARKUP.search(english + translation)
    )


def _unquote(field: str) -> str:
    """The text of quoted lines, white space made single spaces; the escapes are those of JSON."""
    return " ".join("".join(json.loads(line, strict=False) for line in field.splitlines()).split())
