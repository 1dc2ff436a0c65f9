"""How long starting takes, and how large files are; Markdown.

python tests/benchmarks/start_and_sizes.py

Times are of whole processes, in turns; MiniLM-L6 with a prefix of 20 in files.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from methods import LENGTH, has_peft_prefix, settings, table, versions

import lightning_prefix as lp

ROUNDS = 3


def seconds(code: str) -> float:
    """Of a Python process."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return time.perf_counter() - start


def size(folder: Path) -> str:
    """Of all its files."""
    return f"{sum(file.stat().st_size for file in folder.rglob('*') if file.is_file()) / 1000:.0f} kB"


def main() -> None:
    """Print two tables."""
    torch.set_num_threads(1)
    print(f"{versions()}\n")
    folder = Path(tempfile.mkdtemp())
    task = lp.TextClassification("asset:minilm-l6", prefix=lp.FlatPrefixConfig(length=LENGTH), num_labels=2)
    task.configure_model()
    data = lp.TextClassificationDataModule("asset:movie-reviews", tokenizer="asset:minilm-l6")
    task.save_pretrained(folder / "ours", data.description())
    starts = {
        "`import lightning.pytorch, transformers`": "import lightning.pytorch, transformers",
        "`import lightning_prefix`": "import lightning_prefix",
        "`lightning_prefix --help`": "import sys; sys.argv[1:] = ['--help']\nfrom lightning_prefix.cli import main\n"
        "try: main()\nexcept SystemExit: pass",
        "a `Predictor` and its first answer": "import lightning_prefix as lp\n"
        f"print(lp.Predictor.from_pretrained({str(folder / 'ours')!r})('a film'))",
    }
    found: dict[str, list[float]] = {name: [] for name in starts}
    for _ in range(ROUNDS):
        for name, code in starts.items():
            found[name].append(seconds(code))
    print(table(["start", "seconds"], [[name, f"{statistics.median(each):.1f}"] for name, each in found.items()]))
    rows = [["the folder of `save_pretrained`, with its head", size(folder / "ours")]]
    setting = settings("asset:movie-reviews", "asset:chitchat", "asset:ui-strings-en-pt")["minilm"]
    if has_peft_prefix(setting):
        from peft import PrefixTuningConfig, get_peft_model

        config = PrefixTuningConfig(num_virtual_tokens=LENGTH, task_type="SEQ_CLS")
        get_peft_model(setting.load(), config).save_pretrained(folder / "peft")
        rows.append(["PEFT's, with the same head", size(folder / "peft")])
    setting.load().save_pretrained(folder / "full")
    rows.append(["the model, as full fine-tuning stores it", size(folder / "full")])
    print("\n" + table(["file", "size"], rows))


if __name__ == "__main__":
    main()
