import pytest

from lightning_prefix.data.formats import tmx
from lightning_prefix.data.sources import load_splits
from lightning_prefix.errors import InputError

HEAD = '<?xml version="1.0"?>\n<!DOCTYPE tmx SYSTEM "tmx14.dtd">\n'


def unit(**texts: str) -> str:
    variants = "".join(
        f'<tuv xml:lang="{language.replace("_", "-")}"><seg>{text}</seg></tuv>' for language, text in texts.items()
    )
    return f"<tu><note>n</note>\n{variants}</tu>\n"


def memory(*units: str, head: str = HEAD) -> str:
    return f'{head}<tmx version="1.4"><header srclang="en"/><body>\n{"".join(units)}</body></tmx>'


def read(path):
    return load_splits(str(path))["train"]


def failure(path) -> str:
    with pytest.raises(InputError) as caught:
        read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


@pytest.mark.parametrize("chunk", [1, 7, 1 << 16])
def test_one_row_a_unit_one_column_a_language(write, monkeypatch, chunk):
    monkeypatch.setattr(tmx, "_CHUNK", chunk)
    content = memory(unit(EN="Good &amp; bad &#233;", pt_BR="Bom"), unit(de="Gut", EN="Good"), unit(EN=""))
    assert read(write("a.tmx", content)).to_list() == [
        {"en": "Good & bad é", "pt-BR": "Bom", "de": None},
        {"en": "Good", "pt-BR": None, "de": "Gut"},
        {"en": None, "pt-BR": None, "de": None},
    ]


def test_inline_codes_are_left_out_and_highlighted_text_is_kept(write):
    text = (
        'Press <bpt i="1">&lt;b&gt;</bpt>the <hi>red</hi> key<ept i="1">&lt;/b&gt;</ept> '
        '<ph x="1">{0}<sub>note</sub></ph>now<it pos="end">x</it><ut>y</ut>.'
    )
    assert read(write("a.tmx", memory(unit(en=text))))["en"][:] == ["Press the red key now."]


def test_language_that_comes_late_is_a_column(write):
    rows = read(write("a.tmx", memory(*[unit(en=str(number)) for number in range(1500)], unit(en="x", de="y"))))
    assert rows.column_names == ["en", "de"]
    assert rows[0] == {"en": "0", "de": None}
    assert rows[1500] == {"en": "x", "de": "y"}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_byte_order_mark(write, encoding):
    content = memory(unit(en="é"), head='<?xml version="1.0"?>\n')
    assert read(write("a.tmx", content.encode(encoding)))["en"][:] == ["é"]


def test_declared_encoding_and_old_attribute(write):
    content = memory('<tu><tuv lang="EN-GB"><seg>é</seg></tuv></tu>', head='<?xml version="1.0" encoding="latin-1"?>')
    assert read(write("a.tmx", content.encode("latin-1"))).to_list() == [{"en-GB": "é"}]


LAUGHS = "".join(f'<!ENTITY l{level} "{f"&l{level - 1};" * 10}">' for level in range(1, 30))


@pytest.mark.parametrize(
    ("head", "text", "expected"),
    [
        (f'<!DOCTYPE tmx [<!ENTITY l0 "ha">{LAUGHS}]>', "&l29;", "the entity 'l0' in line 1"),
        ('<!DOCTYPE tmx [<!ENTITY one "1">]>', "x", "the entity 'one'"),
        ('<!DOCTYPE tmx [\n<!ENTITY file SYSTEM "file:///etc/passwd">]>', "&file;", "the entity 'file' in line 2"),
        ('<!DOCTYPE tmx [<!ENTITY % dtd SYSTEM "http://localhost/x.dtd"> %dtd;]>', "x", "the entity 'dtd'"),
        (HEAD, "a&nbsp;b", "the entity 'nbsp' in line 5"),
        ("", "a&nbsp;b", "undefined entity"),
    ],
)
def test_entities_are_refused(write, head, text, expected):
    assert expected in failure(write("a.tmx", memory(unit(en=text), head=head)))


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (memory(unit(en="a"))[:-12], "is not well-formed XML"),
        (memory("<tu><tuv xml:lang='en'><seg>a</tuv></tu>"), "mismatched tag"),
        (memory(unit(en="a")).replace("<?xml", "\n<?xml"), "line 2"),
        (memory("<tu>\n<tuv><seg>a</seg></tuv></tu>"), "line 5"),
        (memory("<tu>\n<tuv><seg>a</seg></tuv></tu>"), "names no language"),
        (memory(unit(en="a", EN="b")), "two texts in 'en'"),
        (memory(), "holds no <tuv>"),
        ("<xliff/>", "root is <xliff>"),
        ("", "no element found"),
        ('<?xml version="1.0" encoding="klingon"?><tmx/>', "encoding"),
        (memory(unit(en="é")).encode("latin-1"), "invalid token"),
    ],
)
def test_malformed(write, content, expected):
    assert expected in failure(write("a.tmx", content))
