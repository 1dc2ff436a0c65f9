"""Rows of many tasks in one mixed batch against one batch for each task; Markdown.

python tests/benchmarks/many_tasks.py [--tasks 1 4 16 64]

MiniLM-L6, 64 rows of 32 tokens in all, an equal share for each task, flat prefixes of 20. `prefix_names` names the
prefix of each row; the alternative sets one prefix after the other.
"""

import argparse
from functools import partial

import torch
from methods import in_turns, table, versions

import lightning_prefix as lp
from lightning_prefix.backbone import load_backbone

ROWS, TOKENS, LENGTH = 64, 32, 20


@torch.inference_mode()
def mixed(model: lp.PrefixedModel, ids: torch.Tensor, names: list[str]) -> None:
    """All rows in one pass, tasks in turns."""
    rows = [names[row % len(names)] for row in range(len(ids))]
    model(input_ids=ids, attention_mask=torch.ones_like(ids), prefix_names=rows)


@torch.inference_mode()
def switched(model: lp.PrefixedModel, ids: torch.Tensor, names: list[str]) -> None:
    """A pass for each task."""
    for name, own in zip(names, ids.chunk(len(names)), strict=True):
        model.set_prefix(name)
        model(input_ids=own, attention_mask=torch.ones_like(own))


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 4, 16, 64])
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    model = lp.PrefixedModel(load_backbone("asset:minilm-l6", "AutoModel")[0], lp.FlatPrefixConfig(length=LENGTH))
    model.eval()
    for number in range(max(options.tasks)):
        model.add_prefix(f"task{number}", lp.FlatPrefixConfig(length=LENGTH))
    ids = torch.randint(1000, 20000, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    print(f"{versions()}\n")
    rows = []
    for count in options.tasks:
        names = [f"task{number}" for number in range(count)]
        cases = {"mixed": partial(mixed, model, ids, names), "switched": partial(switched, model, ids, names)}
        seconds = in_turns(cases, options.rounds)
        each = [f"{ROWS / seconds[name]:.0f}" for name in cases]
        rows.append([count, *each, f"{seconds['switched'] / seconds['mixed']:.2f}"])
    print(table(["tasks", "mixed, rows a second", "one by one, rows a second", "ratio"], rows))


if __name__ == "__main__":
    main()
