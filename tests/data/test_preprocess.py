import builtins
import json
import subprocess
import sys

import pytest
import torch
import yaml
from jsonargparse import ArgumentParser
from tiny_files import write_backbone

import lightning_prefix as lp
from lightning_prefix.data.part_of_speech import tagged_words
from lightning_prefix.data.preprocess import _stop_words, preprocess_text

CHINESE = "这部电影不好看,我很失望。"


def processed(text, **options):
    return preprocess_text(text, lp.Preprocessing(**options))


def input_ids(data, role="train", stage="fit"):
    if stage == "fit":
        data.prepare_data()
    data.setup(stage)
    rows = data._ready[role]
    return dict(zip(rows["row"][:], rows["input_ids"][:], strict=True))


@pytest.mark.parametrize(
    ("options", "text", "expected"),
    [
        ({}, " A\tFilm\n", " A\tFilm\n"),
        ({"unicode": "NFC"}, "cafe\u0301 \uff21", "caf\u00e9 \uff21"),
        ({"unicode": "NFKC"}, "cafe\u0301 \uff21 \ufb01lm", "caf\u00e9 A film"),
        ({"whitespace": True}, "\ufeff a \t\r\n b\x00\x85\u3000c\u200b ", "a b c"),
        ({"lower_case": True}, "A FILM, \u00c9T\u00c9", "a film, \u00e9t\u00e9"),
        ({"segment_chinese": True}, CHINESE, "这部 电影 不 好看 , 我 很 失望 。"),
        ({"segment_chinese": True}, "卡拉 OK,  2020年", "卡拉 OK , 2020 年"),
        ({"segment_chinese": True}, "don't  touch", "don't  touch"),
        ({"remove_stop_words": ["en"]}, "The film, however, is NOT a good one: Don\u2019t!  watch", "film, watch"),
        ({"remove_stop_words": ["de"]}, "Der Film ist the best", "Film the best"),
        (
            {"remove_stop_words": ["zh", "en"], "segment_chinese": True},
            CHINESE + " the film",
            "这部 电影 好看 , 失望 film",
        ),
        ({"part_of_speech": {"keep": ["NOUN", "ADJ"]}}, "This warm film isn't slow.", "warm film slow"),
        ({"part_of_speech": "append"}, "It's a film.", "It_PRON 's_AUX a_DET film_NOUN ._PUNCT"),
        ({"part_of_speech": {"keep": ["NOUN", "VERB"]}}, CHINESE, "电影 好看 失望"),
        ({"part_of_speech": "append"}, "我 很 失望 。", "我_PRON 很_ADV 失望_VERB 。_PUNCT"),
    ],
)
def test_each_step(options, text, expected):
    assert processed(text, **options) == expected


def test_order_of_the_steps():
    # full-width letters become plain, then blanks one, then lower case, so that the stop words are found
    assert processed("\uff34\uff28\uff25\u3000 Film", unicode="NFKC", remove_stop_words=["en"]) == "Film"
    options = {"unicode": "NFKC", "whitespace": True, "lower_case": True, "segment_chinese": True}
    text = "\uff34\uff28\uff25\u3000 电影\n不好看"
    assert processed(text, **options) == "the 电影 不 好看"
    options["remove_stop_words"] = ["zh", "en"]
    assert processed(text, **options) == "电影 好看"
    assert processed(text, **options, part_of_speech="append") == "电影_NOUN 好看_VERB"
    # tags come after the stop words: none of them is in the result, with a tag or without
    assert processed("The film", remove_stop_words=["en"], part_of_speech="append") == "film_NOUN"


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("I would not go to London in two cars", "PRON AUX PART VERB ADP PROPN ADP NUM NOUN"),
        (
            "Wow, she laughs and sings because it was very funny",
            "INTJ PUNCT PRON VERB CCONJ VERB SCONJ PRON AUX ADV ADJ",
        ),
        ("5 $ :)", "NUM SYM PUNCT PUNCT"),
        ("小明在北京说 ok", "PROPN ADP PROPN VERB X"),
        ("三个非常好的人和狗", "NUM ADV ADJ PART NOUN CCONJ NOUN"),
        (" ", ""),
    ],
)
def test_universal_tags(text, tags):
    assert [tag for _, tag in tagged_words(text)] == tags.split()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"unicode": "NFD"}, "unicode='NFD' was given; give 'NFC'"),
        ({"remove_stop_words": "en"}, "give a list of language codes"),
        ({"remove_stop_words": ["zh"]}, "Set preprocess.segment_chinese to true"),
        ({"part_of_speech": "keep"}, "give 'append', or keep with a list"),
        ({"part_of_speech": {"keep": []}}, "give 'append', or keep with a list"),
        ({"part_of_speech": {"keep": ["NN"]}}, "out of ADJ, ADP, .* X, such as"),
        ({"part_of_speech": {"keep": ["NOUN"], "drop": ["X"]}}, "give 'append', or keep with a list"),
    ],
)
def test_options_are_checked_at_once(options, message):
    with pytest.raises(lp.InputError, match=message):
        lp.Preprocessing(**options)


