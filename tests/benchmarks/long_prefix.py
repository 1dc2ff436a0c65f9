"""A training step and a pass of inference with long prefixes, read apart from the text or joined to it, in turns.

python tests/benchmarks/long_prefix.py [--backbone asset:minilm-l6] [--batch 16] [--tokens 64] [--turns 7]

Prints Markdown: medians in milliseconds of CPU time, on random tokens. OMP_NUM_THREADS=1 gives the steadiest ones.
"""

import argparse
import statistics
import time

import torch

import lightning_prefix as lp
from lightning_prefix.backbone import apart, load_backbone

LENGTHS = (32, 128, 512, 1024)
JOINED = 10**9


def step(model: lp.PrefixedModel, ids: torch.Tensor, *, trains: bool) -> float:
    """Milliseconds of CPU time of one pass, with its gradients or without."""
    start = time.process_time()
    with torch.set_grad_enabled(trains):
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
        if trains:
            states.square().mean().backward()
    return 1000 * (time.process_time() - start)


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--backbone", default="asset:minilm-l6")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--turns", type=int, default=7)
    options = parser.parse_args()
    backbone, _ = load_backbone(options.backbone, "AutoModel")
    ids = torch.randint(1000, 20000, (options.batch, options.tokens), generator=torch.Generator().manual_seed(0))
    print(f"{options.backbone}, {options.batch} rows of {options.tokens} tokens, {torch.get_num_threads()} threads\n")
    print("| length | step: apart | joined | ratio | inference: apart | joined | ratio |\n" + "|---" * 7 + "|")
    for length in LENGTHS:
        model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=length))
        cells = []
        for trains in (True, False):
            times: dict[int, list[float]] = {0: [], JOINED: []}
            for turn in range(options.turns + 1):
                for limit, found in times.items():
                    apart._LONG = limit
                    taken = step(model, ids, trains=trains)
                    found += [taken] * (turn > 0)  # the first is a warm-up
            ours, theirs = (statistics.median(found) for found in times.values())
            cells += [f"{ours:.0f}", f"{theirs:.0f}", f"{ours / theirs:.2f}"]
        print(f"| {length} | {' | '.join(cells)} |", flush=True)
        model.unload()


if __name__ == "__main__":
    main()
