"""What the folds of a cross-validation gave: tables, and the files that hold them."""

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lightning_prefix.cross_validation.statistics import estimate

__all__ = ["CrossValidation", "RESULT", "read_results", "write_atomically", "write_json", "write_tables"]

RESULT = "result.json"
"""In a fold's folder once it is finished."""


@dataclass(frozen=True, eq=False)
class CrossValidation:
    """Results of the folds that are finished; `print` shows them as a table.

    Args:
        frame: a pandas DataFrame, one row a fold: `fold`, `train_rows`, `test_rows`, `seed`, `seconds` (of the process
            that finished it) and metrics under the names of the log, such as `test/accuracy`.
        summary: a DataFrame, one row a metric: `metric`, `mean`, `std`, `low` and `high` (95 % interval), `folds`.
        directories: the prefix folders of these folds, for `Predictor.from_pretrained`.
    """

    frame: Any
    summary: Any
    directories: list[Path]

    def __str__(self) -> str:
        """One line a fold, then one a metric."""
        if self.frame.empty:
            return "no fold is finished yet"
        lines = [
            self.frame.to_string(index=False, float_format="{:.4f}".format, formatters={"seconds": "{:.1f}".format}),
            "",
        ]
        for row in self.summary.to_dict("records"):
            interval = "" if math.isnan(row["low"]) else f"   95 % interval {row['low']:.4f} to {row['high']:.4f}"
            spread = "" if math.isnan(row["std"]) else f" +- {row['std']:.4f}"
            lines.append(f"{row['metric']:<24} {row['mean']:.4f}{spread}{interval}   ({row['folds']} folds)")
        return "\n".join(lines)


def read_results(directory: Path, names: Sequence[str], share_rows: bool) -> CrossValidation:
    """The results of the finished ones of these folds.

    Args:
        directory: of the cross-validation.
        names: of the folds, in order.
        share_rows: whether they are those of a k-fold, which train on rows in common.
    """
    import pandas as pd

    finished = [name for name in names if (directory / name / RESULT).is_file()]
    stored = [json.loads((directory / name / RESULT).read_text(encoding="utf-8")) for name in finished]
    frame = pd.DataFrame([{**record.pop("fold"), **record["metrics"]} for record in stored])
    summary = []
    for metric in dict.fromkeys(name for record in stored for name in record["metrics"]):
        values = pd.to_numeric(frame[metric]).dropna()
        test_per_train = float(frame["test_rows"].sum() / frame["train_rows"].sum()) if share_rows else 0.0
        summary.append({"metric": metric, **asdict(estimate(values.tolist(), test_per_train))})
    columns = ["metric", "mean", "std", "low", "high", "folds"]
    return CrossValidation(
        frame, pd.DataFrame(summary, columns=columns), [directory / name / "prefix" for name in finished]
    )


def write_tables(directory: Path, found: CrossValidation, settings: dict[str, Any]) -> None:
    """Write `results.csv`, `summary.csv`, and `results.json`, which holds both and the settings."""
    write_atomically(directory / "results.csv", found.frame.to_csv(index=False))
    write_atomically(directory / "summary.csv", found.summary.to_csv(index=False))
    tables = {"folds": found.frame.to_dict("records"), "summary": found.summary.to_dict("records")}
    write_json(directory / "results.json", {**tables, "settings": settings})


def write_json(path: Path, value: Any) -> None:
    """Write plain data; numbers that are not finite become null, as JSON has none."""
    write_atomically(path, json.dumps(_finite(value), indent=2, allow_nan=False) + "\n")


def write_atomically(path: Path, text: str) -> None:
    """Write a file in one move, so that nobody reads half of it."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
