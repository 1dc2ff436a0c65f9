"""Many trained prefixes of different tasks on one backbone, asked by name."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from lightning_prefix.backbone import files
from lightning_prefix.data import TextDataModule, data_from
from lightning_prefix.data.preprocess import library_versions
from lightning_prefix.ensemble.group import Group
from lightning_prefix.errors import InputError
from lightning_prefix.predictor import Text
from lightning_prefix.tasks import PrefixTask, TextGeneration
from lightning_prefix.tasks.arguments import task_from
from lightning_prefix.tasks.base import Batch
from lightning_prefix.tasks.join import join
from lightning_prefix.tasks.scoring import ScoringTask


class Named(NamedTuple):
    """One prefix.

    Attributes:
        task: as it was trained; it has the model of its group, and describes what comes out.
        data: reads texts as in training.
        group: that it belongs to.
        place: its number there.
    """

    task: PrefixTask
    data: TextDataModule
    group: Group
    place: int


class Predictors:
    """Trained prefixes by name; requests for different ones are answered in one pass over the backbone.

    In one pass run tasks whose heads are of one kind, whatever their labels: all that write text, for example, or a
    sentiment, a topic and a rating with `head="auto"`. Tasks with heads of other kinds have passes of their own; the
    frozen weights are in memory once.

    Args:
        folders: name -> folder that `fit` or `save_pretrained` wrote.
        device: where the model runs.
        batch_size: rows per pass, >= 1.
        overrides: arguments of every task to replace, such as `backbone` where it lies elsewhere now.

    Raises:
        InputError: if a folder is damaged or holds no task.

    Example:
        >>> import lightning_prefix as lp
        >>> ask = lp.Predictors({"mood": "mood/prefix", "topic": "topic/prefix"})  # doctest: +SKIP
        >>> ask([("mood", "A warm, funny film."), ("topic", "Rates rise again.")])  # doctest: +SKIP
        [{'label': 'positive', 'probabilities': ...}, {'label': 'business', 'probabilities': ...}]
    """

    def __init__(
        self,
        folders: Mapping[str, str | Path],
        *,
        device: str | torch.device = "cpu",
        batch_size: int = 32,
        **overrides: Any,
    ) -> None:
        if not folders:
            raise InputError("no prefix is given; give a name and a folder for each.")
        if batch_size < 1:
            raise InputError(f"batch_size {batch_size} is given; it is >= 1.")
        self.batch_size = batch_size
        self.named: dict[str, Named] = {}
        self._groups: dict[str, Group] = {}
        for name, folder in folders.items():
            self.named[name] = self._load(Path(folder), overrides)
        frozen = _Shared()
        for group in self._groups.values():
            frozen.share(group.members.model.backbone)
            group.to(device)
            group.eval()

    def __call__(self, requests: Sequence[tuple[str, Text]]) -> list[dict[str, Any]]:
        """Answers in the order of the requests, each as a `Predictor` of that prefix gives it.

        Args:
            requests: (name of the prefix, text) each.

        Raises:
            InputError: for a name that is not there, or an input that is empty or lacks a column.
        """
        rows = self._encode(requests)
        results: list[dict[str, Any]] = [{} for _ in requests]
        with torch.inference_mode():
            for chosen in self._passes(requests, rows):
                answers = self._answer([(requests[i][0], rows[i], requests[i][1]) for i in chosen])
                for place, answer in zip(chosen, answers, strict=True):
                    results[place] = answer
        return results

    def _load(self, folder: Path, overrides: Mapping[str, Any]) -> Named:
        stored = files.read(folder)
        description = stored.description.get("task")
        if description is None:
            raise InputError(f"{folder} holds a prefix without a task; give a folder that `fit` wrote.")
        key = _key(stored)
        if key in self._groups:
            group = self._groups[key]
            place = group.add(stored, same_outputs=False)
        else:
            group, place = self._groups.setdefault(key, Group(folder, overrides)), 0
        arguments = description["hyper_parameters"]
        task = task_from(PrefixTask, arguments, overrides, lambda _: None, folder).eval()  # type: ignore[type-abstract]
        data = data_from(description["data"], folder)
        task.model, task.head = group.members.model, task.make_head()
        data.serve(task)
        library_versions(data.preprocess)  # what is missing is named now
        return Named(task, data, group, place)

    def _encode(self, requests: Sequence[tuple[str, Text]]) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = [{} for _ in requests]
        for name in dict.fromkeys(name for name, _ in requests):
            if name not in self.named:
                raise InputError(f"there is no prefix {name!r}; there are {', '.join(map(repr, self.named))}.")
            places = [i for i, (other, _) in enumerate(requests) if other == name]
            encoded = self.named[name].data.encode_inputs([requests[i][1] for i in places])
            for place, row in zip(places, encoded, strict=True):
                rows[place] = row
        return rows

    def _passes(self, requests: Sequence[tuple[str, Text]], rows: Sequence[dict[str, Any]]) -> list[list[int]]:
        """Numbers of the requests of each pass, sorted by member as `Members.reading` wants them."""
        kinds: dict[Any, list[int]] = {}
        for i, (name, _) in enumerate(requests):
            kinds.setdefault(self._kind(name), []).append(i)
        passes = []
        for places in kinds.values():
            by_length = sorted(places, key=lambda i: len(rows[i]["input_ids"]))  # little padding
            for start in range(0, len(by_length), self.batch_size):
                chosen = by_length[start : start + self.batch_size]
                passes.append(sorted(chosen, key=lambda i: self.named[requests[i][0]].place))
        return passes

    def _kind(self, name: str) -> Any:
        """Equal for prefixes that can run in one pass."""
        task, _, group, place = self.named[name]
        if isinstance(task, TextGeneration):
            return id(group), "text", repr({**task.data_generation, **task.generation})
        if type(task).outputs is not ScoringTask.outputs:  # type: ignore[attr-defined]  # reads in its own way
            return id(group), place
        return id(group)

    def _answer(self, requests: Sequence[tuple[str, dict[str, Any], Text]]) -> list[dict[str, Any]]:
        """One pass.

        Args:
            requests: name, row and text each, those of one prefix together, in the order of their places.
        """
        names = list(dict.fromkeys(name for name, _, _ in requests))
        device = self.named[names[0]].group.task.device
        batches = []
        for name in names:
            own = [(row, text) for other, row, text in requests if other == name]
            batch = self.named[name].data.collator()([row for row, _ in own])
            batch["inputs"] = [text for _, text in own]
            batches.append({k: v.to(device) if isinstance(v, Tensor) else v for k, v in batch.items()})
        members = [self.named[name] for name in names]
        counts = [0] * len(members[0].group.members)
        for member, batch in zip(members, batches, strict=True):
            counts[member.place] = len(batch["input_ids"])
        with members[0].group.members.reading(counts):
            return (
                _texts(members, batches) if isinstance(members[0].task, TextGeneration) else _scores(members, batches)
            )


def _texts(members: Sequence[Named], batches: Sequence[Batch]) -> list[dict[str, Any]]:
    writer: Any = members[0].task
    written = writer.write(_join(members, batches))
    results: list[dict[str, Any]] = []
    for (task, *_), batch in zip(members, batches, strict=True):
        own, written = written[: len(batch["input_ids"])], written[len(batch["input_ids"]) :]
        results += task.describe(own, batch)  # type: ignore[operator]
    return results


def _scores(members: Sequence[Named], batches: Sequence[Batch]) -> list[dict[str, Any]]:
    group = members[0].group
    reader: Any = group.task
    outputs = reader.outputs(batches[0] if len(batches) == 1 else _join(members, batches))
    head: Any = group.head
    each = [outputs] if len(batches) == 1 else head.split(outputs, batches)
    results: list[dict[str, Any]] = []
    for (named, _, _, place), own, batch in zip(members, each, batches, strict=True):
        task: Any = named
        own = own[..., : getattr(task.head, "outputs", own.shape[-1])]  # others of the pass may have more labels
        results += task.describe(task.member_scores(own, batch, group.members.head_state(place)), batch)
    return results


def _join(members: Sequence[Named], batches: Sequence[Batch]) -> Batch:
    """One batch; keys that only some have (what a data module keeps for itself) are left out."""
    common = [key for key in batches[0] if all(key in batch for batch in batches)]
    collator: Any = members[0].data.collator()
    return join([{key: batch[key] for key in common} for batch in batches], collator.padding)


def _key(stored: files.StoredPrefix) -> str:
    """Equal for prefixes whose heads are the same modules, but for the number of their outputs."""
    arguments = stored.description["task"]["hyper_parameters"]
    head = sorted((name, tuple(t.shape)[1:]) for name, t in {**stored.backbone_tensors, **stored.head_tensors}.items())
    record = stored.backbone
    same = [arguments.get(name) for name in ("backbone_options", "head", "label_words")]
    reads_windows = "n_best" in arguments
    return repr((record["fingerprint"], record["class"], head, same, reads_windows))


class _Shared:
    """Frozen tensors of several models that are the same, kept once."""

    def __init__(self) -> None:
        self._kept: dict[tuple[Any, ...], list[Tensor]] = {}

    def share(self, model: nn.Module) -> None:
        """Let the model use what earlier ones have."""
        for parameter in model.parameters():
            alike = self._kept.setdefault((parameter.shape, parameter.dtype, parameter.device), [])
            same = next((tensor for tensor in alike if torch.equal(tensor, parameter)), None)
            if same is None:
                alike.append(parameter.data)
            else:
                parameter.data = same
