"""The command `export`: a trained prefix for programs without this package."""

from pathlib import Path
from typing import Literal

from jsonargparse import ArgumentParser
from lightning.pytorch.utilities import rank_zero_info

from lightning_prefix.backbone.hub import local_folder
from lightning_prefix.peft import to_peft
from lightning_prefix.plain_cache import to_cache

_WRITERS = {"peft": to_peft, "cache": to_cache}


def export(prefix: str, format: Literal["peft", "cache"], output: str | None = None) -> None:  # noqa: A002
    """Write a trained prefix in a form that other programs read.

    Args:
        prefix: folder that `fit` or `save_pretrained` wrote, or its id on the Hugging Face hub.
        format: `peft`: a folder for Hugging Face PEFT; `cache`: keys and values for `generate` of transformers alone,
            with the lines of Python that use them. Both need positions `shift`.
        output: folder to write; the name of the prefix with -peft or -cache when null.
    """
    target = Path(output or f"{prefix.rstrip('/').rpartition('/')[2]}-{format}")
    _WRITERS[format](local_folder(prefix), target)
    rank_zero_info(f"{format}: {target}")


def run(args: list[str]) -> None:
    """Run the command with these words."""
    parser = ArgumentParser(prog="lightning_prefix export", description=str(export.__doc__).splitlines()[0])
    parser.add_function_arguments(export)
    export(**parser.parse_args(args).as_dict())
