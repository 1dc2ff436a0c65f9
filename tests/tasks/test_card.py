"""Model cards: what a run writes, what a stranger reads, and what is never replaced."""

import csv
import re
import shutil
from pathlib import Path

import lightning
import pytest
import yaml
from every_task import CASES, case_backbone
from huggingface_hub import ModelCard

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.tasks.card import wilson_interval

QUIET = ["--trainer.enable_progress_bar=false", "--trainer.enable_model_summary=false"]


@pytest.fixture
def fit(bert_folder, reviews, tmp_path):
    def run(*options: str):
        words = ["--model=TextClassification", f"--model.backbone={bert_folder}", "--model.prefix.length=3"]
        words += ["--data=TextClassificationDataModule", f"--data.source={reviews}", "--trainer.max_epochs=2"]
        return main(["fit", *words, f"--trainer.default_root_dir={tmp_path}", *QUIET, *options])

    return run


def card_of(cli) -> tuple[ModelCard, Path]:
    folder = Path(cli.trainer.log_dir) / "prefix"
    return ModelCard.load(folder / "README.md"), folder


def table_of(card: ModelCard) -> dict[tuple[str, str], tuple[str, str]]:
    rows = re.findall(r"^\| (\w+) \| (\w+) \| (\S+) \| (.*?) ?\|$", card.text, re.MULTILINE)
    return {(split, metric): (value, interval) for split, metric, value, interval in rows if split != "split"}


