import json

import pytest

from lightning_prefix.data.files import is_path_like, missing_file, read_file
from lightning_prefix.errors import InputError


def failure(path, **options) -> str:
    with pytest.raises(InputError) as caught:
        read_file(path, **options)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_csv_columns_are_text_as_written(write):
    rows = read_file(write("a.csv", 'text,label\n"one, ""two""",01\nNA,null\n,1\n\nlast,2\n'))
    assert rows[:] == {"text": ['one, "two"', "NA", None, "last"], "label": ["01", "null", "1", "2"]}


def test_tsv_with_a_byte_order_mark_and_windows_lines(write):
    rows = read_file(write("a.tsv", b"\xef\xbb\xbftext\tlabel\r\na, b\t1\r\n"))
    assert rows[:] == {"text": ["a, b"], "label": ["1"]}


def test_csv_field_longer_than_the_csv_module_allows(write):
    assert len(read_file(write("a.csv", f"text,label\n{'x' * 200_000},1\n"))[0]["text"]) == 200_000


@pytest.mark.parametrize("kind", ["jsonl", "json"])
def test_json_lines_with_unequal_keys(write, kind):
    rows = read_file(write(f"a.{kind}", '{"text": "a", "label": 1}\n\n{"text": "b", "more": [1]}\n'))
    assert rows[:] == {"text": ["a", "b"], "label": [1, None], "more": [None, [1]]}


def test_json_list(write):
    assert read_file(write("a.json", json.dumps([{"text": "a"}, {"text": "b"}], indent=1)))["text"][:] == [
        "a",
        "b",
    ]


def test_parquet(tmp_path):
    import datasets

    datasets.Dataset.from_dict({"text": ["a"], "label": [0.5]}).to_parquet(tmp_path / "a.parquet")
    assert read_file(tmp_path / "a.parquet")[0] == {"text": "a", "label": 0.5}


def test_text_file_is_one_text_a_line(write):
    rows = read_file(write("a.txt", "one\r\n two\x0bthree\n\nlast"), text_column="sentence")
    assert rows["sentence"][:] == ["one", " two\x0bthree", "", "last"]


def test_changed_file_is_read_again(write):
    assert len(read_file(write("a.jsonl", [{"text": "a"}]))) == 1
    assert len(read_file(write("a.jsonl", [{"text": "a"}, {"text": "b"}]))) == 2


def test_unchanged_file_is_read_once(write, monkeypatch):
    path = write("a.jsonl", [{"text": "a"}])
    first = read_file(path)
    monkeypatch.setattr("lightning_prefix.data.readers._json_objects", None)
    assert read_file(path)[:] == first[:]


def test_unknown_extension(write):
    message = failure(write("a.xlsx", "x"))
    assert "'xlsx'" in message
    assert ".csv, .tsv, .json, .jsonl, .parquet" in message


def test_text_file_is_no_source(write):
    assert "'txt'" in failure(write("a.txt", "x"))


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl", "a.txt"])
def test_not_utf8(write, name):
    start = {"a.csv": b"text,label\n", "a.jsonl": b'{"text": "a"}\n', "a.txt": b"a\n"}[name]
    message = failure(write(name, start + "\u00e9t\u00e9,1\n".encode("latin-1")), text_column="text")
    assert "byte 1 of line 2 is 0xe9" in message
    assert "iconv -f latin-1 -t utf-8" in message


def test_utf16_is_named(write):
    assert "iconv -f utf-16" in failure(write("a.csv", "text,label\na,1\n".encode("utf-16")))


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.csv", "text,label\na,1\nb,2,3\n", "row 2 of"),
        (
            "a.csv",
            "text,label\na,1\nb,2,3\n",
            "(line 3) has 3 fields; the header names 2 columns: text, label",
        ),
        ("a.csv", 'text,label\n"a\nb",1\nc\n', "(line 4) has 1 fields"),
        ("a.csv", 'text,label\na,1\n"b,2\n', "row 2 of"),
        ("a.csv", "text,text\na,1\n", "each column needs a name of its own"),
        ("a.csv", "", "is empty"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", '{"text": "a"}\n\n{"text": "b"\n', "row 2 (line 3)"),
        ("a.jsonl", '{"text": "a"}\n["b"]\n', "row 2 (line 2)"),
        ("a.json", '[{"text": "a"},\n {"text": }]', "at line 2, character 11"),
        ("a.json", '[{"text": "a"}, "b"]', "row 2"),
        ("a.parquet", "no parquet", "cannot be read"),
    ],
)
def test_malformed(write, name, content, expected):
    assert expected in failure(write(name, content))


def test_missing_file_names_the_nearest(write):
    path = write("reviews.csv", "text\n").with_name("review.csv")
    assert "Did you mean reviews.csv?" in str(missing_file(path))
    assert "nor does its folder" in str(missing_file(path.parent / "nowhere" / "review.csv"))


def test_is_path_like():
    assert all(map(is_path_like, ["a.csv", "./reviews", "/data/reviews", "~/reviews", "texts.txt"]))
    assert not any(map(is_path_like, ["imdb", "stanfordnlp/sst2", "... and so on", "It was fine."]))
