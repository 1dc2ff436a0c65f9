"""The quickstart against a linear probe and PEFT's prefix tuning: one run, in turns, several seeds.

pip install -e '.[benchmark]' && python tests/benchmarks/movie_reviews.py --seeds 0 1 2
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
import yaml
from torch.nn.functional import cross_entropy

import lightning_prefix as lp
from lightning_prefix.backbone.load import load_backbone, local_path
from lightning_prefix.tasks.heads import OwnHead, pool

CONFIG = Path(__file__).parents[2] / "configs" / "quickstart.yaml"


class PeftClassification(lp.TextClassification):
    """The same task, data, optimiser and head, with PEFT's prefix (flat, as PEFT initialises it)."""

    def configure_model(self) -> None:
        if self.model is None:
            from peft import PrefixTuningConfig, get_peft_model

            backbone, _ = load_backbone(self.backbone_name, OwnHead.auto_class, num_labels=2)
            config = PrefixTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=self.prefix_config.length)
            self.model: Any = get_peft_model(backbone, config).eval()
            self.model.prefix = self.model.prompt_encoder  # for the parameter groups
            self.model.prefix.key_parameters = list
            self.head = OwnHead(2, "single_label_classification")
            self._make_metrics()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing of ours."""

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Nothing of ours."""


def run(
    task: lp.TextClassification, data: lp.TextClassificationDataModule, options: dict[str, Any]
) -> tuple[float, float]:
    """Test accuracy of the best epoch by validation, and seconds of `fit`."""
    trainer = lightning.Trainer(
        **options,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[lp.PrefixCheckpoint(tempfile.mkdtemp())],
    )
    start = time.perf_counter()
    trainer.fit(task, data)
    seconds = time.perf_counter() - start
    (result,) = trainer.test(task, data, ckpt_path="best", verbose=False)
    return result["test/accuracy"], seconds


@torch.inference_mode()
def features(data: lp.TextClassificationDataModule, stage: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean-pooled states of the frozen model, and the labels."""
    data.setup(stage)
    backbone, _ = load_backbone("asset:minilm-l6", "AutoModel")
    pooled, labels = [], []
    for batch in data.train_dataloader() if stage == "fit" else data.test_dataloader():
        labels.append(batch.pop("labels"))
        batch.pop("index")
        pooled.append(pool(backbone(**batch).last_hidden_state, batch["attention_mask"], "mean"))
    return torch.cat(pooled), torch.cat(labels)


def linear_probe(data: lp.TextClassificationDataModule) -> float:
    """Test accuracy of a logistic regression (L2, L-BFGS) on the frozen features; no randomness."""
    (train, train_labels), (test, test_labels) = features(data, "fit"), features(data, "test")
    train, train_labels = train.clone(), train_labels.clone()
    mean, deviation = train.mean(0), train.std(0)
    layer = torch.nn.Linear(train.shape[1], 2)
    optimizer = torch.optim.LBFGS(layer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(layer((train - mean) / deviation), train_labels) + 1e-3 * layer.weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    predicted = layer((test.clone() - mean) / deviation).argmax(1)
    return (predicted == test_labels).float().mean().item()


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--peft-rates", type=float, nargs="+", default=[0.03, 0.01], help="learning rates for PEFT")
    arguments = parser.parse_args()
    config = yaml.safe_load(CONFIG.read_text())
    model, source = config["model"]["init_args"], config["data"]["init_args"]
    chosen = model.pop("prefix")
    prefix = getattr(lp, chosen["class_path"])(**chosen["init_args"])
    methods: dict[str, tuple[type[lp.TextClassification], dict[str, Any]]] = {
        "lightning_prefix, the quickstart": (lp.TextClassification, {}),
    }
    for rate in arguments.peft_rates:
        methods[f"PEFT prefix tuning, learning rate {rate:g}"] = (
            PeftClassification,
            {"learning_rate": rate, "head_learning_rate": 0.003},
        )
    results: dict[str, list[tuple[float, float]]] = {name: [] for name in methods}
    for seed in arguments.seeds:
        for name, (task_class, changes) in methods.items():  # in turns, so that a busy machine hits all alike
            lightning.seed_everything(seed, verbose=False)
            task = task_class(prefix=prefix, **{**model, **changes})
            data = lp.TextClassificationDataModule(**source, tokenizer=local_path(model["backbone"]))
            results[name].append(run(task, data, config["trainer"]))
            print(f"seed {seed} {name}: {results[name][-1]}", flush=True)
    probe = linear_probe(lp.TextClassificationDataModule(**source, tokenizer=local_path(model["backbone"])))
    print(f"\n| method | test accuracy, mean of {len(arguments.seeds)} seeds | each | seconds |\n|---|---|---|---|")
    print(f"| linear probe on frozen features | {probe:.3f} | | |")
    for name, runs in results.items():
        each = ", ".join(f"{accuracy:.3f}" for accuracy, _ in runs)
        mean = statistics.mean(accuracy for accuracy, _ in runs)
        print(f"| {name} | {mean:.3f} | {each} | {statistics.median(seconds for _, seconds in runs):.0f} |")


if __name__ == "__main__":
    main()
