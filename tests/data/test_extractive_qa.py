"""Windows, offsets and labels, whatever the tokenizer; tables; and what is refused."""

import itertools
from types import SimpleNamespace

import pytest
import torch
import transformers as hf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

import lightning_prefix as lp
from lightning_prefix.data.answers import read_answers
from lightning_prefix.data.windows import NOT_IN_CONTEXT, context_windows, span_labels

CONTEXT = "The  film\u00a0was   shot in Zürich 🎬🎬 by  王家卫,\n\n and the plot — “good” — is\tnaïve; a   bad review."
ANSWERS = ["The", "Zürich 🎬🎬", "王家卫", "by  王家卫,\n\n and", "“good”", "naïve", "a   bad review.", "film\u00a0was"]


def byte_tokenizer() -> hf.PreTrainedTokenizerFast:
    """Each byte a token, as GPT-2 has them where it knows no longer ones; nothing special."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: number for number, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>")


def metaspace_tokenizer() -> hf.PreTrainedTokenizerFast:
    """Letters with the blank before a word as a sign of its own, and a beginning, as Llama has them."""
    letters = sorted({*CONTEXT, *"what?▁\n"})
    vocabulary = [("<unk>", 0.0), ("<s>", 0.0), *((letter, -1.0) for letter in letters), ("▁film", -0.5), ("▁by", -0.5)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, 0, False))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B:1", special_tokens=[("<s>", 1)]
    )
    return hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<end>", bos_token="<s>")


@pytest.fixture(params=["words", "bytes", "metaspace"])
def loaded(request, tokenizer):
    if request.param == "words":
        return hf.AutoTokenizer.from_pretrained(tokenizer)
    return byte_tokenizer() if request.param == "bytes" else metaspace_tokenizer()


def windows_of(loaded, context=CONTEXT, question="what?", max_length=32, stride=6):
    return context_windows(
        loaded, [question], [context], indices=[0], split="train", max_length=max_length, stride=stride
    )[0]


def failure(function, *arguments, **options) -> str:
    with pytest.raises(lp.InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("max_length", [18, 48, 400])
@pytest.mark.parametrize("answer", ANSWERS)
def test_the_answer_is_recovered_from_the_labels_of_every_window(loaded, answer, max_length):
    windows = windows_of(loaded, max_length=max_length, stride=4)
    place = CONTEXT.index(answer), CONTEXT.index(answer) + len(answer)
    labels = span_labels(windows, place)
    whole = 0
    for window, (first, last) in zip(windows, labels, strict=True):
        offsets = window["offsets"]
        known = [offset for offset in offsets if offset != NOT_IN_CONTEXT]
        if known[0][0] <= place[0] and known[-1][1] >= place[1]:
            assert CONTEXT[offsets[first][0] : offsets[last][1]] == answer
            whole += 1
        else:
            assert [first, last] == [window["null"]] * 2
    assert whole or max_length == 18 or len(windows) > 1
    assert whole == 1 or max_length != 400


def test_windows_overlap_and_cover_the_context(loaded):
    windows = windows_of(loaded, max_length=24, stride=5)
    assert len(windows) > 1
    assert all(len(window["input_ids"]) <= 24 for window in windows)
    covered = {n for window in windows for start, end in window["offsets"] if start >= 0 for n in range(start, end)}
    assert {n for n, letter in enumerate(CONTEXT) if not letter.isspace()} <= covered


def test_stride_is_what_two_windows_share(tokenizer):
    loaded = hf.AutoTokenizer.from_pretrained(tokenizer)
    context = " ".join(f"w{n}" for n in range(30))
    offsets = [window["offsets"][3:-1] for window in windows_of(loaded, context, "label", max_length=14, stride=4)]
    assert [len(found) for found in offsets] == [10, 10, 10, 10, 6]
    assert all(before[-4:] == after[:4] for before, after in itertools.pairwise(offsets))


def test_words_have_pair_tokens_and_the_null_position_is_the_classification_token(tokenizer):
    loaded = hf.AutoTokenizer.from_pretrained(tokenizer)
    (window,) = windows_of(loaded, "the  good film", "a label")
    assert window["input_ids"] == [2, 8, 12, 3, 9, 4, 6, 3]
    assert window["token_type_ids"] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert window["offsets"] == [NOT_IN_CONTEXT] * 4 + [(0, 3), (5, 9), (10, 14), NOT_IN_CONTEXT]
    assert window["null"] == 0


def test_a_decoder_reads_the_question_first_and_gets_an_end_token():
    loaded = byte_tokenizer()
    (window,) = windows_of(loaded, "ab é", "q?")
    assert loaded.decode(window["input_ids"]) == "q?\nab é<end>"
    assert window["attention_mask"] == [1] * 9
    # both bytes of é stand for the whole letter, blanks for nothing
    assert window["offsets"] == [NOT_IN_CONTEXT] * 3 + [(0, 1), (1, 2), NOT_IN_CONTEXT, (3, 4), (3, 4), NOT_IN_CONTEXT]
    assert window["null"] == 8


def rows(count=6, **columns):
    return [
        {"id": str(n), "question": "a label", "context": f"the good film {'plot ' * n}", "answers": "good", **columns}
        for n in range(count)
    ]


def data_of(source, tokenizer, **options):
    return lp.ExtractiveQADataModule(source, tokenizer=tokenizer, **options)


def test_batches(tokenizer):
    long = rows(1)[0] | {"context": "plot " * 10 + "good film", "answers": ""}
    data = data_of(
        {"train": [*rows(3), long], "validation": [*rows(2), long], "test": rows(2)},
        tokenizer,
        max_length=14,
        stride=4,
        batch_size=9,
    )
    data.setup("fit")
    train = next(iter(data.train_dataloader()))
    assert set(train) == {"input_ids", "attention_mask", "token_type_ids", "labels", "index"}
    assert sorted(train["index"].tolist()) == [0, 1, 2, 3, 3]
    assert {tuple(labels) for labels in train["labels"].tolist()} == {(5, 5), (0, 0)}
    batch = next(iter(data.val_dataloader()))
    assert batch["index"].tolist() == [0, 1, 2]
    assert batch["windows"] == [1, 1, 2]
    assert batch["input_ids"].shape == batch["token_type_ids"].shape == (4, 14)
    assert batch["labels"].tolist() == [[5, 5], [5, 5], [0, 0], [0, 0]]
    assert batch["null"] == [0] * 4
    assert batch["references"] == [["good"], ["good"], [""]]
    assert batch["context"][2] == long["context"]
    assert [len(offsets) for offsets in batch["offsets"]] == batch["attention_mask"].sum(1).tolist()
    assert data.has_no_answers
    data.setup("predict")
    assert not {"labels", "references"} & set(next(iter(data.predict_dataloader())))


def test_without_windows_that_are_cut_any_stride_will_do(tokenizer):
    data = data_of(rows(), tokenizer, max_length=16)
    data.setup("fit")
    assert data.stride == 128
    assert not data.has_no_answers


def test_default_length(tokenizer, tokenizer_without_padding):
    data = data_of(rows(), tokenizer)
    data.setup("fit")
    assert data.max_length == 64
    data.serve(SimpleNamespace(position_limit=40))
    assert data._resolve_max_length() == 40
    assert data_of(rows(), tokenizer, max_length=10)._resolve_max_length() == 10


def test_validation_takes_whole_contexts(tokenizer):
    source = [row for row in rows(10) for _ in range(3)]
    data = data_of(source, tokenizer, validation_fraction=0.2)
    data.setup("fit")
    held = {row["context"] for row in data._ready["validation"]}
    trained = {source[row]["context"] for row in data._ready["train"]["row"]}
    assert len(held) == 2
    assert len(trained) == 8
    assert not held & trained
    assert len(data._ready["validation"]) == 6
    assert len(data._ready["train"]) == 24


@pytest.mark.parametrize(("start", "label"), [(None, 4), (9, 6), ("9", 6)])
def test_the_start_in_a_table(tokenizer, start, label):
    row = {"question": "label", "context": "good bad good", "answer": "good", "at": start}
    data = data_of(
        {"validation": [row, row | {"answer": None, "at": None}]},
        tokenizer,
        answers_column="answer",
        answer_start_column="at",
    )
    data.setup("validate")
    label -= 1
    assert next(iter(data.val_dataloader()))["labels"].tolist() == [[label, label], [0, 0]]


def test_answers_of_all_kinds():
    assert read_answers({"text": ["a", "b"], "answer_start": [0, 4]}) == [("a", 0), ("b", 4)]
    assert read_answers(["a", "b"]) == [("a", None), ("b", None)]
    assert read_answers({"text": [], "answer_start": []}) == read_answers(None) == read_answers(float("nan")) == []
    with pytest.raises(ValueError, match="of one length"):
        read_answers({"text": ["a"], "answer_start": []})


def test_inputs_of_a_predictor(tokenizer):
    data = data_of(None, tokenizer)
    (pair,) = data.encode_inputs([("label", "good film")])
    assert data.encode_inputs([{"context": "good film", "question": "label", "id": "x"}]) == [pair]
    batch = data.collator()([pair, pair])
    assert batch["input_ids"].tolist() == [[2, 12, 3, 4, 6, 3]] * 2
    assert "index" not in batch
    assert "question and context" in failure(data.encode_inputs, ["label"])
    assert "lacks context" in failure(data.encode_inputs, [{"question": "label"}])


def test_description_round_trips(tokenizer):
    data = data_of(rows(), tokenizer, max_length=20, stride=3)
    data.setup("fit")
    again = lp.data.data_from(data.description(), "here")
    assert (again.stride, again.max_length, again.columns) == (3, 20, ["question", "context"])


@pytest.mark.parametrize(
    ("change", "options", "parts"),
    [
        ({"answers": "worse"}, {}, ["row 1 of 'validation'", "'worse'", "'the good film '", "letter by letter"]),
        ({"context": "film plot " * 5}, {}, ["'good'", "'film plot film"]),
        ({"question": "film " * 20}, {"max_length": 16}, ["question of 20 tokens", "leaves 0 of max_length 16"]),
        ({"context": "good " * 20}, {"max_length": 16, "stride": 11}, ["leaves 11 of max_length 16", "stride 11", "5"]),
        ({"context": "good " * 20}, {"max_length": 16}, ["stride 128"]),
        ({"answers": ""}, {}, ["'validation' has no answers", "validation_split"]),
        ({}, {"context_column": "text"}, ["no column 'text'", "context_column"]),
        ({}, {"question_column": "query"}, ["no column 'query'", "question_column"]),
        ({}, {"answers_column": "answer"}, ["no column 'answer'", "Did you mean 'answers'", "answers_column"]),
        ({}, {"answer_start_column": "at"}, ["no column 'at'", "answer_start_column"]),
        ({"question": " "}, {}, ["no text in the column 'question'"]),
    ],
)
def test_bad_rows(tokenizer, change, options, parts):
    source = {"train": rows(1, **change), "validation": rows(1, **change)}
    text = failure(data_of(source, tokenizer, **options).setup, "fit")
    assert all(part in text for part in parts), text


def test_a_wrong_start_shows_what_stands_there(tokenizer):
    answers = {"text": ["good"], "answer_start": [30]}
    source = {"train": rows(1, answers=answers, context="film " * 30 + "good")}
    text = failure(data_of(source, tokenizer).setup, "fit")
    assert "'good', which is not at character 30" in text
    assert "count characters from 0" in text


def test_refused_options(tokenizer):
    assert "would move the characters" in failure(
        data_of, rows(), tokenizer, preprocess=lp.Preprocessing(lower_case=True)
    )
    assert "stride=-1" in failure(data_of, rows(), tokenizer, stride=-1)
    assert "too few" in failure(data_of(rows(1), tokenizer).setup, "fit")


def test_a_slow_tokenizer_is_refused(tmp_path):
    slow = SimpleNamespace(is_fast=False, name_or_path="old/model")
    text = failure(windows_of, slow)
    assert "'old/model'" in text
    assert "tokenizer.json" in text


def test_a_context_without_tokens_is_refused(tokenizer):
    loaded = byte_tokenizer()
    assert "makes no token" in failure(windows_of, loaded, "\u2003 \n")


def test_collator_pads_with_the_tokenizers_values(tokenizer):
    data = data_of({"validation": rows(3)}, tokenizer)
    data.setup("validate")
    batch = next(iter(data.val_dataloader()))
    assert batch["input_ids"].dtype == torch.long
    assert batch["input_ids"][0, -1] == 0
    assert batch["attention_mask"][0, -1] == 0
