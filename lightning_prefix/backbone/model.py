"""`PrefixedModel`: any transformers model, frozen, with a trained prefix at its attention sites."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone import files
from lightning_prefix.backbone.attention import use_own_attention, use_prefix_attention
from lightning_prefix.backbone.fingerprint import fingerprint
from lightning_prefix.backbone.positions import shift_positions
from lightning_prefix.backbone.probe import probe
from lightning_prefix.backbone.sites import find_sites
from lightning_prefix.backbone.slot import StateSlot, slot_of
from lightning_prefix.backbone.start_values import start_values
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, GatedPrefix, Prefix, PrefixConfig, PrefixStates
from lightning_prefix.prefix.stored import Variant, from_tensors, to_tensors

Positions = Literal["keep", "shift"]


class PrefixedModel(nn.Module):
    """A frozen transformers model with a prefix at every attention site (Li & Liang 2021).

    The model is frozen, its attention sites are found by running it once, and the prefix is joined inside the
    attention calls: nothing rides on `past_key_values`, so caches, generation and gradient checkpointing work as in
    the frozen model. The backbone stays in eval mode (no dropout) unless `backbone_dropout`.

    Args:
        backbone: a loaded transformers model, with or without a head. It is changed in place; `unload()` undoes it.
        config: which prefix, how long, where.
        positions: `keep`: the text keeps its positions 0, 1, ... and the model its full context. `shift`: the text
            starts after the prefix, as in PEFT and in Li & Liang's code; for causal models with `position_ids`.
        tokenizer: for `init: text`; the one stored beside the backbone when None.
        trained: names of backbone parameters that stay trained, such as those of a new classification head.
        backbone_dropout: apply the backbone's own dropout in training.

    Raises:
        InputError: if the options do not fit the backbone, or a site does not react to a prefix.

    Example:
        >>> from lightning_prefix import FlatPrefixConfig, PrefixedModel
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> backbone = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=32))
        >>> model = PrefixedModel(backbone, FlatPrefixConfig(length=4))
        >>> [site.key for site in model.sites]
        ['decoder.0', 'decoder.1']
        >>> sum(p.numel() for p in model.parameters() if p.requires_grad)  # 2 layers x (keys, values) x 4 x 8
        128
    """

    def __init__(
        self,
        backbone: nn.Module,
        config: PrefixConfig,
        *,
        positions: Positions = "keep",
        tokenizer: Any = None,
        trained: Collection[str] = (),
        backbone_dropout: bool = False,
    ) -> None:
        super().__init__()
        config.check()
        self._freeze(backbone, positions, trained, backbone_dropout)
        sites = config.select(self.all_sites)
        start = start_values(backbone, self.all_sites, config, tokenizer)
        self._set_prefix(config.build(sites, [start[self.all_sites.index(site)] for site in sites]))

    def _freeze(
        self, backbone: nn.Module, positions: Positions, trained: Collection[str], backbone_dropout: bool
    ) -> None:
        """Everything but the prefix itself."""
        self.backbone = backbone
        self.positions: Positions = positions
        self.backbone_dropout = backbone_dropout
        backbone.requires_grad_(False)
        named = dict(backbone.named_parameters())
        if unknown := [name for name in trained if name not in named]:
            raise InputError(f"trained={unknown} are no parameters of {type(backbone).__name__}.")
        for name in trained:
            named[name].requires_grad_(True)
        self.all_sites, modules = find_sites(backbone)
        if any(slot_of(module) for module in modules):
            raise InputError("this backbone already carries a prefix; call unload() on its PrefixedModel first.")
        use_prefix_attention(backbone)
        self._silenced: list[tuple[nn.Module, str, float]] = []
        self._slot = StateSlot()
        self._slot.attach(modules)
        if next(backbone.parameters()).device.type != "meta":
            probe(backbone, self.all_sites, self._slot)

    def _set_prefix(self, prefix: Prefix) -> None:
        self.prefix = prefix.to(next(self.backbone.parameters()).device)
        self._indices = [self.all_sites.index(site) for site in prefix.sites]
        self._unhook = (
            shift_positions(self.backbone, prefix.states()[0].keys.shape[1]) if self.positions == "shift" else None
        )
        self.train(self.training)

    @property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The attention sites that have a prefix, in the order of their calls."""
        return self.prefix.sites

    @property
    def config(self) -> Any:
        """The backbone's transformers configuration."""
        return cast("Any", self.backbone).config

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the backbone's own parameters that are trained (a head that the checkpoint did not bring)."""
        return tuple(name for name, p in self.backbone.named_parameters() if p.requires_grad)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's own outputs, heads and losses included, with the prefix in place."""
        with self._slot.serve(self._states()):
            return self.backbone(*args, **kwargs)

    @torch.no_grad()
    def generate(self, *args: Any, **kwargs: Any) -> Any:
        """The backbone's `generate` with the prefix in place: greedy, beams, sampling, any cache."""
        with self._slot.serve(self._states()):
            return cast("Any", self.backbone).generate(*args, **kwargs)

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the model is the frozen backbone, bit for bit.

        Example:
            >>> import torch
            >>> from lightning_prefix import FlatPrefixConfig, PrefixedModel
            >>> from transformers import GPT2Config, GPT2Model
            >>> backbone = GPT2Model(GPT2Config(vocab_size=50, n_embd=8, n_layer=1, n_head=2, n_positions=32)).eval()
            >>> ids = torch.tensor([[1, 2, 3]])
            >>> frozen = backbone(ids).last_hidden_state
            >>> model = PrefixedModel(backbone, FlatPrefixConfig(length=4))
            >>> with model.disabled():
            ...     same = torch.equal(model(ids).last_hidden_state, frozen)
            >>> same, torch.equal(model(ids).last_hidden_state, frozen)
            (True, False)
        """
        indices, self._indices = self._indices, []
        if self._unhook is not None:
            self._unhook()
        try:
            yield
        finally:
            self._indices = indices
            if self._unhook is not None:
                self._unhook = shift_positions(self.backbone, self.prefix.states()[0].keys.shape[1])

    def unload(self) -> nn.Module:
        """Take the prefix off and give the backbone back as it was, still frozen."""
        if self._unhook is not None:
            self._unhook()
        for layer, name, value in self._silenced:
            setattr(layer, name, value)
        self._slot.detach()
        use_own_attention(self.backbone)
        return self.backbone

    def train(self, mode: bool = True) -> "PrefixedModel":
        """Set the mode; the backbone stays in eval mode unless `backbone_dropout`."""
        super().train(mode)
        if not self.backbone_dropout:
            self.backbone.eval()
            for module in self.backbone.modules():
                if mode and getattr(module, "gradient_checkpointing", False):
                    self._checkpoint_without_dropout(module)
        return self

    def _checkpoint_without_dropout(self, layer: nn.Module) -> None:
        """Transformers checkpoints only layers in training mode; some of these (BART) drop out by that flag."""
        layer.training = True
        for name, value in list(vars(layer).items()):
            if "dropout" in name and isinstance(value, float) and value > 0:
                self._silenced.append((layer, name, value))
                setattr(layer, name, 0.0)

    def fingerprint(self) -> dict[str, Any]:
        """Plain data that recognises the backbone; see `lightning_prefix.backbone.fingerprint`."""
        return fingerprint(self.backbone, self.trained)

    def save_pretrained(
        self,
        directory: str | Path,
        *,
        head: Mapping[str, Tensor] | None = None,
        task: dict[str, Any] | None = None,
    ) -> None:
        """Write `prefix.safetensors` (prefix flattened, trained head) and `prefix.json`; nothing of the backbone.

        Args:
            directory: made when missing; files in it are replaced.
            head: further tensors to keep with it.
            task: plain data to keep with it, as a task writes it.
        """
        named = dict(self.backbone.named_parameters())
        tensors = {f"prefix.{name}": tensor for name, tensor in to_tensors(self.prefix).items()}
        tensors |= {f"backbone.{name}": named[name] for name in self.trained}
        tensors |= {f"head.{name}": tensor for name, tensor in (head or {}).items()}
        description = {
            "backbone": {
                "name": self.config._name_or_path,
                "revision": getattr(self.config, "_commit_hash", None),
                "class": type(self.backbone).__name__,
                "num_labels": self.config.num_labels,
                "fingerprint": self.fingerprint(),
            },
            "prefix": {
                "variant": "gated" if isinstance(self.prefix, GatedPrefix) else "flat",
                "length": self.prefix.states()[0].keys.shape[1],
                "sites": [site.key for site in self.sites],
            },
            "positions": self.positions,
            "task": task,
        }
        files.save(Path(directory), tensors, description)

    @classmethod
    def from_pretrained(
        cls, directory: str | Path, backbone: nn.Module | None = None, *, backbone_dropout: bool = False
    ) -> "PrefixedModel":
        """The model that `save_pretrained` wrote.

        Args:
            directory: the folder.
            backbone: the loaded backbone; when None it is loaded by the id or folder that was recorded.
            backbone_dropout: apply the backbone's own dropout in training.

        Raises:
            InputError: if a file is missing or damaged, or the backbone is another one.
        """
        stored = files.read(Path(directory))
        backbone = stored.load_backbone() if backbone is None else backbone
        stored.check_backbone(backbone)
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._freeze(backbone, cast("Positions", stored.positions), list(stored.backbone_tensors), backbone_dropout)
        backbone.load_state_dict(stored.backbone_tensors, strict=False)
        variant = cast("Variant", stored.variant)
        model._set_prefix(from_tensors(model.all_sites, stored.prefix_tensors, variant))
        return model

    def _states(self) -> dict[int, PrefixStates]:
        return dict(zip(self._indices, self.prefix(), strict=True)) if self._indices else {}
