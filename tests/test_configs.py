"""Every YAML runs fit, validate, test and predict on a tiny backbone; groups go behind the quickstart."""

import json
from pathlib import Path

import pytest
import yaml
from tiny_files import write_language_model, write_reviews

from lightning_prefix.cli import main

ROOT = Path(__file__).parents[1] / "configs"
GROUPS = {"prefix", "trainer"}
SPACES = {"tune"}  # tests/tuning reads them
COMPLETE = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name not in GROUPS | SPACES)
PARTS = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name in GROUPS)
TEXT = "the good film"
TEST_ROWS = 8
DECODERS = ("smollm2", "gpt2")
ENCODER_DECODERS = {"bart": "bart", "t5": "t5", "marian": "bart"}
TASKS = {
    "ExtractiveQA": lambda _: {"question": "the film", "context": TEXT, "answers": "good"},
    "TokenClassification": lambda data: {
        "tokens": TEXT.split(),
        data.get("tags_column", "tags"): ["O", "B-X", "O"],
    },
    "TextGeneration": lambda data: {data["text_column"]: "name[the film]", data["target_column"]: TEXT},
    "GenerativeQA": lambda data: {
        "question": "the film",
        "context": TEXT,
        data.get("answer_column", "answers"): "good",
    },
    "Translation": lambda data: {data["source_language"]: TEXT, data["target_language"]: "a bad film"},
    "Dialogue": lambda data: {data.get("messages_column", "messages"): [TEXT, "good", "a plot", "bad"]},
}
"""The rows that each task reads; classification and regression read the reviews."""


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def write_source(config: dict, is_regression: bool, folder: Path) -> str:
    """Tiny files of the kind that the config reads."""
    data = config["data"]["init_args"]
    make = TASKS.get(config["model"]["class_path"])
    if make is not None:
        folder.mkdir()
        for split, count in (("train", 24), ("validation", 8), ("test", TEST_ROWS)):
            lines = [json.dumps(make(data)) for _ in range(count)]
            (folder / f"{split}.jsonl").write_text("\n".join(lines))
        return str(folder)
    source = write_reviews(folder, train=24, validation=8, test=TEST_ROWS)
    renamed = {"text": data.get("text_column", "text"), "label": data.get("label_column", "label")}
    for file in Path(source).iterdir():
        header, *rows = file.read_text().splitlines()
        if is_regression:
            rows = [row.replace("positive", "1.5").replace("negative", "-0.5") for row in rows]
        extra = [data["pair_column"]] if "pair_column" in data else ["title"]
        header, rows = ",".join([header, *extra]), [f"{row},a film" for row in rows]
        for old, new in renamed.items():
            header = header.replace(old, new)
        file.write_text("\n".join([header, *rows]) + "\n")
    return source


def run_all(path: Path, backbone: str, folder: Path, *more: str) -> None:
    """One step of each command with the config's own options, on tiny files of the kind that it reads."""
    config = yaml.safe_load(path.read_text())
    source = write_source(config, "regression" in path.parts, folder / "source")
    args = ["--config", str(path), *more, "--model.backbone", backbone, "--data.source", source]
    args += ["--data.max_length", "32", "--data.subset", "null", "--data.revision", "null"]
    for split in ("train", "validation", "test"):
        args += [f"--data.{split}_split", split]
    args += [
        "--trainer.accelerator",
        "cpu",
        "--trainer.devices",
        "1",
        "--trainer.num_nodes",
        "1",
        "--trainer.strategy",
        "auto",
    ]
    args += ["--trainer.enable_progress_bar", "false", "--trainer.val_check_interval", "null"]
    if "generation" in config["model"]["init_args"] or "decoded_rows" in config["model"]["init_args"]:
        args += ["--model.generation.max_new_tokens", "3"]
    if "max_target_length" in config["data"]["init_args"]:
        args += ["--data.max_target_length", "8"]
    if config["model"]["init_args"]["prefix"]["init_args"]["length"] > 30:
        args += ["--model.prefix.length", "30"]
    if config["model"]["class_path"] == "ExtractiveQA":
        args += ["--data.stride", "4"]
    if "verbalizer" in path.name:  # the tiny vocabulary has other words
        args += ["--model.label_words", "[bad, good]", "--model.prefix.init_text", "review"]
    main(["fit", *args, "--trainer.max_steps", "1", "--checkpoint.dirpath", "kept"])
    for command in ("validate", "test", "predict"):
        main([command, *args, "--ckpt_path", "kept/last.ckpt"])
    predictions = Path("kept/predictions.jsonl").read_text().splitlines()  # beside the checkpoint
    assert [json.loads(line)["index"] for line in predictions] == list(range(TEST_ROWS))


@pytest.fixture(scope="session")
def backbone_for(bert_folder, gpt2_folder, tmp_path_factory):
    """A tiny backbone of the kind that a config names."""

    def find(config: Path) -> str:
        if any(part in config.stem for part in DECODERS):
            return gpt2_folder
        if "mbart" in config.stem:
            return write_language_model(tmp_path_factory.mktemp("mbart"), "mbart")
        for part, family in ENCODER_DECODERS.items():
            if part in config.stem.replace("roberta", ""):
                return write_language_model(tmp_path_factory.mktemp(family), family)
        return bert_folder

    return find


@pytest.mark.parametrize("config", COMPLETE, ids=name)
def test_complete(config, backbone_for, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_all(config, backbone_for(config), tmp_path)


@pytest.mark.parametrize("part", PARTS, ids=name)
def test_group(part, bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    upper = ["--model.prefix.layers", "1"] if part.stem == "upper_layers" else []  # of two
    run_all(ROOT / "quickstart.yaml", bert_folder, tmp_path, "--config", str(part), *upper)


@pytest.mark.parametrize("config", COMPLETE, ids=name)
def test_header(config):
    """Each says what it is and how to run it."""
    comments = [line for line in config.read_text().splitlines() if line.startswith("#")]
    assert any(f"fit --config configs/{name(config)}" in line for line in comments)
