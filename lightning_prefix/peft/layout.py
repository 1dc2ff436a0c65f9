"""How PEFT stores a prefix: `adapter_config.json` and `adapter_model.safetensors` (peft 0.21.2)."""

import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_prefix.errors import InputError
from lightning_prefix.prefix import AttentionSite

CONFIG, TENSORS, PICKLE = "adapter_config.json", "adapter_model.safetensors", "adapter_model.bin"
PREFIX, BACKBONE = "prompt_embeddings", "base_model."
SEQ2SEQ = "SEQ_2_SEQ_LM"
UNEVEN = (
    "in PEFT all layers have keys and values of one size, and of this backbone they differ; there is no way around it"
)


class Task(NamedTuple):
    """What one of PEFT's task types stands for.

    Attributes:
        endings: of the names of the model classes.
        auto_class: what the base model is loaded as.
        heads: modules of the model that PEFT stores with the prefix.
    """

    endings: tuple[str, ...]
    auto_class: str
    heads: tuple[str, ...] = ()


_labels = ("classifier", "score")
TASKS = {
    "SEQ_CLS": Task(("ForSequenceClassification",), "AutoModelForSequenceClassification", _labels),
    "TOKEN_CLS": Task(("ForTokenClassification",), "AutoModelForTokenClassification", _labels),
    "QUESTION_ANS": Task(("ForQuestionAnswering",), "AutoModelForQuestionAnswering", ("qa_outputs",)),
    "CAUSAL_LM": Task(("ForCausalLM", "LMHeadModel"), "AutoModelForCausalLM"),
    SEQ2SEQ: Task(("ForConditionalGeneration", "MTModel"), "AutoModelForSeq2SeqLM"),
    "FEATURE_EXTRACTION": Task(("",), "AutoModel"),
}


# Both layouts: (tokens, slots * 2 * kv_heads * head_dim) there, (kv_heads, tokens, head_dim) of each layer here.


def split(embeddings: Tensor, site: AttentionSite, layers: int, is_encoder_decoder: bool) -> list[tuple[Tensor, ...]]:
    """Keys and values (kv_heads, tokens, head_dim) of each layer."""
    slots = embeddings.float().view(len(embeddings), -1, 2, site.kv_heads, site.key_dim).permute(1, 2, 3, 0, 4)
    return [tuple(slots[2 * i % len(slots) if is_encoder_decoder else i]) for i in range(layers)]


def join(states: Sequence[tuple[Tensor, Tensor]], is_encoder_decoder: bool) -> Tensor:
    """The odd slots, which PEFT never reads in an encoder-decoder, are zeros."""
    slots = torch.stack([torch.stack(pair) for pair in states])  # (layers, 2, kv_heads, tokens, head_dim)
    if is_encoder_decoder:
        slots = torch.stack((slots, torch.zeros_like(slots)), 1).flatten(0, 1)
    return slots.permute(3, 0, 1, 2, 4).flatten(1).contiguous()


def read(directory: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of a PEFT folder."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if not (directory / TENSORS).is_file() and (directory / PICKLE).is_file():
        raise InputError(
            f"{directory} has {PICKLE}, a pickle, which can run code when it is read; load it with the PEFT that "
            f"wrote it and save it again with save_pretrained(..., safe_serialization=True), which makes {TENSORS}."
        )
    for name in (CONFIG, TENSORS):
        if not (directory / name).is_file():
            raise InputError(
                f"{directory} has no {name}; a folder that PEFT wrote has {CONFIG} and {TENSORS} (an adapter that is "
                "not called default is in the sub-folder of its name)."
            )
    try:
        config = json.loads((directory / CONFIG).read_text(encoding="utf-8"))
        tensors = load_file(directory / TENSORS)
    except (AssertionError, KeyError, RuntimeError, SafetensorError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory} cannot be read ({error}); a file is truncated or damaged. Copy the folder again."
        ) from error
    method = config.get("peft_type") if isinstance(config, dict) else None
    if method not in ("PREFIX_TUNING", "CARTRIDGE"):
        raise InputError(
            f"{directory / CONFIG} has peft_type {method!r}; PREFIX_TUNING and CARTRIDGE can be read, which are keys "
            "and values of every layer."
        )
    if strange := [name for name in tensors if name != PREFIX and not name.startswith(BACKBONE)]:
        raise InputError(f"{directory} has {', '.join(strange)}, which a prefix of PEFT does not have; it is damaged.")
    embeddings = tensors.get(PREFIX, torch.empty(0))
    if embeddings.ndim != 2 or not embeddings.numel():
        raise InputError(
            f"{directory} has {PREFIX} of shape {tuple(embeddings.shape)}, which needs shape (tokens, layers * 2 * "
            "token_dim); the file is damaged."
        )
    if broken := [name for name, t in tensors.items() if not t.is_floating_point() or not t.float().isfinite().all()]:
        raise InputError(f"{directory} has numbers that are not finite floats in {', '.join(broken)}; it is damaged.")
    return config, tensors


def write(directory: Path, config: Mapping[str, Any], tensors: dict[str, Tensor]) -> None:
    """A PEFT folder; `peft_version` and `init_weights`, unknown to older releases, are left to their defaults."""
    from safetensors.torch import save

    directory.mkdir(parents=True, exist_ok=True)
    (directory / TENSORS).write_bytes(save(tensors, metadata={"format": "pt"}))
    (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def task_type(config: Mapping[str, Any]) -> str:
    """The task type of an adapter, one of `TASKS`."""
    if (task := config.get("task_type") or "FEATURE_EXTRACTION") not in tuple(TASKS):
        raise InputError(f"task_type {task!r} is given in {CONFIG}; PEFT has {', '.join(TASKS)}.")
    return str(task)


def check_base(directory: Path, config: Any, task: str) -> None:
    """Refuse base models with which PEFT cannot use a prefix, or ours would mean something else."""
    if config.is_encoder_decoder != (task == SEQ2SEQ):
        raise InputError(
            f"{directory} is of PEFT's task type {task}, and its base model ({config.model_type}) is "
            f"{'an' if config.is_encoder_decoder else 'no'} encoder-decoder; PEFT has prefixes for encoder-decoders as "
            f"{SEQ2SEQ}, and for these only. Use a base model of that kind."
        )
    if getattr(config.get_text_config(), "num_kv_shared_layers", None):
        raise no_place(directory, f"a prefix of {config.model_type}", "some of its layers share keys and values")
    if window := getattr(config.get_text_config(), "sliding_window", None):
        warnings.warn(
            f"{config.model_type} has a sliding window of {window} tokens, out of which PEFT's prefix moves in longer "
            "texts; ours stays visible, so outputs differ from there on.",
            stacklevel=3,
        )


def no_place(directory: Path, what: str, why: str) -> InputError:
    """The error about something that PEFT cannot hold."""
    return InputError(f"{directory} holds {what}, for which PEFT has no place: {why}.")
