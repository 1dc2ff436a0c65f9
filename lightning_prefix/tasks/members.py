"""Several trained states of one task on one backbone: in a batch, each row may be read by another one."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lightning_prefix.backbone import PrefixedModel
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import Prefix
from lightning_prefix.tasks.base import PrefixTask
from lightning_prefix.tasks.heads import Head
from lightning_prefix.tasks.optimization import TrainedParameters, trained_parameters

_PREFIX = "model.prefixes."


class Members(nn.Module):
    """Prefixes of the members on the model of a task, and copies of whatever else the task trains (a head).

    Rows of a batch belong to members inside `reading`. Outside, the task is what it was.

    Args:
        task: with weights; it is no submodule of this one.
    """

    def __init__(self, task: PrefixTask) -> None:
        super().__init__()
        self._task = (task,)
        self.names: list[str] = []
        self.head_names = [name for name in task.state_dict() if not name.startswith(_PREFIX)]
        """What the task trains beside its prefix."""
        self.heads = nn.ModuleList()
        """Of each member, the tensors of `head_names` in a `ParameterList`, so that they follow to a device."""
        self._counts: Sequence[int] | None = None
        self._hooks = [
            task.get_submodule(path).register_forward_hook(self._hook(path), with_kwargs=True)
            for path in dict.fromkeys(name.rpartition(".")[0] for name in self.head_names)
            if path != "head"  # buffers of the head itself, such as a threshold, are no part of its forward
        ]

    @property
    def task(self) -> PrefixTask:
        """The task on whose model the members stand."""
        return self._task[0]

    @property
    def model(self) -> PrefixedModel:
        """The task's model."""
        return cast("PrefixedModel", self.task.model)

    def head_state(self, member: int) -> dict[str, nn.Parameter]:
        """What a member has beside its prefix, by its names in the task."""
        return dict(zip(self.head_names, cast("nn.ParameterList", self.heads[member]), strict=True))

    def __len__(self) -> int:
        return len(self.names)

    def add(self, prefix: Prefix, values: Mapping[str, Tensor]) -> None:
        """One more member.

        Args:
            prefix: of this backbone.
            values: the other trained tensors, by their names in the task.

        Raises:
            InputError: if these are others than the task's, or have other shapes.
        """
        own = self.task.state_dict()
        for name in sorted({*self.head_names, *values}):
            here = tuple(own[name].shape) if name in self.head_names else "nothing"
            there = tuple(values[name].shape) if name in values else "nothing"
            if here != there:
                raise InputError(
                    f"member {len(self)} has {there} for {name}, the first one {here}; members on one backbone must "
                    "have heads of the same kind, with the same labels."
                )
        name = f"member_{len(self)}"
        self.model.add_prefix(name, prefix, positions=prefix.positions)
        self.names.append(name)
        trained = dict(self.task.named_parameters())
        device = self.task.device
        parameters = [nn.Parameter(values[key].to(device), requires_grad=key in trained) for key in self.head_names]
        self.heads.append(nn.ParameterList(parameters))

    def add_copies(self, count: int) -> None:
        """Members that start as the task is, each to be trained on its own."""
        state = self.task.state_dict()
        for _ in range(count):
            self.add(copy.deepcopy(self.model.prefix), {name: state[name].clone() for name in self.head_names})

    def parameters_of(self, member: int) -> TrainedParameters:
        """What is trained of a member."""
        prefix = cast("Prefix", self.model.prefixes[self.names[member]])
        return trained_parameters(prefix, self.head_state(member).values())

    def trained_state(self, member: int) -> dict[str, Tensor]:
        """The trained tensors of a member, as the state dict of the task has them when it is trained alone."""
        prefix = self.model.prefixes[self.names[member]].state_dict(prefix=f"{_PREFIX}default.")
        return {**prefix, **{name: value.detach() for name, value in self.head_state(member).items()}}

    def remove(self) -> None:
        """Leave the task as it was."""
        for hook in self._hooks:
            hook.remove()
        for name in self.names:
            self.model.delete_prefix(name)

    @contextmanager
    def reading(self, counts: Sequence[int]) -> Iterator[None]:
        """Inside, rows belong to members.

        Args:
            counts: how many of the rows are those of the first member, how many follow for the second, and so on.
        """
        names = [name for name, count in zip(self.names, counts, strict=True) for _ in range(count)]
        outer, self._counts = self._counts, counts
        try:
            with self.model.rows_with(names):
                yield
        finally:
            self._counts = outer

    def _hook(self, path: str) -> Callable[..., Any]:
        """Calls a trained module once for the rows of each member, with its values; rows are the first dimension."""
        own = [name.rpartition(".")[2] for name in self.head_names if name.rpartition(".")[0] == path]

        def hook(module: nn.Module, args: tuple[Tensor, ...], kwargs: dict[str, Any], _: Tensor) -> Tensor | None:
            if self._counts is None:
                return None
            counts, self._counts = self._counts, None  # the calls below are not to come here again
            try:
                each = len(args[0]) // sum(counts)
                parts = torch.split(args[0], [count * each for count in counts])
                states = [self.head_state(member) for member in range(len(self))]
                results = [
                    functional_call(module, {name: state[f"{path}.{name}"] for name in own}, (part,), kwargs)
                    for part, state in zip(parts, states, strict=True)
                    if len(part)
                ]
            finally:
                self._counts = counts
            return torch.cat(results)

        return hook


class MembersHead(Head):
    """Outputs of several members for the same rows, in one pass.

    Args:
        head: of the task.
        members: on its model.
        chosen: numbers of the members that read, rising.
    """

    def __init__(self, head: Head, members: Members, chosen: Sequence[int]) -> None:
        super().__init__()
        self.head, self.members, self.chosen = head, members, list(chosen)
        self.auto_class = head.auto_class

    def forward(self, model: PrefixedModel, inputs: dict[str, Tensor]) -> Tensor:
        """(rows, members, ...)."""
        count = len(self.chosen)
        repeated = {name: value.repeat(count, *[1] * (value.dim() - 1)) for name, value in inputs.items()}
        with self.members.reading(rows_of_each(self.members, self.chosen, len(inputs["input_ids"]))):
            outputs: Tensor = self.head(model, repeated)
        return outputs.reshape(count, -1, *outputs.shape[1:]).transpose(0, 1)


def rows_of_each(members: Members, chosen: Sequence[int], rows: int) -> list[int]:
    """What `Members.reading` takes where each chosen member reads the same number of rows, in their order."""
    return [rows if member in chosen else 0 for member in range(len(members))]
