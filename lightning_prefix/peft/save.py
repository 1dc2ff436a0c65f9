"""`to_peft`: a prefix of ours in PEFT's folder."""

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from lightning_prefix.backbone import files
from lightning_prefix.backbone.load import BackboneOptions, load_config
from lightning_prefix.backbone.model import PrefixedModel
from lightning_prefix.backbone.sites import config_of
from lightning_prefix.errors import InputError
from lightning_prefix.peft.layout import BACKBONE, PREFIX, TASKS, UNEVEN, check_base, join, no_place, write
from lightning_prefix.prefix.stored import to_tensors


def to_peft(directory: str | Path, target: str | Path, *, backbone: nn.Module | None = None) -> None:
    """Turn a folder that `save_pretrained` wrote into one for `peft.PeftModel.from_pretrained`, with the same outputs.

    PEFT can hold less: keys and values of one length at every layer, in an encoder-decoder of the decoder's
    self-attention, text that starts after the prefix, and heads called classifier, score or qa_outputs. A prompt
    becomes the keys and values that it stands for. What a task stored about labels and texts has no place there. There
    a sliding window passes the prefix, so outputs are the same while prefix and text fit into it.

    Args:
        directory: with `prefix.safetensors` and `prefix.json`.
        target: made when missing; its `adapter_config.json` and `adapter_model.safetensors` are replaced.
        backbone: the loaded backbone; when None its configuration is read by the recorded name, and the whole of it
            for a head or a prompt.

    Raises:
        InputError: if a file is missing or damaged, or PEFT has no place for something in it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_prefix import FlatPrefixConfig, PrefixedModel
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> backbone = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=32))
        >>> model = PrefixedModel(backbone, FlatPrefixConfig(length=4), positions="shift")
        >>> with TemporaryDirectory() as ours, TemporaryDirectory() as theirs:
        ...     model.save_pretrained(ours)
        ...     to_peft(ours, theirs, backbone=model.unload())
        ...     sorted(file.name for file in Path(theirs).iterdir())
        ['adapter_config.json', 'adapter_model.safetensors']
    """
    directory, target = Path(directory), Path(target)
    stored = files.read(directory)
    if backbone is not None:
        stored.check_backbone(backbone)
    name, class_name, revision = (stored.backbone[key] for key in ("name", "class", "revision"))
    task = next(task for task, (endings, *_) in TASKS.items() if class_name.endswith(endings))
    _check_place(stored, task)
    if backbone is None and not name:
        raise InputError(f"{directory} records no name of its backbone; load it and pass it as `backbone`.")
    heads = TASKS[task].heads
    if backbone is None and (heads or stored.variant == "prompt"):
        backbone = stored.load_backbone()
    config = load_config(name, BackboneOptions(revision=revision)) if backbone is None else config_of(backbone)
    check_base(directory, config, task)
    _check_reader(directory, config, class_name, task)
    tensors = stored.prefix_tensors
    if stored.variant == "prompt":
        model = PrefixedModel.from_pretrained(directory, backbone)
        tensors = to_tensors(cast("Any", model.prefix).flatten())
        model.unload()
    states = _layers(directory, config, tensors)
    embeddings = join(states, config.is_encoder_decoder)
    kv_heads, length, head_dim = states[0][0].shape
    description = {
        "auto_mapping": None,
        "base_model_name_or_path": name or None,
        "encoder_hidden_size": kv_heads * head_dim,
        "inference_mode": True,
        "modules_to_save": list(heads) or None,
        "num_attention_heads": kv_heads,
        "num_layers": embeddings.shape[1] // (2 * kv_heads * head_dim),
        "num_transformer_submodules": 2 if config.is_encoder_decoder else 1,
        "num_virtual_tokens": length,
        "peft_type": "PREFIX_TUNING",
        "prefix_projection": False,
        "revision": revision,
        "task_type": task,
        "token_dim": kv_heads * head_dim,
    }
    head = _head(backbone, heads) | stored.backbone_tensors
    write(target, description, {PREFIX: embeddings} | {BACKBONE + name: tensor for name, tensor in head.items()})


def _head(backbone: nn.Module | None, modules: Sequence[str]) -> dict[str, Tensor]:
    """All parameters of the head, trained or not: PEFT loads none with some missing."""
    named = () if backbone is None else backbone.named_parameters()
    return {name: tensor.detach().contiguous() for name, tensor in named if name.split(".")[0] in modules}


def _check_place(stored: files.StoredPrefix, task: str) -> None:
    """Refuse what PEFT has no place for, as far as the names of things tell."""
    directory, heads = stored.directory, TASKS[task].heads
    if stored.variant not in ("flat", "prompt"):
        raise no_place(directory, f"a {stored.variant} prefix", "it only joins keys and values with those of the text")
    if stored.positions != "shift":
        raise no_place(directory, f"positions={stored.positions!r}", "there the text starts after the prefix")
    trained = [name for name in stored.backbone_tensors if name.split(".")[0] not in heads]
    if trained := trained + [f"head.{name}" for name in stored.head_tensors]:
        kept = f"as {task} it keeps {' and '.join(heads) or 'nothing'} of the model beside the prefix"
        raise no_place(directory, f"trained {', '.join(trained)}", kept)


def _check_reader(directory: Path, config: Any, class_name: str, task: str) -> None:
    """Refuse encoders that take no cache, in which PEFT's prefix rides."""
    import transformers

    model_class = getattr(transformers, class_name, None)
    if TASKS[task].heads:  # PEFT calls the model below them
        model_class = transformers.MODEL_MAPPING.get(type(config), None)
    takes = set() if model_class is None else set(inspect.signature(model_class.forward).parameters)
    if model_class is not None and not takes & {"past_key_values", "cache"}:  # renamed in transformers 5.24
        raise no_place(directory, f"a prefix of {class_name}", f"{model_class.__name__} takes no past_key_values")


def _layers(directory: Path, config: Any, tensors: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
    """Keys and values of every layer, all of one shape."""
    kinds = sorted({name.split(".")[0] for name in tensors})
    if config.is_encoder_decoder and kinds != ["decoder"]:
        places = "in an encoder-decoder it has one for the decoder's self-attention only; train with sites=[decoder]"
        raise no_place(directory, f"states of the sites {', '.join(kinds)}", places)
    layers = [f"{kinds[0]}.{layer}" for layer in range(_depth(config))]
    if without := [layer for layer in layers if not any(name.startswith(f"{layer}.") for name in tensors)]:
        raise no_place(directory, f"no prefix at {', '.join(without)}", "there every layer has one")
    names = [(f"{layer}.keys", f"{layer}.values") for layer in layers]
    shapes = {tensor.shape for tensor in tensors.values()}
    if sorted(tensors) != sorted(sum(names, ())) or any(len(shape) != 3 or 0 in shape for shape in shapes):
        raise InputError(f"{directory} has not the keys and values of every layer; the file is damaged.")
    if len({(shape[0], shape[2]) for shape in shapes}) > 1:
        raise no_place(directory, "this backbone", UNEVEN)
    if len(shapes) > 1:
        lengths = sorted({shape[1] for shape in shapes})
        raise no_place(directory, f"a prefix with lengths {lengths}", "there all layers have one length")
    return [(tensors[key].float(), tensors[value].float()) for key, value in names]


def _depth(config: Any) -> int:
    """Layers of the backbone; of its decoder, if it has two stacks."""
    if config.is_encoder_decoder:
        return int(getattr(config, "decoder_layers", None) or config.num_decoder_layers)
    return int(config.get_text_config().num_hidden_layers)
