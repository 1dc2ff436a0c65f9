"""`PrefixedModel`: any transformers model, frozen, with trained prefixes at its attention sites."""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone import files
from lightning_prefix.backbone.attention import attention_configs, serving
from lightning_prefix.backbone.checkpointing import Checkpointing
from lightning_prefix.backbone.fingerprint import fingerprint
from lightning_prefix.backbone.frozen import FrozenBackbone
from lightning_prefix.backbone.hub import local_folder
from lightning_prefix.backbone.output import change_output
from lightning_prefix.backbone.packing import packed
from lightning_prefix.backbone.positions import shift_positions
from lightning_prefix.backbone.probe import check_packing, probe
from lightning_prefix.backbone.served import NOTHING, Served, gather
from lightning_prefix.backbone.sharding import ShardedLayers
from lightning_prefix.backbone.sites import find_sites, leave_sites
from lightning_prefix.backbone.slot import StateSlot, calls_of
from lightning_prefix.backbone.trained import train_in_float32, unrounded_parameters
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, Prefix, PrefixConfig
from lightning_prefix.prefix.precision import unrounded
from lightning_prefix.prefix.stored import from_tensors, to_tensors

Positions = Literal["keep", "shift"]
PrefixNames = Sequence[str | None]


class PrefixedModel(nn.Module):
    """A frozen transformers model with prefixes at every attention site (Li & Liang 2021).

    The model is frozen, its attention sites are found by running it once, and the prefix is joined inside the
    attention calls: nothing rides on `past_key_values`, so caches, generation and gradient checkpointing work as in
    the frozen model. The backbone stays in eval mode (no dropout) unless `backbone_dropout`.

    The first prefix is called `default`; `add_prefix` puts more on the same model, of any variants and lengths, and
    `prefix_names` gives each row of a batch its own.

    Args:
        backbone: a loaded transformers model, with or without a head. It is changed in place; `unload()` undoes it.
        config: which prefix, how long, where.
        positions: `keep`: the text keeps its positions 0, 1, ... and the model its full context. `shift`: the text
            starts after the prefix, as in PEFT and in Li & Liang's code; an imported PEFT prefix needs it.
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
        self._freeze(backbone, trained, backbone_dropout)
        try:
            self.add_prefix("default", config, positions=positions, tokenizer=tokenizer)
        except BaseException:
            self.unload()  # another try with the same backbone, in a notebook, finds it as it was
            raise

    def _freeze(self, backbone: nn.Module, trained: Collection[str], backbone_dropout: bool) -> None:
        """Everything but the prefixes."""
        self.backbone = backbone
        self.backbone_dropout = backbone_dropout
        self.prefixes = nn.ModuleDict()
        self._active: str | None = "default"
        self._is_disabled = False
        self.is_measured = False
        """Whether something looks at all layers, so that none may be left out."""
        self.sharded: ShardedLayers | None = None
        """The layers, once `shard` has spread them over processes."""
        self._fingerprint: dict[str, Any] | None = None
        self._rows: PrefixNames | None = None
        self._can_pack = False
        self._hooks: dict[str, list[Callable[[], None]]] = {}
        named = dict(backbone.named_parameters())
        if unknown := [name for name in trained if name not in named]:
            raise InputError(f"trained={unknown} are no parameters of {type(backbone).__name__}.")
        if any(calls_of(module) for module in backbone.modules()):
            raise InputError("this backbone already carries a prefix; call unload() on its PrefixedModel first.")
        backbone.requires_grad_(False)
        self._hooks["trained"] = train_in_float32(backbone, trained)
        try:
            self.all_sites, modules = find_sites(backbone)
        except BaseException:
            self._undo_hooks()
            raise
        self._slot = StateSlot(attention_configs(backbone), modules)
        self._checkpointing = Checkpointing(backbone, self._slot)
        self.train(self.training)
        if next(backbone.parameters()).device.type != "meta":
            try:
                probe(backbone, self.all_sites, self._slot)
            except BaseException:
                self.unload()
                raise

    # Prefixes.

    @property
    def prefix(self) -> Prefix:
        """The prefix that rows get when `prefix_names` is not given.

        Raises:
            InputError: after `set_prefix(None)`.
        """
        if self._active is None:
            raise InputError(f"no prefix is set; call set_prefix with one of {list(self.prefixes)}.")
        return cast("Prefix", self.prefixes[self._active])

    @property
    def prefix_names(self) -> tuple[str, ...]:
        """All prefixes on this model."""
        return tuple(self.prefixes)

    def add_prefix(
        self, name: str, prefix: PrefixConfig | Prefix, *, positions: Positions = "keep", tokenizer: Any = None
    ) -> None:
        """Put one more prefix on the model; which one is set does not change.

        Args:
            name: to be used in `set_prefix` and `prefix_names`.
            prefix: options for a new one, or a prefix of this backbone, such as an average of others.
            positions: as in the constructor.
            tokenizer: for `init: text`; the one stored beside the backbone when None.

        Raises:
            InputError: if the name is taken or cannot be one, or the options do not fit the backbone.
        """
        if not name or "." in name or hasattr(self.prefixes, name) or name in self.prefixes:
            raise InputError(
                f"the prefix name {name!r} is taken or cannot be used; this model has {list(self.prefixes)}."
            )
        if isinstance(prefix, PrefixConfig):
            prefix.check()
            frozen = self._frozen(tokenizer)
            prefix = prefix.build(frozen)
            frozen.tokenizer = None
        if strange := [site.name for site in prefix.sites if site not in self.all_sites]:
            raise InputError(f"the prefix {name!r} has states for {strange}, which this backbone does not have.")
        prefix.positions = positions
        if positions == "shift" and "shift" not in self._hooks:
            self._hooks["shift"] = shift_positions(self.backbone, self._slot)
        if prefix.output() is not None and "output" not in self._hooks:
            self._hooks["output"] = [change_output(self.backbone, self._slot)]
        self.prefixes[name] = prefix.to(next(self.backbone.parameters()).device).train(self.training)

    def load_prefix(
        self,
        name: str,
        directory: str | Path,
        *,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> None:
        """Put the prefix that `save_pretrained` wrote on the model, under this name.

        Args:
            name: to be used in `set_prefix` and `prefix_names`.
            directory: the folder, or the id of a repository on the Hugging Face hub, `user/name`.
            revision: branch, tag or commit of the repository.
            token: for a private one; the one of `hf auth login` or `HF_TOKEN` when None.

        Raises:
            InputError: if a file is missing or damaged, the backbone is another one, or the folder also holds
                parameters of the backbone (a head), which all prefixes would share: that needs `from_pretrained`.
        """
        stored = files.read(local_folder(directory, revision, token))
        if stored.backbone_tensors:
            raise InputError(
                f"{directory} also holds {', '.join(stored.backbone_tensors)} of the backbone, which all prefixes "
                "share; load it with PrefixedModel.from_pretrained."
            )
        self.add_stored_prefix(name, stored)

    def add_stored_prefix(self, name: str, stored: files.StoredPrefix) -> None:
        """Put the prefix of a folder that was read on the model, under this name, but not what it trained of a head.

        Raises:
            InputError: if the backbone is another one, or the tensors do not fit what the folder says of them.
        """
        stored.check_frozen(self.backbone)
        prefix = from_tensors(self._frozen(), stored.prefix_tensors, stored.variant)
        stored.check_prefix(prefix)
        self.add_prefix(name, prefix, positions=cast("Positions", stored.positions))

    def set_prefix(self, name: str | None) -> None:
        """Choose what rows get when `prefix_names` is not given; None for the frozen model."""
        self._check_names([name])
        self._active = name

    def delete_prefix(self, name: str) -> None:
        """Remove a prefix that is not set."""
        self._check_names([name])
        if name == self._active:
            raise InputError(f"the prefix {name!r} is set; call set_prefix with another one, or None, first.")
        del self.prefixes[name]

    def rename_prefix(self, name: str, new_name: str) -> None:
        """Give a prefix another name; it stays set if it was."""
        self._check_names([name])
        prefix = cast("Prefix", self.prefixes[name])
        self.add_prefix(new_name, prefix, positions=prefix.positions)
        if self._active == name:
            self._active = new_name
        del self.prefixes[name]

    def _check_names(self, names: PrefixNames) -> None:
        if unknown := [name for name in names if name is not None and name not in self.prefixes]:
            raise InputError(f"there is no prefix {unknown[0]!r} on this model; it has {list(self.prefixes)}.")

    def _frozen(self, tokenizer: Any = None) -> FrozenBackbone:
        return FrozenBackbone(self.backbone, self.all_sites, self._slot, tokenizer)

    @property
    def sites(self) -> tuple[AttentionSite, ...]:
        """The attention sites where the set prefix stands, in the order of their calls."""
        return self.prefix.sites

    @property
    def config(self) -> Any:
        """The backbone's transformers configuration."""
        return cast("Any", self.backbone).config

    @property
    def trained(self) -> tuple[str, ...]:
        """Names of the backbone's own parameters that are trained (a head that the checkpoint did not bring)."""
        return tuple(name for name, p in self.backbone.named_parameters() if p.requires_grad)

    # Running.

    def forward(
        self,
        *args: Any,
        prefix_names: PrefixNames | None = None,
        sequence_ids: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """The backbone's own outputs, heads and losses included, with the prefix in place.

        Args:
            args: as the backbone takes them.
            prefix_names: one per row, None for a row without a prefix; by default all have the set one.
            sequence_ids: (batch, tokens), long, for rows that hold several texts each: 1, 2, ... for the texts of a row
                in their order, 0 for padding. Each text gives what it gives alone; `attention_mask` and `position_ids`
                are made of it. Decoders only.
            kwargs: as the backbone takes them.

        Raises:
            InputError: for `sequence_ids` that do not fit, or a backbone in which texts of a row are not apart.
        """
        if sequence_ids is not None:
            self.check_packing()
        if self.training and torch.is_grad_enabled():
            self._checkpointing.bind(self.backbone_dropout)
        served = self._served(prefix_names, args, kwargs)
        if sequence_ids is None:
            return self._run(served, args, kwargs)
        with packed(self.config.model_type, sequence_ids, args, kwargs) as kwargs:
            return self._run(served, args, kwargs)

    def check_packing(self) -> None:
        """Check once that a text gives the same in a row of several as alone; see `sequence_ids` of `forward`.

        Raises:
            InputError: if it does not.
        """
        if not self._can_pack:
            check_packing(self.backbone, self._slot)
            self._can_pack = True

    def _run(self, served: Served, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        with serving(self._slot, served):
            return self.backbone(*args, **kwargs)

    def compile(self, **options: Any) -> None:
        """Let `torch.compile` compile the backbone's forward, in place; the prefix is evaluated outside.

        `generate` is not compiled; with `cache_implementation="static"` transformers compiles its steps by itself.

        Args:
            options: of `torch.compile`. Lengths and batch sizes are dynamic unless `dynamic` says otherwise.
        """
        self._run = torch.compile(self._run, **{"dynamic": True, **options})  # type: ignore[method-assign]

    def shard(self, device: torch.device) -> None:
        """Spread the frozen layers over all processes of `torch.distributed`; once. See `ShardedLayers`.

        Args:
            device: of this process.

        Raises:
            InputError: if the backbone cannot be spread, or is compiled.
        """
        if self.sharded is not None:
            return
        if "_run" in vars(self):
            raise InputError(
                "backbone_options.compile is given, and sharded layers are not compiled; leave one of the two out."
            )
        self._fingerprint = self.fingerprint()
        modules = [calls.module for calls in self._slot.modules]
        self.sharded = ShardedLayers(self.backbone, modules, device)

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles are not compiled."""
        return {name: value for name, value in vars(self).items() if name != "_run"}

    @torch.no_grad()
    def generate(self, *args: Any, prefix_names: PrefixNames | None = None, **kwargs: Any) -> Any:
        """The backbone's `generate` with the prefix in place: greedy, beams, sampling, any cache.

        Args:
            args: as the backbone takes them.
            prefix_names: one per row of the inputs, None for a row without a prefix; beams and several returned
                sequences of a row have that row's.
            kwargs: as the backbone takes them.
        """
        with serving(self._slot, self._served(prefix_names, args, kwargs)):
            return cast("Any", self.backbone).generate(*args, **kwargs)

    @contextmanager
    def rows_with(self, names: PrefixNames) -> Iterator[None]:
        """Inside, `prefix_names` are these where none are given."""
        outer, self._rows = self._rows, names
        try:
            yield
        finally:
            self._rows = outer

    def _served(self, names: PrefixNames | None, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Served:
        names = self._rows if names is None else names
        if names is None:
            names = [self._active]
        else:
            self._check_names(names)
            inputs = [*args, *map(kwargs.get, ("input_ids", "inputs_embeds", "inputs", "decoder_input_ids"))]
            batch = next((len(value) for value in inputs if isinstance(value, Tensor)), len(names))
            if batch != len(names):
                raise InputError(f"{len(names)} prefix_names are given for {batch} rows; give one per row.")
        if self._is_disabled:
            return NOTHING
        prefixes = {name: None if name is None else cast("Prefix", self.prefixes[name]) for name in names}
        return gather(prefixes, names, self.all_sites, next(self.parameters()).device)

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
        outer, self._is_disabled = self._is_disabled, True
        try:
            yield
        finally:
            self._is_disabled = outer

    def unload(self) -> nn.Module:
        """Take the prefixes off and give the backbone back as it was, still frozen."""
        self._undo_hooks()
        self._checkpointing.undo()
        self._slot.detach()
        leave_sites(self.backbone)
        return self.backbone

    def _undo_hooks(self) -> None:
        for undo in (undo for undos in self._hooks.values() for undo in undos):
            undo()

    def train(self, mode: bool = True) -> "PrefixedModel":
        """Set the mode; the backbone stays in eval mode unless `backbone_dropout`."""
        super().train(mode)
        if not self.backbone_dropout:
            self.backbone.eval()
        return self

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PrefixedModel":
        """`.to(dtype)` and the like: of the backbone, what is frozen is rounded, what is trained is not."""
        trained = {id(t): t for p in unrounded_parameters(self.backbone) for t in (p, p.grad) if t is not None}

        def change(tensor: Tensor) -> Tensor:
            return unrounded(fn, tensor) if id(tensor) in trained else fn(tensor)

        super()._apply(change, recurse)  # type: ignore[no-untyped-call]
        return self

    # Files.

    def fingerprint(self) -> dict[str, Any]:
        """Plain data that recognises the backbone; see `lightning_prefix.backbone.fingerprint`."""
        return self._fingerprint or fingerprint(self.backbone, self.trained)

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
                "variant": self.prefix.variant,
                "length": self.prefix.length,
                "sites": [site.key for site in self.sites],
            },
            "positions": self.prefix.positions,
            "task": task,
        }
        files.save(Path(directory), tensors, description)

    @classmethod
    def from_pretrained(
        cls,
        directory: str | Path,
        backbone: nn.Module | None = None,
        *,
        backbone_dropout: bool = False,
        revision: str | None = None,
        token: str | bool | None = None,
    ) -> "PrefixedModel":
        """The model that `save_pretrained` wrote.

        Args:
            directory: the folder, or the id of a repository on the Hugging Face hub, `user/name`.
            backbone: the loaded backbone; when None it is loaded by the id or folder that was recorded.
            backbone_dropout: apply the backbone's own dropout in training.
            revision: branch, tag or commit of the repository.
            token: for a private one; the one of `hf auth login` or `HF_TOKEN` when None.

        Raises:
            InputError: if a file is missing or damaged, or the backbone is another one; the backbone is then as it
                was, and frozen.
        """
        stored = files.read(local_folder(directory, revision, token))
        backbone = stored.load_backbone() if backbone is None else backbone
        stored.check_backbone(backbone)
        model = cls.__new__(cls)
        nn.Module.__init__(model)
        model._freeze(backbone, list(stored.backbone_tensors), backbone_dropout)
        try:
            model.add_stored_prefix("default", stored)
        except BaseException:
            model.unload()
            raise
        backbone.load_state_dict(stored.backbone_tensors, strict=False)
        return model
