"""Streams are tokenised as in the ordinary way, checked as there, and shared out without loss."""

import json
from itertools import chain, islice
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from every_task import CASES, case_backbone

import lightning_prefix as lp
from lightning_prefix.data.collate import IndexedRows
from lightning_prefix.data.streams.batches import Batching
from lightning_prefix.data.streams.rows import RowStream
from lightning_prefix.data.streams.sources import HubRows, load_streams
from lightning_prefix.data.streams.stream import TrainStream, encoded_stream
from lightning_prefix.errors import InputError

ROWS = 90


def plain(value):
    if isinstance(value, dict):
        return {name: plain(cell) for name, cell in value.items()}
    if isinstance(value, torch.Tensor | np.ndarray):
        return value.tolist()
    return [plain(cell) for cell in value] if isinstance(value, list | tuple) else value


@pytest.fixture
def source(tmp_path):
    def write(row, rows=ROWS):
        for split in ("train", "validation", "test"):
            lines = [json.dumps(row(number)) + "\n" for number in range(rows)]
            (tmp_path / f"{split}.jsonl").write_text("".join(lines))
        return str(tmp_path)

    return write


def classified(source, tokenizer, **options):
    return lp.TextClassificationDataModule(source, tokenizer=tokenizer, batch_size=4, **options)


@pytest.mark.parametrize("name", CASES)
def test_rows_are_encoded_as_in_the_ordinary_way(name, source, bert_folder, gpt2_folder, tmp_path):
    case = CASES[name]
    backbone = case_backbone(case, bert_folder, gpt2_folder, tmp_path / "backbone")
    task = case.make_task(backbone, lp.FlatPrefixConfig(length=2))
    path = source(case.row)
    ordinary, streamed = (
        case.data(path, tokenizer=backbone, batch_size=4, streaming=streaming, **case.data_options)
        for streaming in (False, True)
    )
    for data in (ordinary, streamed):
        data.serve(task)
        data.setup("fit")
        data.setup("predict")
    assert streamed.labels == ordinary.labels
    for role in ("train", "validation", "predict"):
        expected = IndexedRows(ordinary._ready[role])
        stream = streamed._ready[role]
        encoded, _ = stream.encode(list(stream.rows.share(0, 1)))
        assert [plain(row.values) for row in encoded] == [plain(expected[n]) for n in range(len(expected))]
    predicted = [plain(batch) for batch in streamed.predict_dataloader()]
    assert predicted == [plain(batch) for batch in ordinary.predict_dataloader()]
    seen = [index for batch in streamed.val_dataloader() for index in batch["index"].tolist()]
    assert sorted(seen) == list(range(ROWS))


def indices(loader):
    return [batch["index"].tolist() for batch in loader]


def flat(lists):
    return list(chain.from_iterable(lists))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("options", [{}, {"max_batch_tokens": 30}, {"group_by_length": False, "shuffle_buffer": 20}])
def test_each_row_comes_once(num_workers, options, source, bert_folder):
    data = classified(
        source(CASES["classification"].row), bert_folder, streaming=True, num_workers=num_workers, **options
    )
    data.setup("fit")
    data.setup("predict")
    loader = data.train_dataloader()
    first = indices(loader)
    assert sorted(flat(first)) == list(range(ROWS))
    loader.set_epoch(1)
    second = indices(loader)
    assert sorted(flat(second)) == list(range(ROWS))
    assert second != first
    assert sorted(flat(indices(data.val_dataloader()))) == list(range(ROWS))
    assert flat(indices(data.predict_dataloader())) == list(range(ROWS))  # in order, whoever loads