def test_fit_writes_what_it_did_and_measured(fit, bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cli = fit("--seed_everything=7", "--data.batch_size=16", "--model.learning_rate=0.05")
    card, folder = card_of(cli)
    assert card.data.to_dict() == {
        "library_name": "lightning_prefix",
        "metrics": ["accuracy", "f1"],
        "pipeline_tag": "text-classification",
        "tags": ["prefix-tuning", "lightning", "TextClassification"],
    }
    table = table_of(card)
    assert {split for split, _ in table} == {"validation", "test"}
    best = max(row["val/accuracy"] for row in _logged(cli) if "val/accuracy" in row)
    assert table["validation", "accuracy"][0] == f"{best:.4g}"
    accuracy = cli.trainer.callback_metrics["test/accuracy"].item()
    low, high = wilson_interval(accuracy, 17)
    assert table["test", "accuracy"] == (f"{accuracy:.4g}", f"{low:.4g} to {high:.4g}")
    assert table["test", "f1"][1] == table["validation", "accuracy"][1] == ""
    for line in ("- source: `reviews`", "- train: 64 rows", "- test: 17 rows", "- columns: `text`, `label`"):
        assert line in card.text
    config = yaml.safe_load(re.search(r"```yaml\n(.*?)```", card.text, re.DOTALL)[1])
    assert (config["seed_everything"], config["model"]["learning_rate"]) == (7, 0.05)
    assert config["trainer"]["steps"] == 8
    size = (folder / "prefix.safetensors").stat().st_size
    trained = sum(p.numel() for p in cli.model.parameters() if p.requires_grad)
    assert f"{trained:,} parameters were trained" in card.text
    assert f"`prefix.safetensors` has {size:,} bytes" in card.text
    assert str(Path(bert_folder).parent) not in card.text.split("```yaml")[0]  # where it lies is nobody's business


def _logged(cli) -> list[dict[str, float]]:
    with (Path(cli.trainer.log_dir) / "metrics.csv").open() as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def test_the_snippet_runs(fit, capsys):
    card, folder = card_of(fit())
    snippet = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    assert len([line for line in snippet.splitlines() if line]) == 3
    exec(snippet, {})  # noqa: S102
    assert capsys.readouterr().out.splitlines()[-1] == str(lp.Predictor.from_pretrained(folder)(["your text"]))


def test_no_interval_where_only_some_rows_were_tested(fit):
    table = table_of(card_of(fit("--trainer.limit_test_batches=1"))[0])
    assert table["test", "accuracy"][1] == ""


def test_without_a_test_and_without_a_validation(fit):
    card, _ = card_of(fit("--test_after_fit=false"))
    assert {split for split, _ in table_of(card)} == {"validation"}
    assert "picked the checkpoint" in card.text
    card, _ = card_of(fit("--test_after_fit=false", "--trainer.limit_val_batches=0"))
    assert "## Metrics" not in card.text
    assert "metrics" not in card.data.to_dict()


def test_what_a_person_has_written_stays(bert_folder, tmp_path):
    task = lp.TextClassification(bert_folder, labels=["a", "b"])
    task.configure_model()
    task.save_pretrained(tmp_path)
    file = tmp_path / "README.md"
    first = file.read_text()
    task.measured = {"val/accuracy": 0.5}
    task.save_pretrained(tmp_path)  # ours, so it is replaced
    assert file.read_text() != first
    for text in ("mine", first.replace("# Text", "# My text"), first + "more\n", ""):
        file.write_text(text)
        with pytest.warns(UserWarning, match=r"README.md was written or changed by a person; it stays"):
            task.save_pretrained(tmp_path)
        assert file.read_text() == text


def test_a_task_that_was_loaded_keeps_its_card_until_it_is_trained(fit, reviews, tmp_path):
    cli = fit("--test_after_fit=false")
    _, folder = card_of(cli)
    written = (folder / "README.md").read_text()
    task, description = lp.PrefixTask.load_folder(folder)
    task.save_pretrained(tmp_path / "copy", description)
    copied = (tmp_path / "copy" / "README.md").read_text().splitlines()[:-1]
    renamed = re.sub(r"(from_pretrained\().*\)", rf'\1"{tmp_path.as_posix()}/copy")', written)
    assert copied == renamed.splitlines()[:-1]  # all but the hash in the last line
    data = lp.TextClassificationDataModule(reviews)
    trainer = lightning.Trainer(
        max_steps=1, limit_val_batches=0, logger=False, enable_checkpointing=False, default_root_dir=tmp_path
    )
    trainer.fit(task, data)
    task.save_pretrained(tmp_path / "copy", description)
    card = ModelCard.load(tmp_path / "copy" / "README.md")
    assert "## Metrics" not in card.text  # those of the old weights
    loaded = lp.PrefixTask.load_from_checkpoint(Path(cli.trainer.log_dir) / "checkpoints" / "best.ckpt")
    loaded.save_pretrained(tmp_path / "of_checkpoint", description)
    assert {split for split, _ in table_of(ModelCard.load(tmp_path / "of_checkpoint" / "README.md"))} == {"validation"}


def test_test_changes_no_folder(fit):
    cli = fit("--test_after_fit=false")
    _, folder = card_of(cli)
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    main(["test", f"--config={cli.trainer.log_dir}/config.yaml", f"--ckpt_path={folder}", *QUIET])
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


@pytest.mark.parametrize("name", CASES)
def test_every_task_has_a_card(name, bert_folder, gpt2_folder, tmp_path):
    case = CASES[name]
    backbone = case_backbone(case, bert_folder, gpt2_folder, tmp_path / "backbone")
    task = case.make_task(backbone, lp.FlatPrefixConfig(length=3))
    data = case.make_data({"train": range(8), "validation": range(8, 12), "test": range(12, 18)})
    trainer = lightning.Trainer(
        max_steps=2, logger=False, enable_checkpointing=False, default_root_dir=tmp_path, enable_progress_bar=False
    )
    trainer.fit(task, data)
    trainer.test(task, data, verbose=False)
    task.save_pretrained(tmp_path / "prefix", data.description())
    card = ModelCard.load(tmp_path / "prefix" / "README.md")
    assert card.data.pipeline_tag == task.pipeline_tag is not None
    assert task.monitor.split("/")[1] in {metric for split, metric in table_of(card) if split == "test"}
    assert "- test: 6 rows" in card.text
    snippet = re.search(r"```python\n(.*?)```", card.text, re.DOTALL)[1]
    exec(snippet, {})  # noqa: S102


@pytest.mark.parametrize(
    ("share", "rows", "low", "high"), [(0.0, 10, 0.0, 0.2775), (0.5, 4, 0.15, 0.85), (1.0, 1, 0.2065, 1.0)]
)
def test_wilson(share, rows, low, high):
    """The ends as in scipy's `binomtest(...).proportion_ci(method="wilson")`."""
    assert wilson_interval(share, rows) == pytest.approx((low, high), abs=1e-4)


def test_backbones_and_data_of_the_hub_are_named(bert_folder, tmp_path, monkeypatch):
    """As if the backbone and the data had come from there."""
    monkeypatch.chdir(tmp_path)
    shutil.copytree(bert_folder, tmp_path / "org" / "tiny")
    task = lp.TextClassification("org/tiny", labels=["a", "b"])
    task.configure_model()
    shutil.rmtree(tmp_path / "org")
    data = lp.TextClassificationDataModule("stanfordnlp/sst2", tokenizer=bert_folder, revision="abc")
    task.trainer = lightning.Trainer(logger=False, enable_checkpointing=False)
    task.trainer.datamodule = data
    task.save_pretrained(tmp_path / "prefix", data.description())
    card = ModelCard.load(tmp_path / "prefix" / "README.md")
    assert card.data.base_model == "org/tiny"
    assert card.data.base_model_relation == "adapter"
    assert card.data.datasets == ["stanfordnlp/sst2"]
    assert "- source: `stanfordnlp/sst2`, revision `abc`" in card.text
