"""One run of one method on one task, in a process of its own: prints one JSON object on its last line."""

import argparse
import json
import logging
import resource
import tempfile
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from quality_methods import METHODS, PeerModel
from quality_tasks import QualityTask, quality_tasks

import lightning_prefix as lp
from lightning_prefix.prefix.stored import to_tensors

SHARES = (10, 30, 100)
"""Per cent of the steps after which the validation split is measured."""


class Milestones(lightning.Callback):
    """Measures the validation split in the course of training, and takes the time of the steps alone."""

    def __init__(self, steps: int) -> None:
        self.marks = {max(1, round(steps * share / 100)): share for share in SHARES}
        self.curve: dict[int, dict[str, float]] = {}
        self.seconds, self._start = 0.0, 0.0

    def on_train_batch_start(self, *_: Any) -> None:
        self._start = time.process_time()

    def on_train_batch_end(self, trainer: lightning.Trainer, task: Any, *_: Any) -> None:
        self.seconds += time.process_time() - self._start
        if share := self.marks.get(trainer.global_step):
            task.eval()
            loader = trainer.datamodule.val_dataloader()
            self.curve[share] = measure(task, loader)
            task.train()


@torch.no_grad()
def measure(task: Any, loader: Any) -> dict[str, float]:
    """Loss and metrics of these batches; of tasks that write texts the loss and its exponential."""
    metrics, mean_loss = task.val_metrics, task.val_loss
    writes = isinstance(task, lp.TextGeneration)
    for batch in loader:
        task.evaluate(batch, metrics, mean_loss)
    loss = mean_loss.compute()
    values = {"loss": loss, "perplexity": loss.exp()} if writes else {"loss": loss, **metrics.compute()}
    for metric in (metrics, mean_loss, task.spread):
        metric.reset()
    return {name.split("/")[-1]: float(value) for name, value in values.items()}


def stored(task: Any) -> int:
    """Numbers that a user of the trained model needs beside the backbone."""
    head = sum(parameter.numel() for parameter in task.head.parameters())
    if not isinstance(task.model, PeerModel):
        return head + sum(tensor.numel() for tensor in to_tensors(task.model.prefix).values())
    encoder = getattr(task.model.model, "get_prompt_embedding_to_save", None)
    config = getattr(task.model.model, "active_peft_config", None)
    if encoder is not None and config is not None and config.is_prompt_learning:
        return head + encoder(task.model.model.active_adapter).numel()
    return head + trained(task)


def trained(task: Any) -> int:
    """Numbers that are trained, without the head's."""
    return sum(parameter.numel() for parameter in task.model.prefix.parameters() if parameter.requires_grad)


def run(setting: QualityTask, method: str, rate: float, seed: int, rows: int | None, subset: int, steps: int) -> Any:
    """Train, measure, describe."""
    lightning.seed_everything(seed, verbose=False)
    task, data = METHODS[method].make(setting, rate), setting.make_data(seed, rows, subset)
    if isinstance(task, lp.TextGeneration):
        task.decoded_rows = 0
    milestones = Milestones(steps)
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(
            default_root_dir=folder,
            accelerator="cpu",
            max_steps=steps,
            callbacks=[milestones],
            limit_val_batches=0,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(task, data)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        (test,) = trainer.test(task, data, verbose=False)
    return {
        "curve": milestones.curve,
        "test": {name.removeprefix("test/"): value for name, value in test.items()},
        "cpu_seconds": milestones.seconds,
        "trained": trained(task),
        "stored": stored(task),
        "peak_mb": peak,
    }


def main() -> None:
    """Print one run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--task", required=True)
    parser.add_argument("--method", choices=METHODS, required=True)
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--rows", type=int, help="train on a subset of that many rows")
    parser.add_argument("--subset", type=int, default=0)
    parser.add_argument("--steps", type=int)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    setting = quality_tasks(options.data)[options.task]
    steps = options.steps or setting.steps
    print(json.dumps(run(setting, options.method, options.rate, options.seed, options.rows, options.subset, steps)))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
