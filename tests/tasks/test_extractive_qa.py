"""Spans and losses against slow references; training to the end; the threshold, files and commands."""

import itertools
import json
import math
from pathlib import Path

import lightning
import numpy as np
import pytest
import torch
import transformers as hf
from tiny_files import write_tokenizer

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.tasks.spans import best_spans, null_scores, span_loss

LENGTHS = [7, 5, 6]


@pytest.fixture
def windows():
    """Logits of three windows, padded, and the places of their tokens, two characters each; question first."""
    logits = torch.randn(3, 7, 2)
    offsets = [np.full((length, 2), -1) for length in LENGTHS]
    for first, places in zip((0, 0, 4), offsets, strict=True):  # the last two are of one example, and overlap
        for n in range(2, len(places)):
            places[n] = first + 2 * (n - 2), first + 2 * (n - 2) + 2
    return logits, offsets


def every_span(logits, offsets, max_answer_length):
    best = {}
    for window, places in zip(logits.tolist(), offsets, strict=True):
        for first, last in itertools.combinations_with_replacement(range(len(places)), 2):
            if min(places[first, 0], places[last, 0]) >= 0 and last - first < max_answer_length:
                key = int(places[first, 0]), int(places[last, 1])
                best[key] = max(best.get(key, -math.inf), window[first][0] + window[last][1])
    return sorted(((score, *place) for place, score in best.items()), reverse=True)


@pytest.mark.parametrize("max_answer_length", [1, 2, 30])
def test_best_spans_are_those_of_a_search_through_all(windows, max_answer_length):
    logits, offsets = windows
    found = best_spans(logits, offsets, [1, 2], 4, max_answer_length)
    for spans, part in zip(found, (slice(0, 1), slice(1, 3)), strict=True):
        expected = every_span(logits[part], offsets[part], max_answer_length)[:4]
        assert [(span.start, span.end) for span in spans] == [tuple(place) for _, *place in expected]
        assert [span.score for span in spans] == pytest.approx([score for score, *_ in expected])


def test_spans_of_one_example_do_not_depend_on_the_others(windows):
    logits, offsets = windows
    assert best_spans(logits, offsets, [1, 2], 3, 4)[1] == best_spans(logits[1:, :6], offsets[1:], [2], 3, 4)[0]


def test_null_score_is_that_of_the_window_that_denies_it_most(windows):
    logits, _ = windows
    sums = logits[:, 0].sum(1)
    torch.testing.assert_close(null_scores(logits, [0, 0, 0], [1, 2]), torch.stack([sums[0], sums[1:].min()]))


def test_loss_leaves_padding_out(windows):
    logits, _ = windows
    labels, mask = torch.tensor([[2, 3], [0, 0], [5, 5]]), torch.arange(7) < torch.tensor(LENGTHS).unsqueeze(1)
    expected = [
        torch.logsumexp(logits[row, :length, side], 0) - logits[row, labels[row, side], side]
        for row, length in enumerate(LENGTHS)
        for side in (0, 1)
    ]
    torch.testing.assert_close(span_loss(logits, labels, mask.long()), torch.stack(expected).mean())


def rows(first, count, without=0):
    """Which word of a review tells how it is; every `without`-th has none."""
    made = []
    for n in range(first, first + count):
        word = ("good", "bad")[n % 2] if not without or n % without else ""
        context = f"the film {'plot ' * (n % 4)} {word} {'a review' * (n % 3)}"
        answers = {"text": [word], "answer_start": [context.index(word)]} if word else {"text": [], "answer_start": []}
        made.append({"id": f"q{n}", "question": "the label", "context": context, "answers": answers})
    return made


def squad(path: Path, made: list[dict]) -> str:
    paragraphs = [
        {
            "context": row["context"],
            "qas": [
                {
                    "id": row["id"],
                    "question": row["question"],
                    "is_impossible": not row["answers"]["text"],
                    "answers": [
                        {"text": text, "answer_start": start}
                        for text, start in zip(*row["answers"].values(), strict=True)
                    ],
                }
            ],
        }
        for row in made
    ]
    path.write_text(json.dumps({"version": "v2.0", "data": [{"title": "t", "paragraphs": paragraphs}]}))
    return str(path)


