from pathlib import Path

import pytest

from lightning_prefix.data.formats.parallel import language_of
from lightning_prefix.data.sources import load_splits
from lightning_prefix.errors import InputError


def failure(source) -> str:
    with pytest.raises(InputError) as caught:
        load_splits(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_by_language(write):
    english = write("a.txt", b"\xef\xbb\xbfone\r\n\ntwo\x0b\xe2\x80\xa8\rtoo")
    german = write("train.de", "eins\nleer\nzwei\n")
    splits = load_splits({"train": {"en": str(english), "de": german}, "test": {"en": str(english)}})
    assert splits["train"].to_list() == [
        {"en": "one", "de": "eins"},
        {"en": None, "de": "leer"},
        {"en": "two\x0b\u2028\rtoo", "de": "zwei"},
    ]
    assert splits["test"].column_names == ["en"]


def test_folder(write):
    for name in ("train.en", "train.pt-BR", "dev.en", "dev.pt-BR", "test.en", "README.md", "train.log", "vocab.en"):
        folder = write(f"data/{name}", f"{name}\n").parent
    assert {name: rows.to_list() for name, rows in load_splits(str(folder)).items()} == {
        "train": [{"en": "train.en", "pt-BR": "train.pt-BR"}],
        "validation": [{"en": "dev.en", "pt-BR": "dev.pt-BR"}],
        "test": [{"en": "test.en"}],
    }


def test_folder_with_rows_stays_one_of_rows(write):
    for name in ("train.en", "train.de", "train.jsonl"):
        folder = write(f"data/{name}", '{"text": "a"}\n').parent
    assert load_splits(str(folder))["train"].column_names == ["text"]


def test_changed_file_is_read_again(write):
    source = {"train": {"en": str(write("a", "a\n")), "de": str(write("b", "b\n"))}}
    assert load_splits(source)["train"][0] == {"en": "a", "de": "b"}
    write("b", "changed\n")
    assert load_splits(source)["train"][0] == {"en": "a", "de": "changed"}


def test_unequal_numbers_of_lines(write):
    english, german = write("data/train.en", "one\ntwo\n"), write("data/train.de", "eins\n")
    for source in ({"train": {"en": str(english), "de": str(german)}}, str(english.parent)):
        message = failure(source)
        assert f"{english} has 2 lines" in message
        assert f"{german} has 1 lines" in message


def test_one_language_is_no_parallel_folder(write):
    assert "of at least two languages" in failure(str(write("data/train.en", "one\n").parent))


def test_folder_with_two_files_for_a_language(write):
    for name in ("dev.en", "validation.en", "dev.de"):
        folder = write(f"data/{name}", "a\n").parent
    assert "dev.en and validation.en" in failure(str(folder))


def test_bad_files(write, tmp_path):
    english = str(write("a.en", "a\n"))
    assert "does not exist" in failure({"train": {"en": english, "de": str(tmp_path / "a.de")}})
    assert "is a folder" in failure({"train": {"en": english, "de": str(tmp_path)}})
    assert "byte 1 of line 1" in failure({"train": {"en": english, "de": str(write("a.de", b"\xe9\n"))}})
    assert "is empty" in failure({"train": {"en": str(write("b.en", "")), "de": str(write("b.de", ""))}})
    assert "language -> text file" in failure({"train": {"en": ["a"], "de": ["b"]}})


@pytest.mark.parametrize(
    ("name", "language"),
    [("train.en", "en"), ("train.pt-BR", "pt-BR"), ("train.zh_Hans", "zh_Hans"), ("train.deu", "deu")]
    + [(name, None) for name in ("train", "train.md", "train.csv", "train.jsonl", "train.EN", "train.en~")],
)
def test_language_of(name, language):
    assert language_of(Path(name)) == language
