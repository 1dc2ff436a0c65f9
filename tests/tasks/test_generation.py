"""Text from text: losses against transformers' own, decoding in batches, what is logged, options, exact resume."""

import functools
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
import yaml
from lightning.pytorch.loggers.logger import Logger
from tiny_backbones import BACKBONES, VOCABULARY, inputs_for
from tiny_files import write_language_model, write_tokenizer

import lightning_prefix as lp
from lightning_prefix.backbone import load_backbone, logits_at
from lightning_prefix.cli import main

PAIRS = [
    {"text": "good film", "target": "the film"},
    {"text": "bad", "target": "a bad plot : the film review"},
    {"text": "a the review plot film", "target": "good"},
    {"text": "the plot a bad", "target": "label : good"},
    {"text": "film film film", "target": "plot review"},
    {"text": "the good", "target": "a"},
]
TEXTS = [row["text"] for row in PAIRS]


@pytest.fixture(scope="session")
def language_model(tmp_path_factory):
    @functools.cache
    def make(family: str) -> str:
        torch.manual_seed(0)
        return write_language_model(tmp_path_factory.mktemp(family), family)

    return make


def data(rows=PAIRS, **options) -> lp.TextGenerationDataModule:
    splits = {"train": rows, "validation": rows, "test": rows}
    return lp.TextGenerationDataModule(splits, **{"batch_size": len(rows), "max_target_length": 8, **options})


def batch_of(task, split="train", **options):
    module = data(**options)
    module.serve(task)
    module.setup("fit")
    return next(iter(module.train_dataloader() if split == "train" else module.val_dataloader()))


def built(folder, **options) -> lp.TextGeneration:
    task = lp.TextGeneration(folder, lp.FlatPrefixConfig(length=3), **options)
    task.configure_model()
    return task.eval()


def trainer(folder, **options) -> lightning.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    quiet |= {"logger": False, "accelerator": "cpu", "default_root_dir": folder}
    return lightning.Trainer(**{**quiet, **options})


def gradients(task, loss):
    return torch.autograd.grad(loss, list(task.model.prefix.parameters()))


@pytest.mark.parametrize("family", ["gpt2", "llama", "t5", "bart"])
def test_losses_and_gradients_are_those_of_transformers(family, language_model):
    task = built(language_model(family))
    batch = batch_of(task)
    own = task.model(**{name: batch[name] for name in ("input_ids", "attention_mask", "labels")})
    torch.testing.assert_close(task.loss(task(batch), batch), own.loss)
    torch.testing.assert_close(gradients(task, task.loss(task(batch), batch)), gradients(task, own.loss))
    task.loss_kind = "example_sum"
    logits, labels = own.logits.log_softmax(-1), batch["labels"]
    if not task.is_encoder_decoder:
        logits, labels = logits[:, :-1], labels[:, 1:]
    rows = [-sum(at[y] for at, y in zip(*row, strict=True) if y != -100) for row in zip(logits, labels, strict=True)]
    torch.testing.assert_close(task.loss(task(batch), batch), sum(rows) / len(rows))
    task.label_smoothing = 0.3
    assert task.loss(task(batch), batch) != sum(rows) / len(rows)


@pytest.mark.parametrize("family", ["gpt2", "gemma2", "cohere", "granite", "t5", "bart"])
def test_logits_at_some_positions_are_those_at_all(family):
    """Also where a model scales or caps its logits, or adds a bias to them."""
    backbone = BACKBONES[family]()
    backbone.config.logits_scaling = 8.0  # Granite's
    if family == "bart":
        backbone.final_logits_bias.normal_()
    inputs = inputs_for(backbone, rows=3)
    with torch.no_grad():
        logits = backbone(**inputs).logits
        wanted = torch.rand(logits.shape[:2]) > 0.5
        with logits_at(backbone, wanted):
            chosen = backbone(**inputs).logits
        assert chosen.shape == (1, int(wanted.sum()), VOCABULARY)
        torch.testing.assert_close(chosen[0], logits[wanted])
        assert torch.equal(backbone(**inputs).logits, logits)


def test_a_model_that_writes_no_text_is_refused(bert_folder):
    with pytest.raises(lp.InputError, match="is no language model that writes text: it lacks cls"):
        lp.TextGeneration(bert_folder).configure_model()
    encoder, _ = load_backbone(bert_folder, "AutoModel")
    with pytest.raises(lp.InputError, match="BertModel has no output embeddings"), logits_at(encoder, torch.ones(1, 1)):
        pass