@pytest.mark.parametrize(("num_workers", "ranks"), [(2, 1), (1, 2)])
def test_parts_of_a_hub_data_set_are_shared_out(num_workers, ranks, source, bert_folder):
    """Six parts for so many readers: `datasets` must not share them out a second time."""
    data = classified(source(CASES["classification"].row), bert_folder, streaming=True)
    data.setup("fit")
    reading = data._ready["train"].reading
    rows = datasets.Dataset.from_json(f"{data.source}/train.jsonl").to_iterable_dataset(6)
    read = []
    for rank in range(ranks):
        stream = encoded_stream(RowStream(HubRows(rows), "train"), reading)
        own = TrainStream(stream, batching=Batching(batch_size=4), shuffle_buffer=9, seed=0, rank=rank, ranks=ranks)
        own.places = [(0, 0, 0)] * num_workers
        loader = torch.utils.data.DataLoader(own, batch_size=None, num_workers=num_workers, collate_fn=list)
        read += [tuple(row["input_ids"]) for item in loader for row in item[0]]
    expected, _ = data._ready["train"].encode(list(data._ready["train"].rows.share(0, 1)))
    assert sorted(read) == sorted(tuple(row.values["input_ids"]) for row in expected)


def test_a_row_is_read_when_it_is_needed(source, bert_folder):
    """A broken row stops the training where it stands, not before, with the message of the ordinary way."""
    rows = [CASES["classification"].row(number) for number in range(3000)]
    rows[2500]["label"] = "neither"
    path = {"train": f"{source(rows.__getitem__, 3000)}/train.jsonl"}
    path["validation"] = path["train"].replace("train", "test")
    Path(path["validation"]).write_text(json.dumps(rows[0]))
    labels = {"labels": ["negative", "positive"]}
    with pytest.raises(InputError) as expected:
        classified(path, bert_folder, **labels).setup("fit")
    data = classified(path, bert_folder, streaming=True, shuffle_buffer=100, **labels)
    data.setup("fit")
    loader = iter(data.train_dataloader())
    assert len(flat(indices(islice(loader, 575)))) == 2300
    with pytest.raises(InputError) as caught:
        indices(loader)
    assert str(caught.value) == str(expected.value)
    assert "row 2501 of 'train' has the label 'neither'" in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": None}, "row 8 of 'train' has no text in the column 'text'"),
        ({"label": None}, "row 8 of 'train' has the label None"),
    ],
)
def test_bad_rows(change, message, source, bert_folder):
    def row(number):
        return {**CASES["classification"].row(number), **(change if number == 7 else {})}

    data = classified(source(row), bert_folder, streaming=True, labels=["negative", "positive"])
    data.setup("fit")
    with pytest.raises(InputError, match=message):
        next(iter(data.train_dataloader()))


def test_columns_are_checked_before(source, bert_folder):
    path = source(CASES["classification"].row)
    with pytest.raises(InputError, match=r"'validation' has no column 'txt'.*Did you mean 'text'"):
        classified(path, bert_folder, streaming=True, text_column="txt").setup("fit")
    with pytest.raises(InputError, match="has no column 'lable'"):
        classified(path, bert_folder, streaming=True, label_column="lable").setup("fit")


def test_rows_left_out_are_told(source, bert_folder, caplog):
    path = source(lambda number: {**CASES["classification"].row(number), **({"text": ""} if number % 3 else {})})
    data = classified(path, bert_folder, streaming=True, drop_empty=True, max_length=8)
    data.setup("fit")
    with caplog.at_level("INFO"):
        seen = flat(indices(data.train_dataloader()))
    assert sorted(seen) == list(range(0, ROWS, 3))
    assert "60 of 90 rows of 'train', as this process read it, have no text and were left out." in caplog.text
    data.setup("predict")
    assert flat(indices(data.predict_dataloader())) == list(range(0, ROWS, 3))


def test_translation_of_the_hub(bert_folder, gpt2_folder):
    rows = [{"id": str(n), "translation": {"en": f"the film {n}", "de": "a plot"}} for n in range(8)]
    stream = {"train": datasets.Dataset.from_list(rows).to_iterable_dataset()}
    data = lp.TranslationDataModule(stream, source_language="en", target_language="de", streaming=True)
    assert next(data.splits["train"].source.rows()) == {"id": "0", "en": "the film 0", "de": "a plot"}
    assert load_streams(stream)["train"].column_names == ["id", "translation"]
