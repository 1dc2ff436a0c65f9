"""`from_peft`: a prefix of PEFT in our folder."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.load import BackboneOptions, load_backbone
from lightning_prefix.backbone.model import PrefixedModel
from lightning_prefix.backbone.sites import config_of
from lightning_prefix.errors import InputError
from lightning_prefix.peft.layout import (
    BACKBONE,
    CONFIG,
    PREFIX,
    TASKS,
    UNEVEN,
    check_base,
    no_place,
    read,
    split,
    task_type,
)
from lightning_prefix.prefix import AttentionSite, FlatPrefix, FlatPrefixConfig


def from_peft(directory: str | Path, target: str | Path, *, backbone: nn.Module | None = None) -> None:
    """Turn a prefix that PEFT saved into a folder for `PrefixedModel.from_pretrained`, with the same outputs.

    Prefix tuning and cartridges can be read, with their classification and question-answering heads. The text starts
    after the prefix, as there (`positions: shift`). In an encoder-decoder, PEFT gives decoder layer i the states of
    slot 2i modulo the number of slots (peft 0.21.2, `PeftModel.get_prompt`), and so does this. Two things differ: our
    prefix stays visible when a sliding window has passed it, and the frozen tokens of a cartridge can be trained.

    Args:
        directory: with `adapter_config.json` and `adapter_model.safetensors`.
        target: made when missing; its `prefix.safetensors` and `prefix.json` are replaced.
        backbone: the loaded base model, left frozen; when None it is loaded by the id or folder that PEFT recorded.

    Raises:
        InputError: if a file is missing or damaged, holds another method, or does not fit the base model.
    """
    directory = Path(directory)
    config, tensors = read(directory)
    embeddings = tensors.pop(PREFIX)
    head = {name.removeprefix(BACKBONE): tensor for name, tensor in tensors.items()}
    backbone = _load_base(directory, config, head) if backbone is None else backbone
    check_base(directory, config_of(backbone), task_type(config))
    named = dict(backbone.named_parameters())
    _check_head(directory, head, named, type(backbone).__name__)
    is_encoder_decoder = config_of(backbone).is_encoder_decoder
    start = FlatPrefixConfig(length=len(embeddings), init="zero", sites=["decoder"] if is_encoder_decoder else None)
    model = PrefixedModel(backbone, start, positions="shift", trained=list(head))
    before = {name: named[name].detach().clone() for name in head}
    try:
        _check_sizes(directory, config, embeddings, model.sites, is_encoder_decoder)
        prefix = cast("FlatPrefix", model.prefix)
        states = split(embeddings, model.sites[0], len(model.sites), is_encoder_decoder)
        _copy([keys for keys, _ in states], prefix.keys)
        _copy([values for _, values in states], prefix.values)
        _copy(head.values(), [named[name] for name in head])
        model.save_pretrained(target)
    finally:
        model.unload()
        _copy(before.values(), [named[name] for name in before])


@torch.no_grad()
def _copy(source: Any, target: Any) -> None:
    for new, old in zip(source, target, strict=True):
        old.copy_(new)


def _load_base(directory: Path, config: Mapping[str, Any], head: Mapping[str, Tensor]) -> nn.Module:
    """The base model with the class that the task asks for and as many labels as the head has."""
    name, revision = config.get("base_model_name_or_path"), config.get("revision")
    if not name or not isinstance(name, str):
        raise InputError(f"{directory / CONFIG} names no base model; load it and pass it as `backbone`.")
    task = TASKS[task_type(config)]
    names = [f"{module}.weight" for head_name in task.heads for module in (head_name, f"{head_name}.out_proj")]
    labels = [len(head[name]) for name in names if name in head and head[name].ndim]
    options = BackboneOptions(revision=revision if isinstance(revision, str) else None)
    backbone, missing = load_backbone(name, task.auto_class, options, **({"num_labels": labels[0]} if labels else {}))
    if lacking := [parameter for parameter in missing if parameter not in head]:
        raise InputError(
            f"neither {directory} nor its base model {name!r} has {', '.join(lacking)} of {type(backbone).__name__}, "
            "which would be random; load the base model that the prefix was trained with and pass it as `backbone`."
        )
    return cast("nn.Module", backbone)


def _check_head(directory: Path, head: Mapping[str, Tensor], named: Mapping[str, Tensor], backbone: str) -> None:
    for name, tensor in head.items():
        if name not in named or named[name].shape != tensor.shape:
            here = f"shape {tuple(named[name].shape)}" if name in named else "no such parameter"
            raise InputError(
                f"{directory} has {name} with shape {tuple(tensor.shape)}, and {backbone} has {here}; load the base "
                "model with the class and num_labels that the prefix was trained with and pass it as `backbone`."
            )


def _check_sizes(
    directory: Path, config: Mapping[str, Any], embeddings: Tensor, sites: Sequence[AttentionSite], is_seq2seq: bool
) -> None:
    """Refuse states that are not those of the sites, or not what the configuration says."""
    if len({(s.kv_heads, s.key_dim, s.value_dim) for s in sites}) > 1 or sites[0].key_dim != sites[0].value_dim:
        raise no_place(directory, "this base model", UNEVEN)
    kv_heads, head_dim = sites[0].kv_heads, sites[0].key_dim
    slots, rest = divmod(embeddings.shape[1], 2 * kv_heads * head_dim)
    if rest or slots < len(sites) or (slots > len(sites) and not is_seq2seq):
        raise InputError(
            f"{directory} has {PREFIX} of shape {tuple(embeddings.shape)}; the base model needs {len(sites)} layers "
            f"{'or more ' if is_seq2seq else ''}x 2 x {kv_heads} key-value heads x {head_dim} columns. Load the base "
            "model that the prefix was trained with."
        )
    needed = {
        "num_virtual_tokens": len(embeddings),
        "num_layers": slots,
        "num_attention_heads": kv_heads,
        "token_dim": kv_heads * head_dim,
        "num_transformer_submodules": 2 if is_seq2seq else 1,
    }
    for name, size in needed.items():
        if (given := config.get(name)) not in (None, size):
            raise InputError(
                f"{directory / CONFIG} has {name} {given!r}, and its tensors and the base model need {size}; the "
                "folder is damaged, or belongs to another base model."
            )
