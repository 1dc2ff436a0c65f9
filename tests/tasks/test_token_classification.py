"""Tags of words: the loss, scores against seqeval, a model that learns, and answers."""

import json
import warnings
from pathlib import Path

import lightning.pytorch as pl
import pytest
import seqeval.metrics
import torch

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.tasks.token_classification import _described

TAGS = {"good": "B-GOOD", "bad": "B-BAD", "film": "I-GOOD", "plot": "I-BAD"}
PARTS_OF_SPEECH = {"good": "ADJ", "bad": "ADJ", "film": "NOUN", "plot": "NOUN", "a": "DET", "the": "DET", ":": "PUNCT"}


def sentence(row: int, tags: dict[str, str] = TAGS) -> dict[str, list[str]]:
    """Row i of an endless file: 4 to 9 words, and no two like sentences in a row."""
    kind, noun = (("good", "film"), ("bad", "plot"))[row % 2]
    words = ["the", kind, noun, *[("a", "the", ":", kind, noun)[(row + i) % 5] for i in range(1 + row % 6)]]
    return {"tokens": words, "tags": [tags.get(word, "O") for word in words]}


def data(tags: dict[str, str] = TAGS, rows: int = 32, **options) -> lp.TokenClassificationDataModule:
    train = [sentence(row, tags) for row in range(rows)]
    return lp.TokenClassificationDataModule({"train": train, "validation": train, "test": train}, **options)


def trainer(tmp_path, **options) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return pl.Trainer(accelerator="cpu", enable_checkpointing=False, default_root_dir=tmp_path, **quiet, **options)


def test_loss_is_the_mean_over_words():
    outputs, labels = torch.randn(2, 3, 4), torch.tensor([[-100, 2, -100], [1, 0, -100]])
    at = [(0, 1, 2), (1, 0, 1), (1, 1, 0)]
    expected = -sum(outputs[i, j].log_softmax(0)[label] for i, j, label in at) / 3
    torch.testing.assert_close(lp.TokenClassification("unused").loss(outputs, {"labels": labels}), expected)


@pytest.mark.parametrize("tags", [TAGS, PARTS_OF_SPEECH], ids=["entities", "parts_of_speech"])
def test_scores_are_those_of_seqeval(tags, bert_folder, tmp_path):
    """With sentences that are cut, and a last batch that is smaller."""
    module = data(tags, 30, max_length=8, batch_size=7)
    task = lp.TokenClassification(bert_folder, lp.FlatPrefixConfig(length=3), learning_rate=0.05)
    runner = trainer(tmp_path, max_epochs=3)
    runner.fit(task, module)
    (scores,) = runner.test(task, module)
    rows = [sentence(row, tags) for row in range(30)]
    answers = lp.Predictor(task, module)([row["tokens"] for row in rows])
    assert any(None in answer["tags"] for answer in answers)
    predicted = [[tag or "O" for tag in answer["tags"]] for answer in answers]
    gold = [row["tags"] for row in rows]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tags that name no entity
        expected = {
            f"test/{name}": getattr(seqeval.metrics, f"{name}_score")(gold, predicted)
            for name in ("precision", "recall", "f1", "accuracy")
        }
    assert 0 < expected["test/f1"] < 1
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)


