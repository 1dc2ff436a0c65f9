"""The command `ensemble`: make one folder of several trained prefixes."""

import glob
from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.commands.experiment import ExperimentCLI
from lightning_prefix.ensemble import Ensemble, average_folders, fit_weights
from lightning_prefix.ensemble.folder import is_ensemble
from lightning_prefix.errors import InputError

_MEMBERS = (
    "Folders that `fit` or `cross-validate` wrote, or patterns of their names; of one task, with the same labels."
)

Rule = Literal["mean", "logits", "vote", "median", "tokens", "rerank", "soup"]


def ensemble(
    members: list[str],
    directory: str = "ensemble",
    rule: Rule | None = None,
    weights: Literal["equal", "fit"] | list[float] = "equal",
    config: str | None = None,
) -> None:
    """Make one folder of several trained prefixes, which Predictor, validate, test and predict take.

    Args:
        members: folders that `fit` or `cross-validate` wrote, or patterns such as 'cross_validation/*/prefix'; of one
            task, with the same labels. Variants, lengths and backbones may differ.
        directory: to write.
        rule: how members are combined. Classification, entities: mean (of probabilities), logits, vote. Regression:
            mean, median. Extractive QA: mean, vote. Generation: tokens (token by token together), rerank (the text on
            which members agree most). The first of these when null. soup: no ensemble but one prefix, the mean of
            what the members trained, at the price of one.
        weights: `equal`, one number >= 0 per member, or `fit`: by ensemble selection on the validation split of the
            data in `config`.
        config: YAML of `fit` whose data and trainer are used, for `weights: fit`.
    """
    if is_ensemble(directory):
        raise InputError(f"--directory {directory} holds an ensemble already; give another one, or remove it.")
    folders = _found(members)
    numbers = weights if isinstance(weights, list) else None
    if weights == "fit" and rule == "soup":
        raise InputError("weights are to be fitted, but a soup has no scores to fit them on; give numbers or none.")
    if weights == "fit" and config is None:
        raise InputError(
            "weights are to be fitted, but no data are given; give --config FILE, a YAML of `fit` with a validation "
            "split."
        )
    if rule == "soup":
        average_folders(folders, directory, numbers)
        rank_zero_info(f"mean of {len(folders)} prefixes: {directory}")
    else:
        together = Ensemble(folders, rule, numbers)
        if weights == "fit":
            cli = ExperimentCLI("ensemble", lambda: None, ["--config", str(config)], set())
            fit_weights(together, cli.make()[1], cli.trainer_factory()(logger=False, enable_checkpointing=False))
        together.save_pretrained(directory)
        shares = "\n".join(
            f"  {weight:.3f}  {member.directory}"
            for weight, member in zip(together.weights, together.members, strict=True)
        )
        rank_zero_info(f"ensemble ({together.rule}): {directory}\n{shares}")
    rank_zero_info(
        f"\nnext:\n  python -m lightning_prefix test --config {config or 'CONFIG.yaml'} --ckpt_path {directory}\n"
        f'  python -c "import lightning_prefix as lp; print(lp.Predictor.from_pretrained({str(directory)!r})([...]))"'
    )


def _found(patterns: list[str]) -> list[Path]:
    """The folders that the patterns name, in their order."""
    folders: list[Path] = []
    for pattern in patterns:
        found = sorted(glob.glob(pattern))  # noqa: PTH207  # absolute patterns too
        if not found:
            raise InputError(f"--members {pattern} names no folder; give those that `fit` wrote, such as RUN/prefix.")
        folders += [Path(path) for path in found]
    return list(dict.fromkeys(folders))


def run(args: list[str]) -> None:
    """Run the command with these words."""
    parser = ArgumentParser(prog="lightning_prefix ensemble", description=str(ensemble.__doc__).splitlines()[0])
    parser.add_argument("--members", nargs="+", type=str, required=True, help=_MEMBERS)
    parser.add_function_arguments(ensemble, skip={"members"})
    ensemble(**parser.parse_args(args).as_dict())
