"""Two CPU processes train as one does, with the frozen layers in each of them or spread over both."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from lightning.pytorch.strategies import FSDPStrategy, ModelParallelStrategy
from test_distributed import metrics, run
from tiny_files import write_language_model

from lightning_prefix.cli import main
from lightning_prefix.errors import InputError
from lightning_prefix.strategy import check_strategy

TEXT = "the good film : a bad plot"
ROWS = [{"question": TEXT[: 3 + row % 9], "context": TEXT[row % 8 :], "answers": "bad"} for row in range(17)]


@pytest.fixture(params=["gpt2", pytest.param("t5", marks=pytest.mark.slow)])
def config(request, gpt2_folder, tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "validation", "test"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    backbone = gpt2_folder if request.param == "gpt2" else write_language_model(tmp_path / "t5", "t5")
    optimizer = {"class_path": "torch.optim.SGD", "init_args": {"lr": 1}}
    config = {
        "model": {"class_path": "GenerativeQA", "init_args": {"backbone": backbone, "optimizer": optimizer}},
        "data": {
            "class_path": "GenerativeQADataModule",
            "init_args": {"source": str(tmp_path), "eval_batch_size": 3, "group_by_length": False},
        },
        "trainer": {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False, "logger": False},
        "test_after_fit": False,
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(config))
    return tmp_path / "run.yaml"


def fit(config: Path, name: str, *options: str, batch_size: int = 8) -> dict[str, torch.Tensor]:
    """What is trained, after two steps."""
    main(["fit", "--config", str(config), "--data.batch_size", str(batch_size), "--checkpoint.dirpath", name, *options])
    return trained(Path(name) / "last.ckpt")


def trained(path: Path) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)["state_dict"]


def both(strategy: str) -> list[str]:
    return ["--trainer.devices", "2", "--trainer.strategy", strategy]


@pytest.mark.parametrize("strategy", ["ddp", "sharded_backbone"])
def test_gradients_of_two_processes_equal_one(config, strategy, tmp_path):
    one = fit(config, "one")
    args = ["--config", str(config), *both(strategy), "--data.batch_size", "4", "--checkpoint.dirpath", "two"]
    run("fit", tmp_path, tmp_path / "cache", *args)
    torch.testing.assert_close(trained(tmp_path / "two" / "last.ckpt"), one, atol=1e-6, rtol=1e-5)
    half = fit(config, "half", batch_size=4)
    assert any(not torch.allclose(half[name], one[name], atol=1e-6) for name in one)


def test_sharded_evaluation_with_unequal_batches_equals_one_process(config, tmp_path):
    """One process has three batches and the other two; the first rows of each are also answered in writing."""
    fit(config, "kept")
    args = ["--config", str(config), "--ckpt_path", str(tmp_path / "kept" / "last.ckpt"), "--model.decoded_rows", "4"]
    args += ["--predictions.path", "out.jsonl"]
    one = {name: float(value) for name, value in main(["test", *args]).trainer.callback_metrics.items()}
    main(["predict", *args])
    folder = tmp_path / "two"
    folder.mkdir()
    options = [*both("sharded_backbone"), "--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "."]
    for command in ("test", "predict"):
        run(command, folder, tmp_path / "cache", *args, *options)
    assert metrics(folder) == pytest.approx(one, rel=1e-5)
    expected, found = (
        [json.loads(line) for line in (at / "out.jsonl").read_text().splitlines()] for at in (tmp_path, folder)
    )
    assert found == expected


def test_each_process_keeps_half_of_the_layers_and_sends_gradients_of_the_prefix_only(config, tmp_path):
    (tmp_path / "look.py").write_text(LOOK)
    arguments = [sys.executable, "look.py", str(config)]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(arguments, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.strip().splitlines()[-1])
    assert found["kept"] == pytest.approx(found["layers"] / 2, rel=0.05)
    assert found["sent_bytes"] == 4 * found["trained"]


LOOK = """
import json, sys
from torch.distributed.tensor import DTensor
import lightning_prefix as lp
from lightning_prefix.cli import main

sent = []
lp.GenerativeQA.on_train_end = lambda task: sent.append(task.trainer.strategy.model._get_ddp_logging_data())
cli = main(["fit", "--config", sys.argv[1], "--trainer.devices", "2", "--trainer.strategy", "sharded_backbone"])
if cli.trainer.is_global_zero:
    layers = [p for layer in cli.model.model.sharded.layers for p in layer.parameters()]
    assert all(isinstance(p, DTensor) for p in layers)
    print(json.dumps({
        "kept": sum(p.to_local().numel() for p in layers),
        "layers": sum(p.numel() for p in layers),
        "trained": sum(p.numel() for p in cli.model.parameters() if p.requires_grad),
        "sent_bytes": sent[0]["total_parameter_size_bytes"],
    }))
"""


def test_resumed_with_another_strategy(config, tmp_path):
    """Checkpoints are ordinary ones."""
    args = ["--config", str(config), *both("sharded_backbone"), "--data.batch_size", "4", "--checkpoint.dirpath", "two"]
    run("fit", tmp_path, tmp_path / "cache", *args)
    more = fit(config, "one", "--ckpt_path", "two/last.ckpt", "--trainer.max_steps", "5", batch_size=4)
    assert any(not torch.equal(more[name], old) for name, old in trained(tmp_path / "two" / "last.ckpt").items())


@pytest.mark.parametrize("strategy", [FSDPStrategy(), ModelParallelStrategy()])
def test_what_would_train_wrongly_is_refused(strategy):
    with pytest.raises(InputError, match="sharded_backbone"):
        check_strategy(strategy)
