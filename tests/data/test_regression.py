import pytest
import torch

from lightning_prefix.data import TextRegressionDataModule
from lightning_prefix.data.regression import read_number
from lightning_prefix.errors import InputError


def rows(*labels):
    return [{"text": "a film", "label": label} for label in labels]


def test_labels_are_floats(tokenizer):
    data = TextRegressionDataModule({"train": rows(1, 2), "validation": rows(3.5)}, tokenizer=tokenizer)
    data.setup("fit")
    (batch,) = data.val_dataloader()
    assert torch.equal(batch["labels"], torch.tensor([3.5]))
    assert data.labels == ()
    assert sum(len(batch["labels"]) for batch in data.train_dataloader()) == 2


def test_validation_is_cut_off(tokenizer):
    data = TextRegressionDataModule(rows(*range(20)), tokenizer=tokenizer, validation_fraction=0.25)
    data.setup("fit")
    assert len(data.val_dataloader().dataset) == 5
    assert len(data.train_dataloader().dataset) == 15


@pytest.mark.parametrize("bad", ["much", "nan", "", None, "inf"])
def test_no_number(tokenizer, write, bad):
    path = write("a.csv", f"text,label\na,1\nb,{bad or ''}\n")
    data = TextRegressionDataModule(str(path), tokenizer=tokenizer)
    with pytest.raises(InputError, match=r"row 2 of 'train' has the label .*: it must be a finite number. Correct"):
        data.setup("fit")


def test_read_number():
    assert [read_number(value) for value in (1, 2.5, "3", " 4e1 ")] == [1.0, 2.5, 3.0, 40.0]
    for value in (True, [], {}, float("inf")):
        with pytest.raises(ValueError, match="finite"):
            read_number(value)
