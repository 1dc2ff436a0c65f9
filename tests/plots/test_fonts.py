"""Letters that matplotlib's own font lacks."""

import logging

import pytest
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

from lightning_prefix import plots
from lightning_prefix.plots import fonts
from lightning_prefix.plots.figure import drawing_to_files, save
from lightning_prefix.plots.words import NearWord


@pytest.fixture(autouse=True)
def _forget():
    fonts.more_fonts.cache_clear()
    fonts._say_once.cache_clear()


def a_letter_that_only(name: str) -> str:
    """A letter that this font has and the default one has not."""
    own = get_font(findfont(name)).get_charmap()
    default = get_font(findfont(FontProperties())).get_charmap()
    return next(chr(code) for code in own if code not in default and chr(code).isprintable())


def test_an_installed_font_is_found(tmp_path):
    letter = a_letter_that_only("STIXGeneral")
    with drawing_to_files():
        figure, axes = plots.plot_confusion_matrix([0, 1], [0, 1], [letter, "good"])
        families = axes.get_xticklabels()[0].get_fontfamily()
        assert families[-1] == fonts.more_fonts(letter)[0]
        assert get_font(findfont(families[-1])).get_char_index(ord(letter))
        save(figure, tmp_path / "confusion.png")


def test_letters_in_no_font_are_said_once(tmp_path, monkeypatch, caplog, recwarn):
    monkeypatch.setattr(
        fontManager, "ttflist", [e for e in fontManager.ttflist if e.name.startswith(("DejaVu", "Last"))]
    )
    caplog.set_level(logging.INFO, "lightning.pytorch")
    with drawing_to_files():
        for word in ("\u4f60\u597d", "\u518d\u89c1"):
            figure, _ = plots.plot_nearest_words([[NearWord(word, 0.5), NearWord("film", 0.4)]])
            save(figure, tmp_path / "words.png")
    assert caplog.text.count("are drawn as boxes") == 1
    assert not [warning for warning in recwarn if "Glyph" in str(warning.message)]


def test_letters_of_the_default_font_need_no_other(monkeypatch):
    monkeypatch.setattr(fonts, "_installed", lambda: pytest.fail("no font is looked for"))
    assert fonts.more_fonts("abc\u00e9") == ()
