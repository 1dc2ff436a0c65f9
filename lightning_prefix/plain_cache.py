"""`to_cache`: a prefix as keys and values in a cache, for `generate` of transformers without this package."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn

from lightning_prefix.backbone import files
from lightning_prefix.backbone.card import signed, write_card
from lightning_prefix.backbone.load import BackboneOptions, load_config
from lightning_prefix.backbone.model import PrefixedModel
from lightning_prefix.backbone.sites import config_of
from lightning_prefix.errors import InputError
from lightning_prefix.prefix.stored import to_tensors

__all__ = ["to_cache"]

_TENSORS = "past_key_values.safetensors"

_SNIPPET = """\
import inspect

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, DynamicCache

states = load_file("{file}")  # "0.keys", "0.values", ...: (kv_heads, length, head_dim)
tokenizer = AutoTokenizer.from_pretrained("{backbone}"{revision}, padding_side="left")
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
model = AutoModelForCausalLM.from_pretrained("{backbone}"{revision}, dtype="auto").eval()
cache_name = "cache" if "cache" in inspect.signature(model.forward).parameters else "past_key_values"


def generate(texts, **options):
    batch = tokenizer(texts, return_tensors="pt", padding=True).to(model.device)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    rows, length = len(ids), states["0.keys"].shape[1]
    copies = max(options.get("num_beams", 1), options.get("num_return_sequences", 1))  # which generate makes of a row
    cache = DynamicCache(config=model.config)  # a new one each time: generate adds to it
    for layer in range(len(states) // 2):
        pair = (states[f"{{layer}}.{{name}}"].to(model.device, model.dtype) for name in ("keys", "values"))
        cache.update(*(tensor.expand(rows * copies, -1, -1, -1) for tensor in pair), layer)
    # generate skips as many tokens as are in the cache and counts positions by the mask, so these stand for the prefix
    ids = torch.cat([ids.new_full((rows, length), tokenizer.pad_token_id), ids], dim=1)
    mask = torch.cat([mask.new_ones(rows, length), mask], dim=1)
    options = {{"pad_token_id": tokenizer.pad_token_id, **options, cache_name: cache}}
    written = model.generate(ids, attention_mask=mask, **options)
    return tokenizer.batch_decode(written[:, ids.shape[1] :], skip_special_tokens=True)


print(generate(["your text", "another, longer text"], max_new_tokens=32, do_sample=False))
"""


def to_cache(directory: str | Path, target: str | Path, *, backbone: nn.Module | None = None) -> None:
    """Turn a folder that `save_pretrained` wrote into keys and values for transformers' own `generate`.

    `past_key_values.safetensors` holds `0.keys`, `0.values`, `1.keys` and so on, (kv_heads, length, head_dim) each;
    `README.md` beside it the lines that make a cache of them for each batch. They write what this package writes, for
    decoder-only language models with one length at every layer and `positions="shift"`: `generate` counts positions
    from the length of the cache, so the text always starts after the prefix. With `positions="keep"` the text has the
    positions that the prefix takes here, which a plain cache cannot say. A prompt becomes the keys and values that it
    stands for. Templates and preprocessing of the task stay behind.

    Args:
        directory: with `prefix.safetensors` and `prefix.json`.
        target: made when missing; its safetensors file is replaced.
        backbone: the loaded backbone; when None its configuration is read by the recorded name, and the whole of it for
            a prompt.

    Raises:
        InputError: if a file is missing or damaged, or the cache has no place for something in it.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> from lightning_prefix import FlatPrefixConfig, PrefixedModel
        >>> from transformers import GPT2Config, GPT2LMHeadModel
        >>> backbone = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=8, n_layer=2, n_head=2, n_positions=32))
        >>> model = PrefixedModel(backbone, FlatPrefixConfig(length=4), positions="shift")
        >>> with TemporaryDirectory() as ours, TemporaryDirectory() as plain:
        ...     model.save_pretrained(ours)
        ...     to_cache(ours, plain, backbone=model.unload())
        ...     sorted(file.name for file in Path(plain).iterdir())
        ['README.md', 'past_key_values.safetensors']
    """
    from safetensors.torch import save

    directory, target = Path(directory), Path(target)
    stored = files.read(directory)
    if backbone is not None:
        stored.check_backbone(backbone)
    _check_place(stored)
    name, revision = stored.backbone["name"], stored.backbone["revision"]
    if backbone is None and not name:
        raise InputError(f"{directory} records no name of its backbone; load it and pass it as `backbone`.")
    if backbone is None and stored.variant == "prompt":
        backbone = stored.load_backbone()
    config = load_config(name, BackboneOptions(revision=revision)) if backbone is None else config_of(backbone)
    tensors: Mapping[str, Tensor] = stored.prefix_tensors
    if stored.variant == "prompt":
        model = PrefixedModel.from_pretrained(directory, backbone)
        tensors = to_tensors(cast("Any", model.prefix).flatten())
        model.unload()
    states = _layers(directory, config.get_text_config(), tensors)
    target.mkdir(parents=True, exist_ok=True)
    (target / _TENSORS).write_bytes(save(states, metadata={"format": "pt"}))
    write_card(target, signed(_how_to(name, revision, config, states)))


def _no_place(directory: Path, what: str, why: str) -> InputError:
    return InputError(f"{directory} holds {what}, for which a plain cache has no place: {why}.")


def _check_place(stored: files.StoredPrefix) -> None:
    """Refuse what no cache of transformers can hold."""
    directory, class_name = stored.directory, stored.backbone["class"]
    if not class_name.endswith(("ForCausalLM", "LMHeadModel")):
        raise _no_place(directory, f"a prefix of {class_name}", "it is for decoder-only language models that generate")
    if stored.variant not in ("flat", "prompt"):
        raise _no_place(directory, f"a {stored.variant} prefix", "it holds keys and values beside those of the text")
    if stored.positions != "shift":
        raise _no_place(
            directory,
            f"positions={stored.positions!r}",
            "`generate` counts the positions of the text from the length of the cache, so the text would start after "
            "the prefix, where it did not in training; train with --model.positions shift, or use this package",
        )
    if trained := [*stored.backbone_tensors, *stored.head_tensors]:
        raise _no_place(directory, f"trained {', '.join(trained)}", "it leaves the model as it is")


def _layers(directory: Path, config: Any, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """`layer.keys` and `layer.values`, one length at every layer."""
    if getattr(config, "num_kv_shared_layers", None):
        raise _no_place(directory, f"a prefix of {config.model_type}", "some of its layers share keys and values")
    if getattr(config, "kv_lora_rank", None):
        raise _no_place(directory, f"a prefix of {config.model_type}", "this model caches keys and values compressed")
    names = [f"{layer}.{part}" for layer in range(config.num_hidden_layers) for part in ("keys", "values")]
    found = {name.removeprefix("decoder."): tensor.contiguous() for name, tensor in tensors.items()}
    if missing := [name.split(".")[0] for name in names[::2] if name not in found]:
        raise _no_place(directory, f"no prefix at layer {', '.join(missing)}", "`generate` has one length for all")
    if len(lengths := {tensor.shape[1] for tensor in found.values()}) > 1:
        raise _no_place(directory, f"a prefix with lengths {sorted(lengths)}", "`generate` has one length for all")
    return {name: found[name] for name in names}


def _how_to(name: str, revision: str | None, config: Any, states: Mapping[str, Tensor]) -> str:
    length = states["0.keys"].shape[1]
    notes = [
        f"Give texts as they were in training, template included. Logits processors that count tokens, such as "
        f"`repetition_penalty`, see {length} padding tokens before the text, and so does `max_length`.",
    ]
    if window := getattr(config.get_text_config(), "sliding_window", None):
        notes.append(
            f"The model has a sliding window: outputs are those of training up to {window} tokens, prefix too."
        )
    snippet = _SNIPPET.format(
        file=_TENSORS, backbone=name or "BACKBONE", revision=f', revision="{revision}"' if revision else ""
    )
    return "\n\n".join(
        [
            f"# A prefix of {length} keys and values for `generate`",
            f"`{_TENSORS}` was made by `lightning_prefix`; `transformers` is enough to use it:",
            f"```python\n{snippet}```",
            *notes,
        ]
    )
