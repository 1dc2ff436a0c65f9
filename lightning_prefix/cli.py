"""The command line: which words run which command."""

import os
import sys
import warnings

from lightning.pytorch.cli import ArgsType

from lightning_prefix.commands import fit
from lightning_prefix.commands.overview import COMMANDS, check_command, overview
from lightning_prefix.errors import input_error_behind


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
        if isinstance(words, list):
            if not words or words[0] in ("-h", "--help"):
                print(overview())
                raise SystemExit(0 if words else 2)
            if not words[0].startswith("-"):
                check_command(words[0])
            if words[0] in COMMANDS:
                COMMANDS[words[0]].run(words[1:])
                return None
        return fit.PrefixCLI(args)
    except Exception as error:
        if (cause := input_error_behind(error)) is None:
            raise
        print(f"error: {cause}", file=sys.stderr)
        raise SystemExit(1) from error


def script() -> None:
    """The program `lightning-prefix`: what `main` returns would be its exit code."""
    main()
