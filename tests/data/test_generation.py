"""Sources and targets to tokens, for both kinds of backbone; several answers; what is cut, and what is refused."""

import re

import pytest

import lightning_prefix as lp
from lightning_prefix.data.tokenize import load_tokenizer


def splits(*rows):
    return {name: list(rows) for name in ("train", "validation", "test")}


def encoded(module, role="train"):
    """Rows of a split as the collator gets them, in order."""
    module.setup("test" if role == "test" else "fit")
    return list(module._ready[role])


def words(tokenizer, ids):
    return " ".join(load_tokenizer(tokenizer).convert_ids_to_tokens([i for i in ids if i >= 0]))


@pytest.fixture
def decoder(tokenizer_without_padding):
    """A data module for a decoder, of rows."""
    return lambda *rows, **options: lp.TextGenerationDataModule(
        splits(*rows), tokenizer=tokenizer_without_padding, is_encoder_decoder=False, **options
    )


@pytest.fixture
def encoder_decoder(tokenizer):
    return lambda *rows, **options: lp.TextGenerationDataModule(
        splits(*rows), tokenizer=tokenizer, is_encoder_decoder=True, **options
    )


def test_a_decoder_reads_the_target_after_the_source(decoder, tokenizer_without_padding):
    row = {"text": "the good film", "target": "a plot"}
    (train,), (test,) = encoded(decoder(row)), encoded(decoder(row), "test")
    assert words(tokenizer_without_padding, train["input_ids"]) == "the good film a plot [SEP]"
    assert train["labels"] == [-100] * 3 + train["input_ids"][3:]
    assert "prompt_length" not in train
    assert (test["prompt_length"], test["references"]) == (3, ["a plot"])
    assert test["input_ids"] == train["input_ids"]


def test_an_encoder_decoder_reads_the_target_apart(encoder_decoder, tokenizer):
    (row,) = encoded(encoder_decoder({"text": "the good film", "target": "a plot"}), "test")
    assert words(tokenizer, row["input_ids"]) == "[CLS] the good film [SEP]"
    assert words(tokenizer, row["labels"]) == "[CLS] a plot [SEP]"
    assert "prompt_length" not in row


def test_several_targets_are_rows_in_training_and_references_in_evaluation(decoder):
    rows = {"text": "the film", "target": ["good", "a plot", "good"]}, {"text": "the plot", "target": ["bad"]}
    assert [row["row"] for row in encoded(decoder(*rows))] == [0, 0, 1]
    assert [(row["row"], row["references"]) for row in encoded(decoder(*rows), "test")] == [
        (0, ["good", "a plot"]),
        (1, ["bad"]),
    ]


def test_cut_source_and_target(decoder, encoder_decoder, tokenizer_without_padding, tokenizer):
    row = {"text": "film " * 20, "title": "good plot", "target": "bad " * 9}
    options = {"template": "the {title} : {text} review :", "max_length": 10, "max_target_length": 4}
    (train,), (test,) = encoded(decoder(row, **options)), encoded(decoder(row, **options), "test")
    assert words(tokenizer_without_padding, train["input_ids"]) == (
        "the good plot : film film film film review : bad bad bad bad"
    )
    assert train["cut"]
    assert test["references"] == ["bad " * 8 + "bad"]  # whole
    (row,) = encoded(encoder_decoder(row, **options))
    assert words(tokenizer, row["input_ids"]) == "[CLS] the good plot : film film review : [SEP]"
    assert len(row["labels"]) == 4


@pytest.mark.parametrize(
    ("template", "prefix", "expected"),
    [
        (None, None, "good: bad"),
        ("{text} :", None, "good :: bad"),
        ("{text} :\n", None, "good :\n:bad"),
        ("{text} :", "", "good ::bad"),
        ("{text} :", " so ", "good :: so bad"),
    ],
)
def test_target_prefix(template, prefix, expected, decoder, monkeypatch):
    """A blank before a decoder's target, unless the source ends in white space."""
    module = decoder({"text": "good", "target": "bad"}, template=template, target_prefix=prefix)
    options = module.encode_options(None, "train")
    source = (module.source_template() or "{text}").format(text="good")
    assert f"{source}:{options['target_prefix']}bad" == expected
    module._is_encoder_decoder = True
    assert module.encode_options(None, "train")["target_prefix"] == (prefix or "")


def test_a_target_is_written_after_its_prefix(decoder, tokenizer_without_padding):
    (row,) = encoded(decoder({"text": "good", "target": "bad"}, target_prefix="review : "))
    assert words(tokenizer_without_padding, row["labels"]) == "review : bad [SEP]"


