import datasets
import pytest

from lightning_prefix.data import sources
from lightning_prefix.data.sources import has_split, load_predict_rows, load_splits, select_split
from lightning_prefix.errors import InputError

ROWS = [{"text": "a", "label": "x"}, {"text": "b", "label": "y"}]


def failure(function, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_one_file_is_the_train_split(write):
    splits = load_splits(str(write("mine.jsonl", ROWS)))
    assert list(splits) == ["train"]
    assert splits["train"].to_list() == ROWS


def test_folder(write):
    for name in ("train.jsonl", "dev.csv", "test.jsonl", "notes.md", "extra.jsonl"):
        folder = write(f"data/{name}", "text,label\na,x\n" if name == "dev.csv" else ROWS).parent
    assert {name: len(rows) for name, rows in load_splits(str(folder)).items()} == {
        "train": 2,
        "validation": 1,
        "test": 2,
    }


def test_asset(write, monkeypatch):
    folder = write("asset/train.jsonl", ROWS).parent
    monkeypatch.setattr(sources, "asset_path", lambda name: {"asset:movie-reviews": folder}[name])
    assert len(load_splits("asset:movie-reviews")["train"]) == 2


@pytest.mark.parametrize(
    "source",
    [
        ROWS,
        datasets.Dataset.from_list(ROWS),
        {"train": ROWS},
        {"train": datasets.Dataset.from_list(ROWS)},
        datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS)),
    ],
)
def test_memory(source):
    assert load_splits(source)["train"].to_list() == ROWS


def test_dict_of_files(write):
    splits = load_splits({"train": str(write("a.jsonl", ROWS)), "held_out": str(write("b.jsonl", ROWS[:1]))})
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 2, "held_out": 1}


def test_rows_with_unequal_keys():
    assert load_splits([{"text": "a"}, {"label": 1, "text": "b"}])["train"]["label"][:] == [None, 1]


def test_hub(monkeypatch):
    calls = []

    def load_dataset(*arguments, **options):
        calls.append((arguments, options))
        return datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    load_splits("nyu-mll/glue", subset="sst2", revision="main")
    assert calls == [(("nyu-mll/glue", "sst2"), {"revision": "main"})]


def test_hub_is_out_of_reach(monkeypatch):
    def load_dataset(*arguments, **options):
        raise ConnectionError("Couldn't reach 'a/b' on the Hub\nsecond line")

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    message = failure(load_splits, "a/b")
    assert "Couldn't reach" in message
    assert "asset:movie-reviews" in message


@pytest.mark.parametrize("name", ["train.csv", "./train", "/nowhere/train", "some/deep/folder"])
def test_missing_path_is_no_hub_id(name):
    assert "does not exist" in failure(load_splits, name)


def test_missing_file_in_dict():
    assert "does not exist" in failure(load_splits, {"train": "nowhere"})


def test_folder_without_splits(write):
    message = failure(load_splits, str(write("data/reviews.csv", "x").parent))
    assert "it holds reviews.csv" in message


def test_folder_with_two_files_for_a_split(write):
    write("data/dev.jsonl", ROWS)
    message = failure(load_splits, str(write("data/validation.jsonl", ROWS).parent))
    assert "dev.jsonl and validation.jsonl" in message


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (7, "type int"),
        ([1, 2], "type list"),
        ({}, "empty dict"),
        ([], "'train' of the source is empty"),
        ({"train": ROWS, "test": []}, "'test' of the source is empty"),
        ([{"text": "a", "label": 1}, {"text": "b", "label": "x"}], "one type of value"),
    ],
)
def test_bad_memory(source, expected):
    assert expected in failure(load_splits, source)


def test_empty_file(write):
    assert "is empty" in failure(load_splits, str(write("a.csv", "text,label\n")))


def test_slices_and_sums():
    splits = load_splits({"train": [{"text": str(row)} for row in range(10)], "test": [{"text": "t"}]})
    assert select_split(splits, "train[2:4]")["text"][:] == ["2", "3"]
    assert select_split(splits, "train[:20%]+test")["text"][:] == ["0", "1", "t"]
    assert has_split(splits, "train[:3]")
    assert not has_split(splits, "train+dev")


@pytest.mark.parametrize(
    ("name", "expected"),
    [("dev", "it has 'train'"), ("train[:", "malformed"), ("train[5:]", "is empty")],
)
def test_bad_split(name, expected):
    assert expected in failure(select_split, load_splits(ROWS), name)


def test_predict_texts(write):
    assert load_predict_rows(["a", "b"], "sentence").to_list() == [{"sentence": "a"}, {"sentence": "b"}]
    assert load_predict_rows("It was fine. Really.", "text").to_list() == [{"text": "It was fine. Really."}]
    assert load_predict_rows(str(write("a.txt", "a\nb\n")), "text")["text"][:] == ["a", "b"]
    assert load_predict_rows(str(write("a.jsonl", ROWS)), "text").to_list() == ROWS
    assert len(load_predict_rows("long " * 3000, "text")) == 1


@pytest.mark.parametrize(("predict", "expected"), [("nowhere.txt", "does not exist"), ([], "no text")])
def test_predict_source_is_missing(predict, expected):
    assert expected in failure(load_predict_rows, predict, "text")
