from pathlib import Path

import pytest
import yaml


@pytest.fixture(autouse=True)
def _in_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def config(tmp_path, bert_folder, reviews) -> str:
    """A run of a second: 8 batches, one validation."""
    path = tmp_path / "run.yaml"
    prefix = {"class_path": "FlatPrefixConfig", "init_args": {"length": 5}}
    data = {"source": reviews, "batch_size": 8}
    path.write_text(
        yaml.safe_dump(
            {
                "seed_everything": 3,
                "model": {
                    "class_path": "TextClassification",
                    "init_args": {"backbone": bert_folder, "prefix": prefix},
                },
                "data": {"class_path": "TextClassificationDataModule", "init_args": data},
                "trainer": {"max_epochs": 1, "accelerator": "cpu", "devices": 1, "limit_train_batches": 4},
            }
        )
    )
    return str(path)


@pytest.fixture
def space() -> str:
    """A flat space whose values are all used."""
    Path("space.yaml").write_text(
        "model.learning_rate: {low: 5e-3, high: 1e-1, log: true}\nmodel.prefix.length: {low: 2, high: 6}\n"
    )
    return "space.yaml"
