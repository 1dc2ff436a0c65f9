"""The file of a model card, which is replaced only as long as no person has changed it."""

import hashlib
import re
import warnings
from pathlib import Path

CARD = "README.md"
_MARK = re.compile(r"\n<!-- written by lightning_prefix; once changed it is not replaced \(([0-9a-f]{64})\) -->\n\Z")


def signed(text: str) -> str:
    """The text of a card with a last line by which a change of it is seen."""
    text = text.rstrip() + "\n"
    return f"{text}\n<!-- written by lightning_prefix; once changed it is not replaced ({_digest(text)}) -->\n"


def write_card(directory: Path, text: str) -> None:
    """Write the card of a folder; one that a person has written or changed stays, with a warning."""
    if not is_written_here(directory):
        if read_card(directory) != text:
            warnings.warn(f"{directory / CARD} was written or changed by a person; it stays as it is.", stacklevel=3)
        return
    (directory / CARD).write_text(text, encoding="utf-8")


def read_card(directory: Path) -> str | None:
    """The text of a folder's card, if there is one."""
    file = directory / CARD
    return file.read_text(encoding="utf-8", errors="replace") if file.is_file() else None


def is_written_here(directory: Path) -> bool:
    """Whether the folder's card is as it was written here, or there is none."""
    if (text := read_card(directory)) is None:
        return True
    mark = _MARK.search(text)
    return mark is not None and mark[1] == _digest(text[: mark.start()])


def name_card(directory: Path, name: str) -> None:
    """Let the card say under which name the folder is loaded, unless a person has changed it."""
    text = read_card(directory)
    if text is not None and is_written_here(directory):
        named = re.sub(r"(?<=\.from_pretrained\()\"[^\"\n]*\"", f'"{name}"', text)
        write_card(directory, signed(_MARK.sub("", named)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