def test_unknown_language(tokenizer, reviews):
    preprocess = lp.Preprocessing(remove_stop_words=["en", "xx"])
    data = lp.TextClassificationDataModule(reviews, tokenizer=tokenizer, preprocess=preprocess)
    with pytest.raises(lp.InputError, match=r"remove_stop_words has 'xx'; there are stop words of af, ar, .*, zu"):
        data.setup("fit")


@pytest.mark.parametrize(
    ("options", "library"),
    [
        ({"segment_chinese": True}, "rjieba"),
        ({"remove_stop_words": ["en"]}, "stopwordsiso"),
        ({"part_of_speech": "append"}, "rjieba"),
        ({"part_of_speech": "append"}, "HanTa"),
    ],
)
def test_missing_library(tokenizer, reviews, monkeypatch, options, library):
    def data():
        preprocess = lp.Preprocessing(**options)
        return lp.TextClassificationDataModule(reviews, tokenizer=tokenizer, preprocess=preprocess)

    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(lp.InputError, match=rf"needs the package {library}.*pip install .*\[preprocess\]"):
        data().setup("fit")
    monkeypatch.undo()
    data().setup("fit")


def test_nothing_is_imported_without_options(monkeypatch, tokenizer, reviews):
    def refuse(name, *args, **kwargs):
        assert name.partition(".")[0] not in ("rjieba", "stopwordsiso", "HanTa")
        return original(name, *args, **kwargs)

    original = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", refuse)
    preprocess = lp.Preprocessing(unicode="NFC", whitespace=True, lower_case=True)
    lp.TextClassificationDataModule(reviews, tokenizer=tokenizer, preprocess=preprocess).setup("fit")


def test_every_column_and_not_the_template(tokenizer):
    rows = [{"text": "the film", "pair": "The plot", "label": i % 2} for i in range(4)]
    source = {"train": rows, "validation": rows}
    preprocess = lp.Preprocessing(remove_stop_words=["en"])
    options = {"tokenizer": tokenizer, "preprocess": preprocess}
    pair = lp.TextClassificationDataModule(source, pair_column="pair", **options)
    assert input_ids(pair)[0] == [2, 6, 3, 7, 3]  # film, plot
    template = lp.TextClassificationDataModule(source, template="the {pair} a {text}", **options)
    assert input_ids(template)[0] == [2, 9, 7, 8, 6, 3]  # the plot a film


def test_emptied_rows(tokenizer):
    rows = [{"text": "film", "label": 0}, {"text": "the film", "label": 1}, {"text": "It is not", "label": 0}]
    options = {"tokenizer": tokenizer, "preprocess": lp.Preprocessing(remove_stop_words=["en"])}
    data = lp.TextClassificationDataModule({"train": rows, "validation": rows[:2]}, **options)
    with pytest.raises(
        lp.InputError,
        match=r"row 3 of 'train' has no text in the column 'text': preprocessing removed everything of 'It is not'\. "
        r".*drop_empty=True",
    ):
        data.setup("fit")
    data = lp.TextClassificationDataModule({"train": rows, "validation": rows[:2]}, drop_empty=True, **options)
    assert input_ids(data) == {0: [2, 6, 3], 1: [2, 6, 3]}
    data = lp.TextClassificationDataModule({"train": rows, "validation": rows[2:]}, drop_empty=True, **options)
    with pytest.raises(
        lp.InputError, match=r"all 1 rows of 'validation' are without text .*, or preprocessing removed"
    ):
        data.setup("fit")


