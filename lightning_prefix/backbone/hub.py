"""Folders of `save_pretrained` on the Hugging Face hub."""

import re
import warnings
from pathlib import Path
from typing import Any

from lightning_prefix.backbone.card import CARD, is_written_here, name_card
from lightning_prefix.errors import InputError, hub_advice

_ID = re.compile(r"[\w-][\w.-]*/[\w-][\w.-]*")
_MARKS = ("prefix.json", "ensemble.json")
_OF_PREFIX = (CARD, "prefix.json", "prefix.safetensors")
_FILES = ("ensemble.json", *_OF_PREFIX, *(f"*/{name}" for name in _OF_PREFIX))
"""All that is ever fetched or pushed; sub-folders are the members of an ensemble."""


def local_folder(name: str | Path, revision: str | None = None, token: str | bool | None = None) -> Path:
    """The folder of this name; a repository of the hub is fetched into its cache first.

    Args:
        name: a folder, which always wins, or the id of a repository, `user/name`.
        revision: branch, tag or commit of the repository.
        token: for a private one; the one of `hf auth login` or `HF_TOKEN` when None; none with False.

    Raises:
        InputError: if it is neither.
    """
    if Path(name).is_dir():
        return Path(name)
    if isinstance(name, Path) or not _ID.fullmatch(name):
        raise InputError(
            f"there is no folder {name}; give one that `fit` or save_pretrained wrote, or the id of a repository on "
            "the Hugging Face hub, such as user/name."
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, token=token, allow_patterns=list(_FILES)))
    except Exception as error:  # the hub's client has no common base for "offline", "gated", "not found"
        at = "" if revision is None else f" at the revision {revision!r}"
        raise InputError(
            f"{name!r} is no folder here, and could not be had from the Hugging Face hub{at} ({_reason(error)}). "
            f"{hub_advice(error)}Give a folder that `fit` or save_pretrained wrote, or check the id and the "
            "connection; a private repository "
            "needs token=, or `hf auth login`."
        ) from error


def push_to_hub(
    directory: str | Path,
    repo_id: str,
    *,
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
) -> str:
    """Put a folder of `fit`, `save_pretrained` or an ensemble on the Hugging Face hub.

    Its model card then says the repository's id. A card on the hub that a person has written or changed is replaced
    only by another such one.

    Args:
        directory: the folder.
        repo_id: `user/name`; made when missing.
        private: whether only you see a new repository; the default of your account when None.
        token: with the right to write; the one of `hf auth login` or `HF_TOKEN` when None.
        revision: branch, made when missing; `main` when None.
        commit_message: of the commit.

    Returns:
        The address of the commit.

    Raises:
        InputError: if there is no such folder, or the hub refuses.

    Example:
        >>> import lightning_prefix as lp
        >>> lp.push_to_hub("lightning_logs/version_0/prefix", "me/reviews")  # doctest: +SKIP
    """
    from huggingface_hub import HfApi

    directory = Path(directory)
    if not any((directory / name).is_file() for name in _MARKS):
        raise InputError(f"{directory} has none of {', '.join(_MARKS)}; push a folder that save_pretrained wrote.")
    api = HfApi(token=token)
    try:
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        if revision is not None:
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        name_card(directory, repo_id)
        keeps_card = is_written_here(directory) and _has_other_card(api, repo_id, revision)
        if keeps_card:
            warnings.warn(f"the card of {repo_id} was written or changed by a person; it stays as it is.", stacklevel=2)
        commit = api.upload_folder(
            repo_id=repo_id,
            folder_path=directory,
            revision=revision,
            commit_message=commit_message or f"Upload {directory.name}",
            allow_patterns=[name for name in _FILES if name != CARD or not keeps_card],
        )
    except Exception as error:  # as above
        raise InputError(
            f"{directory} could not be pushed to {repo_id!r} ({_reason(error)}). Check the id (user/name) and the "
            "connection; pushing needs `hf auth login`, HF_TOKEN or token= with the right to write there."
        ) from error
    return str(commit.commit_url)


def _has_other_card(api: Any, repo_id: str, revision: str | None) -> bool:
    """Whether the repository has a card that a person has written or changed."""
    if not api.file_exists(repo_id, CARD, revision=revision):
        return False
    return not is_written_here(Path(api.hf_hub_download(repo_id, CARD, revision=revision)).parent)


def _reason(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
