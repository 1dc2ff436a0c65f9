from dataclasses import fields, replace
from functools import partial

import pytest
from datasets.fingerprint import Hasher

from lightning_prefix.data import Preprocessing
from lightning_prefix.data.classification import class_number
from lightning_prefix.data.reading import Reading


def made() -> Reading:
    read_label = partial(class_number, labels=("neg", "pos"), declared=())
    return Reading(split="train", tokenizer="a", text_columns=["text"], max_length=8, read_label=read_label)


CHANGES = {
    "split": "test",
    "tokenizer": "b",
    "text_columns": ["text", "pair"],
    "max_length": 9,
    "template": "{text}",
    "preprocess": Preprocessing(remove_stop_words=["en"]),
    "drop_empty": True,
    "label_column": "label",
    "read_label": partial(class_number, labels=("pos", "neg"), declared=()),
    "fingerprint": "3",
}


@pytest.mark.parametrize("name", [field.name for field in fields(Reading)])
def test_every_field_is_part_of_the_key_by_its_content(name):
    key = Hasher.hash(made())
    assert Hasher.hash(made()) == key
    assert Hasher.hash(replace(made(), **{name: CHANGES[name]})) != key
