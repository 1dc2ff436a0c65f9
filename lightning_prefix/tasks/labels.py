"""Names of labels, which a task takes from its data."""

from typing import Any

from lightning_prefix.errors import InputError


def labels_of(data: Any, given: list[str] | None, are_named: bool = True) -> list[str]:
    """The names that the data module has; empty without one, or where it has none.

    Args:
        data: the data module, or None.
        given: the labels of the task.
        are_named: whether these are names, and not numbers that only say how many there are.

    Raises:
        InputError: if the task was given other labels.
    """
    found = list(getattr(data, "labels", ()))
    if found and given is not None and (given != found if are_named else len(given) != len(found)):
        raise InputError(
            f"the model has the labels {given}, the data has {found}; leave out those of the model, or give "
            "data.labels in the same order."
        )
    return found