def trainer(folder, **options):
    return lightning.Trainer(
        accelerator="cpu",
        default_root_dir=folder,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 12, "callbacks": [lp.PrefixCheckpoint(dirpath=str(folder))], **options},
    )


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("family", "head"), [("bert", "auto"), ("bert", "linear"), ("gpt2", "auto"), ("gpt2", "linear")]
)
def test_learns_a_tiny_set(family, head, bert_folder, gpt2_folder, tmp_path):
    backbone = bert_folder if family == "bert" else gpt2_folder
    task = lp.ExtractiveQA(backbone, lp.FlatPrefixConfig(length=4), head, learning_rate=0.05)
    made = rows(0, 24)
    data = lp.ExtractiveQADataModule({"train": made, "validation": made, "test": made}, batch_size=4)
    run = trainer(tmp_path)
    run.fit(task, data)
    assert task.no_answer is False
    (scores,) = run.test(task, data, verbose=False)
    assert set(scores) == {"test/exact_match", "test/f1", "test/loss"}
    assert scores["test/exact_match"] == scores["test/f1"] == 100
    results = lp.Predictor(task, data)([(row["question"], row["context"]) for row in made])
    for row, result in zip(made, results, strict=True):
        assert [result["answer"]] == row["answers"]["text"]
        assert row["context"][result["start"] : result["end"]] == result["answer"]
        assert result["n_best"][0]["answer"] == result["answer"]
        assert len(result["n_best"]) <= 5


@pytest.fixture(scope="module")
def with_no_answer(bert_folder, tmp_path_factory):
    """A task that was trained where every third question has no answer, in windows, with its data and folder."""
    folder = tmp_path_factory.mktemp("no_answer")
    torch.manual_seed(0)
    lightning.seed_everything(0, verbose=False)
    task = lp.ExtractiveQA(bert_folder, lp.FlatPrefixConfig(length=4), learning_rate=0.05)
    source = {"train": rows(0, 36, 3), "validation": rows(0, 18, 3), "test": rows(18, 17, 3)}
    data = lp.ExtractiveQADataModule(source, batch_size=8, max_length=12, stride=2)
    run = trainer(folder, max_epochs=10)
    run.fit(task, data)
    task = lp.ExtractiveQA.load_from_checkpoint(folder / "best.ckpt")
    return task, data, folder, run.checkpoint_callback.best_model_score.item()


@pytest.mark.filterwarnings("ignore")
def test_the_threshold_is_tuned_and_stored(with_no_answer, tmp_path):
    task, data, _, best = with_no_answer
    assert task.no_answer
    assert math.isfinite(task.no_answer_threshold)
    assert task.no_answer_threshold != 0
    (scores,) = trainer(tmp_path).validate(task, data, verbose=False)
    assert scores["val/no_answer_threshold"] == pytest.approx(task.no_answer_threshold)
    assert scores["val/f1"] == pytest.approx(best)
    assert scores["val/f1"] > 60
    assert {"val/f1_answerable", "val/no_answer_accuracy"} <= set(scores)
    task.save_pretrained(tmp_path / "prefix", data.description())
    again, _ = lp.PrefixTask.load_folder(tmp_path / "prefix")
    assert again.no_answer_threshold == task.no_answer_threshold


@pytest.mark.filterwarnings("ignore")
def test_results_do_not_depend_on_the_batch(with_no_answer, tmp_path):
    task, data, _, _ = with_no_answer
    source = {"test": rows(18, 17, 3)}
    results = []
    for size in (1, 5, 17):
        data = lp.ExtractiveQADataModule(source, batch_size=size, max_length=12, stride=2)
        (scores,) = trainer(tmp_path).test(task, data, verbose=False)
        batches = trainer(tmp_path).predict(task, data)
        results.append((scores, [row for batch in batches for row in batch]))
    for scores, predicted in results[1:]:
        assert scores == pytest.approx(results[0][0], rel=1e-5)
        assert [row["index"] for row in predicted] == list(range(17))
        assert [row["answer"] for row in predicted] == [row["answer"] for row in results[0][1]]
    # what the metric counts is what is predicted
    matches = [
        row["answer"] == "".join(given["answers"]["text"]) for row, given in zip(predicted, source["test"], strict=True)
    ]
    assert scores["test/exact_match"] == pytest.approx(100 * sum(matches) / 17)


def test_no_answer_in_words(with_no_answer):
    task, data, _, _ = with_no_answer
    predict = lp.Predictor(task, data)
    before = task.head.no_answer_threshold.clone()
    try:
        task.head.no_answer_threshold.fill_(-1e9)
        (none,) = predict([("the label", "the film plot")])
        task.head.no_answer_threshold.fill_(1e9)
        (some,) = predict([("the label", "the film plot")])
    finally:
        task.head.no_answer_threshold.copy_(before)
    assert (none["answer"], none["start"], none["end"]) == ("", None, None)
    assert some["answer"]
    assert none["n_best"] == some["n_best"]
    assert sum(answer["answer"] == "" for answer in none["n_best"]) <= 1
    assert 0 < none["score"] < 1


