import datasets
import torch

from lightning_prefix.data.collate import Collator, IndexedRows


def test_padding_is_at_the_right_to_the_longest():
    rows = [
        {"input_ids": [5], "attention_mask": [1], "token_type_ids": [1], "index": 3},
        {"input_ids": [6, 7], "attention_mask": [1, 1], "token_type_ids": [0, 1], "index": 1},
    ]
    batch = Collator({"input_ids": 9, "token_type_ids": 2})(rows)
    assert batch["input_ids"].tolist() == [[5, 9], [6, 7]]
    assert batch["attention_mask"].tolist() == [[1, 0], [1, 1]]
    assert batch["token_type_ids"].tolist() == [[1, 2], [0, 1]]
    assert batch["index"].tolist() == [3, 1]
    assert all(value.dtype == torch.long for value in batch.values())
    assert "labels" not in batch


def test_label_types():
    def labels(*values):
        return Collator()([{"labels": value} for value in values])["labels"]

    assert labels(1, 0).dtype == torch.long
    assert labels(1.5, 0.0).dtype == torch.float32
    assert labels([1.0, 0.0], [0.0, 0.0]).shape == (2, 2)


def test_indexed_rows():
    rows = IndexedRows(datasets.Dataset.from_dict({"input_ids": [[1], [2]], "row": [5, 6], "cut": [False, True]}))
    assert rows[1] == {"input_ids": [2], "index": 6}
    assert rows.__getitems__([1, 0]) == [rows[1], rows[0]]
