"""What a prefix costs per generated token.

    python tests/benchmarks/decode_step.py

Random models in the shapes of a tiny Llama and of SmolLM2-135M, float32; a cached text of 128 tokens, then one token
after the other. In turns: the frozen model; a flat, a gated prefix of 32; the frozen model with 32 more tokens of text
in its cache, the least that attention to 32 more keys can cost. Prints the median time of a step and its ratio.
"""

import argparse
import inspect
import statistics
import time
from collections.abc import Callable

import torch
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM

import lightning_prefix as lp

SHAPES = {
    "tiny Llama": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 1000,
    },
    "SmolLM2-135M": {
        "hidden_size": 576,
        "intermediate_size": 1536,
        "num_hidden_layers": 30,
        "num_attention_heads": 9,
        "num_key_value_heads": 3,
        "vocab_size": 49152,
    },
}


def decode(model: lp.PrefixedModel, names: list[str | None], text: torch.Tensor, steps: int) -> list[float]:
    """Seconds of each step after the text."""
    seconds = []
    with torch.no_grad():
        is_renamed = "cache" in inspect.signature(model.backbone.forward).parameters  # in transformers 5.24
        cache = {"cache" if is_renamed else "past_key_values": DynamicCache(config=model.config)}
        logits = model(text, **cache, use_cache=True, prefix_names=names).logits
        for _ in range(steps):
            token = logits[:, -1:].argmax(-1)
            start = time.perf_counter()
            logits = model(token, **cache, use_cache=True, prefix_names=names).logits
            seconds.append(time.perf_counter() - start)
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--length", type=int, default=32, help="positions of the prefix")
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    torch.manual_seed(0)
    print(f"{torch.get_num_threads()} threads, torch {torch.__version__}, {options.rows} rows\n")
    print("| model | way | ms per step | of the frozen model |\n|---|---|---|---|")
    for shape, sizes in SHAPES.items():
        backbone = LlamaForCausalLM(LlamaConfig(**sizes, max_position_embeddings=512)).eval()
        model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=options.length)).eval()
        model.add_prefix("gated", lp.GatedPrefixConfig(length=options.length))
        text = torch.randint(5, 1000, (options.rows, 128))
        longer = torch.randint(5, 1000, (options.rows, 128 + options.length))
        ways: dict[str, Callable[[], list[float]]] = {
            "frozen": lambda m=model, t=text: decode(m, [None] * len(t), t, options.steps),
            f"flat, {options.length}": lambda m=model, t=text: decode(m, ["default"] * len(t), t, options.steps),
            f"gated, {options.length}": lambda m=model, t=text: decode(m, ["gated"] * len(t), t, options.steps),
            f"frozen, {options.length} more tokens": lambda m=model, t=longer: decode(
                m, [None] * len(t), t, options.steps
            ),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for round_ in range(options.rounds + 1):
            for way, run in ways.items():
                times = run()
                seconds[way] += times if round_ else []  # the first round warms up
        frozen = statistics.median(seconds["frozen"])
        for way, times in seconds.items():
            middle = statistics.median(times)
            print(f"| {shape} | {way} | {middle * 1000:.2f} | {middle / frozen:.2f} |", flush=True)


if __name__ == "__main__":
    main()