@pytest.mark.parametrize("generation", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
@pytest.mark.parametrize("family", ["gpt2", "llama", "bart"])
def test_rows_are_decoded_together_as_alone(family, generation, language_model):
    """And from their prompts, though rows of a decoder hold the targets too."""
    task = built(language_model(family), generation={"max_new_tokens": 8, **generation})
    module = data()
    together = lp.Predictor(task, module)(TEXTS)
    alone = [lp.Predictor(task, module)([text])[0] for text in TEXTS]
    assert together == alone
    assert len({result["generated_text"] for result in together}) > 1
    batch = batch_of(task, "validation")
    assert ("prompt_length" in batch) == (family != "bart")
    with_targets = dict(zip(batch["index"].tolist(), task.write(batch), strict=True))
    if generation.get("num_return_sequences"):
        assert [with_targets[row] for row in range(len(TEXTS))] == [result["candidates"] for result in together]
        assert all(len(set(result["candidates"])) == 2 for result in together)
    else:
        assert [with_targets[row] for row in range(len(TEXTS))] == [[result["generated_text"]] for result in together]


def test_texts_are_written_with_the_tokenizer_that_reads_them(language_model, tmp_path):
    folder = tmp_path / "without_tokenizer"
    shutil.copytree(language_model("gpt2"), folder, ignore=shutil.ignore_patterns("tokenizer*"))
    own, task = (built(at, generation={"max_new_tokens": 8}) for at in (language_model("gpt2"), str(folder)))
    task.load_state_dict(own.state_dict())
    expected = lp.Predictor(own, data())(TEXTS)
    assert any(result["generated_text"] for result in expected)
    tokenizer = write_tokenizer(tmp_path / "tokenizer", is_bert=False)
    assert lp.Predictor(task, data(tokenizer=tokenizer))(TEXTS) == expected


@pytest.mark.parametrize("family", ["gpt2", "bart"])
def test_it_learns(family, language_model, tmp_path):
    """One answer for each kind of text."""
    rows = [{"text": f"the {word} film", "target": f"the {word} : {word} review"} for word in ("good", "bad")] * 8
    task = lp.TextGeneration(
        language_model(family), lp.FlatPrefixConfig(length=16), learning_rate=0.1, metrics=["exact_match", "bleu"]
    )
    run = trainer(tmp_path, max_epochs=100, limit_val_batches=0)
    module = data(rows, batch_size=8)
    before = run.test(task, module, verbose=False)[0]
    run.fit(task, module)
    after = run.test(task, module, verbose=False)[0]
    assert before["test/exact_match"] == 0
    assert after["test/exact_match"] == after["test/bleu"] == 100
    assert after["test/loss"] < before["test/loss"] / 10


class CountedRows(lp.TextGeneration):
    def write(self, batch):
        self.__dict__.setdefault("written", []).extend(batch["index"].tolist())
        return super().write(batch)


@pytest.mark.parametrize("family", ["gpt2", "t5"])
def test_validation_counts_every_row_and_writes_the_first(family, language_model, tmp_path):
    task = CountedRows(language_model(family), lp.FlatPrefixConfig(length=3), decoded_rows=3, metrics=["exact_match"])
    losses = []
    for size in (2, 6):
        task.written = []
        (scores,) = trainer(tmp_path).validate(task, data(eval_batch_size=size), verbose=False)
        assert sorted(task.written) == [0, 1, 2]
        assert set(scores) == {"val/loss", "val/perplexity", "val/exact_match"}
        assert scores["val/perplexity"] == pytest.approx(torch.tensor(scores["val/loss"]).exp().item(), rel=1e-6)
        losses.append(scores["val/loss"])
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    batch = batch_of(task)
    assert losses[0] == pytest.approx(task.loss(task(batch), batch).item(), rel=1e-5)
    task.written = []
    trainer(tmp_path).test(task, data(eval_batch_size=4), verbose=False)
    assert sorted(task.written) == list(range(6))
    task.decoded_rows, task.written = 0, []
    (scores,) = trainer(tmp_path).validate(task, data(), verbose=False)
    assert set(scores) == {"val/loss", "val/perplexity"}
    assert task.written == []


class RunLogger(Logger):
    name, version = "run", 0

    def log_metrics(self, metrics, step=None):
        pass

    def log_hyperparams(self, params, *args, **kwargs):
        pass


class TextLogger(RunLogger):
    """As TensorBoard's: texts are given to its `experiment`."""

    def __init__(self):
        super().__init__()
        self.texts = []
        self.writer = SimpleNamespace(add_text=lambda *text: self.texts.append(text))

    @property
    def experiment(self):
        return self.writer


class TableLogger(RunLogger):
    """As Weights & Biases'."""

    def __init__(self):
        super().__init__()
        self.tables = []

    def log_text(self, key, columns, data):
        self.tables.append((key, columns, data))


def test_samples(language_model, tmp_path):
    task = lp.TextGeneration(language_model("gpt2"), lp.FlatPrefixConfig(length=3), logged_samples=2, decoded_rows=4)
    texts, tables = TextLogger(), TableLogger()
    run = trainer(tmp_path, max_epochs=2, num_sanity_val_steps=1, logger=[texts, tables])
    run.fit(task, data(batch_size=2))
    lines = [json.loads(line) for line in (tmp_path / "samples.jsonl").read_text().splitlines()]
    assert [(line["stage"], line["step"], line["index"]) for line in lines] == [
        ("val", step, index) for step in (3, 6) for index in (0, 1)
    ]
    assert [(line["source"], line["references"]) for line in lines[:2]] == [
        (row["text"], [row["target"]]) for row in PAIRS[:2]
    ]
    assert lines[2]["generated_text"] == lp.Predictor(task, data())("good film")["generated_text"]
    assert [(name, step) for name, _, step in texts.texts] == [("val/samples", 3), ("val/samples", 6)]
    assert "**source** good film" in texts.texts[0][1]
    columns = ["index", "source", "generated_text", "references"]
    assert tables.tables[1] == ("val/samples", columns, [[line[name] for name in columns] for line in lines[2:]])


@pytest.fixture
def config(language_model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    files = dict.fromkeys(("train", "validation", "test"), "pairs.jsonl")
    prefix = {"class_path": "FlatPrefixConfig", "init_args": {"length": 3}}
    model = {"backbone": language_model("gpt2"), "prefix": prefix}
    model["generation"] = {"num_beams": 3, "length_penalty": 0.8}
    quiet = {"accelerator": "cpu", "max_epochs": 1, "enable_progress_bar": False, "enable_model_summary": False}
    content = {
        "model": {"class_path": "TextGeneration", "init_args": model},
        "data": {"class_path": "TextGenerationDataModule", "init_args": {"source": files, "max_target_length": 6}},
        "trainer": quiet,
    }
    Path("run.yaml").write_text(yaml.safe_dump(content))
    return "run.yaml"


def test_generation_options_go_everywhere(config):
    cli = main(["fit", "--config", config])
    expected = {"num_beams": 3, "length_penalty": 0.8}
    assert cli.model.generation == expected
    assert {"test/loss", "test/perplexity", "test/bleu", "test/rougeL"} <= set(cli.trainer.callback_metrics)
    run = Path("lightning_logs/version_0")
    checkpoint = str(run / "checkpoints/best.ckpt")
    assert lp.TextGeneration.load_from_checkpoint(checkpoint).generation == expected
    predictor = lp.Predictor.from_pretrained(run / "prefix")
    assert predictor.task.generation == expected
    assert predictor.task.data_generation == {"max_new_tokens": 6}
    main(["predict", "--config", config, "--ckpt_path", checkpoint, "--predictions.path", "out.jsonl"])
    lines = [json.loads(line) for line in Path("out.jsonl").read_text().splitlines()]
    assert lines == [{"index": i, "text": TEXTS[i], **result} for i, result in enumerate(predictor(TEXTS))]
    options = ["--model.generation", "{num_beams: 2, num_return_sequences: 2, max_new_tokens: 3}"]
    cli = main(["predict", "--config", config, "--ckpt_path", checkpoint, "--predictions.path", "two.jsonl", *options])
    lines = [json.loads(line) for line in Path("two.jsonl").read_text().splitlines()]
    assert all(line["generated_text"] == line["candidates"][0] and len(line["candidates"]) == 2 for line in lines)
    assert max(len(text.split()) for line in lines for text in line["candidates"]) <= 3


def test_refused_options(bert_folder):
    with pytest.raises(lp.InputError, match=r"has 'num_beam', which .* does not have; did you mean num_beams"):
        lp.TextGeneration(bert_folder, generation={"num_beam": 3})
    with pytest.raises(lp.InputError, match="such as num_beams or max_new_tokens"):
        lp.TextGeneration(bert_folder).add_generation({"qqqq": 3})
    with pytest.raises(lp.InputError, match=r"label_smoothing 1 is given; it is in \[0, 1\)"):
        lp.TextGeneration(bert_folder, label_smoothing=1)
    with pytest.raises(lp.InputError, match="decoded_rows -1 and logged_samples 3"):
        lp.TextGeneration(bert_folder, decoded_rows=-1)
    with pytest.raises(lp.InputError, match="has no weights yet"):
        lp.TextGeneration(bert_folder).generate(torch.ones(1, 1).long())


def test_a_target_longer_than_the_positions_is_refused(language_model, tmp_path):
    task = lp.TextGeneration(language_model("bart"), lp.FlatPrefixConfig(length=3))
    with pytest.raises(lp.InputError, match=r"data.max_target_length 5000 .* use max_target_length <= \d+"):
        trainer(tmp_path).validate(task, data(max_target_length=5000), verbose=False)
    task = lp.TextGeneration(language_model("bart"), lp.FlatPrefixConfig(length=3), generation={"max_new_tokens": 5000})
    with pytest.raises(lp.InputError, match=r"generation.max_new_tokens 5000 .* use max_new_tokens <= \d+\.$"):
        task.configure_model()


def test_new_tokens_are_those_of_the_data_unless_given(language_model, tmp_path):
    folder = language_model("t5")
    for given, expected in (
        ({}, {"max_new_tokens": 5}),
        *[(own, own) for own in ({"max_new_tokens": 3}, {"max_length": 4})],
    ):
        task = lp.TextGeneration(folder, lp.FlatPrefixConfig(length=3), generation=given)
        trainer(tmp_path).validate(task, data(max_target_length=5), verbose=False)
        written = task.generate(torch.full((1, 3), 4), eos_token_id=None).sequences
        assert written.shape[1] == {5: 6, 3: 4, 4: 4}[next(iter(expected.values()))]  # with the start


def test_positions(language_model, tmp_path):
    task = lp.TextGeneration(language_model("gpt2"), lp.FlatPrefixConfig(length=3), decoded_rows=1)
    module = data(max_target_length=20)
    trainer(tmp_path, fast_dev_run=True).fit(task, module)
    assert module.max_length == 44  # of 64
    task = lp.TextGeneration(language_model("gpt2"), lp.FlatPrefixConfig(length=3))
    message = r"data.max_length 45 .* positions for 64 tokens, and 20 of them are kept for the target; .*<= 44"
    with pytest.raises(lp.InputError, match=message):
        trainer(tmp_path, fast_dev_run=True).fit(task, data(max_target_length=20, max_length=45))
    for written in (20, 21):  # 8 positions are left over
        given = {"max_new_tokens": written}
        task = lp.TextGeneration(language_model("gpt2"), lp.FlatPrefixConfig(length=3), generation=given)
        module = data(max_target_length=12, max_length=44)
        if written == 20:
            trainer(tmp_path).validate(task, module, verbose=False)
            continue
        message = r"max_new_tokens 21 .* positions for 64 tokens, 20 of them to write in; use max_new_tokens <= 20, or"
        with pytest.raises(lp.InputError, match=message):
            trainer(tmp_path).validate(task, module, verbose=False)
    module = data(max_target_length=56)
    module.serve(task)
    module.setup("fit")
    assert module.max_length == 8
    module.max_target_length = 57
    with pytest.raises(lp.InputError, match=r"max_target_length=57 .* 64 tokens of source and target; use .* <= 56"):
        module.setup("fit")


def test_the_best_of_several_references_counts(language_model, tmp_path):
    task = built(language_model("llama"), generation={"max_new_tokens": 8}, metrics=["chrf"])
    written = [result["generated_text"] for result in lp.Predictor(task, data())(TEXTS)]
    rows = [{"text": text, "target": ["label", answer]} for text, answer in zip(TEXTS, written, strict=True) if answer]
    (scores,) = trainer(tmp_path).test(task, data(rows), verbose=False)
    assert scores["test/chrf"] == 100
    (scores,) = trainer(tmp_path).test(task, data([{**row, "target": ["label"]} for row in rows]), verbose=False)
    assert scores["test/chrf"] < 50


def test_a_resumed_run_is_an_uninterrupted_one(language_model, tmp_path):
    def fit(folder, ckpt_path=None, stop_at=None):
        lightning.seed_everything(1, verbose=False)
        task = lp.TextGeneration(language_model("gpt2"), lp.FlatPrefixConfig(length=3, dropout=0.1), learning_rate=0.05)
        stop = lightning.pytorch.Callback()
        stop.on_train_batch_end = lambda run, *_: setattr(run, "should_stop", run.global_step == stop_at)
        keep = lp.PrefixCheckpoint(dirpath=str(tmp_path / folder), every_n_train_steps=1)
        run = trainer(tmp_path, enable_checkpointing=True, max_epochs=5, max_steps=12, callbacks=[stop, keep])
        run.fit(task, data(batch_size=2), ckpt_path=ckpt_path)
        return task.state_dict()

    whole = fit("whole")
    stopped = fit("stopped", stop_at=5)
    assert any(not torch.equal(whole[name], tensor) for name, tensor in stopped.items())
    resumed = fit("stopped", tmp_path / "stopped" / "last.ckpt")
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())