def test_cache_follows_the_options_and_the_libraries(tokenizer, reviews, write, monkeypatch):
    source = str(write("train.jsonl", reviews))

    def first_row(**options):
        preprocess = lp.Preprocessing(**options)
        return input_ids(lp.TextClassificationDataModule(source, tokenizer=tokenizer, preprocess=preprocess))

    row = 0 if 0 in first_row() else 1
    assert 9 in first_row()[row]
    assert 9 not in first_row(remove_stop_words=["en"])[row]
    assert 9 in first_row(remove_stop_words=["de"])[row]
    assert first_row(part_of_speech={"keep": ["DET"]})[row] == [2, 9, 3]
    assert first_row(part_of_speech={"keep": ["DET"]})[row] == [2, 9, 3]
    _stop_words.cache_clear()
    monkeypatch.setattr("stopwordsiso.stopwords", lambda _: {"film"})
    assert 9 not in first_row(remove_stop_words=["en"])[row]  # still from the cache
    monkeypatch.setattr("importlib.metadata.version", lambda _: "another")
    assert 9 in first_row(remove_stop_words=["en"])[row]
    _stop_words.cache_clear()


def test_another_process_finds_the_cache(tokenizer, reviews, write, tmp_path, monkeypatch):
    source = str(write("train.jsonl", reviews))
    options = {"whitespace": True, "remove_stop_words": ["en"], "part_of_speech": {"keep": ["NOUN", "ADJ"]}}
    code = f"""
import datasets, lightning_prefix as lp
datasets.config.HF_DATASETS_CACHE = {str(tmp_path / "cache")!r}
preprocess = lp.Preprocessing(**{options})
lp.TextClassificationDataModule({source!r}, tokenizer={tokenizer!r}, preprocess=preprocess).prepare_data()
"""
    subprocess.run([sys.executable, "-c", code], check=True)
    monkeypatch.setattr("lightning_prefix.data.tokenize.preprocess_text", lambda *_: pytest.fail("done again"))
    preprocess = lp.Preprocessing(**options)
    lp.TextClassificationDataModule(source, tokenizer=tokenizer, preprocess=preprocess).setup("fit")


OPTIONS = {
    "unicode": "NFKC",
    "whitespace": True,
    "lower_case": True,
    "segment_chinese": True,
    "remove_stop_words": ["zh", "fr"],
    "part_of_speech": {"keep": ["NOUN", "ADJ"]},
}


def test_command_line_and_yaml(tmp_path):
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(lp.TextDataModule, "data")

    def parsed(*arguments):
        return parser.instantiate(parser.parse_args([*arguments])).data.preprocess

    file = tmp_path / "config.yaml"
    data = {"class_path": "TextClassificationDataModule", "init_args": {"source": "a.csv", "preprocess": OPTIONS}}
    file.write_text(yaml.safe_dump({"data": data}))
    given = f"--config={file}"
    assert parsed(given) == lp.Preprocessing(**OPTIONS)
    again = tmp_path / "again.yaml"
    again.write_text(parser.dump(parser.parse_args([given])))
    assert parsed(f"--config={again}") == lp.Preprocessing(**OPTIONS)
    assert parsed(given, "--data.preprocess.lower_case=false", "--data.preprocess.part_of_speech=append") == (
        lp.Preprocessing(**{**OPTIONS, "lower_case": False, "part_of_speech": "append"})
    )
    on_command_line = parsed(
        "--data=TextClassificationDataModule",
        "--data.preprocess.lower_case=true",
        "--data.preprocess.remove_stop_words=[en]",
        "--data.preprocess.part_of_speech={keep: [NOUN]}",
    )
    assert on_command_line == lp.Preprocessing(
        lower_case=True, remove_stop_words=["en"], part_of_speech={"keep": ["NOUN"]}
    )
    assert parsed("--data=TextClassificationDataModule") == lp.Preprocessing()
    with pytest.raises(SystemExit):
        parsed("--data=TextClassificationDataModule", "--data.preprocess.part_of_speech={keep: [NN]}")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory):
    return write_backbone(tmp_path_factory.mktemp("backbone"))


