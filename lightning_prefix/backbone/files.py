"""The folder that `save_pretrained` writes: `prefix.safetensors` and `prefix.json`."""

import hashlib
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.fingerprint import check_fingerprint, fingerprint
from lightning_prefix.backbone.load import local_path
from lightning_prefix.errors import InputError
from lightning_prefix.prefix import Prefix

FORMAT = 1
_TENSORS, _JSON, _SCHEMA = "prefix.safetensors", "prefix.json", "prefix.schema.json"
_AGAIN = "copy the folder again, or save the prefix once more."
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


@dataclass(frozen=True)
class StoredPrefix:
    """What a folder holds.

    Args:
        directory: where it was read.
        description: the content of `prefix.json`.
        prefix_tensors: keys, values and gates by site.
        backbone_tensors: parameters of the backbone that were trained.
        head_tensors: parameters of a head outside the backbone.
    """

    directory: Path
    description: dict[str, Any]
    prefix_tensors: dict[str, Tensor]
    backbone_tensors: dict[str, Tensor]
    head_tensors: dict[str, Tensor]

    @property
    def variant(self) -> str:
        """`flat`, `gated`, `prompt` or `output`."""
        return str(self.description["prefix"]["variant"])

    @property
    def tensors(self) -> dict[str, Tensor]:
        """All of them, by their names in the file."""
        groups = {"prefix": self.prefix_tensors, "backbone": self.backbone_tensors, "head": self.head_tensors}
        return {f"{group}.{name}": tensor for group, named in groups.items() for name, tensor in named.items()}

    @property
    def positions(self) -> str:
        """`keep` or `shift`."""
        return str(self.description["positions"])

    @property
    def backbone(self) -> dict[str, Any]:
        """Name, revision, class and fingerprint of the backbone."""
        return dict(self.description["backbone"])

    def load_backbone(self) -> nn.Module:
        """The recorded backbone, in float32, as the recorded transformers class; code of the file or hub never runs.

        Raises:
            InputError: if there is no such backbone.
        """
        import transformers

        record = self.backbone
        sizes = {"num_labels": int(record["num_labels"])} if self.backbone_tensors else {}
        try:
            model_class = getattr(transformers, record["class"], None)
            if not isinstance(model_class, type) or not issubclass(model_class, transformers.PreTrainedModel):
                raise InputError(
                    f"{self.directory} was saved from a {record['class']}, which the installed transformers "
                    f"{transformers.__version__} does not have; load that backbone yourself and pass it as `backbone`."
                )
            model = cast("Any", model_class).from_pretrained(
                local_path(record["name"]),
                revision=record["revision"] or "main",
                dtype=torch.float32,
                ignore_mismatched_sizes=True,
                **sizes,
            )
        except (ImportError, KeyError, MemoryError, OSError, RuntimeError, TypeError, ValueError) as error:
            reason = str(error).strip().split("\n")[0]
            raise InputError(
                f"{self.directory} was saved from the backbone {record['name']!r}, which could not be loaded "
                f"({type(error).__name__}: {reason}); load it yourself and pass it as `backbone`."
            ) from error
        model.name_or_path = model.config._name_or_path = record["name"]
        return model.eval()  # type: ignore[no-any-return]

    def check_backbone(self, backbone: nn.Module) -> None:
        """Refuse a backbone other than the recorded one, or without places for its trained parameters.

        Raises:
            InputError: saying what differs.
        """
        self.check_frozen(backbone)
        named = dict(backbone.named_parameters())
        for name, tensor in self.backbone_tensors.items():
            here = f"one of shape {tuple(named[name].shape)}" if name in named else "no such parameter"
            if name not in named or named[name].shape != tensor.shape or not tensor.is_floating_point():
                raise InputError(
                    f"{self.directory} holds a trained {name} of shape {tuple(tensor.shape)} and {tensor.dtype}, the "
                    f"backbone here has {here}; load it as a {self.backbone['class']} with "
                    f"num_labels={self.backbone['num_labels']}, or leave `backbone` out."
                )

    def check_frozen(self, backbone: nn.Module) -> None:
        """Refuse a backbone whose frozen part is not the recorded one.

        Raises:
            InputError: saying what differs.
        """
        check_fingerprint(
            self.backbone["fingerprint"],
            fingerprint(backbone, list(self.backbone_tensors)),
            f"the prefix in {self.directory} was trained on {self.backbone['name']!r}",
            getattr(backbone, "name_or_path", type(backbone).__name__),
        )

    def check_prefix(self, prefix: Prefix) -> None:
        """Refuse tensors that are not the described prefix.

        Raises:
            InputError: if its sites or its length are others.
        """
        record, sites = self.description["prefix"], [site.key for site in prefix.sites]
        if sites != record["sites"] or prefix.length != record["length"]:
            raise InputError(
                f"{self.directory / _TENSORS} holds a prefix of length {prefix.length} at {sites}, but {_JSON} "
                f"describes length {record['length']} at {record['sites']}; {_AGAIN}"
            )


