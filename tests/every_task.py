"""One small case of every kind of task: a task on a tiny backbone, and data for it."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tiny_files import WORDS, review, write_language_model

import lightning_prefix as lp

PLAIN = [word for word in WORDS if word.isalpha()]


def text(row: int, length: int) -> str:
    """Some words, other ones for each row."""
    return " ".join(PLAIN[(row * 7 + place * (1 + row % 3)) % len(PLAIN)] for place in range(length))


def question(row: int) -> dict[str, Any]:
    words = text(row, 24 + row % 5).split()
    return {"question": text(row + 1, 3), "context": " ".join(words), "answers": " ".join(words[row % 9 :][:2])}


@dataclass(frozen=True)
class Case:
    """How a kind of task is made.

    Args:
        task: the class.
        data: the class of its data.
        row: from a row number to a row.
        family: of the tiny backbone: "bert", "gpt2", or one of `write_language_model`.
        task_options: of the task.
        data_options: of the data.
    """

    task: type[lp.PrefixTask]
    data: type[lp.TextDataModule]
    row: Callable[[int], dict[str, Any]]
    family: str
    task_options: dict[str, Any]
    data_options: dict[str, Any]

    def make_task(self, backbone: str, prefix: lp.PrefixConfig, **more: Any) -> lp.PrefixTask:
        return self.task(backbone, prefix, **{**self.task_options, **more})

    def make_data(self, rows: dict[str, range], **more: Any) -> lp.TextDataModule:
        source = {split: [self.row(row) for row in numbers] for split, numbers in rows.items()}
        return self.data(source, **{"batch_size": 4, **self.data_options, **more})


def rating(row: int) -> dict[str, Any]:
    return {"text": review(row)["text"], "label": (row % 7) / 3}


def tagged(row: int) -> dict[str, Any]:
    words = text(row, 3 + row % 4).split()
    return {"tokens": words, "tags": ["O", *["B-X"] * (len(words) - 1)]}


def written(row: int) -> dict[str, Any]:
    return {"text": text(row, 3 + row % 4), "target": text(row + 5, 2 + row % 3)}


LINE = {"max_target_length": 6}
CASES = {
    "classification": Case(lp.TextClassification, lp.TextClassificationDataModule, review, "bert", {}, {}),
    "pooled": Case(lp.TextClassification, lp.TextClassificationDataModule, review, "gpt2", {"head": "last"}, {}),
    "regression": Case(lp.TextRegression, lp.TextRegressionDataModule, rating, "bert", {}, {}),
    "tokens": Case(lp.TokenClassification, lp.TokenClassificationDataModule, tagged, "bert", {}, {}),
    "spans": Case(lp.ExtractiveQA, lp.ExtractiveQADataModule, question, "bert", {}, {"max_length": 24, "stride": 4}),
    "decoder": Case(lp.TextGeneration, lp.TextGenerationDataModule, written, "gpt2", {}, LINE),
    "encoder_decoder": Case(lp.TextGeneration, lp.TextGenerationDataModule, written, "t5", {}, LINE),
}


def case_backbone(case: Case, bert: str, gpt2: str, folder: Path) -> str:
    """The folder of its tiny backbone; made where it is neither of the usual two."""
    return {"bert": bert, "gpt2": gpt2}.get(case.family) or write_language_model(folder, case.family)
