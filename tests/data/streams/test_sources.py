"""Streams give the rows, and the messages, of the ordinary way."""

import json
from itertools import chain
from pathlib import Path

import datasets
import pytest

from lightning_prefix.data.sources import load_splits
from lightning_prefix.data.streams.sources import (
    HubRows,
    load_predict_stream,
    load_streams,
    names_with_validation,
)
from lightning_prefix.errors import InputError

ROWS = [{"text": f"film {row}", "label": "good" if row % 2 else "bad"} for row in range(1500)]
TMX = """<?xml version="1.0"?><tmx version="1.4"><header/><body>
<tu><tuv xml:lang="en"><seg>one</seg></tuv><tuv xml:lang="de"><seg>eins</seg></tuv></tu>
<tu><tuv xml:lang="en"><seg>two</seg></tuv><tuv xml:lang="de"><seg>zwei</seg></tuv></tu>
</body></tmx>"""
CONTENTS = {
    "rows.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "rows.json": "".join(json.dumps(row) + "\n" for row in ROWS),
    "rows.csv": "text,label\n" + "".join(f'"{row["text"]}, ""NA""",{row["label"]}\n' for row in ROWS),
    "rows.tsv": "text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in ROWS),
    "rows.txt": "".join(f"{row['text']}\n" for row in ROWS),
    "rows.tmx": TMX,
    "rows.conll": "good O\nfilm B-X\n\nbad O\n",
}


@pytest.mark.parametrize("name", [*CONTENTS, "rows.parquet"])
def test_files_give_the_rows_of_the_ordinary_way(write, name, tmp_path):
    if name == "rows.parquet":
        path = tmp_path / name
        datasets.Dataset.from_list(ROWS).to_parquet(path, batch_size=400)  # several row groups
    else:
        path = write(name, CONTENTS[name])
    given = {"train": str(path)}
    expected = load_splits(given)["train"].to_list()
    source = load_streams(given)["train"].source
    assert list(source.rows()) == expected
    for first in (1, 399, 400, 1400):
        assert list(source.rows(first)) == expected[first:]


def test_folders_and_parallel_files(tmp_path):
    for split in ("train", "dev"):
        (tmp_path / f"{split}.en").write_text("one\ntwo\n")
        (tmp_path / f"{split}.de").write_text("eins\n\n")
    streams = load_streams(str(tmp_path))
    assert list(streams) == ["train", "validation"]
    assert list(streams["train"].source.rows()) == load_splits(str(tmp_path))["train"].to_list()


