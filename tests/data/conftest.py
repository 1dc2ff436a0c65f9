import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "good",
    "bad",
    "film",
    "plot",
    "a",
    "the",
    "review",
    ":",
    "label",
]
PAD, UNK, CLS, SEP = range(4)


def build_tokenizer(folder: Path, *, has_padding: bool = True) -> str:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=WORDS[UNK]))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", CLS), ("[SEP]", SEP)],
    )
    names = ["input_ids", "attention_mask"] + (["token_type_ids"] if has_padding else [])
    special = (
        {"unk_token": "[UNK]", "pad_token": "[PAD]"} if has_padding else {"unk_token": "[UNK]", "eos_token": "[SEP]"}
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=64, model_input_names=names, **special
    ).save_pretrained(folder)
    return str(folder)


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory) -> str:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="session")
def tokenizer_without_padding(tmp_path_factory) -> str:
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer_without_padding"), has_padding=False)


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
