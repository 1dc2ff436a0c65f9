"""Many prefixes of several tasks in one batch: each answers as it does alone, in as few passes as can be; streams."""

import pytest
import torch
from every_task import CASES, text
from tiny_files import review, write_language_model

import lightning_prefix as lp
from lightning_prefix.row_writer import RowWriter

LABELS = {"mood": ["negative", "positive"], "topic": ["a", "b", "c"]}
NUMBER = {"label": ("probabilities",), "value": ("value",)}
TEXTS = ["the good film", "a bad plot plot plot", "review : the film", "good"]
QUESTION = {"question": "the good", "context": text(3, 40)}
WORDS = {"tokens": ["the", "good", "film"]}


def saved(task: lp.PrefixTask, data: lp.TextDataModule, folder) -> str:
    """A prefix and a head with large effects, in a folder."""
    task.configure_model()
    data.serve(task)
    for parameter in task.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    task.save_pretrained(folder, data.description())
    return str(folder)


def classified(backbone, name, folder, prefix=None, **options):
    task = lp.TextClassification(backbone, prefix or lp.FlatPrefixConfig(length=3), labels=LABELS[name], **options)
    return saved(task, lp.TextClassificationDataModule(tokenizer=backbone), folder / name)


def check(predict: lp.MixedPredictor, folders, rows, passes: int, count: str = "forward") -> None:
    """As each alone, in so many passes."""
    alone = {name: lp.Predictor.from_pretrained(folder) for name, folder in folders.items()}
    expected = [alone[name]([row])[0] for name, row in rows]
    calls = []
    own = getattr(predict.model.backbone, count)
    setattr(predict.model.backbone, count, lambda *args, **kwargs: (calls.append(1), own(*args, **kwargs))[1])
    found = predict(rows)
    assert len(calls) == passes
    for (name, _), result, single in zip(rows, found, expected, strict=True):
        assert _close(result, single), (name, result, single)