def save(directory: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write the folder.

    Args:
        directory: made when missing; its two files are replaced.
        tensors: named `prefix.`, `backbone.` or `head.` and the rest.
        description: what `prefix.schema.json` describes, without `format` and `sha256`.
    """
    from safetensors.torch import save as to_bytes

    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    directory.mkdir(parents=True, exist_ok=True)
    content = to_bytes(stored, metadata={"format": "pt"})
    (directory / _TENSORS).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    text = json.dumps({"format": FORMAT, **description, "sha256": digest}, indent=2)
    (directory / _JSON).write_text(text + "\n", encoding="utf-8")


def read(directory: Path) -> StoredPrefix:
    """Read and check a folder; nothing in it is ever run or unpickled.

    Raises:
        InputError: if a file is missing, damaged, of a newer format, or holds what no prefix has.
    """
    for name in (_TENSORS, _JSON):
        if not (directory / name).is_file():
            raise InputError(
                f"{directory} has no {name}; a folder written by save_pretrained has {_TENSORS} and {_JSON}."
            )
    try:
        description = json.loads((directory / _JSON).read_text(encoding="utf-8"))
        content = (directory / _TENSORS).read_bytes()
    except (ValueError, OSError, RecursionError) as error:
        raise _unreadable(directory, error) from error
    _check_description(description, directory / _JSON)
    tensors = _tensors(content, description["sha256"], directory)

    def group(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    return StoredPrefix(directory, description, group("prefix."), group("backbone."), group("head."))


def _tensors(content: bytes, digest: str, directory: Path) -> dict[str, Tensor]:
    """The tensors of the file that has this SHA-256, all of them finite and of one of the three groups."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    if hashlib.sha256(content).hexdigest() != digest:
        raise _unreadable(directory, f"the SHA-256 of {_TENSORS} is not the one in {_JSON}")
    try:
        tensors = dict(sorted(load(content).items()))
    except (SafetensorError, AssertionError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise _unreadable(directory, error) from error
    for name, tensor in tensors.items():
        if not name.startswith(("prefix.", "backbone.", "head.")):
            raise InputError(
                f"{directory / _TENSORS} holds {name!r}; names there begin with prefix., backbone. or head., so this "
                f"file is damaged or of another program; {_AGAIN}"
            )
        is_whole = not (tensor.is_floating_point() or tensor.is_complex())
        if not is_whole and (tensor.dtype not in _FLOATS or not tensor.float().isfinite().all()):
            raise InputError(
                f"{name} in {directory / _TENSORS} ({tensor.dtype}) holds numbers that are not finite floats of 16, "
                f"32 or 64 bits; it is damaged: {_AGAIN}"
            )
    return tensors


def _check_description(description: Any, file: Path) -> None:
    """Refuse what `prefix.schema.json` does not allow."""
    from jsonschema.exceptions import best_match

    if isinstance(description, dict) and description.get("format", FORMAT) != FORMAT:
        raise InputError(
            f"{file} has format {description['format']!r}; this version reads format {FORMAT}. "
            "Install the lightning-prefix that wrote it, or a newer one."
        )
    error = best_match(_validator().iter_errors(description))
    if error is None:
        return
    given, allowed = reprlib.repr(error.instance), error.schema["description"]
    if error.validator in ("required", "additionalProperties"):
        given = f"an object with {', '.join(map(reprlib.repr, error.instance)) or 'nothing'}"
        allowed += f", with {', '.join(error.schema['properties'])}"
    field = error.json_path.removeprefix("$").removeprefix(".") or "its content"
    raise InputError(f"{file}: {field} is {given}; allowed is {allowed}. The file is damaged or was edited: {_AGAIN}")


@cache
def _validator() -> Any:
    from jsonschema import Draft202012Validator

    return Draft202012Validator(json.loads((resources.files(__package__) / _SCHEMA).read_text(encoding="utf-8")))


def _unreadable(directory: Path, reason: object) -> InputError:
    return InputError(f"{directory} cannot be read ({reason}); a file is truncated or damaged: {_AGAIN}")
