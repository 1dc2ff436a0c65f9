"""The part of a frozen backbone that no prefix changes: run on its own, or left out of a pass."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import chain
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from lightning_prefix.backbone.sites import config_of, run_in_eval_mode, sample_tokens
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite, Prefix

_TOLERANCE = {torch.float32: 1e-4}
_OTHER_TOLERANCE = 5e-2
_SAMPLES = 1024
_UNIMPORTANT = ("_name_or_path", "architectures", "dtype", "id2label", "label2id", "problem_type")
_ADVICE = "Leave activation_cache out, or use another backbone."


class _ReachedError(Exception):
    """The output of the last layer of the part was made; nothing after it is wanted."""


class LowerLayers:
    """The layers below the first one with a prefix; in an encoder-decoder those of the encoder, or all of it.

    Args:
        backbone: the frozen model.
        sites: all attention sites.
        prefix: that stands above.

    Raises:
        InputError: if there are none, or the model cannot go on from the output of one of its layers.
    """

    def __init__(self, backbone: nn.Module, sites: Sequence[AttentionSite], prefix: Prefix) -> None:
        self.backbone = backbone
        self.is_encoder_decoder: bool = config_of(backbone).is_encoder_decoder
        self.reader: nn.Module = cast("Any", backbone).get_encoder() if self.is_encoder_decoder else backbone
        own = [site for site in sites if site.kind == "encoder" or not self.is_encoder_decoder]
        self._places = {site.key: _place(backbone, site) for site in own}
        self.layers, self.name = self._below(prefix)
        self._forms: list[int] = []
        self._given: Tensor | None = None
        self._is_running = False
        self.modules: list[nn.Module] = []
        """Those that run in it, the containers around it included."""
        self._forwards = [vars(layer).get("forward") for layer in self.layers]
        for index, layer in enumerate(self.layers):
            layer.forward = partial(self._layer, index, layer.forward)
        try:
            self._probe()
        except BaseException:
            self.undo()
            raise

    def undo(self) -> None:
        """Give the layers their own forward back."""
        for layer, forward in zip(self.layers, self._forwards, strict=True):
            del layer.forward
            if forward is not None:
                layer.forward = forward

    def _below(self, prefix: Prefix) -> tuple[list[nn.Module], str]:
        stacks = {stack for stack, _ in self._places.values()}
        if len(stacks) != 1:
            raise InputError(
                f"activation_cache is given, but {type(self.backbone).__name__} has its layers in several stacks "
                f"({', '.join(sorted(stacks))}). {_ADVICE}"
            )
        stack = stacks.pop()
        layers = list(cast("nn.ModuleList", self.backbone.get_submodule(stack)))
        places = self._places_of(prefix)
        if not places and self.is_encoder_decoder:
            return [], "the encoder"
        first = min(places, default=len(layers) - 1)
        if first == 0:
            raise InputError(
                f"activation_cache is given, but the prefix stands at the first layer of {stack}: no layer gives the "
                "same in every step. Let it stand at the upper layers only, with the prefix's `layers` (for example "
                f"{max(1, len(layers) // 3)}), or leave activation_cache out."
            )
        return layers[:first], f"{stack}.{first - 1}"

    def is_below(self, prefix: Prefix | None) -> bool:
        """Whether all of it is below all sites of this prefix."""
        above = len(self.layers) or float("inf")  # nothing is above a whole encoder
        return all(place >= above for place in self._places_of(prefix))

    def _places_of(self, prefix: Prefix | None) -> list[int]:
        sites = () if prefix is None else prefix.sites
        return [self._places[site.key][1] for site in sites if site.key in self._places]

    @torch.no_grad()
    def run(self, inputs: dict[str, Tensor]) -> Tensor:
        """Its output, (batch, tokens, hidden).

        Args:
            inputs: `input_ids` and others, (batch, tokens), as the model, or its encoder, takes them.
        """
        if not self.layers:
            return cast("Tensor", self.reader(**inputs)[0])
        self._is_running = True
        try:
            self.reader(**inputs)
        except _ReachedError as reached:
            return cast("Tensor", reached.args[0])
        finally:
            self._is_running = False
        raise InputError(f"{self.name} was not reached in {type(self.backbone).__name__}. {_ADVICE}")

    def give(self, states: Tensor | None) -> None:
        """From now on layers do not run: this is their output; they run with None."""
        self._given = states

    def arguments(self, states: Tensor) -> dict[str, Any]:
        """What the model takes in place of a whole encoder."""
        from transformers.modeling_outputs import BaseModelOutput

        return {} if self.layers else {"encoder_outputs": BaseModelOutput(last_hidden_state=cast("Any", states))}

    def _layer(self, index: int, forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """In place of the forward of a layer."""
        if self._given is not None:
            form = self._forms[index]
            return (self._given, *[None] * (form - 1)) if form else self._given
        output = forward(*args, **kwargs)
        if self._is_running:
            if index == len(self._forms):
                self._forms.append(self._form(output))
            if index == len(self.layers) - 1:
                raise _ReachedError(output if isinstance(output, Tensor) else output[0])
        return output

    def _form(self, output: Any) -> int:
        """0 for a tensor, n for a tuple of a tensor and n - 1 times None."""
        if isinstance(output, Tensor):
            return 0
        if isinstance(output, tuple) and isinstance(output[0], Tensor) and all(part is None for part in output[1:]):
            return len(output)
        raise InputError(
            f"activation_cache is given, but the layers of {type(self.backbone).__name__} hand more to each other than "
            f"hidden states, and only those are kept. {_ADVICE} In an encoder-decoder, a prefix with "
            "`sites: [decoder, cross]` has all of the encoder below it."
        )

    # What is checked at the start.

    def _probe(self) -> None:
        """Compare a pass that is given the output of these layers with one that runs them, on two rows."""
        rope = str(getattr(config_of(self.backbone), "rope_parameters", ""))
        if "dynamic" in rope or "longrope" in rope:
            raise InputError(
                f"activation_cache is given, but the positions of {type(self.backbone).__name__} depend on the longest "
                f"row of a batch. {_ADVICE}"
            )
        device = next(self.backbone.parameters()).device
        ids = torch.tensor([sample_tokens(self.backbone, 10)], device=device).reshape(2, 5)
        mask = torch.tensor([[1] * 5, [1] * 3 + [0] * 2], device=device)
        more = {"decoder_input_ids": ids[:, :3]} if self.is_encoder_decoder else {}
        inputs = {"input_ids": ids, "attention_mask": mask, **more}
        with self._listing():
            first = self.run({"input_ids": ids[:1], "attention_mask": mask[:1]})
        self._check_frozen()
        second = self.run({"input_ids": ids[1:, :3], "attention_mask": mask[1:, :3]})
        states = torch.zeros(2, 5, first.shape[2], dtype=first.dtype, device=device)
        states[0], states[1, :3] = first[0], second[0]
        with torch.no_grad():
            expected = run_in_eval_mode(self.backbone, inputs)
            self.give(states)
            try:
                actual = run_in_eval_mode(self.backbone, {**inputs, **self.arguments(states)})
                same = self._is_same(actual, expected, mask)
            except Exception as error:  # whatever a model does without what its layers leave behind
                raise self._different(f" ({type(error).__name__}: {error})") from error
            finally:
                self.give(None)
        if not same:
            raise self._different("")

    def _is_same(self, actual: Tensor, expected: Tensor, mask: Tensor) -> bool:
        difference = (actual - expected).abs()
        if not self.is_encoder_decoder:
            difference = difference[mask.bool()]
        limit = _TOLERANCE.get(expected.dtype, _OTHER_TOLERANCE) * max(1.0, expected.abs().max().item())
        return bool(difference.max() <= limit)  # False with nan

    def _different(self, why: str) -> InputError:
        return InputError(
            f"activation_cache is given, but {type(self.backbone).__name__} does not give the same when {self.name} is "
            f"replaced by its output{why}. {_ADVICE}"
        )

    @contextmanager
    def _listing(self) -> Iterator[None]:
        """Inside, modules that are called are listed; only the lower layers are run."""
        called: dict[nn.Module, None] = {}
        hook = register_module_forward_pre_hook(lambda module, _: called.update({module: None}))
        try:
            yield
        finally:
            hook.remove()
        self.modules = list(called)

    def _check_frozen(self) -> None:
        names = {module: name for name, module in self.backbone.named_modules()}
        own = ((names.get(m, ""), name, p) for m in self.modules for name, p in m.named_parameters(recurse=False))
        if trained := [f"{module}.{name}" for module, name, parameter in own if parameter.requires_grad]:
            raise InputError(
                f"activation_cache is given, but {', '.join(trained[:3])} is trained below the prefix: what these "
                "layers give changes in every step. Leave activation_cache out."
            )

    def fingerprint(self) -> str:
        """Of every number that its output depends on, but for the row: hexadecimal."""
        import transformers

        config = {k: v for k, v in config_of(self.backbone).to_dict().items() if k not in _UNIMPORTANT}
        digest = hashlib.sha256(repr((transformers.__version__, self.name, sorted(config.items()))).encode())
        for module in self.modules:
            for name, tensor in chain(module.named_parameters(recurse=False), module.named_buffers(recurse=False)):
                flat = tensor.detach().reshape(-1)
                bits = flat.view(torch.int32 if flat.element_size() % 4 == 0 else torch.uint8)
                sample = bits[:: max(1, len(bits) // _SAMPLES)]
                digest.update(
                    f"{name} {tuple(tensor.shape)} {tensor.dtype} {int(bits.sum(dtype=torch.int64))}".encode()
                )
                digest.update(sample.cpu().numpy().tobytes())
        return digest.hexdigest()[:32]


def _place(backbone: nn.Module, site: AttentionSite) -> tuple[str, int]:
    """The outermost list of layers that a site is in, and its place there."""
    parts = site.name.split(".")
    for end, part in enumerate(parts):
        stack = ".".join(parts[:end])
        if part.isdigit() and isinstance(backbone.get_submodule(stack), nn.ModuleList) and "#" not in site.name:
            return stack, int(part)
    raise InputError(
        f"activation_cache is given, but {site.name} of {type(backbone).__name__} is in no list of layers that "
        f"run once each. {_ADVICE}"
    )