def test_an_unknown_token_is_no_label(decoder, tokenizer_without_padding):
    (row,) = encoded(decoder({"text": "good", "target": "bad xyz film"}))
    assert words(tokenizer_without_padding, row["input_ids"]) == "good bad [UNK] film [SEP]"
    assert row["labels"][1:] == [row["input_ids"][1], -100, *row["input_ids"][3:]]


OK = {"text": "good", "target": "bad"}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([OK, {**OK, "target": "  "}], "row 2 of 'train' has the label .* in the column 'target': a target must be a"),
        ([OK, {**OK, "target": None}], "row 2 of 'train' has the label None"),
        ([{"text": "good", "targt": "bad"}], "no column 'target'; .* Did you mean 'targt'. Set target_column"),
        ([{**OK, "target": ""}] * 2, "the split 'train' has no targets: every 'target' is empty.*train_split"),
        ([{**OK, "text": " "}], "row 1 of 'train' has no text in the column 'text'"),
    ],
)
def test_refused_rows(rows, message, decoder):
    module = decoder(*rows)
    module.source["validation"] = [OK]
    with pytest.raises(lp.InputError, match=message):
        module.setup("fit")


def test_a_target_without_a_known_token_is_refused(encoder_decoder, decoder, tokenizer):
    """The tokens that the tokenizer adds are none of it."""
    message = (
        f"row 1 of 'validation' has the target 'xyz', of which the tokenizer {re.escape(repr(tokenizer))} knows no"
    )
    with pytest.raises(lp.InputError, match=message):
        encoder_decoder({**OK, "target": "xyz"}).setup("fit")
    with pytest.raises(lp.InputError, match="row 1 of 'validation' has the target 'xyz xyz'"):
        decoder({**OK, "target": "xyz xyz"}).setup("fit")


def test_refused_options():
    with pytest.raises(lp.InputError, match="max_target_length=1 was given; it must be at least 2"):
        lp.TextGenerationDataModule(max_target_length=1)
    with pytest.raises(lp.InputError, match=r"does not know how its rows are read.*Give is_encoder_decoder=True"):
        _ = lp.TextGenerationDataModule().is_encoder_decoder
    with pytest.raises(lp.InputError, match="the label column 'text' is part of the text"):
        lp.TextGenerationDataModule(target_column="text")


SQUAD = [
    {"question": "good film", "context": "the film", "answers": {"text": ["the", "film"], "answer_start": [0, 4]}},
    {"question": "a plot", "context": "the review", "answers": {"text": [], "answer_start": []}},
]


def test_questions(tokenizer_without_padding, tokenizer):
    options = {"tokenizer": tokenizer_without_padding, "is_encoder_decoder": False, "no_answer": "bad"}
    module = lp.GenerativeQADataModule(splits(*SQUAD), **options)
    rows = encoded(module, "test")
    assert [row["references"] for row in rows] == [["the", "film"], ["bad"]]
    assert len(encoded(module)) == 3
    assert module.source_template() == "Context: {context}\nQuestion: {question}\nAnswer:"
    assert (
        words(tokenizer_without_padding, rows[0]["input_ids"]) == "[UNK] : the film [UNK] : good film [UNK] : the [SEP]"
    )
    other = lp.GenerativeQADataModule(is_encoder_decoder=True)
    assert other.source_template() == "question: {question} context: {context}"
    alone = lp.GenerativeQADataModule(splits(*SQUAD), template="{question} :", **options)
    assert words(tokenizer_without_padding, encoded(alone, "test")[1]["input_ids"]) == "a plot : bad [SEP]"
    again = lp.data.data_from(module.description(), "here")
    assert again.encode_inputs([SQUAD[0]]) == [
        {name: rows[0][name][: rows[0]["prompt_length"]] for name in ("input_ids", "attention_mask")}
    ]


def test_a_question_without_an_answer(tokenizer_without_padding):
    options = {"tokenizer": tokenizer_without_padding, "is_encoder_decoder": False}
    with pytest.raises(lp.InputError, match=r"row 2 of 'validation' has the label .* in the column 'answers'"):
        lp.GenerativeQADataModule(splits(*SQUAD), **options).setup("fit")
    blank = [SQUAD[0], {**SQUAD[1], "answers": {"text": [" "], "answer_start": [0]}}]
    with pytest.raises(lp.InputError, match="the answers must be texts that are not blank"):
        lp.GenerativeQADataModule(splits(*blank), no_answer="bad", **options).setup("fit")
