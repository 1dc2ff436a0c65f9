"""What `fit` says at its end: what it found, where it is, and what to type next."""

import importlib.util
import shlex
from pathlib import Path

from lightning_prefix.callbacks.progress import shown
from lightning_prefix.data import DialogueDataModule, TextDataModule
from lightning_prefix.tasks import PrefixTask


def next_steps(task: PrefixTask, data: TextDataModule, folder: Path, checkpoint: str) -> str:
    """Lines for people.

    Args:
        task: trained, with the metrics of its checkpoint.
        data: that it was trained on.
        folder: of the run, with `config.yaml` and `prefix`.
        checkpoint: that was tested.
    """
    prefix = folder / "prefix"
    size = sum(file.stat().st_size for file in prefix.iterdir()) / 1000
    lines = [
        *_found(task),
        f"checkpoint         {checkpoint}",
        f"prefix for use     {prefix} ({size:.0f} kB)",
        "\nnext:",
        *(f"  {command}" for command in _commands(data, folder, checkpoint)),
    ]
    return "\n".join(lines)


def _found(task: PrefixTask) -> list[str]:
    """Labels and metrics."""
    lines = []
    if labels := getattr(task, "labels", None):
        lines.append(f"labels             {shown(labels)}")
    for split, name in (("val", "validation"), ("test", "test")):
        values = [f"{k.partition('/')[2]} {v:.4g}" for k, v in task.measured.items() if k.startswith(f"{split}/")]
        if values:
            lines.append(f"{name:19}{', '.join(values)}")
    return lines


def _commands(data: TextDataModule, folder: Path, checkpoint: str) -> list[str]:
    config, prefix = shlex.quote(str(folder / "config.yaml")), shlex.quote(str(folder / "prefix"))
    trained = f"--config {config} --ckpt_path {shlex.quote(checkpoint)}"
    kind = "txt" if len(data.columns) == 1 else "jsonl"
    answer = f"lp.Predictor.from_pretrained('{folder / 'prefix'}')({data.example})"
    draws = importlib.util.find_spec("matplotlib") is not None
    commands = [
        f"python -m lightning_prefix predict {trained} --data.predict FILE.{kind}",
        f"python -m lightning_prefix {'test' if data.has_test else 'validate'} {trained}",
        f"python -m lightning_prefix plot --prefix {prefix}" + ("" if draws else "  # first: pip install '.[plot]'"),
        f'python -c "import lightning_prefix as lp; print({answer})"',
    ]
    if isinstance(data, DialogueDataModule):
        commands.append(f"python -m lightning_prefix chat --prefix {prefix}")
    return commands
