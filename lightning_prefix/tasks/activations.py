"""Activation cache: the layers below the first prefix run once per row, whatever the epoch, batch or fold."""

import inspect
from collections.abc import Mapping, Sequence
from hashlib import blake2b
from typing import Any, cast
from weakref import WeakKeyDictionary

import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor, nn

from lightning_prefix.backbone import ActivationCacheOptions, PrefixedModel
from lightning_prefix.backbone.activation_store import ActivationStore
from lightning_prefix.backbone.lower_layers import LowerLayers
from lightning_prefix.backbone.served import Served
from lightning_prefix.backbone.sites import sample_tokens
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import Prefix

_READ = ("input_ids", "attention_mask", "token_type_ids", "position_ids")
"""(batch, tokens): what the output of the lower layers depends on."""
_NOT_READ = ("labels", "logits_to_keep", "decoder_input_ids", "decoder_attention_mask", "prefix_names")

_stores: WeakKeyDictionary[nn.Module, tuple[Any, ActivationStore]] = WeakKeyDictionary()
"""Of each backbone, which the folds of a cross-validation share, the store that was opened last, and for what."""


def cache_activations(model: PrefixedModel, options: ActivationCacheOptions) -> None:
    """Let `model(...)` compute the layers below the set prefix once per row; `model.unload()` ends it.

    A row is recognised by its tokens (and their types, positions, and mask), not by its number. Outputs are those
    without a cache up to rounding, since padding differs. `generate` runs all layers as ever.

    Raises:
        InputError: if something below the prefix changes during training, or the model cannot go on from the output of
            one of its layers.
    """
    if "activations" in model._hooks:
        return
    options.check()
    if model.backbone_dropout:
        raise InputError(
            "activation_cache is given with backbone_dropout=True, with which layers give something else in every "
            "epoch; use one of the two."
        )
    cache = ActivationCache(model, options)
    model._hooks["activations"] = [
        cache.lower.undo,
        model.register_forward_pre_hook(cache.before, with_kwargs=True).remove,
        model.register_forward_hook(cache.after, always_call=True).remove,
    ]


