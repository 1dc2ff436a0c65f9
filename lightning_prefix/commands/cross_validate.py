"""The command `cross-validate`: train and test on folds of the rows, with the config of `fit`."""

import shlex
from pathlib import Path

from lightning_prefix.commands.experiment import ExperimentCLI
from lightning_prefix.cross_validation import cross_validate

GIVEN = {"make_task", "data", "trainer", "seed", "settings"}
"""Arguments that are no options."""


def run(args: list[str]) -> None:
    """Run the folds, print their table, and say what to type next.

    Args:
        args: what follows the command.
    """
    cli = ExperimentCLI("cross-validate", cross_validate, args, GIVEN)
    _, data = cli.make()
    try:
        found = cross_validate(
            lambda: cli.make()[0],
            data,
            trainer=cli.trainer_factory(),
            seed=cli.seed,
            settings=cli.run_config(),
            **cli.options,
        )
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    directory = Path(cli.options["directory"])
    print(f"\n{found}\n\ntables             {directory / 'results.csv'}, {directory / 'summary.csv'}")
    if not found.directories:
        return
    predict = f"lp.Predictor.from_pretrained('{found.directories[0]}')({data.example})"
    print(
        "\nnext:\n"
        f'  python -c "import lightning_prefix as lp; print({predict})"\n'
        f"  python -m lightning_prefix ensemble --members {shlex.quote(str(directory))}/*/prefix --directory ensemble"
    )
