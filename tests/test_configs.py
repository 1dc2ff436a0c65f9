"""Every YAML runs fit, validate, test and predict on a tiny backbone; groups go behind the quickstart."""

from pathlib import Path

import pytest
import yaml
from tiny_files import write_reviews

from lightning_prefix.cli import main

ROOT = Path(__file__).parents[1] / "configs"
GROUPS = {"prefix", "trainer"}
COMPLETE = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name not in GROUPS)
PARTS = sorted(path for path in ROOT.rglob("*.yaml") if path.parent.name in GROUPS)


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def run_all(config: Path, backbone: str, folder: Path, *more: str) -> None:
    """One step of each command with the config's own options, on two tiny files of the kind that it reads."""
    data = yaml.safe_load(config.read_text())["data"]["init_args"]
    source = write_reviews(folder / "source", train=24, validation=8, test=8)
    renamed = {"text": data.get("text_column", "text"), "label": data.get("label_column", "label")}
    is_regression = "regression" in config.parts
    for file in Path(source).iterdir():
        header, *rows = file.read_text().splitlines()
        if is_regression:
            rows = [row.replace("positive", "1.5").replace("negative", "-0.5") for row in rows]
        if pair := data.get("pair_column"):
            header, rows = f"{header},{pair}", [f"{row},a film" for row in rows]
        for old, new in renamed.items():
            header = header.replace(old, new)
        file.write_text("\n".join([header, *rows]) + "\n")
    args = ["--config", str(config), *more, "--model.backbone", backbone, "--data.source", source]
    args += ["--data.max_length", "32", "--data.subset", "null"]
    args += ["--trainer.accelerator", "cpu", "--trainer.devices", "1", "--trainer.strategy", "auto"]
    args += ["--trainer.enable_progress_bar", "false"]
    if "verbalizer" in config.name:  # the tiny vocabulary has other words
        args += ["--model.label_words", "[bad, good]", "--model.prefix.init_text", "review"]
    main(["fit", *args, "--trainer.max_steps", "1", "--checkpoint.dirpath", "kept"])
    for command in ("validate", "test", "predict"):
        main([command, *args, "--ckpt_path", "kept/last.ckpt"])
    assert len(next(Path("lightning_logs").rglob("predictions.jsonl")).read_text().splitlines()) == 8


@pytest.mark.parametrize("config", COMPLETE, ids=name)
def test_complete(config, bert_folder, gpt2_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_all(config, gpt2_folder if "smollm2" in config.name else bert_folder, tmp_path)


@pytest.mark.parametrize("part", PARTS, ids=name)
def test_group(part, bert_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_all(ROOT / "quickstart.yaml", bert_folder, tmp_path, "--config", str(part))


@pytest.mark.parametrize("config", COMPLETE, ids=name)
def test_header(config):
    """Each says what it is and how to run it."""
    comments = [line for line in config.read_text().splitlines() if line.startswith("#")]
    assert any(f"fit --config configs/{name(config)}" in line for line in comments)
