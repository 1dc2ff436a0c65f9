"""Tiny prefixes in folders, and one server for all tests that only ask."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from serving_client import RunningServer
from tiny_files import write_backbone, write_language_model

import lightning_prefix as lp

TEMPLATE = (
    "{% for message in messages %}{{ {'system': 'a', 'user': 'review :', 'assistant': 'label :'}[message['role']] }} "
    "{{ message['content'] }} {% endfor %}{% if add_generation_prompt %}label :{% endif %}"
)
KEY = "secret"
LIMITS = ("--max_body_bytes", "3000", "--max_characters", "2000", "--max_inputs", "20", "--api_key", KEY)


@dataclass
class Folders:
    """Of prefixes, by name."""

    by_name: dict[str, str]

    @property
    def words(self) -> list[str]:
        return [word for name, folder in self.by_name.items() for word in ("--prefix", f"{name}={folder}")]


def saved(task: lp.PrefixTask, data: lp.TextDataModule, folder: Path) -> str:
    """A prefix and a head with large effects."""
    task.configure_model()
    data.serve(task)
    for parameter in task.parameters():
        if parameter.requires_grad:
            torch.nn.init.normal_(parameter)
    task.save_pretrained(folder, data.description())
    return str(folder)


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Folders:
    torch.manual_seed(0)
    base = tmp_path_factory.mktemp("served")
    bert, llama = write_backbone(base / "bert"), write_language_model(base / "llama", "llama")
    prefix = lp.FlatPrefixConfig(length=3)
    made = {
        name: saved(
            lp.TextClassification(bert, prefix, labels=labels, head="mean"),
            lp.TextClassificationDataModule(tokenizer=bert),
            base / name,
        )
        for name, labels in {"mood": ["negative", "positive"], "topic": ["film", "book", "song"]}.items()
    }
    made["stars"] = saved(
        lp.TextRegression(bert, prefix, head="mean"), lp.TextRegressionDataModule(tokenizer=bert), base / "stars"
    )
    for name, options in {"writer": {}, "author": {}, "beams": {"num_beams": 2}}.items():
        made[name] = saved(
            lp.TextGeneration(llama, prefix, generation={"max_new_tokens": 20, "eos_token_id": None, **options}),
            lp.TextGenerationDataModule(tokenizer=llama, max_length=40, max_target_length=20),
            base / name,
        )
    made["talker"] = saved(
        lp.Dialogue(llama, prefix, generation={"max_new_tokens": 12, "eos_token_id": None}),
        lp.DialogueDataModule(tokenizer=llama, chat_template=TEMPLATE, max_length=60, max_target_length=12),
        base / "talker",
    )
    return Folders(made)


@pytest.fixture(scope="session")
def server(folders: Folders, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningServer]:
    running = RunningServer(*folders.words, *LIMITS, log=tmp_path_factory.mktemp("server") / "log")
    yield running
    running.kill()
