"""The command `serve`: answer HTTP requests with trained prefixes over one backbone."""

from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentParser

from lightning_prefix.errors import InputError
from lightning_prefix.serving.settings import ServerSettings

_PREFIX = (
    "Folder that `fit` or `save_pretrained` wrote, or NAME=FOLDER; as often as there are prefixes. mood/prefix is "
    "named mood. Ids on the Hugging Face hub too."
)


def serve(prefix: Sequence[str], settings: ServerSettings, backbone: str | None = None) -> None:
    """Answer HTTP requests with trained prefixes over one backbone, those of different ones in one batch.

    Args:
        prefix: folders, or NAME=FOLDER.
        settings: where it listens, how it batches, what it refuses.
        backbone: hub id or folder of the backbone, where it lies elsewhere now.
    """
    try:
        from lightning_prefix.serving.server import serve_prefixes
    except ImportError as error:
        raise InputError(
            f"serve needs LitServe, which cannot be imported ({error}). Run: pip install 'lightning-prefix[serve]'"
        ) from error
    overrides: dict[str, Any] = {} if backbone is None else {"backbone": backbone}
    serve_prefixes(prefix, settings, **overrides)


def run(args: list[str]) -> None:
    """Run the command with these words."""
    parser = ArgumentParser(prog="lightning_prefix serve", description=str(serve.__doc__).splitlines()[0])
    parser.add_argument("--prefix", action="append", type=str, required=True, metavar="DIR", help=_PREFIX)
    parser.add_argument("--backbone", type=str, default=None, help="Where the backbone lies elsewhere now.")
    parser.add_class_arguments(ServerSettings)
    given = parser.parse_args(args).as_dict()
    serve(given.pop("prefix"), backbone=given.pop("backbone"), settings=ServerSettings(**given))
