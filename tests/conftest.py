"""Tiny random backbones, built from a configuration; nothing is downloaded."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import transformers
from tiny_backbones import BACKBONES

torch.set_num_threads(1)
transformers.logging.set_verbosity_error()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(params=list(BACKBONES))
def backbone(request: pytest.FixtureRequest) -> Any:
    """Each family in turn, in eval mode."""
    return BACKBONES[request.param]()


@pytest.fixture
def make_backbone() -> Callable[[str], Any]:
    """A backbone by its name."""
    return lambda name: BACKBONES[name]()
