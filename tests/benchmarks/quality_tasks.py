"""The six tasks on which methods are compared: real data, a real backbone, few steps.

A folder holds the texts that are no assets, under these names:

- `sst2_train.tsv`, `sst2_dev.tsv`, `sst2_test.tsv`: sentence, tab, label
  (github.com/clairett/pytorch-sentiment-classification);
- `stsb_train.csv`, `stsb_dev.csv`, `stsb_test.csv`: two sentences and a score (github.com/PhilipMay/stsb-multi-mt, en);
- `xquad.en.json` (github.com/google-deepmind/xquad), divided by article into 33, 5 and 10;
- `dailydialog_train.txt`, `dailydialog_test.txt`: turns that end in `__eou__` (DailyDialog).
"""

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import lightning_prefix as lp

Rows = list[dict[str, Any]]


@dataclass(frozen=True, kw_only=True)
class QualityTask:
    """What all methods have in common on one task.

    Args:
        title: for the report.
        task: of lightning_prefix.
        options: of the task, the head included.
        data: its data module.
        sources: makes the splits.
        reading: options of the data module.
        steps: optimizer steps.
        metric: of the test split, by which methods are compared.
        chosen_by: metric of the validation split, by which rates are chosen and progress is seen; `metric` when empty.
        scale: factor of both in the report.
        best: which values of `chosen_by` are better.
        head_rate: learning rate of the trained head, the same for all methods; None without a head.
        linear: names of the layers that LoRA changes: queries and values.
        can_peft: whether PEFT's prefix runs on the model.
    """

    title: str
    task: type[lp.PrefixTask]
    options: Mapping[str, Any]
    data: type[lp.TextDataModule]
    sources: Callable[[], Any]
    reading: Mapping[str, Any]
    steps: int
    metric: str
    chosen_by: str = ""
    scale: float = 1.0
    best: Literal["max", "min"] = "max"
    head_rate: float | None = None
    linear: Sequence[str] = ("query", "value")
    can_peft: bool = True

    @property
    def validated(self) -> str:
        """Metric of the validation split."""
        return self.chosen_by or self.metric

    def make_data(self, seed: int, rows: int | None = None, subset: int = 0) -> lp.TextDataModule:
        """The data module; with `rows` of that many train rows, each subset of others."""
        reading = dict(self.reading)
        if rows is not None:
            reading["train_split"] = f"train[{rows * subset}:{rows * (subset + 1)}]"
        return self.data(self.sources(), tokenizer=self.options["backbone"], seed=seed, **reading)


