"""The one exception for input that cannot be used."""


class InputError(ValueError):
    """What the user gave cannot be used.

    The message is one paragraph: what was given, what is allowed, what to do. The command line prints it
    without a traceback and exits with code 1; from Python it is an ordinary `ValueError`.
    """