def _close(one, other) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(_close(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(_close, one, other))
    return one == pytest.approx(other, abs=1e-5)


def test_own_heads_with_other_numbers_of_labels(bert_folder, tmp_path):
    folders = {
        "mood": classified(bert_folder, "mood", tmp_path),
        "topic": classified(bert_folder, "topic", tmp_path, lp.GatedPrefixConfig(length=5)),
        "stars": saved(
            lp.TextRegression(bert_folder, lp.FlatPrefixConfig(length=2)),
            lp.TextRegressionDataModule(tokenizer=bert_folder),
            tmp_path / "stars",
        ),
    }
    predict = lp.MixedPredictor(folders, batch_size=12)
    rows = [(name, text) for text in TEXTS for name in folders]
    check(predict, folders, rows, passes=1)
    check(lp.MixedPredictor(folders, batch_size=5), folders, rows, passes=3)
    assert predict([]) == []
    assert predict.names == ("mood", "topic", "stars")
    predict.add("default", folders["topic"])  # while it is used
    assert _close(predict([("default", TEXTS[0])]), predict([("topic", TEXTS[0])]))


def test_heads_of_several_tasks_on_the_same_states(bert_folder, tmp_path):
    prefix = lp.FlatPrefixConfig(length=3)
    words = CASES["tokens"]
    questions = CASES["spans"]
    folders = {
        "mood": classified(bert_folder, "mood", tmp_path, head="mean"),
        "topic": classified(bert_folder, "topic", tmp_path, head="cls"),
        "entities": saved(
            words.make_task(bert_folder, prefix, labels=["O", "B-X"], head="linear"),
            words.data(tokenizer=bert_folder),
            tmp_path / "entities",
        ),
        "answers": saved(
            questions.make_task(bert_folder, lp.FlatPrefixConfig(length=6), head="linear", no_answer=True),
            questions.data(tokenizer=bert_folder, **questions.data_options),
            tmp_path / "answers",
        ),
    }
    rows = [("mood", TEXTS[1]), ("answers", QUESTION), ("topic", TEXTS[0]), ("entities", WORDS), ("mood", TEXTS[2])]
    check(lp.MixedPredictor(folders), folders, rows, passes=1)


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_texts_that_are_written_alike(family, tmp_path):
    backbone = write_language_model(tmp_path / "backbone", family)

    def written(name: str, **options) -> str:
        task = lp.TextGeneration(backbone, lp.FlatPrefixConfig(length=3), **options)
        data = lp.TextGenerationDataModule(tokenizer=backbone, max_length=32, max_target_length=8)
        return saved(task, data, tmp_path / name)

    folders = {name: written(name) for name in ("one", "two")}
    folders["short"] = written("short", generation={"max_new_tokens": 3})
    if family == "llama":
        folders["mood"] = classified(backbone, "mood", tmp_path, head="verbalizer", label_words=["bad", "good"])
    rows = [(name, text) for text in TEXTS for name in folders]
    predict = lp.MixedPredictor(folders)
    check(predict, folders, rows, passes=2, count="generate")
    for name in ("one", "short"):
        streamed = "".join(predict.stream_text(name, TEXTS[1]))
        assert streamed.strip() == predict([(name, TEXTS[1])])[0]["generated_text"]
    together = [(name, text) for text in TEXTS for name in ("one", "two")]
    pieces = [[] for _ in together]
    writers = [RowWriter(own.append) for own in pieces]
    predict.write(together, writers)
    for own, writer, answer in zip(pieces, writers, predict(together), strict=True):
        assert "".join(own) == writer.text == answer["generated_text"]
    with pytest.raises(lp.InputError, match="one, short do not write one text a row in one way"):
        predict.write([("one", "good"), ("short", "good")], [RowWriter(), RowWriter()])
    alone = lp.Predictor.from_pretrained(folders["two"])
    assert "".join(alone.stream_text(TEXTS[0])).strip() == alone(TEXTS[0])["generated_text"]
    assert len("".join(alone.stream_text(TEXTS[1], max_new_tokens=2)).split()) <= 2


def test_a_stream_ends_where_it_is_left_and_raises_what_fails(gpt2_folder, tmp_path):
    task = lp.TextGeneration(
        gpt2_folder, lp.FlatPrefixConfig(length=3), generation={"eos_token_id": None, "max_new_tokens": 40}
    )
    data = lp.TextGenerationDataModule(tokenizer=gpt2_folder, max_length=16, max_target_length=40)
    predict = lp.Predictor.from_pretrained(saved(task, data, tmp_path / "prefix"))
    steps = []
    predict.task.model.backbone.register_forward_hook(lambda *_: steps.append(1))
    stream = predict.stream_text("good film")
    next(stream)
    stream.close()
    left_at = len(steps)
    assert left_at < 30
    assert len(list(predict.stream_text("good film"))) > 1
    assert len(steps) > left_at + 10
    with pytest.raises(ValueError, match="temperature"):
        list(predict.stream_text("good film", do_sample=True, temperature=-1.0))
    with pytest.raises(lp.InputError, match=r"num_beams 2 is given, .* give num_beams=1"):
        predict.stream_text("good film", num_beams=2)
    with pytest.raises(lp.InputError, match="this prefix reads text per input"):
        predict.stream_text(("good", "film"))


def test_what_cannot_be_served_together(bert_folder, gpt2_folder, tmp_path):
    mood = classified(bert_folder, "mood", tmp_path)
    with pytest.raises(lp.InputError, match="no prefix is given"):
        lp.MixedPredictor({})
    predict = lp.MixedPredictor({"mood": mood})
    with pytest.raises(lp.InputError, match="there is no prefix 'other'; there are 'mood'"):
        predict([("other", "text")])
    with pytest.raises(lp.InputError, match="the prefix name 'mood' is taken"):
        predict.add("mood", mood)
    with pytest.raises(lp.InputError, match="there is no folder nowhere"):
        predict.add("new", "nowhere")
    pooled = classified(bert_folder, "topic", tmp_path, head="mean")
    with pytest.raises(lp.InputError, match=r"trained nothing of the backbone, 'mood' .*'classifier.weight'"):
        predict.add("new", pooled)
    other = classified(gpt2_folder, "mood", tmp_path / "gpt2", head="mean")
    with pytest.raises(lp.InputError, match="was trained on"):
        lp.MixedPredictor({"topic": pooled, "other": other})
    words = classified(gpt2_folder, "mood", tmp_path / "words", head="verbalizer", label_words=["bad", "good"])
    with pytest.raises(lp.InputError, match="reads the backbone as AutoModelForCausalLM, 'mood' as AutoModel;"):
        lp.MixedPredictor({"mood": other, "words": words})
    assert predict.names == ("mood",)
    assert predict([("mood", review(0)["text"])])
    with pytest.raises(lp.InputError, match="TextClassification has no text that could be streamed"):
        predict.stream_text("mood", "text")