def quality_tasks(folder: Path) -> dict[str, QualityTask]:
    """All, by short names, with the texts of this folder."""
    minilm = {"backbone": "asset:minilm-l6"}
    smollm2 = {"backbone": "asset:smollm2-135m"}
    projections = ("q_proj", "v_proj")
    return {
        "sst2": QualityTask(
            title="SST-2, MiniLM-L6, accuracy",
            task=lp.TextClassification,
            options={**minilm, "labels": ["0", "1"], "head": "mean"},
            data=lp.TextClassificationDataModule,
            sources=lambda: {name: _sst2(folder / f"sst2_{short}.tsv") for short, name in _SPLITS.items()},
            reading={"batch_size": 32, "eval_batch_size": 64, "validation_split": "validation[:500]"},
            steps=160,
            metric="accuracy",
            scale=100,
            head_rate=1e-2,
        ),
        "stsb": QualityTask(
            title="STS-B, MiniLM-L6, Pearson",
            task=lp.TextRegression,
            options={**minilm, "head": "mean"},
            data=lp.TextRegressionDataModule,
            sources=lambda: {name: _stsb(folder / f"stsb_{short}.csv") for short, name in _SPLITS.items()},
            reading={
                "text_column": "first",
                "pair_column": "second",
                "batch_size": 32,
                "eval_batch_size": 64,
                "validation_split": "validation[:500]",
            },
            steps=160,
            metric="pearson",
            scale=100,
            head_rate=1e-2,
        ),
        "xquad": QualityTask(
            title="XQuAD-en by article, MiniLM-L6, F1",
            task=lp.ExtractiveQA,
            options={**minilm, "head": "linear", "no_answer": False},
            data=lp.ExtractiveQADataModule,
            sources=lambda: _xquad(folder / "xquad.en.json"),
            reading={"max_length": 384, "batch_size": 8, "eval_batch_size": 16},
            steps=212,
            metric="f1",
            head_rate=1e-2,
        ),
        "news": QualityTask(
            title="Chinese news, multilingual E5, accuracy",
            task=lp.TextClassification,
            options={"backbone": "asset:multilingual-e5-small", "num_labels": 3, "head": "mean"},
            data=lp.TextClassificationDataModule,
            sources=lambda: "asset:chinese-news",
            reading={
                "template": "query: {title}",
                "drop_empty": True,
                "max_length": 64,
                "batch_size": 32,
                "eval_batch_size": 64,
                "validation_split": "validation[:500]",
            },
            steps=120,
            metric="accuracy",
            scale=100,
            head_rate=1e-2,
        ),
        "translation": QualityTask(
            title="User-interface strings, Marian en-pt, chrF",
            task=lp.Translation,
            options={"backbone": "asset:marian-en-pt", "metrics": ["chrf"], "logged_samples": 0},
            data=lp.TranslationDataModule,
            sources=lambda: "asset:ui-strings-en-pt",
            reading={
                "source_language": "en",
                "target_language": "pt",
                "max_target_length": 64,
                "is_encoder_decoder": True,
                "batch_size": 16,
                "eval_batch_size": 32,
            },
            steps=160,
            metric="chrf",
            chosen_by="perplexity",
            best="min",
            linear=projections,
            can_peft=False,  # its decoder has no self-attention
        ),
        "dialogue": QualityTask(
            title="DailyDialog, SmolLM2-135M, perplexity of replies",
            task=lp.Dialogue,
            options={**smollm2, "metrics": [], "logged_samples": 0},
            data=lp.DialogueDataModule,
            sources=lambda: {
                "train": _lines(folder / "dailydialog_train.txt")[:900],
                "validation": _lines(folder / "dailydialog_train.txt")[900:930],
                "test": _lines(folder / "dailydialog_test.txt")[:100],
            },
            reading={
                "messages_column": "text",
                "turn_separator": "__eou__",
                "max_length": 128,
                "max_target_length": 48,
                "is_encoder_decoder": False,
                "batch_size": 4,
                "eval_batch_size": 8,
            },
            steps=60,
            metric="perplexity",
            best="min",
            linear=projections,
        ),
    }


_SPLITS = {"train": "train", "dev": "validation", "test": "test"}


def _sst2(path: Path) -> Rows:
    pairs = [line.rsplit("\t", 1) for line in path.read_text(encoding="utf-8").splitlines()]
    return [{"text": text, "label": label} for text, label in pairs]


def _stsb(path: Path) -> Rows:
    with path.open(encoding="utf-8", newline="") as file:
        return [{"first": first, "second": second, "label": float(score)} for first, second, score in csv.reader(file)]


def _xquad(path: Path) -> dict[str, Rows]:
    articles = json.loads(path.read_text(encoding="utf-8"))["data"]
    parts = {"train": articles[:33], "validation": articles[33:38], "test": articles[38:]}
    return {name: [row for article in part for row in _questions(article)] for name, part in parts.items()}


def _questions(article: Mapping[str, Any]) -> Rows:
    return [
        {
            "question": question["question"],
            "context": paragraph["context"],
            "answers": {
                "text": [answer["text"] for answer in question["answers"]],
                "answer_start": [answer["answer_start"] for answer in question["answers"]],
            },
        }
        for paragraph in article["paragraphs"]
        for question in paragraph["qas"]
    ]


def _lines(path: Path) -> Rows:
    return [{"text": line} for line in path.read_text(encoding="utf-8").splitlines()]