def saved(backbone, folder, data):
    torch.manual_seed(0)
    task = lp.TextClassification(backbone, labels=["neg", "pos"], head="mean")  # which reads every token
    task.configure_model()
    task.save_pretrained(folder, data.description())
    return folder


def test_predict_and_predictor_do_the_same(backbone, tmp_path):
    texts = ["The \uff27OOD film", "a bad  Plot of theirs", "good bad film"]
    preprocess = lp.Preprocessing(unicode="NFKC", remove_stop_words=["fr"], part_of_speech={"keep": ["NOUN", "ADJ"]})
    data = lp.TextClassificationDataModule(predict=texts, tokenizer=backbone, preprocess=preprocess, max_length=16)
    tokens = input_ids(data, "predict", "predict")
    assert tokens == {0: [2, 4, 6, 3], 1: [2, 5, 7, 3], 2: [2, 4, 5, 6, 3]}
    assert data.predict_rows["text"][:] == texts  # results are written with the texts as they were
    predict = lp.Predictor.from_pretrained(saved(backbone, tmp_path, data))
    assert predict.data.preprocess == preprocess
    assert [row["input_ids"] for row in predict.data.encode_inputs(texts)] == list(tokens.values())
    plain = lp.Predictor(predict.task, lp.TextClassificationDataModule(tokenizer=backbone, max_length=16))
    expected = plain(["good film", "bad plot", "good bad film"])
    for result, as_expected, raw in zip(predict(texts), expected, plain(texts), strict=True):
        assert result["probabilities"] == pytest.approx(as_expected["probabilities"])
        is_changed = raw["probabilities"] != pytest.approx(result["probabilities"], rel=1e-6)
        assert is_changed == (as_expected is not expected[2])  # the last text has nothing to remove
    with pytest.raises(lp.InputError, match=r"row 1 of 'texts' .*: preprocessing removed everything of 'not'"):
        predict(["not"])


def test_folder_without_preprocessing_and_missing_library(backbone, tmp_path, monkeypatch):
    data = lp.TextClassificationDataModule(predict=["a"], preprocess=lp.Preprocessing(remove_stop_words=["en"]))
    folder = saved(backbone, tmp_path, data)
    monkeypatch.setitem(sys.modules, "stopwordsiso", None)
    with pytest.raises(lp.InputError, match="needs the package stopwordsiso"):
        lp.Predictor.from_pretrained(folder)
    description = json.loads((folder / "prefix.json").read_text())
    del description["task"]["data"]["init_args"]["preprocess"]  # as folders were written before
    (folder / "prefix.json").write_text(json.dumps(description))
    assert lp.Predictor.from_pretrained(folder).data.preprocess == lp.Preprocessing()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"lower_case": "yes"}, "task.data.init_args.preprocess.lower_case is 'yes'; allowed is true or false"),
        ({"stem": True}, "task.data.init_args.preprocess is .*; allowed is an object with steps"),
        ({"remove_stop_words": ["english"]}, r"remove_stop_words\[0\] is 'english'; allowed is the code of a language"),
        ({"part_of_speech": "keep"}, "part_of_speech is 'keep'; allowed is append, an object"),
        ({"part_of_speech": {"keep": ["NN"]}}, r"part_of_speech.keep\[0\] is 'NN'; allowed is a tag"),
        ({"part_of_speech": {"keep": [], "x": 1}}, "part_of_speech"),
    ],
)
def test_altered_folder(backbone, tmp_path, change, message):
    data = lp.TextClassificationDataModule(predict=["a"])
    description = data.description()
    description["init_args"]["preprocess"].update(change)
    data.description = lambda: description
    folder = saved(backbone, tmp_path, data)
    with pytest.raises(lp.InputError, match=message):
        lp.Predictor.from_pretrained(folder)
