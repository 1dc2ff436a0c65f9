"""The one exception for input that cannot be used."""


class InputError(Exception):
    """What the user gave cannot be used.

    The message is one paragraph: what was given, what is allowed, what to do. The command line prints it without a
    traceback and exits with code 1. It is no `ValueError`, which argument parsers and data loaders catch and reword.
    """


class NotFiniteError(InputError):
    """The training loss is no finite number any more."""


def input_error_behind(error: BaseException | None) -> InputError | None:
    """The `InputError` that a library caught and reworded, if there is one."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
