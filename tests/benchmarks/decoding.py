"""Tokens a second of `generate`, greedy, with and without a prefix; Markdown.

python tests/benchmarks/decoding.py [--backbone asset:smollm2-135m] [--length 32] [--rows 1 8]

A text of 64 tokens, 32 more are written. In turns: the frozen model; a flat and a gated prefix; the frozen model with
as many more tokens of text as the prefix has positions, the least that attention to them can cost.
"""

import argparse
from functools import partial

import torch
from methods import in_turns, table, versions

import lightning_prefix as lp
from lightning_prefix.backbone import BackboneOptions, load_backbone

TEXT, WRITTEN = 64, 32


def write(model: lp.PrefixedModel, ids: torch.Tensor, name: str | None) -> None:
    """Write tokens behind the text."""
    options = {"max_new_tokens": WRITTEN, "min_new_tokens": WRITTEN, "do_sample": False, "pad_token_id": 0}
    model.set_prefix(name)
    model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **options)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="asset:smollm2-135m")
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    backbone = load_backbone(options.backbone, "AutoModelForCausalLM", BackboneOptions(dtype="float32"))[0]
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=options.length)).eval()
    model.add_prefix("gated", lp.GatedPrefixConfig(length=options.length))
    print(f"{options.backbone}, float32; {versions()}\n")
    rows = []
    for count in options.rows:
        ids = torch.randint(100, 20000, (count, TEXT + options.length), generator=torch.Generator().manual_seed(0))
        text = ids[:, :TEXT]
        cases = {
            "frozen": partial(write, model, text, None),
            f"flat prefix of {options.length}": partial(write, model, text, "default"),
            f"gated prefix of {options.length}": partial(write, model, text, "gated"),
            f"frozen, {options.length} more tokens of text": partial(write, model, ids, None),
        }
        seconds = in_turns(cases, options.rounds)
        for name, value in seconds.items():
            speed = f"{count * WRITTEN / value:.0f}"
            rows.append([count, name, speed, f"{seconds['frozen'] / value:.2f}"])
    print(table(["rows", "", "tokens a second", "of the frozen model's"], rows))


if __name__ == "__main__":
    main()
