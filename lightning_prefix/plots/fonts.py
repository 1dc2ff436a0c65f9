"""Fonts for the letters of any language: matplotlib's own has no Chinese, Japanese or Korean."""

import functools
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from lightning.pytorch.utilities import rank_zero_info

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LIKED = ("noto sans cjk", "noto sans", "source han sans", "wenquanyi", "microsoft yahei", "simhei", "pingfang")
"""Beginnings of names of fonts that are tried first, in lower case; symbols and serifs come later."""


def use_fonts(figure: "Figure") -> None:
    """Give every text of a figure a font that has its letters, where one is installed; say once what is missing.

    Args:
        figure: with all its texts.
    """
    from matplotlib.text import Text

    texts = [text for text in figure.findobj(Text) if isinstance(text, Text)]
    letters = "".join(sorted({letter for text in texts for letter in text.get_text() if letter.isprintable()}))
    if more := more_fonts(letters):
        for text in texts:
            text.set_fontfamily([*text.get_fontfamily(), *more])


@functools.lru_cache(maxsize=64)
def more_fonts(letters: str) -> tuple[str, ...]:
    """Names of installed fonts for the letters that matplotlib's default font lacks, few and liked ones first.

    Args:
        letters: of texts; each once.
    """
    from matplotlib.font_manager import FontProperties, findfont

    lacking = _lacking(letters, findfont(FontProperties()))
    chosen: list[str] = []
    for name, path in _installed() if lacking else ():
        left = _lacking(lacking, path)
        if len(left) < len(lacking):
            chosen.append(name)
            lacking = left
        if not lacking:
            break
    if lacking:
        _say_once()
    return tuple(chosen)


@functools.cache
def _say_once() -> None:
    rank_zero_info(
        "letters of some texts are in no installed font and are drawn as boxes; for Chinese, Japanese and Korean "
        "install Noto Sans CJK (Debian and Ubuntu: fonts-noto-cjk), then delete the folder that "
        "`python -c 'import matplotlib; print(matplotlib.get_cachedir())'` prints."
    )


def _installed() -> Sequence[tuple[str, str]]:
    """Name and file of every font, liked ones first; but for Last Resort, which has nothing but boxes."""
    from matplotlib.font_manager import fontManager

    fonts = {
        (entry.name, entry.fname)
        for entry in fontManager.ttflist
        if entry.style == "normal" and "Last Resort" not in entry.name
    }
    return sorted(fonts, key=lambda font: (_rank(font[0]), font))


def _rank(name: str) -> int:
    return next((place for place, start in enumerate(_LIKED) if name.lower().startswith(start)), len(_LIKED))


def _lacking(letters: Iterable[str], path: str) -> str:
    """The letters that a font file does not have; all, where it cannot be read."""
    from matplotlib.font_manager import get_font

    try:
        font = get_font(path)
    except (OSError, RuntimeError):
        return "".join(letters)
    return "".join(letter for letter in letters if not font.get_char_index(ord(letter)))