def test_a_file_on_any_file_system(write):
    import fsspec

    memory = fsspec.filesystem("memory")
    for name in ("rows.csv", "rows.jsonl", "rows.txt"):
        memory.pipe(f"/bucket/{name}", CONTENTS[name].encode())
        stream = load_streams(f"memory://bucket/{name}")["train"]
        assert list(stream.source.rows()) == load_splits({"train": str(write(name, CONTENTS[name]))})["train"].to_list()
        assert stream.source.is_remote
    with pytest.raises(InputError, match=r"memory://bucket/none.csv cannot be read.*Check the address"):
        load_streams("memory://bucket/none.csv")["train"].head  # noqa: B018


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A data set of four parquet files under a name of the hub."""
    for shard in range(4):
        part = datasets.Dataset.from_list(ROWS[shard * 100 : (shard + 1) * 100])
        part = part.cast_column("label", datasets.ClassLabel(names=["bad", "good"]))
        part.to_parquet(tmp_path / f"train-0000{shard}-of-00004.parquet")
    load = datasets.load_dataset
    monkeypatch.setattr(datasets, "load_dataset", lambda *_, streaming, **__: load(str(tmp_path), streaming=streaming))
    return "someone/reviews"


def test_hub_data_sets(hub):
    stream = load_streams(hub)["train"]
    expected = [{**row, "label": int(row["label"] == "good")} for row in ROWS[:400]]
    assert list(stream.source.rows()) == expected
    assert list(stream.source.rows(150)) == expected[150:]
    assert stream.features["label"].names == ["bad", "good"]


def test_parts_of_a_hub_data_set_are_read_apart(hub):
    stream = load_streams(hub)["train"]
    parts = [[row["text"] for _, row in stream.shard(number, 2).share(0, 1)] for number in range(2)]
    assert [len(part) for part in parts] == [200, 200]
    assert sorted(chain.from_iterable(parts)) == sorted(row["text"] for row in ROWS[:400])
    assert stream.shard(0, 3) is None  # not evenly
    assert stream.shard(0, 1) is None


def test_an_iterable_data_set_of_python():
    stream = load_streams({"train": datasets.Dataset.from_list(ROWS).to_iterable_dataset(3)})["train"]
    assert isinstance(stream.source, HubRows)
    assert list(stream.source.rows()) == ROWS


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("rows.json", '[{"text": "good"}]', "it is one list"),
        ("rows.json", '{"version": "1.1", "data": [{"title": "a", "paragraphs": []}]}', "SQuAD's json is one object"),
        ("rows.po", 'msgid "a"\nmsgstr "b"\n', "polib reads po files whole"),
    ],
)
def test_files_that_cannot_be_streamed(write, name, content, reason):
    with pytest.raises(InputError, match=f"{reason}.*Leave streaming out, or write it as jsonl"):
        load_streams(str(write(name, content)))


@pytest.mark.parametrize("source", [ROWS, {"train": ROWS}, datasets.Dataset.from_list(ROWS)])
def test_rows_in_memory_need_no_stream(source):
    with pytest.raises(InputError, match=r"need no stream. Leave streaming out"):
        load_streams(source)


def test_sources_that_are_not_there(write, tmp_path):
    write("rows.csv", CONTENTS["rows.csv"])
    with pytest.raises(InputError, match=r"Did you mean rows.csv"):
        load_streams(str(tmp_path / "row.csv"))
    with pytest.raises(InputError, match="of unknown kind"):
        load_streams(str(write("rows.xml", "<a/>")))
    with pytest.raises(InputError, match="empty dict"):
        load_streams({})
    with pytest.raises(InputError, match="is empty"):
        load_streams(str(write("none.jsonl", "")))["train"].head  # noqa: B018


def test_messages_are_those_of_the_ordinary_way(write):
    content = "text,label\nfine,good\nbad\nfine,good\n"
    path = str(write("bad.csv", content))
    with pytest.raises(InputError) as ordinary:
        load_splits(path)
    with pytest.raises(InputError) as streamed:
        list(load_streams(path)["train"].source.rows())
    assert str(streamed.value) == str(ordinary.value)
    assert "row 2" in str(streamed.value)


def test_what_is_predicted(write):
    path = str(write("new.txt", "one\ntwo\n"))
    assert list(load_predict_stream(path, "review").source.rows()) == [{"review": "one"}, {"review": "two"}]
    assert list(load_predict_stream(["one", "two"], "review").source.rows(1)) == [{"review": "two"}]
    assert list(load_predict_stream("one", "review").source.rows()) == [{"review": "one"}]
    with pytest.raises(InputError, match="does not exist"):
        load_predict_stream(str(Path(path).with_name("other.txt")), "review")


def test_the_first_rows_are_for_validation(write):
    names = {"train": "train", "validation": "validation", "test": "test"}
    splits = load_streams(str(write("rows.jsonl", ROWS)))
    cut = names_with_validation(names, splits)
    assert cut == {"train": "train[1000:]", "validation": "train[:1000]", "test": "test"}
    assert names_with_validation(cut, splits) == cut
    assert names_with_validation(names, {**splits, "validation": splits["train"]}) == names
    with pytest.raises(InputError, match=r"no rows are cut off for it. Name both"):
        names_with_validation({**names, "train": "train[:1200]"}, splits)
    with pytest.raises(InputError, match=r"1000 rows or less.*need no streaming"):
        names_with_validation(names, load_streams(str(write("few.jsonl", ROWS[:1000]))))
