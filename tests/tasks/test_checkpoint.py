"""Checkpoints: what they hold, the same from everywhere, exact resume, and what they refuse."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import lightning
import pytest
import torch
import yaml
from safetensors.torch import load
from safetensors.torch import save as to_bytes
from tiny_files import write_backbone

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.tasks.arguments import plain_data

PREFIXES = {
    "flat": lp.FlatPrefixConfig(length=5, dropout=0.1),
    "mlp": lp.MLPPrefixConfig(length=5, embedding_dim=8, hidden_dim=8),
    "gated": lp.GatedPrefixConfig(length=5),
    "prompt": lp.PromptPrefixConfig(length=5),
    "output": lp.OutputPrefixConfig(),
    "lengths": lp.FlatPrefixConfig(length={"encoder": 5, "encoder.0": 3}),
}


class LossCurve(lightning.pytorch.Callback):
    def __init__(self, stop_at):
        self.losses, self.stop_at = [], stop_at

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.losses.append(outputs["loss"].item())
        trainer.should_stop = trainer.global_step == self.stop_at


def fit(
    backbone,
    reviews,
    folder,
    steps,
    prefix=PREFIXES["flat"],
    ckpt_path=None,
    stop_at=None,
    workers=0,
    precision="32-true",
    **options,
):
    """Train a fresh task with the default schedule over `steps`; stop sooner, as a user or a cluster would."""
    lightning.seed_everything(1, verbose=False)
    task = lp.TextClassification(backbone, prefix, learning_rate=0.05)
    data = lp.TextClassificationDataModule(reviews, batch_size=8, num_workers=workers)
    curve = LossCurve(stop_at)
    trainer = lightning.Trainer(
        max_epochs=5,  # with epochs Lightning loads the data to count the steps, before it restores the loops
        max_steps=steps,
        accelerator="cpu",
        precision=precision,
        default_root_dir=folder,
        callbacks=[curve, lp.PrefixCheckpoint(dirpath=str(folder), **options)],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
    )
    trainer.fit(task, data, ckpt_path=ckpt_path)
    return task, trainer, curve.losses


def test_only_trained_tensors_and_a_little_more(bert_folder, reviews, tmp_path):
    task, _, _ = fit(bert_folder, reviews, tmp_path, 8)
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    trained = {name for name, p in task.named_parameters() if p.requires_grad}
    assert set(checkpoint["state_dict"]) == trained
    assert {name.split(".")[1] for name in trained} == {"prefixes", "backbone"}  # the backbone's new classifier
    tensors = sum(t.numel() * t.element_size() for t in checkpoint["state_dict"].values())
    optimizer = 2 * tensors
    assert (tmp_path / "last.ckpt").stat().st_size <= tensors + optimizer + 64 * 1024
    task.save_pretrained(tmp_path / "prefix")
    assert sum(f.stat().st_size for f in (tmp_path / "prefix").iterdir()) <= tensors + 64 * 1024


def test_frozen_bytes_are_unchanged_by_fit(bert_folder, reviews, tmp_path):
    def digest(backbone):
        frozen = {n: p for n, p in backbone.named_parameters() if not n.startswith("classifier")}
        return hashlib.sha256(b"".join(p.detach().numpy().tobytes() for p in frozen.values())).hexdigest()

    untouched = lp.TextClassification(bert_folder, num_labels=2)
    untouched.configure_model()
    task, _, losses = fit(bert_folder, reviews, tmp_path, 20)
    assert losses[0] != losses[-1]
    assert digest(task.model.backbone) == digest(untouched.model.backbone)


def test_the_file_is_the_same_from_the_cli_and_from_python(bert_folder, reviews, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = {"class_path": "TextClassification", "init_args": {"backbone": bert_folder}}
    model["init_args"]["prefix"] = {"class_path": "GatedPrefixConfig", "init_args": {"length": 3}}
    data = {"class_path": "TextClassificationDataModule", "init_args": {"source": reviews}}
    trainer = {"max_steps": 2, "accelerator": "cpu", "enable_progress_bar": False}
    Path("run.yaml").write_text(yaml.safe_dump({"model": model, "data": data, "trainer": trainer}))
    main(["fit", "--config", "run.yaml", "--checkpoint.dirpath", "cli"])

    lightning.seed_everything(0, verbose=False)
    task = lp.TextClassification(backbone=bert_folder, prefix=lp.GatedPrefixConfig(length=3))
    notebook = lightning.Trainer(
        max_steps=2,
        accelerator="cpu",
        callbacks=[lp.PrefixCheckpoint("python")],
        logger=False,
        enable_progress_bar=False,
    )
    notebook.fit(task, lp.TextClassificationDataModule(reviews))

    ours, theirs = (torch.load(f"{folder}/last.ckpt", weights_only=True) for folder in ("python", "cli"))
    assert ours["hyper_parameters"] == theirs["hyper_parameters"]
    assert ours["lightning_prefix"] == theirs["lightning_prefix"]
    for name, tensor in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], tensor)
    for folder in ("python", "cli"):
        again = lp.TextClassification.load_from_checkpoint(f"{folder}/last.ckpt")
        assert again.labels == ["negative", "positive"]
        for name, tensor in again.state_dict().items():
            assert torch.equal(tensor, theirs["state_dict"][name])


def test_a_checkpoint_outlives_the_file_that_it_started_from(bert_folder, reviews, tmp_path):
    """A prefix of another task, with other labels, is the start; it is not needed once something was trained."""
    other = lp.TextClassification(bert_folder, PREFIXES["flat"], num_labels=3)
    other.configure_model()
    other.save_pretrained(tmp_path / "start")
    prefix = lp.FlatPrefixConfig(length=5, init="file", init_file=str(tmp_path / "start"))
    task, _, _ = fit(bert_folder, reviews, tmp_path, 2, prefix)
    change = task.model.prefix.keys[0] - other.model.prefix.keys[0]
    assert 0 < change.abs().max() < 0.2
    shutil.rmtree(tmp_path / "start")
    again = lp.TextClassification.load_from_checkpoint(tmp_path / "last.ckpt")
    assert torch.equal(again.model.prefix.keys[0], task.model.prefix.keys[0])
    assert task.hparams["prefix"]["init_args"]["init"] == "file"


@pytest.mark.parametrize("variant", list(PREFIXES))
def test_resume_equals_the_uninterrupted_run(variant, bert_folder, reviews, tmp_path):
    """40 steps of an epoch of 8 batches; stopped after 20, in the middle of an epoch."""
    prefix = PREFIXES[variant]
    whole, _, losses = fit(bert_folder, reviews, tmp_path / "whole", 40, prefix)
    _, _, first = fit(bert_folder, reviews, tmp_path / "part", 40, prefix, stop_at=20, every_n_train_steps=20)
    resumed, _, second = fit(
        bert_folder, reviews, tmp_path / "part", 40, prefix, ckpt_path=str(tmp_path / "part" / "last.ckpt")
    )
    assert (len(losses), len(first)) == (40, 20)
    assert first + second == losses
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name


def test_resume_in_half_precision(bert_folder, reviews, tmp_path):
    options = {"prefix": PREFIXES["mlp"], "precision": "bf16-true"}
    whole, _, losses = fit(bert_folder, reviews, tmp_path / "whole", 20, **options)
    _, _, first = fit(bert_folder, reviews, tmp_path / "part", 20, stop_at=10, every_n_train_steps=10, **options)
    path = str(tmp_path / "part" / "last.ckpt")
    resumed, _, second = fit(bert_folder, reviews, tmp_path / "part", 20, ckpt_path=path, **options)
    assert first + second == losses
    assert all(torch.equal(resumed.state_dict()[name], tensor) for name, tensor in whole.state_dict().items())


def test_resume_at_an_epoch_end_with_workers(bert_folder, reviews, tmp_path):
    _, _, losses = fit(bert_folder, reviews, tmp_path / "whole", 40, workers=2)
    _, _, first = fit(bert_folder, reviews, tmp_path / "part", 40, stop_at=24, workers=2)
    _, _, second = fit(
        bert_folder, reviews, tmp_path / "part", 40, ckpt_path=str(tmp_path / "part" / "last.ckpt"), workers=2
    )
    assert first + second == losses


def test_killed_in_the_middle_and_resumed(bert_folder, reviews, tmp_path):
    """`kill -9` while checkpoints are being written every step; whichever is there loads and goes on."""
    command = [sys.executable, "-m", "lightning_prefix", "fit", "--model", "TextClassification"]
    command += [
        "--model.backbone",
        bert_folder,
        "--data",
        "TextClassificationDataModule",
        "--data.source",
        reviews,
    ]
    command += [
        "--data.batch_size",
        "8",
        "--checkpoint.every_n_train_steps",
        "1",
        "--checkpoint.dirpath",
        "kept",
    ]
    command += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "OMP_NUM_THREADS": "1"}
    run = subprocess.Popen(
        [*command, "--trainer.max_steps", "100000"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    last = tmp_path / "kept" / "last.ckpt"
    deadline = time.monotonic() + 120
    while not last.exists() and time.monotonic() < deadline and run.poll() is None:
        time.sleep(0.1)
    time.sleep(2)
    os.kill(run.pid, signal.SIGKILL)
    run.wait()
    stopped_at = torch.load(last, weights_only=True)["global_step"]
    assert stopped_at > 0
    resumed = subprocess.run(
        [*command, "--ckpt_path", str(last), "--trainer.max_steps", str(stopped_at + 5)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert resumed.returncode == 0, resumed.stderr
    assert torch.load(last, weights_only=True)["global_step"] == stopped_at + 5


def test_a_checkpoint_of_another_backbone_is_refused(bert_folder, reviews, tmp_path):
    fit(bert_folder, reviews, tmp_path, 2)
    torch.manual_seed(1)
    other = write_backbone(tmp_path / "other")
    with pytest.raises(lp.InputError, match="it has the same sizes but other weights"):
        lp.TextClassification.load_from_checkpoint(tmp_path / "last.ckpt", backbone=other)


def test_strict_about_trained_names(bert_folder):
    task = lp.TextClassification(bert_folder, num_labels=2)
    task.configure_model()
    state = task.state_dict()
    missing = {name: t for name, t in state.items() if name != "model.prefixes.default.keys.1"}
    with pytest.raises(lp.InputError, match=r"it lacks model\.prefixes\.default\.keys\.1"):
        task.load_state_dict(missing, strict=False)
    with pytest.raises(lp.InputError, match="it has other, which this task does not train"):
        task.load_state_dict({**state, "other": torch.zeros(1)})


def test_a_stored_folder_cannot_turn_on_remote_code(bert_folder, tmp_path):
    options = lp.BackboneOptions(trust_remote_code=True)
    task = lp.TextClassification(bert_folder, num_labels=2, backbone_options=options)
    task.configure_model()
    task.save_pretrained(tmp_path)
    assert lp.PrefixTask.from_pretrained(tmp_path).backbone_options.trust_remote_code is False
    again = lp.PrefixTask.from_pretrained(tmp_path, backbone_options=options)
    assert again.backbone_options.trust_remote_code is True


def reseal(folder, change):
    """Change the description and record the tensors as they are now, as one who means harm would."""
    file = folder / "prefix.json"
    description = json.loads(file.read_text())
    change(description)
    description["sha256"] = hashlib.sha256((folder / "prefix.safetensors").read_bytes()).hexdigest()
    file.write_text(json.dumps(description))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"backbone_options.trust_remote_code": True}, "the stored hyper_parameters are"),
        ({"backbone_options": None}, "the stored backbone_options are None"),
        ({"labels": 7}, "make no PrefixTask"),
        ({"label_words": ["x"]}, "1 label_words"),
        ({"_class_path": "antigravity.Task"}, "import 'antigravity' first"),
    ],
)
def test_stored_arguments_that_make_no_task_are_refused(change, message, bert_folder, tmp_path):
    task = lp.TextClassification(bert_folder, num_labels=2)
    task.configure_model()
    task.save_pretrained(tmp_path)
    reseal(tmp_path, lambda description: description["task"]["hyper_parameters"].update(change))
    with pytest.raises(lp.InputError, match=message):
        lp.PrefixTask.from_pretrained(tmp_path)


def test_what_a_folder_says_of_its_texts_is_checked(bert_folder, tmp_path):
    task = lp.TextClassification(bert_folder, num_labels=2)
    task.configure_model()
    known = lp.TextClassificationDataModule().description()["class_path"]
    for data, message in (
        (None, "was saved without saying how texts are read"),
        ({"class_path": [], "init_args": {}}, r"task.data.class_path is \[\]; allowed is the import path"),
        ({"class_path": "os.system", "init_args": {}}, "names no data module that is imported"),
        ({"class_path": known, "init_args": {"max_length": "x"}}, "max_length is 'x'; allowed is a whole number"),
        ({"class_path": known, "init_args": {"x": 1}}, "unexpected keyword argument 'x'"),
    ):
        task.save_pretrained(tmp_path, data)
        with pytest.raises(lp.InputError, match=message):
            lp.Predictor.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("head.linear.bias"), "the head in .* it lacks linear.bias"),
        (lambda t: t.update({"head.x": torch.zeros(2)}), "it has x, which this task does not train"),
        (lambda t: t.update({"head.linear.bias": torch.zeros(3)}), r"linear.bias is \(3,\) there and \(2,\) here"),
        (
            lambda t: t.update({"head.linear.bias": torch.zeros(2).int()}),
            "linear.bias holds something else than finite",
        ),
    ],
)
def test_a_stored_head_that_does_not_fit_is_refused(change, message, bert_folder, tmp_path):
    task = lp.TextClassification(bert_folder, num_labels=2, head="mean")
    task.configure_model()
    task.save_pretrained(tmp_path)
    tensors = load((tmp_path / "prefix.safetensors").read_bytes())
    change(tensors)
    (tmp_path / "prefix.safetensors").write_bytes(to_bytes(tensors))
    reseal(tmp_path, dict.copy)
    with pytest.raises(lp.InputError, match=message):
        lp.PrefixTask.from_pretrained(tmp_path)


def altered(path, change):
    """The checkpoint with a change of its content."""
    checkpoint = torch.load(path, weights_only=True)
    change(checkpoint)
    torch.save(checkpoint, path.with_name("altered.ckpt"))
    return path.with_name("altered.ckpt")


ON = {"trust_remote_code": True}


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c["hyper_parameters"]["backbone_options"].update(ON),
        lambda c: c.update(hparams={"backbone_options": ON}, module_arguments={"backbone_options": ON}),  # old names
        lambda c: c.update(hparams_name="backbone_options", hyper_parameters=c["hyper_parameters"] | ON),
        lambda c: c["hyper_parameters"].update({"backbone_options.trust_remote_code": True}),
        lambda c: c["hyper_parameters"].update(backbone_options={"init_args": ON}),
        lambda c: c["hyper_parameters"].update(backbone_options="options.yaml"),
        lambda c: c["hyper_parameters"].update(dict_kwargs={"backbone_options": ON}),
    ],
)
def test_a_checkpoint_cannot_turn_on_remote_code(change, bert_folder, reviews, tmp_path):
    fit(bert_folder, reviews, tmp_path, 2)
    try:
        task = lp.PrefixTask.load_from_checkpoint(altered(tmp_path / "last.ckpt", change))
    except lp.InputError:
        return
    assert task.backbone_options.trust_remote_code is False


def test_a_checkpoint_chooses_no_code(bert_folder, reviews, tmp_path):
    fit(bert_folder, reviews, tmp_path, 2)
    path = altered(tmp_path / "last.ckpt", lambda c: c["hyper_parameters"].update(_instantiator="os.putenv"))
    assert isinstance(lp.PrefixTask.load_from_checkpoint(path), lp.TextClassification)
    path = altered(tmp_path / "last.ckpt", lambda c: c["hyper_parameters"].update(_class_path="antigravity.Task"))
    with pytest.raises(lp.InputError, match=r"class 'antigravity.Task'; if you know it, import 'antigravity' first"):
        lp.PrefixTask.load_from_checkpoint(path)
    assert "antigravity" not in sys.modules
    path = altered(tmp_path / "last.ckpt", lambda c: c.update(callbacks=LossCurve(1)))
    with pytest.raises(lp.InputError, match="cannot be read"):
        lp.PrefixTask.load_from_checkpoint(path, weights_only=False)


def test_loading_takes_what_lightning_takes(bert_folder, reviews, tmp_path):
    task, _, _ = fit(bert_folder, reviews, tmp_path, 2)
    path, load_task = tmp_path / "last.ckpt", lp.TextClassification.load_from_checkpoint
    again = load_task(path, backbone_options=lp.BackboneOptions(trust_remote_code=True), label_smoothing=0.5)
    assert again.backbone_options.trust_remote_code is True
    assert again.label_smoothing == 0.5
    (tmp_path / "arguments.yaml").write_text(yaml.safe_dump({**task.hparams, "label_smoothing": 0.25}))
    with path.open("rb") as file:
        again = load_task(file, torch.device("cpu"), tmp_path / "arguments.yaml", strict=True, weights_only=True)
    assert again.label_smoothing == 0.25
    for name, tensor in task.state_dict().items():
        assert torch.equal(again.state_dict()[name], tensor)
    with pytest.raises(lp.InputError, match=r"with \{'lables': 3\} given, make no TextClassification"):
        load_task(path, lables=3)
    with pytest.raises(lp.InputError, match="make no TextRegression"):
        lp.TextRegression.load_from_checkpoint(path)
    with pytest.raises(TypeError, match="cannot be called on an instance"):
        task.load_from_checkpoint(path)


def damages(choose, path):
    """Truncations and flips of bytes."""
    whole = path.read_bytes()
    for size in choose.sample(range(len(whole)), 30):
        yield lambda c=whole[:size]: path.write_bytes(c)
    for place in choose.sample(range(len(whole)), 60):
        changed = bytearray(whole)
        changed[place] ^= 1 << choose.randrange(8)
        yield lambda c=bytes(changed): path.write_bytes(c)


MISSING = object()


def edits(choose, path):
    """Entries that are missing or something else, in what is ours of the checkpoint."""

    def places(value, outer=()):
        for key, item in value.items():
            yield (*outer, key)
            if isinstance(item, dict):
                yield from places(item, (*outer, key))

    def write(place, value):
        checkpoint = torch.load(whole, weights_only=True)
        holder = checkpoint
        for step in place[:-1]:
            holder = holder[step]
        if value is MISSING:
            del holder[place[-1]]
        else:
            holder[place[-1]] = value(holder[place[-1]]) if callable(value) else value
        torch.save(checkpoint, path)

    whole = path.with_name("whole.ckpt")
    whole.write_bytes(path.read_bytes())
    checkpoint = torch.load(whole, weights_only=True)
    ours = ("hyper_parameters", "state_dict", "lightning_prefix", "random_state")
    values = [MISSING, None, 7, -1, 10**400, float("inf"), "x", [], {}, [None], {7: 1}, torch.zeros(2)]
    tensors = [
        torch.isnan,
        torch.Tensor.int,
        torch.Tensor.to_sparse,
        torch.Tensor.half,
        lambda t: t / 0,
        lambda t: t[:1],
    ]
    for place in places({name: checkpoint[name] for name in ours}):
        is_inner = place[0] in ("hyper_parameters", "state_dict") and len(place) > 1  # for these the backbone is loaded
        others = [*values, *tensors] if is_inner and place[0] == "state_dict" else values
        for value in choose.sample(others, 1 if is_inner else len(values)):
            yield lambda p=place, v=value: write(p, v)
    yield lambda: write(("state_dict", "other"), torch.zeros(2))


def test_no_alteration_gets_through(bert_folder, reviews, tmp_path, monkeypatch):
    """Each is refused, or does no harm: all trained tensors are there, finite and of the right shapes."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    task, _, _ = fit(bert_folder, reviews, tmp_path, 2)
    expected = task.state_dict()
    path = tmp_path / "last.ckpt"
    whole = path.read_bytes()
    count, refused, choose = 0, 0, random.Random(0)  # noqa: S311
    for alterations in (damages, edits):
        for alter in alterations(choose, path):
            alter()
            count += 1
            try:
                loaded = lp.PrefixTask.load_from_checkpoint(path).state_dict()
            except lp.InputError:
                refused += 1
            else:
                assert {n: t.shape for n, t in loaded.items()} == {n: t.shape for n, t in expected.items()}
                assert all(t.isfinite().all() for t in loaded.values())
                assert alterations is edits or all(torch.equal(loaded[n], t) for n, t in expected.items())
            path.write_bytes(whole)
    assert count >= 100
    assert refused > 0.7 * count
    lp.PrefixTask.load_from_checkpoint(path)


