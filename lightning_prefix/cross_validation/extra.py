"""Modules of the extra `cross-validation`."""

import importlib
from typing import Any

from lightning_prefix.errors import InputError


def imported(module: str) -> Any:
    """A module of scikit-learn or scipy.

    Raises:
        InputError: if it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise InputError(
            f"cross-validation needs the package {module.split('.')[0]}, which cannot be imported ({error}). Run: pip "
            "install 'lightning-prefix[cross-validation]'"
        ) from error
