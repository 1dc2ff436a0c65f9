"""gettext's po files: translated messages of programs, read with polib."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning_prefix.data.utf8 import open_utf8
from lightning_prefix.errors import InputError

__all__ = ["po_rows"]

_UNQUOTED = re.compile(r'\s*(?:#~\s+)?(?:msg(?:ctxt|id|id_plural|str)(?:\[\d\])?\s+(?!".*"\s*$)|"(?!.*"\s*$))')
_SHAPE = (
    'Entries are msgid "..." and msgstr "...", with quotes inside written \\". Correct it; `msgfmt --check` lists all.'
)


def po_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Columns "source" and "target": the translated entries, neither fuzzy nor obsolete, without the header.

    An entry with plural forms is two rows: the singular with the first form, the plural with the last.

    Raises:
        InputError: without polib, if the file is malformed, or if nothing in it is translated.
    """
    entries = _entries(path)
    translated = [entry for entry in entries if entry.msgid and entry.translated()]
    if entries and not translated:
        raise InputError(
            f"none of the {len(entries)} entries of {path} is translated; fuzzy and obsolete ones do not count. "
            "Give a file with at least one translation."
        )
    for entry in translated:
        if entry.msgid_plural:
            forms = entry.msgstr_plural
            yield {"source": entry.msgid, "target": forms[min(forms)]}
            yield {"source": entry.msgid_plural, "target": forms[max(forms)]}
        else:
            yield {"source": entry.msgid, "target": entry.msgstr}


def _entries(path: Path) -> list[Any]:
    try:
        import polib
    except ImportError:
        raise InputError(
            f"{path} is read with polib, which is not installed. Run `pip install 'lightning-prefix[po]'`."
        ) from None
    _check_quotes(path)
    try:
        return list(polib.pofile(str(path), encoding="utf-8"))
    except OSError as error:
        line = re.search(r"\(line (\d+)\)(?:: (.*))?", str(error))
        if line is None:
            raise
        raise InputError(
            f"{path} is malformed in line {line[1]}: {line[2] or 'no such keyword is allowed there'}. {_SHAPE}"
        ) from None


def _check_quotes(path: Path) -> None:
    """Find what polib does not: it cuts the first and last character off, quotes or not."""
    with open_utf8(path) as stream:
        for number, line in enumerate(stream, start=1):
            if _UNQUOTED.match(line):
                raise InputError(
                    f"{path} is malformed in line {number}: the text must stand between double quotes. {_SHAPE}"
                )
