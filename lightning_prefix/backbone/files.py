"""The folder that `save_pretrained` writes: `prefix.safetensors` and `prefix.json`."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from lightning_prefix.backbone.fingerprint import check_fingerprint, fingerprint
from lightning_prefix.backbone.load import local_path
from lightning_prefix.errors import InputError

FORMAT = 1
_TENSORS, _JSON = "prefix.safetensors", "prefix.json"


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
        """`flat` or `gated`."""
        return str(self.description["prefix"]["variant"])

    @property
    def positions(self) -> str:
        """`keep` or `shift`."""
        return str(self.description["positions"])

    @property
    def backbone(self) -> dict[str, Any]:
        """Name, revision, class and fingerprint of the backbone."""
        return dict(self.description["backbone"])

    def load_backbone(self) -> nn.Module:
        """The recorded backbone, in float32, as the recorded transformers class."""
        import transformers

        record = self.backbone
        model_class = getattr(transformers, record["class"], None)
        if model_class is None:
            raise InputError(
                f"{self.directory} was saved from a {record['class']}, which the installed transformers "
                f"{transformers.__version__} does not have; load that backbone yourself and pass it as `backbone`."
            )
        sizes = {"num_labels": record["num_labels"]} if self.backbone_tensors else {}
        model = model_class.from_pretrained(
            local_path(record["name"]),
            revision=record["revision"] or "main",
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            **sizes,
        )
        model.name_or_path = model.config._name_or_path = record["name"]
        return model.eval()  # type: ignore[no-any-return]

    def check_backbone(self, backbone: nn.Module) -> None:
        """Refuse a backbone other than the recorded one."""
        check_fingerprint(
            self.backbone["fingerprint"],
            fingerprint(backbone, list(self.backbone_tensors)),
            f"the prefix in {self.directory} was trained on {self.backbone['name']!r}",
            getattr(backbone, "name_or_path", type(backbone).__name__),
        )


def save(directory: Path, tensors: Mapping[str, Tensor], description: Mapping[str, Any]) -> None:
    """Write the folder.

    Args:
        directory: made when missing; its two files are replaced.
        tensors: named `prefix.`, `backbone.` or `head.` and the rest.
        description: plain data.
    """
    from safetensors.torch import save as to_bytes

    stored = {name: tensor.detach().contiguous() for name, tensor in tensors.items()}
    directory.mkdir(parents=True, exist_ok=True)
    (directory / _TENSORS).write_bytes(to_bytes(stored, metadata={"format": "pt"}))
    text = json.dumps({"format": FORMAT, **description}, indent=2)
    (directory / _JSON).write_text(text + "\n", encoding="utf-8")


def read(directory: Path) -> StoredPrefix:
    """Read and check a folder.

    Raises:
        InputError: if a file is missing, damaged, or of a newer format.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    for name in (_TENSORS, _JSON):
        if not (directory / name).is_file():
            raise InputError(
                f"{directory} has no {name}; a folder written by save_pretrained has {_TENSORS} and {_JSON}."
            )
    try:
        description = json.loads((directory / _JSON).read_text(encoding="utf-8"))
        tensors = load_file(directory / _TENSORS)
    except (ValueError, SafetensorError) as error:
        raise InputError(
            f"{directory} cannot be read ({error}); a file is truncated or damaged. Copy the folder again or save "
            "the prefix once more."
        ) from error
    if description.get("format") != FORMAT:
        raise InputError(
            f"{directory / _JSON} has format {description.get('format')!r}; this version reads format {FORMAT}. "
            "Install the lightning-prefix that wrote it, or a newer one."
        )

    def group(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}

    return StoredPrefix(directory, description, group("prefix."), group("backbone."), group("head."))