def test_plain_data():
    assert plain_data(partial(torch.optim.SGD, lr=0.1)) == {
        "class_path": "torch.optim.sgd.SGD",
        "init_args": {"lr": 0.1},
    }
    assert plain_data(lp.FlatPrefixConfig(length=3))["class_path"] == "lightning_prefix.FlatPrefixConfig"
    assert plain_data(lp.BackboneOptions())["dtype"] == "float32"
    assert plain_data(torch.optim.SGD) == "torch.optim.sgd.SGD"
    with pytest.warns(UserWarning, match="cannot be stored in a checkpoint"):
        assert plain_data(lambda x: x, "optimizer") is None
    with pytest.warns(UserWarning, match="cannot be stored in a checkpoint"):
        assert plain_data(fit, "optimizer") is None  # it says not what it returns


def test_last_is_the_last_and_not_the_last_best(bert_folder, reviews, tmp_path):
    """Lightning's own `save_last` would stop at the best one."""
    _, trainer, _ = fit(bert_folder, reviews, tmp_path, 40)
    best = torch.load(tmp_path / "best.ckpt", weights_only=True)["global_step"]
    assert torch.load(tmp_path / "last.ckpt", weights_only=True)["global_step"] == 40
    assert best < 40
    assert trainer.checkpoint_callback.monitor == "val/accuracy"
