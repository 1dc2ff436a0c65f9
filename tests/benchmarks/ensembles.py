"""Ensembles of five against the mean of their members, three times with other seeds; and what they cost in time.

python tests/benchmarks/ensembles.py --config configs/quickstart.yaml --directory ensembles [options of fit]

Members differ in their seed: start values, order of rows. Their folders are kept, and what is there is not
trained again. Prints one line a rule and group, then seconds of predictions by one ensemble and by five `Predictor`s,
in turns.
"""

import argparse
import logging
import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import lightning_prefix as lp
from lightning_prefix.backbone import sharing_backbone
from lightning_prefix.commands.experiment import ExperimentCLI
from lightning_prefix.training import train

GROUPS, MEMBERS, TURNS, ROWS = 3, 5, 3, 256


def no_options() -> None:
    """Nothing but the options of fit."""


def members(cli: ExperimentCLI, directory: Path) -> list[Path]:
    """Prefixes of as many seeds as all groups need."""
    folders = []
    for seed in range(GROUPS * MEMBERS):
        folder = directory / f"seed_{seed}"
        if not (folder / "prefix" / "prefix.json").is_file():
            task, data = cli.make()
            data.seed = seed
            train(task, data, cli.trainer_factory(), folder, seed, limit_val_batches=0, num_sanity_val_steps=0)
            task.save_pretrained(folder / "prefix", data.description())
            task.model.unload()
        folders.append(folder / "prefix")
    return folders


def tested(cli: ExperimentCLI, model: Any) -> dict[str, float]:
    """Metrics of the test split."""
    trainer = cli.trainer_factory()(logger=False, enable_checkpointing=False)
    (metrics,) = trainer.test(model, cli.make()[1], verbose=False)
    return {name: round(value, 4) for name, value in metrics.items()}


def compare(cli: ExperimentCLI, folders: Sequence[Path], soup: Path) -> None:
    """One group: every rule, fitted weights, and the mean of the tensors."""
    first = lp.Ensemble(folders)
    for rule in first.lead.rules:
        print(rule, tested(cli, lp.Ensemble(folders, rule)), flush=True)
    weights = lp.fit_weights(first, cli.make()[1])
    print("fitted", [round(weight, 2) for weight in weights], tested(cli, first), flush=True)
    lp.average_folders(folders, soup)
    print("soup", tested(cli, lp.PrefixTask.from_pretrained(soup)), flush=True)


def seconds(function: Callable[[], object]) -> float:
    """Of one call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def compare_times(cli: ExperimentCLI, folders: Sequence[Path]) -> None:
    """The same rows, in turns; medians."""
    task, data = lp.PrefixTask.from_pretrained(folders[0]), cli.make()[1]
    data.serve(task)
    data.setup("test")
    raw = data.raw_rows("test")
    rows = [dict(row) for row in raw.select(range(min(ROWS, len(raw))))]
    together = lp.Ensemble(folders)
    one = lp.Predictor(together, together.readings[0])
    each = [lp.Predictor.from_pretrained(folder) for folder in folders]
    times = [
        (seconds(lambda: one(rows)), seconds(lambda: [predict(rows) for predict in each])) for _ in range(TURNS + 1)
    ][1:]
    ensemble, apart = (statistics.median(column) for column in zip(*times, strict=True))
    print(
        f"{len(rows)} rows: ensemble {ensemble:.1f} s, one after the other {apart:.1f} s, ratio {apart / ensemble:.2f}"
    )


def main() -> None:
    """Train, compare, print."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("--directory", type=Path, default=Path("ensembles"))
    own, rest = parser.parse_known_args()
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    quiet = ["--trainer.enable_progress_bar", "false", "--trainer.enable_model_summary", "false"]
    cli = ExperimentCLI("ensembles", no_options, [*rest, *quiet], set())
    with sharing_backbone():
        folders = members(cli, own.directory)
    for group in range(GROUPS):
        compare(cli, folders[group * MEMBERS : (group + 1) * MEMBERS], own.directory / f"soup_{group}")
    compare_times(cli, folders[:MEMBERS])


if __name__ == "__main__":
    main()
