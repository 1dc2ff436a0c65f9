"""The command line: which words run which command."""

import os
import sys
import warnings
from collections.abc import Callable, Mapping

from lightning.pytorch.cli import ArgsType

from lightning_prefix.commands import assets, chat, cross_validate, ensemble, export, fit, learning_rate, tune
from lightning_prefix.errors import input_error_behind

_COMMANDS: Mapping[str, Callable[[list[str]], object]] = {
    "assets": assets.run,
    "chat": chat.run,
    "cross-validate": cross_validate.run,
    "ensemble": ensemble.run,
    "export": export.run,
    "learning-rate": learning_rate.run,
    "tune": tune.run,
}


def main(args: ArgsType = None) -> fit.PrefixCLI | None:
    """Run a command.

    Args:
        args: as on the command line, a list or a dict; `sys.argv` when None.

    Returns:
        The CLI with its trainer, model and data, of fit, validate, test and predict.
    """
    for message in (r".*tensorboardX.* has been removed", r".*LeafSpec"):  # nothing that a user could mend
        warnings.filterwarnings("ignore", message=message)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # the tokenizers warn in forked data workers
    words = sys.argv[1:] if args is None else args
    try:
        if isinstance(words, list) and words and words[0] in _COMMANDS:
            _COMMANDS[words[0]](words[1:])
            return None
        return fit.PrefixCLI(args)
    except Exception as error:
        if (cause := input_error_behind(error)) is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        raise SystemExit(1) from error
