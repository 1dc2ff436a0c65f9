"""Words, tags and their tokens, against tokenizers that split words."""

from unittest.mock import Mock

import datasets
import pytest
import transformers as hf
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

from lightning_prefix.data import Preprocessing, TokenClassificationDataModule
from lightning_prefix.data.reading import Reading
from lightning_prefix.data.words import encode_words
from lightning_prefix.errors import InputError

ROWS = [
    {"tokens": ["Anna", "filmed", "in", "Paris"], "tags": ["B-PER", "O", "O", "B-LOC"]},
    {"tokens": ["New", "York", "plots"], "tags": ["B-LOC", "I-LOC", "O"]},
    {"tokens": ["\u2009", "Paris", "films"], "tags": ["O", "B-LOC", "O"]},
]
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "an", "##na", "film", "##ed", "##s", "in", "par", "##is", "new", "york"]


@pytest.fixture(scope="module")
def wordpiece(tmp_path_factory) -> str:
    """Splits words as BERT's does."""
    tokenizer = Tokenizer(models.WordPiece({piece: i for i, piece in enumerate([*PIECES, "plot"])}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return save(tokenizer, tmp_path_factory.mktemp("wordpiece"), pad_token="[PAD]", unk_token="[UNK]")


@pytest.fixture(scope="module")
def byte_level(tmp_path_factory) -> str:
    """Splits words as GPT-2's does, for which a blank is part of the next word."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("\u0120", "a"), ("\u0120", "P"), ("a", "r"), ("i", "s"), ("\u0120", "f")]
    vocabulary = {piece: i for i, piece in enumerate([*letters, *map("".join, merges), "<end>"])}
    tokenizer = Tokenizer(models.BPE(vocabulary, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return save(tokenizer, tmp_path_factory.mktemp("byte_level"), eos_token="<end>")


def save(tokenizer: Tokenizer, folder, **special: str) -> str:
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=32, **special).save_pretrained(folder)
    return str(folder)


def module(tokenizer: str, rows=ROWS, **options) -> TokenClassificationDataModule:
    data = TokenClassificationDataModule({"train": rows, "validation": rows}, tokenizer=tokenizer, **options)
    data.setup("fit")
    return data


def by_row(data: TokenClassificationDataModule) -> list[dict]:
    """The rows of the only validation batch, in the order of the split."""
    (batch,) = data.val_dataloader()
    rows = [{key: values[i] for key, values in batch.items()} for i in range(len(batch["index"]))]
    return sorted(rows, key=lambda row: int(row["index"]))


@pytest.mark.parametrize(
    ("kind", "first_pieces"),
    [
        ("wordpiece", [["an", "film", "in", "par"], ["new", "york", "plot"], [None, "par", "film"]]),
        (
            "byte_level",
            [["\u0120", "\u0120f", "\u0120", "\u0120P"], ["\u0120", "\u0120", "\u0120"], [None, "\u0120P", "\u0120f"]],
        ),
    ],
)
def test_each_label_is_at_the_first_token_of_its_word(kind, first_pieces, request):
    name = request.getfixturevalue(kind)
    data, tokenizer = module(name), hf.AutoTokenizer.from_pretrained(name)
    assert data.labels == ("O", "B-LOC", "B-PER", "I-LOC")
    for row, raw, pieces in zip(by_row(data), ROWS, first_pieces, strict=True):
        assert row["tags"] == raw["tags"]
        tokens = tokenizer.convert_ids_to_tokens(row["input_ids"].tolist())
        labels = row["labels"].tolist()
        at = row["word_positions"]
        assert [None if position < 0 else tokens[position] for position in at] == pieces
        for position, tag in zip(at, raw["tags"], strict=True):
            if position >= 0:
                assert data.labels[labels[position]] == tag
        assert all(label == -100 for position, label in enumerate(labels) if position not in at)
        assert sum(label != -100 for label in labels) == sum(position >= 0 for position in at)


def test_tokens_are_those_of_running_text(byte_level):
    tokenizer = hf.AutoTokenizer.from_pretrained(byte_level)
    (row, *_) = by_row(module(byte_level, ROWS[:1] * 2))
    assert row["input_ids"].tolist() == tokenizer(" Anna filmed in Paris")["input_ids"]


def test_words_beyond_max_length_are_cut_and_counted(wordpiece):
    rows = [{"tokens": ["Anna", "filmed", "films", "Paris"], "tags": ["B-PER", "O", "O", "B-LOC"]}, ROWS[1]]
    with pytest.MonkeyPatch.context() as patch:
        lines = []
        patch.setattr("lightning_prefix.data.base.rank_zero_info", lines.append)
        data = module(wordpiece, rows, max_length=8)
    assert lines[0] == "1 of 2 texts of 'validation' were cut to max_length=8 tokens."
    cut, whole = by_row(data)
    assert cut["word_positions"] == [1, 3, 5, -1]
    assert cut["tags"] == ["B-PER", "O", "O", "B-LOC"]
    assert (cut["labels"] != -100).sum() == 3
    assert whole["word_positions"] == [1, 2, 3]


def test_numbers_of_a_class_label(wordpiece):
    names = ["B-PER", "O", "B-LOC"]
    features = datasets.Features(
        {"tokens": datasets.List(datasets.Value("string")), "ner_tags": datasets.List(datasets.ClassLabel(names=names))}
    )
    rows = datasets.Dataset.from_list([{"tokens": ["Anna", "in", "Paris"], "ner_tags": [0, 1, 2]}], features=features)
    data = module(wordpiece, rows, tags_column="ner_tags")
    assert data.labels == tuple(names)
    (row,) = by_row(data)
    assert row["tags"] == names
    given = module(wordpiece, rows, tags_column="ner_tags", labels=["O", "B-LOC", "B-PER"])
    (row,) = by_row(given)
    assert [label for label in row["labels"].tolist() if label >= 0] == [2, 0, 1]
    assert row["tags"] == names


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("rows.csv", "tokens,tags\nAnna in Paris,B-PER O B-LOC\nnew films,O O\n"),
        (
            "rows.conll",
            "-DOCSTART- -X- O O\n\nAnna NNP B-NP B-PER\nin IN B-PP O\r\nParis\tNNP\tB-LOC\n\n\nnew JJ O\nfilms N O",
        ),
    ],
)
def test_files(wordpiece, write, name, content):
    path = str(write(name, content))
    data = module(wordpiece, path)
    first, second = by_row(data)
    assert first["tags"] == ["B-PER", "O", "B-LOC"]
    assert first["word_positions"] == [1, 3, 4]
    assert second["tags"] == ["O", "O"]


def test_a_line_with_a_word_alone(wordpiece, write):
    path = str(write("bad.conll", "Anna B-PER\nin\n"))
    with pytest.raises(InputError, match=r"line 2 of .*bad.conll holds 'in' alone; a line .* Correct it"):
        module(wordpiece, path)


def test_lower_case_and_unicode_keep_the_words(byte_level):
    data = module(byte_level, ROWS[:1] * 2, preprocess=Preprocessing(lower_case=True, unicode="NFC"))
    tokenizer = hf.AutoTokenizer.from_pretrained(byte_level)
    assert by_row(data)[0]["input_ids"].tolist() == tokenizer(" anna filmed in paris")["input_ids"]
    with pytest.raises(
        InputError, match=r"whitespace=True.* may change the number of words .* Give preprocess.unicode"
    ):
        module(byte_level, preprocess=Preprocessing(whitespace=True))


def test_inputs_of_a_predictor(wordpiece):
    data = module(wordpiece)
    for given in ("Anna in  Paris", ["Anna", "in", "Paris"], {"tokens": "Anna in Paris"}):
        (row,) = data.encode_inputs([given])
        assert (row["words"], row["word_positions"]) == (["Anna", "in", "Paris"], [1, 3, 4])
        assert not {"labels", "tags"} & set(row)
    batch = data.collator()(data.encode_inputs(["Anna", "in Paris"]))
    assert batch["word_positions"] == [[1], [1, 2]]
    assert batch["words"] == [["Anna"], ["in", "Paris"]]


def test_empty_sentences_are_left_out_on_request(wordpiece):
    rows = [{"tokens": [], "tags": []}, ROWS[0], {"tokens": ["\u2009 "], "tags": ["O"]}]
    with pytest.raises(
        InputError, match=r"row 1 of 'validation' has no word in the column 'tokens' .* drop_empty=True"
    ):
        module(wordpiece, rows)
    assert [int(row["index"]) for row in by_row(module(wordpiece, rows, drop_empty=True))] == [1]


def test_a_test_split_without_tags(wordpiece):
    data = TokenClassificationDataModule(
        {"train": ROWS, "test": [{"tokens": ["a"], "tags": None}]}, tokenizer=wordpiece
    )
    assert not data.has_test
    with pytest.raises(InputError, match=r"the split 'test' has no tags: .* Name another split with test_split"):
        data.setup("test")


@pytest.mark.parametrize(
    ("row", "options", "message"),
    [
        (
            {"tokens": ["a", "b"], "tags": ["O"]},
            {},
            r"row 4 of .* has 2 words in 'tokens' and 1 tags in 'tags'. Each word",
        ),
        ({"tokens": ["a"], "tags": None}, {}, r"row 4 of .* has 1 words in 'tokens' and 0 tags in 'tags'"),
        (
            {"tokens": ["a"], "tags": ["B-ORG"]},
            {"labels": ["O", "B-LOC", "B-PER", "I-LOC"]},
            r"row 4 of 'validation' has the label 'B-ORG' in the column 'tags': the allowed ones are O, .* Correct",
        ),
        (
            {"tokens": ["a"], "tags": ["O"]},
            {"tokens_column": "token"},
            r"no column 'token'; .*'tokens'\? Set tokens_column",
        ),
        ({"tokens": ["a"], "tags": ["O"]}, {"tags_column": "tag"}, r"no column 'tag'; .*'tags'\? Set tags_column"),
        ({"tokens": ["a"], "tags": ["O"]}, {"labels": ["O"]}, r"labels=\['O'\] was given; it must be two or more"),
    ],
)
def test_bad_rows_and_options(wordpiece, row, options, message):
    with pytest.raises(InputError, match=message):
        module(wordpiece, [*ROWS, row], **options)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("tokens,tags\na b,\"['O', 'O']\"\n", r"the tags .* are a list written as text; .* O B-PER O"),
        ("tokens,tags\na b,O O\n", r"holds only the label 'O'; .* Name another tags_column"),
    ],
)
def test_bad_tables(wordpiece, write, content, message):
    path = str(write("bad.csv", content))
    with pytest.raises(InputError, match=message):
        module(wordpiece, path)


def test_a_column_without_words(wordpiece):
    with pytest.raises(InputError, match=r"row 1 of .* has 5 in the column 'tokens', which is no list of words. Name"):
        module(wordpiece, [{"tokens": 5, "tags": "O"}, {"tokens": 6, "tags": "B-X"}])


def test_a_slow_tokenizer(monkeypatch):
    monkeypatch.setattr("lightning_prefix.data.words.load_tokenizer", Mock(return_value=Mock(is_fast=False)))
    reading = Reading(split="train", tokenizer="slow", text_columns=["tokens"], max_length=8)
    with pytest.raises(InputError, match=r"'slow' has no fast version, .* Give a backbone with one"):
        encode_words({"tokens": ["a"]}, [0], reading, labels=())
