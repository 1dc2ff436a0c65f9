"""Load a frozen backbone: a hub id, a folder, or a small asset that needs no hub."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch

from lightning_prefix.assets import asset_path, is_asset
from lightning_prefix.backbone import checkpointing
from lightning_prefix.backbone.quantization import Quantization, keep_missing_layers, quantization_config
from lightning_prefix.backbone.shelf import take_or_load
from lightning_prefix.errors import InputError, hub_advice

_OVERFLOWS_IN_FLOAT16 = ("t5", "mt5", "umt5", "longt5", "switch_transformers")


@dataclass(frozen=True)
class BackboneOptions:
    """How the backbone is loaded.

    Args:
        revision: branch, tag or commit of a hub model; recorded with the prefix.
        dtype: of the frozen weights: `float32`, `bfloat16`, `float16`, or `auto` for the one they are stored in.
            The prefix stays in float32.
        attn_implementation: `sdpa` or `eager`; the model's own choice with `null`.
        trust_remote_code: run model code from the hub; only for authors you trust.
        force_float16: use float16 (here, or the trainer's `16-mixed` and `16-true`) also where it is known to overflow,
            which is in T5, mT5 and their like.
        gradient_checkpointing: compute activations again in the backward pass: less memory, more time.
        compile: let `torch.compile` compile the backbone's forward; the first steps take a minute or more.
        quantization: of the frozen linear layers: `int8` or `nf4` (4 bits) of bitsandbytes, or `int8-weight-only` of
            torchao.
    """

    revision: str | None = None
    dtype: Literal["float32", "bfloat16", "float16", "auto"] = "float32"
    attn_implementation: Literal["sdpa", "eager"] | None = None
    trust_remote_code: bool = False
    force_float16: bool = False
    gradient_checkpointing: bool = False
    compile: bool = False
    quantization: Quantization | None = None


def local_path(name: str) -> str:
    """What `from_pretrained` takes: a hub id or folder as it is; an `asset:` is fetched and becomes a folder."""
    return str(asset_path(name)) if is_asset(name) else name


def load_tokenizer(name: str, options: BackboneOptions | None = None) -> Any:
    """The tokenizer stored beside a backbone.

    Raises:
        InputError: if there is none at that name.
    """
    from transformers import AutoTokenizer

    return _from_pretrained(AutoTokenizer, name, options)


def load_config(name: str, options: BackboneOptions | None = None) -> Any:
    """The configuration of a backbone, without its weights.

    Raises:
        InputError: if there is none at that name.
    """
    from transformers import AutoConfig

    return _from_pretrained(AutoConfig, name, options)


def check_float16(model_type: str, origin: str, options: BackboneOptions) -> None:
    """Refuse float16 where activations exceed it (Raffel et al. trained in bfloat16).

    Args:
        model_type: of the backbone's configuration.
        origin: what asks for float16, for the message.
        options: may force it.

    Raises:
        InputError: for T5 and its like, unless forced.
    """
    if model_type in _OVERFLOWS_IN_FLOAT16 and not options.force_float16:
        raise InputError(
            f"{origin} is given for a backbone of type {model_type!r}, whose activations exceed float16's 65504: the "
            "loss would be nan sooner or later. Use bfloat16 (trainer.precision bf16-mixed or bf16-true, or "
            "backbone_options.dtype bfloat16) or float32; backbone_options.force_float16=true tries it all the same."
        )


def load_backbone(
    name: str, auto_class: str, options: BackboneOptions | None = None, **config: Any
) -> tuple[Any, Sequence[str]]:
    """The model in eval mode, and the names of the parameters that the checkpoint did not bring.

    Args:
        name: hub id, folder, or `asset:NAME`.
        auto_class: the transformers class, such as `AutoModel`.
        options: dtype, revision and so on.
        config: overrides of the model's configuration, such as `num_labels`.

    Raises:
        InputError: if there is no model of that kind at that name.
    """
    options = options or BackboneOptions()
    return take_or_load((name, auto_class, options, repr(config)), lambda: _load(name, auto_class, options, config))


def _load(name: str, auto_class: str, options: BackboneOptions, config: dict[str, Any]) -> tuple[Any, Sequence[str]]:
    import transformers

    if options.quantization is not None:
        config["quantization_config"] = quantization_config(options.quantization, options.dtype)
    with _loading(name), _quiet():
        model, info = getattr(transformers, auto_class).from_pretrained(
            local_path(name),
            revision=options.revision or "main",
            dtype=options.dtype if options.dtype == "auto" else getattr(torch, options.dtype),
            attn_implementation=options.attn_implementation,
            trust_remote_code=options.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **config,
        )
    if model.dtype == torch.float16:
        check_float16(model.config.model_type, f"dtype {options.dtype}", options)
    if options.quantization == "int8":  # which computes in float16
        check_float16(model.config.model_type, "quantization int8", options)
    if options.gradient_checkpointing:
        checkpointing.turn_on(model)
    model.name_or_path = model.config._name_or_path = name
    mismatched = [entry[0] for entry in info["mismatched_keys"]]
    missing = sorted({*info["missing_keys"], *mismatched})
    if options.quantization is not None:
        keep_missing_layers(model, missing)
    return model.eval(), missing


def _from_pretrained(auto_class: Any, name: str, options: BackboneOptions | None) -> Any:
    options = options or BackboneOptions()
    with _loading(name):
        return auto_class.from_pretrained(
            local_path(name), revision=options.revision or "main", trust_remote_code=options.trust_remote_code
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' report of a missing head: it is missing on purpose, and the task says so."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


@contextmanager
def _loading(name: str) -> Iterator[None]:
    """Turn transformers' errors about a name into one paragraph."""
    try:
        yield
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(
            f"the backbone {name!r} could not be loaded ({type(error).__name__}: {reason}). "
            f"{hub_advice(error)}Give the id of a model on the Hugging Face hub, a folder written by save_pretrained, "
            "or asset:minilm-l6, which needs no hub."
        ) from error
