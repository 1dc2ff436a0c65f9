import datasets
import pytest

from lightning_prefix.data.encode import describe_changes, encode_split
from lightning_prefix.data.reading import Reading
from lightning_prefix.data.regression import read_number
from lightning_prefix.data.tokenize import (
    load_tokenizer,
    padding_values,
    resolve_max_length,
    tokenizer_fingerprint,
)
from lightning_prefix.errors import InputError


def encode(rows, tokenizer, **options):
    defaults = {"split": "train", "tokenizer": tokenizer, "text_columns": ["text"], "max_length": 8}
    return encode_split(datasets.Dataset.from_list(rows), Reading(**{**defaults, **options}))


def test_pairs_and_what_the_tokenizer_returns(tokenizer):
    rows = encode([{"text": "good film", "pair": "bad"}], tokenizer, text_columns=["text", "pair"])
    assert rows[0] == {
        "input_ids": [2, 4, 6, 3, 5, 3],
        "attention_mask": [1] * 6,
        "token_type_ids": [0, 0, 0, 0, 1, 1],
        "row": 0,
        "cut": False,
    }


def test_long_texts_are_cut_and_counted(tokenizer):
    rows = encode([{"text": "film " * 6}, {"text": "film " * 7}], tokenizer)
    assert rows["input_ids"][:] == [[2, *[6] * 6, 3]] * 2
    assert rows["cut"][:] == [False, True]
    assert describe_changes(rows, 2, "train", 8) == ["1 of 2 texts of 'train' were cut to max_length=8 tokens."]


def test_template_is_kept_whole(tokenizer):
    (row,) = encode([{"text": "film " * 20}], tokenizer, text_columns=["text"], template="Review: {text} label:")
    assert row["input_ids"] == [2, 10, 11, 6, 6, 12, 11, 3]
    assert row["cut"]


def test_template_that_does_not_fit(tokenizer):
    with pytest.raises(InputError, match=r"row 1 of 'train' does not fit.*takes 12 tokens"):
        encode([{"text": "film"}], tokenizer, template="a " * 10 + "{text}")


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_row_without_text(tokenizer, empty):
    rows = [{"text": "a", "label": 1}, {"text": empty, "label": 2}, {"text": "film", "label": 3}]
    with pytest.raises(InputError, match=r"row 2 of 'train' has no text in the column 'text'.*drop_empty=True"):
        encode(rows, tokenizer)
    kept = encode(rows, tokenizer, drop_empty=True, label_column="label", read_label=read_number)
    assert kept["labels"][:] == [1.0, 3.0]
    assert kept["row"][:] == [0, 2]
    assert "1 of 3 rows of 'train' have no text" in describe_changes(kept, 3, "train", 8)[0]


def test_no_row_is_left(tokenizer):
    with pytest.raises(InputError, match="all 2 rows of 'train' are without text"):
        encode([{"text": ""}, {"text": " "}], tokenizer, drop_empty=True)


def test_whole_batches_can_be_left_out(tokenizer):
    rows = encode([{"text": ""}] * 1000 + [{"text": "a"}], tokenizer, drop_empty=True)
    assert rows["row"][:] == [1000]


def test_column_of_lists(tokenizer):
    with pytest.raises(InputError, match="row 1 of 'train' has a list"):
        encode([{"text": ["a"]}], tokenizer)


def test_bad_label_names_row_and_column(tokenizer):
    rows = [{"text": "a", "score": "1"}, {"text": "a", "score": "much"}]
    with pytest.raises(InputError, match="row 2 of 'train' has the label 'much' in the column 'score'"):
        encode(rows, tokenizer, label_column="score", read_label=read_number)


def test_label_column_named_labels_keeps_no_old_type(tokenizer):
    rows = encode([{"text": "a", "labels": "2.5"}], tokenizer, label_column="labels", read_label=read_number)
    assert rows["labels"][:] == [2.5]


def test_missing_column(tokenizer):
    with pytest.raises(InputError, match=r"no column 'text'.*Did you mean 'texts'"):
        encode([{"texts": "a"}], tokenizer)
    with pytest.raises(InputError, match=r"no column 'texxt'.*Set template"):
        encode([{"text": "a"}], tokenizer, text_columns=["texxt"], template="{texxt}")


def test_max_length(tokenizer):
    assert resolve_max_length(tokenizer, None) == 64
    assert resolve_max_length(tokenizer, 64) == 64
    for length in (7, 65):
        with pytest.raises(InputError, match="between 8 and 64 tokens"):
            resolve_max_length(tokenizer, length)


def test_max_length_without_a_limit(tokenizer, monkeypatch):
    monkeypatch.setattr(load_tokenizer(tokenizer), "model_max_length", int(1e30))
    assert resolve_max_length(tokenizer, None) == 512
    assert resolve_max_length(tokenizer, 9999) == 9999
    with pytest.raises(InputError, match="at least 8"):
        resolve_max_length(tokenizer, 7)


def test_padding_values(tokenizer, tokenizer_without_padding):
    assert padding_values(tokenizer) == {"input_ids": 0, "token_type_ids": 0}
    assert padding_values(tokenizer_without_padding)["input_ids"] == 3  # the end of the text


def test_fingerprint_is_stable_and_follows_the_content(tokenizer, tokenizer_without_padding):
    first = tokenizer_fingerprint(tokenizer)
    load_tokenizer(tokenizer)(["a"], truncation=True, max_length=8)
    tokenizer_fingerprint.cache_clear()
    assert tokenizer_fingerprint(tokenizer) == first
    assert tokenizer_fingerprint(tokenizer_without_padding) != first


def test_missing_tokenizer(monkeypatch):
    def from_pretrained(name):
        raise OSError("We couldn't connect\nto the hub")

    monkeypatch.setattr("transformers.AutoTokenizer.from_pretrained", from_pretrained)
    with pytest.raises(
        InputError,
        match=r"the tokenizer 'nope' could not be loaded: We couldn't connect. The Hugging Face "
        r"hub cannot be reached from here: give a folder .* an asset .* HF_ENDPOINT",
    ):
        load_tokenizer("nope")
