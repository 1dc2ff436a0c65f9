"""The one exception for input that cannot be used."""

import re


class InputError(Exception):
    """What the user gave cannot be used.

    The message is one paragraph: what was given, what is allowed, what to do. The command line prints it without a
    traceback and exits with code 1. It is no `ValueError`, which argument parsers and data loaders catch and reword.
    """


class NotFiniteError(InputError):
    """The training loss is no finite number any more."""


_NO_CONNECTION = re.compile(
    r"couldn't connect|couldn't reach|could not reach|cannot reach|offline|LocalEntryNotFound|ConnectionError"
    r"|ConnectError|timed out|Name or service not known|name resolution|Max retries|outgoing traffic",
    re.IGNORECASE,
)


def hub_advice(error: BaseException) -> str:
    """What to do where the Hugging Face hub cannot be reached; empty for other errors.

    Args:
        error: of a library that asked the hub.

    Examples:
        >>> hub_advice(OSError("We couldn't connect to 'https://huggingface.co'"))[:39]
        'The Hugging Face hub cannot be reached '
        >>> hub_advice(OSError("no file named config.json"))
        ''
    """
    texts = []
    cause: BaseException | None = error
    while cause is not None:
        texts.append(f"{type(cause).__name__} {cause}")
        cause = cause.__cause__ or cause.__context__
    if not _NO_CONNECTION.search(" ".join(texts)):
        return ""
    return (
        "The Hugging Face hub cannot be reached from here: give a folder that was fetched elsewhere, an asset "
        "(`python -m lightning_prefix assets` lists them), or set HF_ENDPOINT to the address of a mirror. "
    )


def input_error_behind(error: BaseException | None) -> InputError | None:
    """The `InputError` that a library caught and reworded, if there is one."""
    while error is not None:
        if isinstance(error, InputError):
            return error
        error = error.__cause__ or error.__context__
    return None
