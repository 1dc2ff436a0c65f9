"""The command `learning-rate`: where the loss falls while the learning rate rises."""

import os
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.commands.experiment import ExperimentCLI
from lightning_prefix.tuning.learning_rate import learning_rate_range_test

GIVEN = {"cli"}
"""Arguments that are no options."""


def learning_rate(
    cli: ExperimentCLI,
    low: float = 1e-5,
    high: float = 1.0,
    steps: int = 100,
    directory: str = "learning_rate",
) -> None:
    """Find a learning rate for a config of `fit`: a range test (Smith 2017).

    Args:
        cli: what was parsed.
        low: first rate of the prefix, > 0.
        high: last rate of the prefix, > low.
        steps: optimizer steps, >= 10, in which the rate rises.
        directory: of learning_rate.csv and learning_rate.png.
    """
    task, data = cli.make()
    result = learning_rate_range_test(
        task,
        data,
        low=low,
        high=high,
        steps=steps,
        trainer=cli.trainer_factory(),
        directory=directory,
        seed=cli.seed,
    )
    has_own_rate = task.optimization.head_learning_rate is not None
    head = f" --model.head_learning_rate {result.suggestion * result.head_ratio:.2g}" if has_own_rate else ""
    lines = [
        f"suggestion  {result.suggestion:.2g} for the prefix: the steepest descent in {len(result.frame)} steps",
        f"curve       {Path(os.path.relpath(directory)) / 'learning_rate.png'}, learning_rate.csv",
        "\nnext: python -m lightning_prefix fit with the same config and",
        f"  --model.learning_rate {result.suggestion:.2g}{head}",
    ]
    rank_zero_info("\n" + "\n".join(lines))


def run(args: list[str]) -> None:
    """Run the command with these words."""
    cli = ExperimentCLI("learning-rate", learning_rate, args, GIVEN)
    learning_rate(cli, **cli.options)
