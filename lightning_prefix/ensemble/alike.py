"""What members of an ensemble have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning_prefix.backbone import files
from lightning_prefix.data import TextDataModule
from lightning_prefix.errors import InputError

__all__ = ["check_alike", "group_key", "reads_alike"]

_SAME = ("labels", "multi_label", "no_answer")
"""Arguments of a task that all members must have alike."""

_OF_A_GROUP = (
    "backbone_options",
    "head",
    "label_words",
    "n_best",
    "max_answer_length",
    "generation",
    "data_generation",
)
"""Arguments of a task that members on one backbone must have alike; others get a backbone of their own."""


def check_alike(stored: Sequence[files.StoredPrefix]) -> None:
    """Refuse members of different tasks or with different labels."""
    tasks = []
    for one in stored:
        if one.description.get("task") is None:
            raise InputError(f"{one.directory} holds a prefix without a task; give a folder that `fit` wrote.")
        arguments = one.description["task"]["hyper_parameters"]
        tasks.append((arguments.get("_class_path"), {name: arguments.get(name) for name in _SAME}))
    for one, (kind, same) in zip(stored, tasks, strict=True):
        first_kind, first = tasks[0]
        if kind != first_kind:
            raise InputError(
                f"{one.directory} is a {kind}, {stored[0].directory} a {first_kind}; members of an ensemble have one "
                "task."
            )
        for name, value in same.items():
            if value != first[name]:
                raise InputError(
                    f"{one.directory} has {name}={value}, {stored[0].directory} has {name}={first[name]}; members of "
                    "an ensemble have the same, in the same order. Train them on data with the same labels."
                )


def group_key(stored: files.StoredPrefix) -> str:
    """Equal for members that can share a backbone in memory, the modules of their heads and how they write."""
    arguments: Mapping[str, Any] = stored.description["task"]["hyper_parameters"]
    head = sorted((name, tuple(t.shape)) for name, t in {**stored.backbone_tensors, **stored.head_tensors}.items())
    record = stored.backbone
    return repr((record["fingerprint"], record["class"], head, [arguments.get(name) for name in _OF_A_GROUP]))


def reads_alike(reading: TextDataModule, data: TextDataModule) -> bool:
    """Whether texts become the same tokens; a tokenizer that is not named is that of the backbone that is served."""
    own, other = reading.description(), data.description()
    options, others = ({**one["init_args"], "tokenizer": None} for one in (own, other))
    return (
        own["class_path"] == other["class_path"]
        and options == others
        and (reading.tokenizer_name == data.tokenizer_name)
    )
