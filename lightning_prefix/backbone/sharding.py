"""Frozen layers spread over processes: each keeps a share, and gathers a layer while it runs (FSDP2)."""

import warnings
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import distributed, nn

from lightning_prefix.backbone.quantization import is_quantized
from lightning_prefix.backbone.sites import config_of, run_body, sample_tokens
from lightning_prefix.errors import InputError

_NOTHING = -1


class ShardedLayers:
    """The layers of a frozen backbone, spread over all processes by `torch.distributed.fsdp.fully_shard`.

    Embeddings, heads and what is trained stay whole on every process. In training all processes run the same layers in
    the same order, as FSDP2 expects. In evaluation they need not: they may have unequal numbers of batches, and one
    writes texts while another does not. There, before a layer runs, each process says which it is about to run, and all
    gather those together; a process that has finished calls `wait`.

    Args:
        backbone: frozen and in full on every process; each layer moves to the device as it is spread.
        sites: the modules that make its attention calls.
        device: of this process.

    Raises:
        InputError: if the weights are quantised, the layers are in no list, or PyTorch is older than 2.7.
    """

    def __init__(self, backbone: nn.Module, sites: Sequence[nn.Module], device: torch.device) -> None:
        if torch.__version__ < "2.7":
            raise InputError(f"sharded layers need torch 2.7, this is {torch.__version__}; use strategy ddp.")
        from torch.distributed.device_mesh import init_device_mesh
        from torch.distributed.fsdp import fully_shard

        # the body itself has nothing to gather
        warnings.filterwarnings("ignore", message=r"FSDP2-wrapped module .* returned a view tensor")
        layers = _layers(backbone, sites)
        body = cast("nn.Module", backbone.base_model)
        mesh = init_device_mesh(device.type, (distributed.get_world_size(),))
        inside = {id(p) for layer in layers for p in layer.parameters()}
        outside = {p for p in body.parameters() if id(p) not in inside}
        for layer in layers:
            fully_shard(layer, mesh=mesh, reshard_after_forward=True)
        fully_shard(body, mesh=mesh, reshard_after_forward=True, ignored_params=outside)
        backbone.to(device)
        self.layers: list[Any] = list(layers)
        self._device = device
        for index, layer in enumerate(layers):
            layer.register_forward_pre_hook(lambda *_, index=index: self._before(index), prepend=True)
        ids = sample_tokens(backbone, 5)
        with torch.no_grad():  # FSDP2 must see the body first, and `generate` calls an encoder alone
            run_body(backbone, ids[:3], ids[3:] if config_of(backbone).is_encoder_decoder else None)

    def wait(self) -> None:
        """Gather with the others until they have finished their evaluation too."""
        while self._gather(_NOTHING):
            pass

    def _before(self, index: int) -> None:
        if not torch.is_grad_enabled():
            self._gather(index)

    def _gather(self, wanted: int) -> bool:
        """Gather the layers that any process is about to run; whether there was one."""
        mine = torch.tensor(wanted, device=self._device)
        each = [torch.empty_like(mine) for _ in range(distributed.get_world_size())]
        distributed.all_gather(each, mine)
        indices = sorted(set(torch.stack(each).tolist()) - {_NOTHING})
        for index in indices:
            self.layers[index].unshard()
            if index != wanted:
                self.layers[index].reshard()
        return bool(indices)


def _layers(backbone: nn.Module, sites: Sequence[nn.Module]) -> list[nn.Module]:
    """The entries of the outermost lists in which there is attention, but those in which something is trained."""
    if any(is_quantized(parameter) for parameter in backbone.parameters()):
        raise InputError(
            "backbone_options.quantization is given, and quantised layers cannot be sharded; leave it out, or use "
            "strategy ddp."
        )
    wanted = set(sites)
    stacks: list[str] = []
    found: list[nn.Module] = []
    for name, module in backbone.named_modules():
        if isinstance(module, nn.ModuleList) and not any(name.startswith(f"{outer}.") for outer in stacks):
            stacks.append(name)
            if wanted & set(module.modules()):
                found += module
    layers = [layer for layer in dict.fromkeys(found) if not any(p.requires_grad for p in layer.parameters())]
    if not layers:
        raise InputError(f"{type(backbone).__name__} has no list of layers to shard; use strategy ddp.")
    return layers
