from collections import Counter

import datasets
import pytest
import torch

from lightning_prefix.data import TextClassificationDataModule
from lightning_prefix.data.classification import class_number, class_vector
from lightning_prefix.errors import InputError


def rows(*labels):
    return [{"text": "a film", "label": label} for label in labels]


def ready(source, tokenizer, stage="fit", **options):
    data = TextClassificationDataModule(source, tokenizer=tokenizer, **options)
    data.setup(stage)
    return data


def labels_of(batches):
    return torch.cat([batch["labels"] for batch in batches]).tolist()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (["pos", "neg", "pos"], ("neg", "pos")),
        ([10, 9, 10], ("9", "10")),
        (["10", "9"], ("9", "10")),
        ([True, False], ("False", "True")),
        ([1.0, 0.0], ("0", "1")),
        ([-1, 1, 0], ("-1", "0", "1")),
    ],
)
def test_labels_from_the_train_split(tokenizer, values, expected):
    source = {"train": rows(*values), "validation": rows(*values)}
    data = ready(source, tokenizer)
    assert data.labels == expected
    names = [str(int(value)) if isinstance(value, float) else str(value) for value in values]
    assert labels_of(data.val_dataloader()) == [expected.index(name) for name in names]


def test_declared_labels(tokenizer):
    feature = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    train = datasets.Dataset.from_list(rows(1, 0, 1), features=feature)
    data = ready({"train": train, "validation": train}, tokenizer)
    assert data.labels == ("neg", "pos")
    assert labels_of(data.val_dataloader()) == [1, 0, 1]
    turned = ready({"train": train, "validation": train}, tokenizer, labels=["pos", "neg"])
    assert labels_of(turned.val_dataloader()) == [0, 1, 0]


def test_given_labels_and_numbers(tokenizer, write):
    for source in (rows(0, 1), str(write("a.csv", "text,label\na,0\nb,1\n"))):
        data = ready({"train": source, "validation": source}, tokenizer, labels=["neg", "pos"])
        assert labels_of(data.val_dataloader()) == [0, 1]
    data = ready({"train": rows(2, 1), "validation": rows(2, 1)}, tokenizer, labels=["2", "1"])
    assert labels_of(data.val_dataloader()) == [0, 1]


@pytest.mark.parametrize("bad", ["other", 7, None, ["pos"]])
def test_label_that_is_not_allowed(tokenizer, bad):
    validation = rows(bad, "neg") if bad is None else rows(bad)
    with pytest.raises(InputError, match=r"row 1 of 'validation' has the label .*allowed ones are neg, pos"):
        ready({"train": rows("neg", "pos"), "validation": validation}, tokenizer)


@pytest.mark.parametrize("values", [["pos", "pos"], [None, None]])
def test_one_class_is_none(tokenizer, values):
    with pytest.raises(InputError, match="two classes"):
        ready(rows(*values), tokenizer)


@pytest.mark.parametrize("labels", [["one"], ["a", "a"]])
def test_bad_labels_option(labels):
    with pytest.raises(InputError, match="two or more different names"):
        TextClassificationDataModule(labels=labels)


def test_wrong_label_column(tokenizer):
    with pytest.raises(InputError, match=r"no column 'lable'.*Did you mean 'label'"):
        ready(rows("a", "b"), tokenizer, label_column="lable")


@pytest.mark.parametrize("values", [[["a", "b"], ["b"], []], ["a, b", "b", None]])
def test_multi_label(tokenizer, values):
    data = ready({"train": rows(*values), "validation": rows(*values)}, tokenizer, multi_label=True)
    assert data.labels == ("a", "b")
    assert labels_of(data.val_dataloader()) == [[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]
    assert data.multi_label


def test_multi_label_with_declared_labels(tokenizer):
    feature = datasets.Features(
        text=datasets.Value("string"), label=datasets.List(datasets.ClassLabel(names=["x", "y", "z"]))
    )
    train = datasets.Dataset.from_list(rows([2, 0], [1]), features=feature)
    data = ready({"train": train, "validation": train}, tokenizer, multi_label=True)
    assert data.labels == ("x", "y", "z")
    assert labels_of(data.val_dataloader()) == [[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]]


def test_multi_label_validation_is_cut_off(tokenizer):
    data = ready(rows(*[["a"], ["b"]] * 10), tokenizer, multi_label=True)
    assert len(data.val_dataloader().dataset) == 2


def test_separator(tokenizer):
    data = ready(
        {"train": rows("a;b", "b"), "validation": rows("b;a")},
        tokenizer,
        multi_label=True,
        label_separator=";",
    )
    assert labels_of(data.val_dataloader()) == [[1.0, 1.0]]


def test_validation_cut_keeps_the_shares(tokenizer):
    data = ready(rows(*["a"] * 30, *["b"] * 10), tokenizer, validation_fraction=0.2)
    assert Counter(labels_of(data.val_dataloader())) == {0: 6, 1: 2}
    assert Counter(labels_of(data.train_dataloader())) == {0: 24, 1: 8}


def test_validation_cut_depends_on_the_seed_alone(tokenizer):
    values = rows(*["a", "b"] * 20)
    cuts = [list(ready(values, tokenizer, seed=seed).val_dataloader().dataset.rows["labels"]) for seed in (1, 1)]
    kept = [ready(values, tokenizer, seed=seed)._ready["validation"]["row"][:] for seed in (1, 1, 2)]
    assert cuts[0] == cuts[1]
    assert kept[0] == kept[1] != kept[2]


def test_validation_cut_without_regard_to_a_class_of_one_row(tokenizer, caplog):
    data = ready(rows(*["a"] * 20, "b"), tokenizer)
    assert len(data.val_dataloader().dataset) == 3
    assert "without regard to the classes" in caplog.text


def test_one_row_cannot_be_cut(tokenizer):
    with pytest.raises(InputError, match="1 train rows are too few"):
        ready(rows("a"), tokenizer, labels=["a", "b"])


def test_class_number():
    assert class_number("1", ("1", "0"), ()) == 0
    for value in ("2", -1, "x", 1.5):
        with pytest.raises(ValueError, match="allowed"):
            class_number(value, ("a", "b"), ())


def test_class_vector_of_one_label():
    assert class_vector(1, ("a", "b"), (), ",") == [0.0, 1.0]


def test_labels_without_a_train_split(tokenizer):
    with pytest.raises(InputError, match=r"names of the classes are unknown.*Give labels="):
        ready({"test": rows("a", "b")}, tokenizer, stage="test")
    data = ready({"test": rows("a", "b")}, tokenizer, stage="test", labels=["b", "a"])
    assert labels_of(data.test_dataloader()) == [1, 0]
    feature = datasets.Features(text=datasets.Value("string"), label=datasets.ClassLabel(names=["neg", "pos"]))
    test = datasets.Dataset.from_list(rows(1), features=feature)
    assert ready({"test": test}, tokenizer, stage="test").labels == ("neg", "pos")
