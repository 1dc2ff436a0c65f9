"""The model card of a task: what was trained on what, how well it does, and how to use it."""

import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, cast

import torch
import yaml

from lightning_prefix.assets import is_asset
from lightning_prefix.backbone.card import signed

if TYPE_CHECKING:
    from lightning_prefix.backbone import PrefixedModel
    from lightning_prefix.tasks.base import PrefixTask

_HUB_METRICS = {"pearson": "pearsonr", "spearman": "spearmanr", "rouge1": "rouge", "rouge2": "rouge", "rougeL": "rouge"}
"""Names of metrics where the hub has other ones."""


def wilson_interval(share: float, rows: int, level: float = 0.95) -> tuple[float, float]:
    """Interval of a share of rows (Wilson 1927).

    Args:
        share: of the rows that are right, in [0, 1].
        rows: how many there are, >= 1.
        level: of confidence, in (0, 1).

    Example:
        >>> [round(end, 4) for end in wilson_interval(0.9, 100)]
        [0.8256, 0.9448]
    """
    z = NormalDist().inv_cdf((1 + level) / 2)
    centre = (share + z * z / (2 * rows)) / (1 + z * z / rows)
    half = z / (1 + z * z / rows) * math.sqrt(share * (1 - share) / rows + z * z / (4 * rows * rows))
    return centre - half, centre + half


def model_card(task: "PrefixTask", description: Mapping[str, Any], directory: Path) -> str:
    """The card of a task that was saved, as Markdown with the head that the hub reads.

    Args:
        task: with weights.
        description: of its data, as `TextDataModule.description` returns it.
        directory: where it was saved.
    """
    data = _data(task)
    facts = {} if data is None else data.summary()
    sections = [
        f"---\n{_head(task, facts)}---",
        "<!-- Yours to add: `license:` in the head; what it is for, and where it fails. -->",
        f"# {type(task).__name__} with a prefix for {_public_name(task.backbone_name)}",
        _opening(task),
        _use(directory, data),
        *_metrics(task, facts),
        *_data_section(facts),
        _training(task, description, directory),
    ]
    return signed("\n\n".join(sections))


def _data(task: "PrefixTask") -> Any:
    """The data of the task's Trainer that can be described."""
    data = None if task._trainer is None else getattr(task._trainer, "datamodule", None)
    return data if hasattr(data, "summary") else None


def _is_on_hub(backbone: str) -> bool:
    """Whether a backbone that was loaded came from the hub."""
    return not is_asset(backbone) and not Path(backbone).exists()


def _public_name(backbone: str) -> str:
    """Without the folders above one."""
    return Path(backbone).name if Path(backbone).exists() else backbone


def _head(task: "PrefixTask", facts: Mapping[str, Any]) -> str:
    from huggingface_hub import ModelCardData

    measured = dict.fromkeys(name.split("/")[1] for name in task.measured if not name.endswith("/loss"))
    on_hub = _is_on_hub(task.backbone_name)
    head = ModelCardData(
        language=facts.get("languages") or None,
        library_name="lightning_prefix",
        tags=["prefix-tuning", "lightning", type(task).__name__],
        base_model=task.backbone_name if on_hub else None,
        base_model_relation="adapter" if on_hub else None,
        datasets=[facts["hub_id"]] if facts.get("hub_id") else None,
        metrics=list(dict.fromkeys(_HUB_METRICS.get(name, name) for name in measured)) or None,
        pipeline_tag=task.pipeline_tag,
    )
    return head.to_yaml() + "\n"


def _opening(task: "PrefixTask") -> str:
    model, backbone = cast("PrefixedModel", task.model), task.backbone_name
    prefix, commit = model.prefix, getattr(model.config, "_commit_hash", None) or task.backbone_options.revision
    link = f"[{backbone}](https://huggingface.co/{backbone})" if _is_on_hub(backbone) else f"`{_public_name(backbone)}`"
    lines = [
        f"A {prefix.variant} prefix of length {prefix.length} at {len(prefix.sites)} attention sites of the frozen "
        f"{link}{f' (revision `{commit}`)' if commit else ''}, trained with `lightning_prefix`."
    ]
    if labels := getattr(task, "labels", None):
        shown = ", ".join(f"`{label}`" for label in labels[:20])
        lines.append(f"Labels: {shown}{f' and {len(labels) - 20} more' if len(labels) > 20 else ''}.")
    return "\n".join(lines)


