"""Memory of `fit` and `predict` on a streamed csv, over the rows that were read.

python tests/benchmarks/streaming.py --rows 200000
"""

import argparse
import random
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import transformers as hf
from lightning import Callback, Trainer
from tokenizers import Tokenizer, models, pre_tokenizers, processors

import lightning_prefix as lp

WORDS = [f"word{number}" for number in range(3000)]
POINTS = 10
BATCH = 64


class Memory(Callback):
    """Resident memory of this process, in MB, after the first batch and each tenth of the rows."""

    def __init__(self, rows: int) -> None:
        self.rows, self.seen = rows, 0
        self.curve: list[tuple[int, float]] = []

    def on_train_batch_end(self, trainer: Any, task: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._count(batch)

    def on_predict_batch_end(self, trainer: Any, task: Any, outputs: Any, batch: Any, *_: Any) -> None:
        self._count(batch)

    def _count(self, batch: Any) -> None:
        self.seen += len(batch["index"])
        if self.seen >= len(self.curve) * (self.rows - BATCH) // POINTS:
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            self.curve.append((self.seen, pages * resource.getpagesize() / 1e6))


def write_backbone(folder: Path) -> str:
    """A tiny random BERT: most of the time goes into reading."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    vocabulary = {word: number for number, word in enumerate([*special, *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token"), special, strict=True))
    hf.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    config = hf.BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=64,
    )
    hf.BertModel(config).save_pretrained(folder)
    return str(folder)


def write_rows(path: Path, rows: int) -> None:
    """Texts of 5 to 40 words."""
    drawn = random.Random(0)  # noqa: S311
    with path.open("w") as file:
        file.write("text,label\n")
        for row in range(rows):
            file.write(f"{' '.join(drawn.choices(WORDS, k=drawn.randint(5, 40)))},{'good' if row % 2 else 'bad'}\n")


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--num_workers", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        backbone = write_backbone(folder / "backbone")
        write_rows(folder / "rows.csv", given.rows + 1000)
        print(f"{given.rows} rows, {(folder / 'rows.csv').stat().st_size / 1e6:.0f} MB", flush=True)
        data = lp.TextClassificationDataModule(
            str(folder / "rows.csv"),
            predict=str(folder / "rows.csv"),
            labels=["bad", "good"],
            streaming=True,
            batch_size=BATCH,
            num_workers=given.num_workers,
        )
        task = lp.TextClassification(backbone, lp.FlatPrefixConfig(length=4), num_labels=2)
        fit, predict = Memory(given.rows), Memory(given.rows)
        options: dict[str, Any] = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
        options |= {"enable_checkpointing": False, "enable_model_summary": False}
        start = time.perf_counter()
        Trainer(callbacks=[fit], max_steps=given.rows // BATCH, limit_val_batches=10, **options).fit(task, data)
        middle = time.perf_counter()
        writer = lp.PredictionWriter(str(folder / "predictions.jsonl"))
        Trainer(callbacks=[writer, predict], **options).predict(task, data, return_predictions=False)
        end = time.perf_counter()
    print("\n| rows | fit, MB | predict, MB |\n|---|---|---|")
    for (rows, of_fit), (_, of_predict) in zip(fit.curve, predict.curve, strict=False):
        print(f"| {rows} | {of_fit:.0f} | {of_predict:.0f} |")
    print(f"\nfit {middle - start:.0f} s, predict {end - middle:.0f} s")


if __name__ == "__main__":
    main()
