import json
from pathlib import Path

import pytest
from tiny_files import write_tokenizer


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer"), model_max_length=64)


@pytest.fixture(scope="session")
def tokenizer_without_padding(tmp_path_factory) -> str:
    return write_tokenizer(tmp_path_factory.mktemp("no_padding"), is_bert=False, model_max_length=64)


@pytest.fixture
def reviews() -> list[dict]:
    return [
        {
            "text": f"the {'good' if row % 2 else 'bad'} film" + " plot" * (row % 5),
            "label": "pos" if row % 2 else "neg",
        }
        for row in range(40)
    ]


@pytest.fixture
def write(tmp_path):
    """Writes a text file, or rows as jsonl, and returns its path."""

    def write_file(name: str, content: "str | bytes | list") -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            path.write_text("".join(json.dumps(row) + "\n" for row in content), encoding="utf-8")
        return path

    return write_file
