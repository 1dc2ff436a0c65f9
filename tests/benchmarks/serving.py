"""A server under load: requests of many tasks together against one at a time, and whether any is lost or mixed up.

python tests/benchmarks/serving.py [--backbone asset:minilm-l6] [--tasks 1 4 16] [--requests 512] [--threads 2]

Prefixes are random, each a classifier with labels of its own. Prints a Markdown table, then what became of 2,000
requests at the same time over 8 prefixes, each compared with its `Predictor`, and of a SIGTERM in the middle.
"""

import argparse
import asyncio
import itertools
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from serving_client import RunningServer, load

import lightning_prefix as lp

WORDS = ["a", "the", "film", "plot", "story", "good", "bad", "dull", "funny", "long", "of", "and", "never"]
CHECKED, CHECKED_TASKS, AT_ONCE, TOLERANCE = 2_000, 8, 64, 1e-4


def make_prefixes(folder: Path, backbone: str, count: int) -> list[Path]:
    """Random classifiers, whose labels tell them apart."""
    data = lp.TextClassificationDataModule(tokenizer=backbone)
    folders = []
    for place in range(count):
        torch.manual_seed(place)
        labels = [f"task {place} class {i}" for i in range(2 + place % 4)]
        task = lp.TextClassification(backbone, lp.FlatPrefixConfig(length=16), labels=labels, head="mean")
        task.configure_model()
        data.serve(task)
        for parameter in task.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.5)
        folders.append(folder / f"task-{place}")
        task.save_pretrained(folders[-1], data.description())
    return folders


def requests(tasks: int, count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sentences of 5 to 30 words, for one task after the other."""
    draw = random.Random(seed)  # noqa: S311
    texts = [" ".join(draw.choices(WORDS, k=draw.randint(5, 30))) for _ in range(count)]
    return [{"prefix": f"task-{i % tasks}", "input": text} for i, text in enumerate(texts)]


def quantile(seconds: list[float], share: float) -> float:
    """In milliseconds."""
    return 1000 * sorted(seconds)[min(int(share * len(seconds)), len(seconds) - 1)]


def timed(server: RunningServer, bodies: list[Any], at_once: int) -> str:
    """Cells of the table."""
    began = time.perf_counter()
    answers, seconds = asyncio.run(load(server.port, bodies, at_once))
    total = time.perf_counter() - began
    assert all(answer is not None and answer[0] == 200 for answer in answers)
    return f"{len(bodies) / total:.0f} | {quantile(seconds, 0.5):.0f} | {quantile(seconds, 0.95):.0f}"


def table(server: RunningServer, tasks: list[int], count: int) -> None:
    """Throughput and latency."""
    print("| tasks | requests | requests/s | p50, ms | p95, ms |\n|---|---|---|---|---|")
    for number in tasks:
        mixed = requests(number, count)
        ordered = sorted(mixed, key=lambda body: body["prefix"])
        print(f"| {number} | one at a time | {timed(server, mixed[: count // 2], 1)} |", flush=True)
        print(f"| {number} | {AT_ONCE} at a time, task after task | {timed(server, ordered, AT_ONCE)} |", flush=True)
        print(f"| {number} | {AT_ONCE} at a time, mixed | {timed(server, mixed, AT_ONCE)} |", flush=True)


def is_close(one: Any, other: Any) -> bool:
    """Equal labels, and probabilities within the tolerance."""
    names = one["probabilities"].keys()
    return names == other["probabilities"].keys() and all(
        abs(one["probabilities"][name] - other["probabilities"][name]) < TOLERANCE for name in names
    )


def counts(server: RunningServer) -> tuple[float, float]:
    """Rows and passes until now."""
    _, text, _ = server.ask("/metrics")
    numbers = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    rows = sum(float(n) for name, n in numbers.items() if name.startswith("lightning_prefix_rows_total"))
    return rows, float(numbers["lightning_prefix_passes_total"])


def checked(server: RunningServer, folders: list[Path]) -> None:
    """All at the same time, each against the `Predictor` of its folder."""
    bodies = requests(CHECKED_TASKS, CHECKED, seed=1)
    expected: list[Any] = [None] * CHECKED
    for place, folder in enumerate(folders[:CHECKED_TASKS]):
        own = range(place, CHECKED, CHECKED_TASKS)
        for index, result in zip(
            own, lp.Predictor.from_pretrained(folder)([bodies[i]["input"] for i in own]), strict=True
        ):
            expected[index] = result
    rows, passes = counts(server)
    began = time.perf_counter()
    answers, seconds = asyncio.run(load(server.port, bodies, CHECKED))
    total = time.perf_counter() - began
    more_rows, more_passes = counts(server)
    lost = sum(answer is None or answer[0] != 200 for answer in answers)
    wrong = sum(
        not is_close(answer[1]["output"], result)
        for answer, result in zip(answers, expected, strict=True)
        if answer is not None and answer[0] == 200
    )
    print(
        f"{CHECKED} requests at the same time over {CHECKED_TASKS} prefixes: {lost} lost, {wrong} wrong, "
        f"{CHECKED / total:.0f} requests/s, p50 {quantile(seconds, 0.5):.0f} ms, p95 {quantile(seconds, 0.95):.0f} ms, "
        f"{(more_rows - rows) / (more_passes - passes):.1f} rows per pass"
    )


async def stopped(server: RunningServer, tasks: int) -> None:
    """SIGTERM while requests come."""
    running = asyncio.create_task(load(server.port, requests(tasks, 1000), AT_ONCE))
    await asyncio.sleep(0.5)
    server.process.terminate()
    answers, _ = await running
    counts = Counter("no connection" if answer is None else str(answer[0]) for answer in answers)
    print(f"SIGTERM in the middle of 1,000: {dict(counts)}, exit code {server.process.wait(60)}")


def main() -> None:
    """Run all parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="asset:minilm-l6")
    parser.add_argument("--tasks", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--requests", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folders = make_prefixes(Path(scratch), options.backbone, max(*options.tasks, CHECKED_TASKS))
        words = itertools.chain.from_iterable(("--prefix", str(folder)) for folder in folders)
        server = RunningServer(*words, log=Path(scratch) / "log", threads=options.threads)
        try:
            timed(server, requests(max(options.tasks), 64), AT_ONCE)  # warm
            table(server, options.tasks, options.requests)
            checked(server, folders)
            asyncio.run(stopped(server, max(options.tasks)))
            print(server.log.read_text()[-3000:], end="")
        finally:
            server.kill()


if __name__ == "__main__":
    main()
