"""What is padded, and what a training step costs, in random batches, batches of like lengths and packed rows.

OMP_NUM_THREADS=1 python tests/benchmarks/packing.py
python tests/benchmarks/packing.py --conversations FILE  # one a line, turns end in __eou__

Batches hold about as many real tokens in each case.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import torch

import lightning_prefix as lp

BATCHES, ROUNDS, MAX_LENGTH = 2, 2, 512
CASES: dict[str, dict[str, Any]] = {
    "random": {"group_by_length": False, "batch_size": 8},
    "like lengths": {"batch_size": 8},
    "packed": {"packing": True, "packed_length": 512, "batch_size": 3},
}


def loader(task: lp.Dialogue, source: Any, options: dict[str, Any]) -> Any:
    data = lp.DialogueDataModule(source, turn_separator="__eou__", max_length=MAX_LENGTH, **options)
    data.serve(task)
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def main() -> None:
    """Print computed tokens for each real one, and CPU seconds for 1,000 real ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conversations", type=Path)
    given = parser.parse_args().conversations
    source: Any = "asset:chitchat"
    if given is not None:
        source = [{"messages": line.strip().removesuffix("__eou__")} for line in given.read_text("utf-8").splitlines()]
    task = lp.Dialogue("asset:smollm2-135m", lp.FlatPrefixConfig(length=10, init="random"))
    task.configure_model()
    task.train()
    loaders = {name: loader(task, source, options) for name, options in CASES.items()}
    computed = {name: sum(batch["input_ids"].numel() for batch in batches) for name, batches in loaders.items()}
    real = sum(int((batch["sequence_ids"] > 0).sum()) for batch in loaders["packed"])
    first = {name: [b for _, b in zip(range(BATCHES), batches, strict=False)] for name, batches in loaders.items()}
    for name in CASES:
        print(f"{name}: {computed[name] / real:.3f} tokens computed for each real one", flush=True)
    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for turn in range(ROUNDS + 1):
        for name, batches in first.items():
            start = time.process_time()
            for batch in batches:
                torch.autograd.grad(task.loss(task(batch), batch), list(task.model.prefix.parameters()))
            tokens = sum(int(b.get("attention_mask", b.get("sequence_ids")).gt(0).sum()) for b in batches)
            if turn:  # the first one warms up
                seconds[name].append(1000 * (time.process_time() - start) / tokens)
    for name in CASES:
        each = " ".join(f"{value:.2f}" for value in seconds[name])
        print(f"{name}: CPU seconds for 1,000 real tokens: {each}", flush=True)


if __name__ == "__main__":
    main()
