"""The command `plot`: draw pictures of a run, of what a prefix does, and of its predictions."""

import csv
import json
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from jsonargparse import DefaultHelpFormatter
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.commands.parser import SuggestingParser
from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import InputError
from lightning_prefix.plots import Pictures
from lightning_prefix.plots.figure import drawing_to_files, import_matplotlib, save

What = Literal["curves", "norms", "attention", "words", "confusion", "reliability", "loss_by_length", "chrf_by_length"]

_EPILOG = """pictures:
  curves          loss and metrics of training and validation over the steps, from metrics.csv of the run
  norms           norm of keys and values by layer and position; with texts, beside those of the frozen model
  attention       share of the attention that goes to the prefix, by layer and head, on texts
  words           words of the vocabulary next to the embeddings of a prompt (PromptPrefixConfig); also as words.csv
  confusion       classification: which classes are taken for which
  reliability     classification: accuracy over predicted probability, with the expected calibration error
  loss_by_length  tasks that write texts: loss over the length of the source
  chrf_by_length  tasks that write texts: chrF of what is written over the length of the source (slow)

rows with labels come from the config.yaml of the run beside the prefix, from --config, or from --data:
  python -m lightning_prefix plot --prefix lightning_logs/version_0/prefix
  python -m lightning_prefix plot --prefix DIR --what norms attention --texts texts.txt --output pictures
  python -m lightning_prefix plot --prefix DIR --data TextClassificationDataModule --data.source reviews.csv"""


class _HelpFormatter(DefaultHelpFormatter, RawDescriptionHelpFormatter):  # type: ignore[misc]
    """Leaves the lines of the epilog as they are."""


def plot(
    prefix: str,
    what: Sequence[What] | None = None,
    texts: str | None = None,
    data: TextDataModule | None = None,
    split: Literal["validation", "test"] | None = None,
    rows: int = 200,
    output: str = "plots",
    file_format: Literal["png", "svg", "pdf"] = "png",
    backbone: str | None = None,
    device: str = "cpu",
) -> None:
    """Draw pictures of a run, of what a trained prefix does, and of its predictions.

    Args:
        prefix: folder that `fit` or `save_pretrained` wrote, or a run's, such as lightning_logs/version_0.
        what: pictures to draw; null for all that the task, the texts and the data allow.
        texts: file of the texts for attention and norms, as for `predict`: txt with one text a line, csv, jsonl, ...;
            the rows of the split when null.
        data: where the rows with labels are, as for `fit`.
        split: which of them; test when null, or validation where there is no test.
        rows: most texts or rows that are read, >= 1; those of a split are drawn at random, always the same.
        output: folder of the pictures; files in it are replaced.
        file_format: of the pictures.
        backbone: hub id or folder of the backbone, where it lies elsewhere now.
        device: where the model runs: cpu, cuda, cuda:1, mps.
    """
    import_matplotlib()
    overrides: dict[str, Any] = {} if backbone is None else {"backbone": backbone}
    pictures = Pictures(prefix, texts, data, split, rows, device, **overrides)
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    drawn = 0
    with drawing_to_files():
        for name in what or get_args(What):
            try:
                figure, _ = getattr(pictures, name)()
            except InputError as error:
                if what:
                    raise
                rank_zero_info(f"{name:15} not drawn: {error}")
                continue
            path = folder / f"{name}.{file_format}"
            save(figure, path)
            drawn += 1
            rank_zero_info(f"{name:15} {path}")
            if name == "words":
                _write_words(pictures, folder / "words.csv")
    if not drawn:
        raise InputError("no picture could be drawn; see above what each of them needs.")


def _write_words(pictures: Pictures, path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("position", "rank", "token", "cosine_similarity"))
        for position, row in enumerate(pictures.nearest_words):
            writer.writerows((position, rank, *word) for rank, word in enumerate(row, start=1))


def run(args: list[str]) -> None:
    """Run the command with these words."""
    parser = SuggestingParser(
        prog="lightning_prefix plot",
        description=str(plot.__doc__).splitlines()[0],
        epilog=_EPILOG,
        formatter_class=_HelpFormatter,
    )
    parser.add_argument(
        "--what",
        nargs="+",
        type=What,
        metavar="PICTURE",
        help="Pictures to draw, see below; all that are possible when null.",
    )
    parser.add_argument(
        "--config", type=str, help="YAML of `fit` whose data are read; the run's config.yaml when null."
    )
    parser.add_function_arguments(plot, skip={"what", "data"})
    parser.add_subclass_arguments(TextDataModule, "data", required=False)
    data = _data_of(args)
    given = parser.parse_args([*([] if data is None else ["--data", json.dumps(data)]), *args])
    made = parser.instantiate_classes(given).as_dict()
    del made["config"]
    plot(**made)


def _data_of(args: list[str]) -> Any:
    """The section `data` of the --config, or of the config.yaml of the run that the --prefix belongs to; else None."""
    named = ArgumentParser(add_help=False, allow_abbrev=False)
    for option in ("--config", "--prefix"):
        named.add_argument(option)
    given = named.parse_known_args(args)[0]
    folder = Path(given.prefix or "")
    run = folder.parent if folder.name == "prefix" else folder
    if given.config is None and not (run / "config.yaml").is_file():
        return None
    path = run / "config.yaml" if given.config is None else Path(given.config)
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))["data"]
    except (OSError, ValueError, yaml.YAMLError, TypeError, KeyError) as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"{path} has no data as a YAML of `fit` has ({reason}); give another --config.") from error