def test_many_windows_at_once_give_the_same(bert_folder, monkeypatch):
    torch.manual_seed(0)  # of some start values the best two spans are equally good
    task = lp.ExtractiveQA(bert_folder, lp.FlatPrefixConfig(length=4))
    data = lp.ExtractiveQADataModule(max_length=12, stride=4)
    predict = lp.Predictor(task, data)
    long = ("the label", "the good film plot " * 20)
    (parts,) = predict([long])
    monkeypatch.setattr("lightning_prefix.tasks.extractive_qa._WINDOWS_AT_ONCE", 1000)
    (whole,) = predict([long])
    assert parts["answer"] == whole["answer"]
    assert parts["score"] == pytest.approx(whole["score"])


def test_token_types_reach_the_model(bert_folder):
    task = lp.ExtractiveQA(bert_folder, lp.FlatPrefixConfig(length=4))
    predict = lp.Predictor(task, lp.ExtractiveQADataModule())
    seen = []
    task.model.backbone.register_forward_pre_hook(lambda *call: seen.append(call[2]), with_kwargs=True)
    predict([("the label", "good film")])
    assert seen[0]["token_type_ids"].tolist() == [[0, 0, 0, 0, 1, 1, 1]]
    assert set(seen[0]) == {"input_ids", "attention_mask", "token_type_ids"}


def test_a_training_step_on_windows_changes_the_loss_of_the_right_tokens(bert_folder):
    task = lp.ExtractiveQA(bert_folder, lp.FlatPrefixConfig(length=4))
    task.configure_model()
    data = lp.ExtractiveQADataModule({"train": rows(0, 4), "validation": rows(0, 4)}, tokenizer=bert_folder)
    data.setup("fit")
    batch = next(iter(data.train_dataloader()))
    expected = span_loss(task(batch), batch["labels"], batch["attention_mask"])
    torch.testing.assert_close(task.loss(task(batch), batch), expected)


@pytest.mark.filterwarnings("ignore")
def test_commands(bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    files = {
        name: squad(tmp_path / f"{name}.json", made)
        for name, made in (("train", rows(0, 24, 4)), ("test", rows(3, 9, 4)))
    }
    args = ["--data", "ExtractiveQADataModule", "--data.source", json.dumps(files), "--data.batch_size", "8"]
    args += ["--model", "ExtractiveQA", "--model.backbone", bert_folder, "--trainer.accelerator", "cpu"]
    cli = main(["fit", *args, "--trainer.max_epochs", "1", "--trainer.enable_progress_bar", "false"])
    tested = cli.trainer.callback_metrics
    run = Path("lightning_logs/version_0")
    trained = ["--config", str(run / "config.yaml"), "--ckpt_path", str(run / "checkpoints/best.ckpt")]
    again = main(["test", *trained]).trainer.callback_metrics
    assert set(again) == {
        f"test/{name}"
        for name in ("loss", "exact_match", "f1", "f1_answerable", "no_answer_accuracy", "no_answer_threshold")
    }
    assert again == tested
    assert again["test/no_answer_threshold"] != 0
    main(["predict", *trained, "--predictions.path", "out.jsonl", "--data.predict", files["test"]])
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == [f"q{n}" for n in range(3, 12)]
    assert set(lines[0]) == {"index", "id", "question", "context", "answer", "score", "start", "end", "n_best"}
    predict = lp.Predictor.from_pretrained(run / "prefix")
    for line, result in zip(lines, predict(rows(3, 9, 4)), strict=True):
        assert result["answer"] == line["answer"]
        assert result["score"] == pytest.approx(line["score"], rel=1e-4)


def test_refused(bert_folder, tmp_path):
    with pytest.raises(lp.InputError, match="n_best 0 is given"):
        lp.ExtractiveQA(bert_folder, n_best=0)
    with pytest.raises(lp.InputError, match="max_answer_length 0"):
        lp.ExtractiveQA(bert_folder, max_answer_length=0)
    hf.GemmaConfig().save_pretrained(tmp_path / "gemma")
    with pytest.raises(lp.InputError, match=r"no question-answering model.*\(gemma\); use head='linear'"):
        lp.ExtractiveQA(str(tmp_path / "gemma")).configure_model()
    sizes = {"vocab_size": 13, "d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    hf.T5Model(hf.T5Config(**sizes)).save_pretrained(tmp_path / "t5")
    write_tokenizer(tmp_path / "t5", is_bert=False)
    with pytest.raises(lp.InputError, match="head='linear' is given for the encoder-decoder"):
        lp.ExtractiveQA(str(tmp_path / "t5"), head="linear").configure_model()