class ActivationCache:
    """Hooks of a `PrefixedModel`: before its pass the lower layers' output is looked up, and made for new rows.

    Args:
        model: with a prefix that is set.
        options: where to keep it.
    """

    def __init__(self, model: PrefixedModel, options: ActivationCacheOptions) -> None:
        self.options = options
        self.lower = LowerLayers(model.backbone, model.all_sites, model.prefix)
        self._sizes: dict[str, tuple[torch.dtype, int]] = {}
        self._store: ActivationStore | None = None
        self._refused: set[bytes] = set()
        self._is_announced = self._has_warned = False
        takes = inspect.signature(model.backbone.forward).parameters
        self._takes_use_cache = "use_cache" in takes and not self.lower.is_encoder_decoder

    def before(self, model: PrefixedModel, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
        """Pre-hook: the pass starts above the lower layers, if it can."""
        if model.is_measured:
            return None
        inputs = self._inputs(args, kwargs)
        names = model._rows if kwargs.get("prefix_names") is None else kwargs["prefix_names"]
        names = [model._active] if names is None else names
        model._check_names(names)
        prefixes = [None if n is None or model._is_disabled else cast("Prefix", model.prefixes[n]) for n in names]
        if inputs is None or not all(map(self.lower.is_below, prefixes)):  # a member of an ensemble may stand lower
            return None
        shifts = [0 if self.lower.is_encoder_decoder else _shift(prefix) for prefix in prefixes]
        rows = len(inputs["input_ids"])
        if len(shifts) not in (1, rows):
            return None  # the model says what is wrong
        states = self._states(model, inputs, shifts if len(shifts) == rows else shifts * rows)
        self.lower.give(states)
        if self._takes_use_cache:
            kwargs = {**kwargs, "use_cache": False}  # which would lack the lower layers
        return args, {**kwargs, **self.lower.arguments(states)}

    def _inputs(self, args: Any, kwargs: Mapping[str, Any]) -> dict[str, Tensor] | None:
        """What the lower layers read of a pass; None where the pass has inputs of which a row is not known again."""
        given = {name: value for name, value in kwargs.items() if value is not None and value is not False}
        inputs = {name: value for name, value in given.items() if name in _READ}
        is_known = not args and given.keys() <= {*_READ, *_NOT_READ} and "input_ids" in inputs
        if is_known and len({value.shape for value in inputs.values()}) == 1:
            return inputs
        if not self._has_warned:
            self._has_warned = True
            rank_zero_warn(
                f"a pass is made without the activation cache: its inputs are {sorted(given)}, and a row is known "
                f"by {', '.join(_READ)} only, each (batch, tokens)."
            )
        return None

    def after(self, model: PrefixedModel, args: Any, output: Any) -> None:
        """Hook: layers run again, also after an error."""
        self.lower.give(None)

    def _states(self, model: PrefixedModel, inputs: dict[str, Tensor], shifts: Sequence[int]) -> Tensor:
        """Output of the lower layers, (batch, tokens, hidden), zeros after the last token of a row."""
        ids = inputs["input_ids"]
        precision = self._precision(ids.device)
        dtype, hidden = self._size(precision, ids.device)
        store = self._opened(model.backbone)
        lengths, keys = _rows(inputs, [f"{shift} {precision}" for shift in shifts])
        states = torch.zeros(*ids.shape, hidden, dtype=dtype, pin_memory=ids.device.type == "cuda")
        buffer = states.view(torch.uint8).numpy()  # (batch, tokens, bytes)
        places = [memoryview(cast("Any", buffer[row, :length].reshape(-1))) for row, length in enumerate(lengths)]
        missing = [row for row, key in enumerate(keys) if not store.read(key, places[row])]
        if missing:
            store.refresh()
            missing = [row for row in missing if not store.read(keys[row], places[row])]
        if missing:
            new = {keys[row]: row for row in missing}  # equal rows once
            made = dict(zip(new, self._run(model, inputs, list(new.values()), lengths, shifts).cpu(), strict=True))
            for row in missing:
                states[row, : lengths[row]] = made[keys[row]][: lengths[row]]
            for key, row in new.items():
                self._add(store, key, places[row])
        return states.to(ids.device, non_blocking=True)

    def _run(
        self,
        model: PrefixedModel,
        inputs: Mapping[str, Tensor],
        rows: Sequence[int],
        lengths: Sequence[int],
        shifts: Sequence[int],
    ) -> Tensor:
        """Run the lower layers for some rows, (rows, tokens, hidden)."""
        width = max(lengths[row] for row in rows)
        chosen = {name: value[rows, :width] for name, value in inputs.items()}
        different = sorted(set(shifts))
        which = torch.tensor([different.index(shifts[row]) for row in rows])
        with model._slot.serve(Served(rows=which, shifts=different)):
            return self.lower.run(chosen)

    def _add(self, store: ActivationStore, key: bytes, data: memoryview) -> None:
        if self._is_announced or store.add(key, data):
            return
        if key in self._refused:  # the data have begun anew
            self._is_announced = True
            rank_zero_info(
                f"the activation cache keeps {len(store)} of {len(store) + len(self._refused)} rows; the others do not "
                f"fit into limit_gb={self.options.limit_gb} and are computed in every epoch."
            )
        self._refused.add(key)

    def _precision(self, device: torch.device) -> str:
        """In which types of numbers the lower layers run now: precision plugins may change them after the start."""
        mixed = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        return f"{next(self.lower.backbone.parameters()).dtype} {mixed}"

    def _size(self, precision: str, device: torch.device) -> tuple[torch.dtype, int]:
        """Type and size of a hidden state."""
        if precision not in self._sizes:
            tokens = torch.tensor([sample_tokens(self.lower.backbone, 2)], device=device)
            output = self.lower.run({"input_ids": tokens})
            self._sizes[precision] = output.dtype, output.shape[2]
        return self._sizes[precision]

    def _opened(self, backbone: nn.Module) -> ActivationStore:
        """The store, opened with the first pass, when the weights are as training has them."""
        if self._store is None:
            key = self.options, self.lower.fingerprint()
            kept = _stores.get(backbone)
            _stores[backbone] = kept if kept is not None and kept[0] == key else (key, self.options.open(key[1]))
            self._store = _stores[backbone][1]
        return self._store


def _shift(prefix: Prefix | None) -> int:
    return prefix.length if prefix is not None and prefix.positions == "shift" else 0


def _rows(inputs: Mapping[str, Tensor], salts: Sequence[str]) -> tuple[list[int], list[bytes]]:
    """How many tokens each row has up to its last one, and a key of its content up to there.

    Args:
        inputs: (batch, tokens) each.
        salts: what else the output of a row depends on.
    """
    arrays = {name: value.cpu().numpy() for name, value in sorted(inputs.items())}
    batch, width = arrays["input_ids"].shape
    mask = arrays.get("attention_mask", np.ones((batch, width)))
    lengths = [max(1, int(length)) for length in ((mask != 0) * np.arange(1, width + 1)).max(1)]
    keys = []
    for row, (length, salt) in enumerate(zip(lengths, salts, strict=True)):
        key = blake2b(salt.encode(), digest_size=16)
        for name, array in arrays.items():
            values = array[row, :length]
            if name != "attention_mask" or not values.all():  # a mask of ones and no mask are the same
                key.update(name.encode() + values.tobytes())
        keys.append(key.digest())
    return lengths, keys