def _use(directory: Path, data: Any) -> str:
    inputs = json.dumps(["your text"] if data is None else data.example, ensure_ascii=False)
    lines = [
        "## Use",
        "",
        "```python",
        "import lightning_prefix as lp",
        "",
        f'predict = lp.Predictor.from_pretrained("{directory.as_posix()}")',
        f"print(predict({inputs}))",
        "```",
    ]
    return "\n".join(lines)


def _metrics(task: "PrefixTask", facts: Mapping[str, Any]) -> Iterator[str]:
    """A table, and what its intervals are."""
    if not task.measured:
        return
    rows = facts.get("rows", {}).get("test", 0) if _tests_all_rows(task) else 0
    lines = ["## Metrics", "", "| split | metric | value | 95 % interval |", "|---|---|---|---|"]
    has_interval = False
    for name, value in task.measured.items():
        split, _, metric = name.partition("/")
        interval = ""
        if split == "test" and metric in task.shares and rows:
            interval = " to ".join(f"{end:.4g}" for end in wilson_interval(value, rows))
            has_interval = True
        lines.append(f"| {'validation' if split == 'val' else split} | {metric} | {value:.4g} | {interval} |")
    yield "\n".join(lines)
    notes = []
    if has_interval:
        notes.append(f"Intervals are Wilson's, of {rows:,} rows taken as independent; other seeds are not in them.")
    if any(name.startswith("val/") for name in task.measured):
        notes.append("The validation split picked the checkpoint, so its numbers are a little too good.")
    if notes:
        yield " ".join(notes)


def _tests_all_rows(task: "PrefixTask") -> bool:
    limit = None if task._trainer is None else task._trainer.limit_test_batches
    return isinstance(limit, float) and limit == 1.0


def _data_section(facts: Mapping[str, Any]) -> Iterator[str]:
    if not facts:
        return
    lines = ["## Data", "", f"- source: {facts['source']}"]
    lines += [f"- {split}: {rows:,} rows" for split, rows in facts["rows"].items()]
    yield "\n".join([*lines, f"- columns: {', '.join(f'`{column}`' for column in facts['columns'])}"])


def _training(task: "PrefixTask", description: Mapping[str, Any], directory: Path) -> str:
    own = {key: value for key, value in task.hparams.items() if not key.startswith("_")}
    own["learning_rate"] = own.get("learning_rate") or task.prefix_config.default_learning_rate
    config = {"model": own, "data": description.get("init_args"), "trainer": _trainer_options(task)}
    seed = os.environ.get("PL_GLOBAL_SEED")
    if task._trainer is not None and seed is not None:
        config["seed_everything"] = int(seed)
    trained = sum(p.numel() for p in task.parameters() if p.requires_grad)
    backbone = cast("PrefixedModel", task.model).backbone
    total = sum(p.numel() for p in backbone.parameters())
    names = ("lightning-prefix", "torch", "transformers", "lightning")
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)
    size = (directory / "prefix.safetensors").stat().st_size
    return "\n".join(
        [
            "## Training",
            "",
            f"{trained:,} parameters were trained, beside {total:,} of the backbone; `prefix.safetensors` has "
            f"{size:,} bytes.",
            f"Python {platform.python_version()}, {versions}{_hardware(task)}.",
            "",
            "```yaml",
            yaml.safe_dump(_given(config), sort_keys=False, allow_unicode=True).rstrip(),
            "```",
        ]
    )


def _trainer_options(task: "PrefixTask") -> dict[str, Any] | None:
    trainer, data = task._trainer, _data(task)
    if trainer is None:
        return None
    return {
        "epochs": trainer.current_epoch or None,
        "steps": trainer.global_step or None,
        "batch_size": None if data is None else data.batch_size,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "gradient_clip_val": trainer.gradient_clip_val,
        "precision": trainer.precision,
    }


def _hardware(task: "PrefixTask") -> str:
    if task._trainer is None:
        return ""
    device = task._trainer.strategy.root_device
    count = task._trainer.world_size
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()
    return f", {count} x {name}" if count > 1 else f", one {name}"


def _given(value: Any) -> Any:
    """Without what is null or empty."""
    if isinstance(value, Mapping):
        kept = {key: _given(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item not in ({}, [])}
    return value
