import sys

import pytest

from lightning_prefix.data.sources import load_splits
from lightning_prefix.errors import InputError

HEADER = (
    'msgid ""\nmsgstr ""\n"Content-Type: text/plain; charset=UTF-8\\n"\n"Plural-Forms: nplurals=3; plural=0;\\n"\n\n'
)


def read(path):
    return load_splits(str(path))["train"]


def failure(path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


ENTRIES = r"""
#: menu.c:1
msgctxt "menu"
msgid "Open \"%s\"\n"
msgstr ""
"Öffne "
"»%s«\n"

msgid "%d file"
msgid_plural "%d files"
msgstr[0] "%d plik"
msgstr[1] "%d pliki"
msgstr[2] "%d plików"

msgid "one"
msgid_plural "many"
msgstr[0] "x"
msgstr[1] ""

#, fuzzy
msgid "unsure"
msgstr "x"

msgid "not yet"
msgstr ""

#~ msgid "gone"
#~ msgstr "x"
"""


@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("header", ["", HEADER, "#, fuzzy\n" + HEADER])
def test_translated_entries(write, start, header):
    assert read(write("a.po", start + (header + ENTRIES).encode())).to_list() == [
        {"source": 'Open "%s"\n', "target": "Öffne »%s«\n"},
        {"source": "%d file", "target": "%d plik"},
        {"source": "%d files", "target": "%d plików"},
    ]


def test_line_separators_inside_a_message(write):
    assert read(write("a.po", 'msgid "a\u2028b\x85c"\nmsgstr "x"\n'))["source"][:] == ["a\u2028b\x85c"]


def test_language_with_one_form(write):
    entry = 'msgid "cat"\nmsgid_plural "cats"\nmsgstr[0] "猫"\n'
    assert [tuple(row.values()) for row in read(write("a.po", entry))] == [("cat", "猫"), ("cats", "猫")]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (HEADER + 'msgid "a"\nmsgstr "b"c"\n', "line 7: unescaped double quote"),
        (HEADER + 'msgid "a"\nmsgst "b"\n', "line 7: no such keyword"),
        ('msgid "abc\nmsgstr "b"\n', "line 1: the text must stand between double quotes"),
        ('msgid "a"\nmsgstr b\n', "line 2: the text must stand"),
        ('msgid "a"\nmsgstr "b"\n"c\n', "line 3: the text must stand"),
        ('msgid "a"\nmsgstr "\u00e9"\n'.encode("latin-1"), "byte 9 of line 2 is 0xe9"),
        ("", "is empty"),
        (HEADER, "is empty"),
        ('msgid "a"\nmsgstr ""\n\n#, fuzzy\nmsgid "b"\nmsgstr "c"\n', "none of the 2 entries"),
    ],
)
def test_malformed(write, content, expected):
    assert expected in failure(write("a.po", content))


def test_without_polib(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "polib", None)
    assert "pip install 'lightning-prefix[po]'" in failure(write("a.po", ENTRIES))
