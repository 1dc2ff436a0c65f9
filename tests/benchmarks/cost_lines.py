"""How the time of a training step grows with the batch, the text and the prefix; Markdown, and a picture.

python tests/benchmarks/cost_lines.py [--picture cost.png]

MiniLM-L6 and random tokens. Each row of points should lie on a line: r2 is the share of the variance that it explains.
"""

import argparse
from collections.abc import Callable
from functools import partial

import torch
from methods import in_turns, table, versions

import lightning_prefix as lp
from lightning_prefix.backbone import load_backbone

SIZES = {
    "rows of a batch": (4, 8, 16, 32, 64),
    "tokens of a text": (16, 32, 64, 96, 128, 192, 256),
    "positions of the prefix": (8, 32, 64, 128, 256, 512, 1024),
}


def step(model: lp.PrefixedModel, ids: torch.Tensor) -> None:
    """Forward and backward."""
    model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.square().mean().backward()


def cases(what: str) -> dict[int, Callable[[], None]]:
    """By size; the other sizes are 16 rows, 64 tokens and 20 positions."""
    found: dict[int, Callable[[], None]] = {}
    backbone = load_backbone("asset:minilm-l6", "AutoModel")[0]
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=20))
    for size in SIZES[what]:
        rows = size if what == "rows of a batch" else 16
        tokens = size if what == "tokens of a text" else 64
        if what == "positions of the prefix":
            backbone = load_backbone("asset:minilm-l6", "AutoModel")[0]
            model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=size))
        ids = torch.randint(1000, 20000, (rows, tokens), generator=torch.Generator().manual_seed(0))
        found[size] = partial(step, model, ids)
    return found


def line(points: dict[int, float]) -> tuple[float, float, float]:
    """Start, slope and r2 of the line through the points, by least squares of relative errors."""
    x, y = torch.tensor(list(points), dtype=torch.float64), torch.tensor(list(points.values()), dtype=torch.float64)
    weight = 1 / y
    design = torch.stack([torch.ones_like(x), x], 1)
    start, slope = torch.linalg.lstsq(design * weight[:, None], (y * weight)[:, None]).solution.flatten()
    rest = (y - start - slope * x).square().sum()
    return float(start), float(slope), float(1 - rest / (y - y.mean()).square().sum())


def main() -> None:
    """Measure, print, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--picture", help="where to draw the points and lines (needs matplotlib)")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{versions()}\n")
    results = {what: {k: 1000 * s for k, s in _named(cases(what), options.rounds).items()} for what in SIZES}
    rows = []
    for what, points in results.items():
        start, slope, r2 = line(points)
        each = ", ".join(f"{size}: {value:.0f}" for size, value in points.items())
        rows.append([what, each, f"{start:.1f} + {slope:.3f} x", f"{r2:.4f}"])
    print(table(["x", "ms a step", "line", "r2"], rows))
    if options.picture:
        draw(results, options.picture)


def _named(functions: dict[int, Callable[[], None]], rounds: int) -> dict[int, float]:
    seconds = in_turns({str(size): function for size, function in functions.items()}, rounds)
    return {int(size): value for size, value in seconds.items()}


def draw(results: dict[str, dict[int, float]], path: str) -> None:
    """A panel for each."""
    import matplotlib as mpl

    mpl.use("agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(results), figsize=(12, 3.5), layout="constrained")
    for panel, (what, points) in zip(axes, results.items(), strict=True):
        start, slope, r2 = line(points)
        panel.plot(list(points), list(points.values()), "o")
        ends = [0, max(points)]
        panel.plot(ends, [start + slope * x for x in ends], "-", label=f"{start:.1f} + {slope:.3f} x, r2 {r2:.3f}")
        panel.set(xlabel=what, ylabel="ms a step", ylim=(0, None))
        panel.legend(frameon=False)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    main()
