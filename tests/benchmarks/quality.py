"""Quality of each method on six tasks: the same data, batches and steps, each method at its best learning rate.

pip install -e '.[test,benchmark]' 'transformers==5.23.*'
python tests/benchmarks/quality.py --data FOLDER --output results [--tasks sst2] [--methods default lora] [--jobs 2]

`FOLDER` is described in `quality_tasks.py`. Each method runs with three rates of a small grid and seed 0; the best by
validation runs with the other seeds. Every run is kept in `results/runs.jsonl`, and what is there is not run again, so
that a stopped command goes on where it was. Writes `results/results.md` and `results/results.csv`.
`--low-data` trains default, LoRA and full fine-tuning on five subsets of 100 rows each instead. Runs are on one thread
each; all of it takes hours.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple

import transformers
from methods import table
from quality_methods import METHODS
from quality_tasks import QualityTask, quality_tasks

LOW_ROWS, LOW_SUBSETS, LOW_STEPS = 100, 5, 60
LOW_TASKS, LOW_METHODS = ("sst2", "stsb"), ("default", "lora", "full")


class Key(NamedTuple):
    """What tells runs apart."""

    task: str
    method: str
    rate: float
    seed: int
    rows: int | None = None


class Runs:
    """Those that were made, in a file that grows.

    Args:
        path: of the file, one JSON object a line.
        data: folder of the texts.
    """

    def __init__(self, path: Path, data: Path) -> None:
        self.path, self.data, self._lock = path, data, Lock()
        lines = path.read_text().splitlines() if path.exists() else []
        found = [json.loads(line) for line in lines]
        self.known = {Key(*run.pop("key")): run for run in found}

    def get(self, key: Key) -> dict[str, Any] | None:
        """The run, made if it is not known; None if it failed, which is printed."""
        if key not in self.known:
            command = [sys.executable, str(Path(__file__).with_name("quality_run.py")), "--data", str(self.data)]
            command += ["--task", key.task, "--method", key.method, "--rate", str(key.rate), "--seed", str(key.seed)]
            if key.rows:  # each subset with a seed of its own
                command += ["--rows", str(key.rows), "--subset", str(key.seed), "--steps", str(LOW_STEPS)]
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"}
            )
            if done.returncode:
                print(f"{key} failed:\n{done.stderr[-2000:]}", file=sys.stderr, flush=True)
                return None
            run = json.loads(done.stdout.splitlines()[-1])
            run["versions"] = f"transformers {transformers.__version__}"
            with self._lock, self.path.open("a") as file:
                file.write(json.dumps({"key": key, **run}) + "\n")
                self.known[key] = run
            print(key, {share: run["curve"][share] for share in run["curve"]}, flush=True)
        return self.known[key]


def best_rate(setting: QualityTask, runs: dict[float, dict[str, Any]]) -> float:
    """Of the grid, by the validation split at the end."""
    sign = 1 if setting.best == "max" else -1
    return max(runs, key=lambda rate: sign * runs[rate]["curve"]["100"][setting.validated])


def grid(name: str, method: str, runs: Runs, rows: int | None = None) -> dict[float, dict[str, Any]]:
    """Known runs of seed 0, by their rates."""
    keys = {rate: Key(name, method, rate, 0, rows) for rate in METHODS[method].rates}
    return {rate: runs.known[key] for rate, key in keys.items() if key in runs.known}


def chosen(
    name: str, setting: QualityTask, method: str, runs: Runs, seeds: Sequence[int], rows: int | None = None
) -> tuple[float, list[dict[str, Any]]] | None:
    """The best rate and its known runs, one for each seed."""
    tried = grid(name, method, runs, rows)
    if not tried:
        return None
    rate = best_rate(setting, tried)
    keys = [Key(name, method, rate, seed, rows) for seed in seeds]
    return rate, [runs.known[key] for key in keys if key in runs.known]


def spread(values: Sequence[float]) -> str:
    """Mean, lowest and highest."""
    mean = statistics.mean(values)
    return f"{mean:.1f} ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else f"{mean:.1f}"


def report(settings: dict[str, QualityTask], runs: Runs, seeds: Sequence[int]) -> tuple[str, list[list[Any]]]:
    """Tables, and the rows of a CSV file."""
    text, lines = "", []
    for name, setting in settings.items():
        rows = []
        for method in METHODS:
            if (found := chosen(name, setting, method, runs, seeds)) is None:
                continue
            rate, made = found
            curve = [
                statistics.mean(run["curve"][share][setting.validated] for run in made) * setting.scale
                for share in ("10", "30", "100")
            ]
            test = [run["test"][setting.metric] * setting.scale for run in made]
            seconds = statistics.median(run["cpu_seconds"] for run in made)
            size = [made[0]["trained"], made[0]["stored"]]
            peak = statistics.median(run["peak_mb"] for run in made)
            cells = [METHODS[method].title, f"{rate:g}", *(f"{value:.1f}" for value in curve), spread(test)]
            rows.append([*cells, *(f"{number:,}" for number in size), f"{seconds:.0f}", f"{peak:.0f}"])
            lines.append([name, method, rate, *curve, statistics.mean(test), *test, *size, seconds, peak])
        if rows:
            header = ["method", "rate", "10 %", "30 %", "100 %", "test", "trained", "stored", "CPU s", "peak MB"]
            text += f"**{setting.title}**, {setting.steps} steps"
            text += f" ({setting.validated} in validation)\n\n" if setting.chosen_by else "\n\n"
            text += table(header, rows) + "\n\n"
    return text, lines


def low_data_report(settings: dict[str, QualityTask], runs: Runs) -> str:
    """One table."""
    rows = []
    for name in LOW_TASKS:
        for method in LOW_METHODS:
            found = chosen(name, settings[name], method, runs, range(LOW_SUBSETS), LOW_ROWS)
            if found is not None:
                test = [run["test"][settings[name].metric] * settings[name].scale for run in found[1]]
                rows.append([settings[name].title, METHODS[method].title, f"{found[0]:g}", spread(test)])
    if not rows:
        return ""
    title = f"**{LOW_ROWS} rows**, {LOW_SUBSETS} subsets, {LOW_STEPS} steps\n\n"
    return title + table(["task", "method", "rate", "test"], rows) + "\n"


def main() -> None:
    """Run what is missing, write the reports."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("results"))
    parser.add_argument("--tasks", nargs="+")
    parser.add_argument("--methods", nargs="+", choices=METHODS, default=list(METHODS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=1, help="runs at once, one thread each")
    parser.add_argument("--low-data", action="store_true")
    options = parser.parse_args()
    settings = quality_tasks(options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    runs = Runs(options.output / "runs.jsonl", options.data)
    rows = LOW_ROWS if options.low_data else None
    names = options.tasks or (LOW_TASKS if options.low_data else list(settings))
    methods = [m for m in options.methods if not options.low_data or m in LOW_METHODS]
    seeds = range(LOW_SUBSETS) if options.low_data else options.seeds
    pairs = [(name, method) for name in names for method in methods if METHODS[method].runs_on(name, settings[name])]
    with ThreadPoolExecutor(options.jobs) as pool:
        tries = [Key(name, method, rate, 0, rows) for name, method in pairs for rate in METHODS[method].rates]
        list(pool.map(runs.get, tries))
        more = []
        for name, method in pairs:
            if tried := grid(name, method, runs, rows):
                more += [Key(name, method, best_rate(settings[name], tried), seed, rows) for seed in seeds]
        list(pool.map(runs.get, more))
    text, lines = report(settings, runs, options.seeds)
    (options.output / "results.md").write_text(text + low_data_report(settings, runs))
    with (options.output / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["task", "method", "rate", "10", "30", "100", "test", *(f"seed {s}" for s in options.seeds)])
        writer.writerows(lines)
    print(options.output / "results.md")


if __name__ == "__main__":
    main()
