"""Tiny random backbones, built from a configuration; nothing is downloaded."""

from pathlib import Path

import pytest
import torch
import transformers
from tiny_files import write_backbone, write_reviews

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True, scope="session")
def _own_dataset_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    import datasets

    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("datasets")


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return write_backbone(tmp_path_factory.mktemp("bert"))


@pytest.fixture(scope="session")
def gpt2_folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    torch.manual_seed(0)
    return write_backbone(tmp_path_factory.mktemp("gpt2"), "gpt2")


@pytest.fixture
def reviews(tmp_path: Path) -> str:
    return write_reviews(tmp_path / "reviews")