def test_the_loss_of_an_epoch_does_not_depend_on_its_batches(bert_folder, tmp_path):
    task = lp.TokenClassification(bert_folder, lp.FlatPrefixConfig(length=3))
    losses = [trainer(tmp_path).validate(task, data(batch_size=size))[0]["val/loss"] for size in (32, 5)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
@pytest.mark.parametrize("head", ["auto", "linear"])
def test_it_learns_and_answers(family, head, request, tmp_path):
    folder = request.getfixturevalue(f"{family}_folder")
    module = data(batch_size=8)
    task = lp.TokenClassification(folder, lp.FlatPrefixConfig(length=4), head=head, learning_rate=0.05)
    runner = trainer(tmp_path, max_epochs=10, limit_val_batches=0)
    runner.fit(task, module)
    (scores,) = runner.test(task, module)
    assert scores["test/f1"] == scores["test/accuracy"] == 1.0
    task.save_pretrained(tmp_path / "prefix", module.description())
    predict = lp.Predictor.from_pretrained(tmp_path / "prefix")
    assert predict.task.labels == ["O", "B-BAD", "B-GOOD", "I-BAD", "I-GOOD"]
    expected = {
        "tags": ["O", "B-GOOD", "I-GOOD", "O"],
        "entities": [{"text": "good film", "type": "GOOD", "start": 1, "end": 3}],
    }
    assert predict("the good film :") == expected
    assert predict([["the", "good", "film", ":"], {"tokens": "the bad plot"}])[0] == expected


def test_what_is_trained_and_the_size_of_the_head(bert_folder):
    for head, name in (("auto", "classifier"), ("linear", "linear")):
        task = lp.TokenClassification(bert_folder, labels=["O", "B-X", "I-X"], head=head)
        task.configure_model()
        batch = {"input_ids": torch.tensor([[2, 4, 3]]), "attention_mask": torch.ones(1, 3).long()}
        assert task(batch).shape == (1, 3, 3)
        trained = [n for n, p in task.named_parameters() if p.requires_grad and ".prefixes." not in n]
        assert sorted(n.split(".")[-2:] for n in trained) == [[name, "bias"], [name, "weight"]]


def test_entities_without_types_and_without_prefixes():
    words = ["New", "York", "Paris", "is", "far"]
    assert _described(words, ["B", "I", "B", "O", None]) == [
        {"text": "New York", "type": "_", "start": 0, "end": 2},
        {"text": "Paris", "type": "_", "start": 2, "end": 3},
    ]
    assert _described(words, ["PROPN", "PROPN", "O", "ORG", "O"]) == [
        {"text": "New York", "type": "PROPN", "start": 0, "end": 2},
        {"text": "is", "type": "ORG", "start": 3, "end": 4},
    ]


def test_command_line(bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("data").mkdir()
    for number, split in enumerate(("train", "validation", "test")):
        rows = [sentence(row) for row in range(number, number + 9)]
        lines = "\n\n".join("\n".join(map(" ".join, zip(*row.values(), strict=True))) for row in rows)
        Path(f"data/{split}.conll").write_text(lines)
    args = ["--model", "TokenClassification", "--model.backbone", bert_folder, "--model.prefix", "FlatPrefixConfig"]
    args += ["--data", "TokenClassificationDataModule", "--data.source", "data", "--data.max_length", "8"]
    args += ["--trainer.max_epochs", "1", "--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    fitted = main(["fit", *args]).trainer.callback_metrics
    assert {"test/f1", "test/precision", "test/recall", "test/accuracy", "test/loss"} <= set(fitted)
    checkpoint = ["--ckpt_path", "lightning_logs/version_0/checkpoints/best.ckpt"]
    tested = main(["test", *args, *checkpoint]).trainer.callback_metrics
    assert tested["test/loss"] == fitted["test/loss"]
    main(["predict", *args, *checkpoint, "--predictions.path", "out.jsonl"])
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [row["tokens"] for row in rows] == [sentence(row)["tokens"] for row in range(2, 11)]
    assert all(len(row["tags"]) == len(row["tokens"]) for row in rows)
    Path("in.txt").write_text("the good film\nthe bad plot\n")
    main(["predict", *args, *checkpoint, "--data.predict", "in.txt", "--predictions.path", "out.jsonl"])
    rows = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [(row["tokens"], len(row["tags"])) for row in rows] == [("the good film", 3), ("the bad plot", 3)]


def test_labels_must_be_known_and_agree(bert_folder, tmp_path):
    with pytest.raises(lp.InputError, match=r"labels=\[...\], or fit with a TokenClassificationDataModule"):
        lp.TokenClassification(bert_folder).configure_model()
    with pytest.raises(lp.InputError, match=r"there is one label only, \['O'\]"):
        lp.TokenClassification(bert_folder, labels=["O"]).configure_model()
    with pytest.raises(
        lp.InputError, match=r"the model has the labels \['O', 'B-X'\], the data has .* give data.labels"
    ):
        trainer(tmp_path).validate(lp.TokenClassification(bert_folder, labels=["O", "B-X"]), data())
