"""The precisions of Lightning's Trainer: the frozen weights are rounded, what is trained and counted is not."""

import lightning
import pytest
import torch
from every_task import CASES, case_backbone
from lightning.pytorch.plugins import MixedPrecision
from tiny_backbones import BACKBONES, inputs_for
from tiny_files import write_language_model

import lightning_prefix as lp

PREFIXES = [
    lp.FlatPrefixConfig(length=3),
    lp.MLPPrefixConfig(length=3, embedding_dim=8, hidden_dim=8),
    lp.GatedPrefixConfig(length=3),
    lp.PromptPrefixConfig(length=3),
    lp.OutputPrefixConfig(),
]
WEIGHTS = {
    "32-true": torch.float32,
    "bf16-mixed": torch.float32,
    "16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
    "16-true": torch.float16,
}


def trainer_of(folder, precision, **options):
    # Lightning makes bf16-mixed of 16-mixed on a CPU, with a warning
    chosen = {"plugins": MixedPrecision(precision, "cpu")} if precision == "16-mixed" else {"precision": precision}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    return lightning.Trainer(
        accelerator="cpu", default_root_dir=folder, **chosen, **quiet, **{"max_steps": 2, **options}
    )


def fit(case, backbone, folder, precision, prefix=PREFIXES[0], **options):
    task = case.make_task(backbone, prefix, **options)
    data = case.make_data({"train": range(8), "validation": range(8, 12), "test": range(12, 16)})
    trainer = trainer_of(folder, precision)
    trainer.fit(task, data)
    return task, data, trainer


def floats(tensors):
    return {tensor.dtype for tensor in tensors if tensor.is_floating_point()}


def assert_rounded(task, trainer, weights):
    """Frozen weights have this dtype; what is trained, the optimiser's state and the checkpoint are float32."""
    assert floats(p for p in task.parameters() if p.requires_grad) == {torch.float32}
    assert floats(p for p in task.parameters() if not p.requires_grad) == {weights}
    state = [value for values in trainer.optimizers[0].state.values() for value in values.values()]
    assert floats(value for value in state if isinstance(value, torch.Tensor)) == {torch.float32}
    checkpoint = trainer.checkpoint_callback.best_model_path
    assert floats(torch.load(checkpoint, weights_only=True)["state_dict"].values()) == {torch.float32}


@pytest.mark.parametrize("precision", WEIGHTS)
def test_what_is_trained_stays_in_float32(precision, bert_folder, tmp_path):
    task, data, trainer = fit(CASES["classification"], bert_folder, tmp_path, precision)
    assert trainer.precision == precision
    assert_rounded(task, trainer, WEIGHTS[precision])
    assert trainer.test(task, data, verbose=False)


@pytest.mark.parametrize("prefix", PREFIXES[1:], ids=lambda prefix: type(prefix).__name__)
def test_every_variant_in_bfloat16(prefix, bert_folder, tmp_path):
    task, _, trainer = fit(CASES["classification"], bert_folder, tmp_path, "bf16-true", prefix)
    assert_rounded(task, trainer, torch.bfloat16)


@pytest.mark.parametrize("name", CASES)
def test_every_task_in_bfloat16(name, bert_folder, gpt2_folder, tmp_path):
    case = CASES[name]
    backbone = case_backbone(case, bert_folder, gpt2_folder, tmp_path / "backbone")
    task, data, trainer = fit(case, backbone, tmp_path, "bf16-true")
    assert_rounded(task, trainer, torch.bfloat16)
    results = trainer.test(task, data, verbose=False)[0]
    assert all(value == value for name, value in results.items() if name not in ("test/pearson", "test/spearman"))
    assert trainer.predict(task, data)


def test_labels_and_counts_are_not_rounded(bert_folder, tmp_path):
    """Lightning's own `bf16-true` makes 1.0/3 of 0.3333 in bfloat16, and its metrics count to 256."""
    case = CASES["regression"]
    task = case.make_task(bert_folder, PREFIXES[0])
    rows = range(300)
    data = case.make_data({"train": range(4), "validation": rows, "test": rows}, batch_size=1)
    seen = []
    loss = task.loss
    task.loss = lambda outputs, batch: seen.append(batch["labels"]) or loss(outputs, batch)
    trainer = trainer_of(tmp_path, "bf16-true", num_sanity_val_steps=0)
    trainer.fit(task, data)
    assert {label.item() for label in seen} <= {torch.tensor(row % 7 / 3).item() for row in rows}
    seen.clear()
    counts = trainer.validate(task, data, verbose=False)[0]
    assert task.val_loss.weight.dtype == torch.float32
    assert counts["val/loss"] == pytest.approx(counts["val/mse"], rel=1e-4)


@pytest.mark.parametrize("precision", ["16-true", "16-mixed"])
def test_float16_is_refused_for_t5_unless_forced(precision, tmp_path):
    backbone = write_language_model(tmp_path / "t5", "t5")
    case = CASES["encoder_decoder"]
    with pytest.raises(lp.InputError, match=f"trainer.precision {precision} is given .* 't5'.* Use bfloat16"):
        fit(case, backbone, tmp_path, precision)
    task, _, trainer = fit(case, backbone, tmp_path, precision, backbone_options=lp.BackboneOptions(force_float16=True))
    assert trainer.global_step == 2
    assert floats(task.model.prefix.parameters()) == {torch.float32}


def test_a_float16_t5_is_refused_unless_forced(tmp_path):
    backbone = write_language_model(tmp_path / "t5", "mt5")
    task = lp.TextGeneration(backbone, PREFIXES[0], backbone_options=lp.BackboneOptions(dtype="float16"))
    with pytest.raises(lp.InputError, match="dtype float16 is given for a backbone of type 'mt5'"):
        task.configure_model()


@pytest.mark.parametrize("move", [lambda m: m.half(), lambda m: m.to(torch.bfloat16)], ids=["half", "to"])
@pytest.mark.parametrize("family", ["roberta", "t5", "bart"])
def test_a_model_that_is_cast_rounds_what_is_frozen_only(family, move):
    """A new head, and trained parameters in the middle of the body; `unload` gives one dtype again."""
    backbone = BACKBONES[family]()
    named = dict(backbone.named_parameters())
    trained = [n for n in named if "classifier" in n] or [n for n in named if "relative" in n or "layer_norm" in n]
    model = move(lp.PrefixedModel(backbone, PREFIXES[0], trained=trained))
    model(**inputs_for(backbone)).logits.float().square().sum().backward()
    model = move(model)  # with gradients
    parameters = [p for p in model.parameters() if p.requires_grad]
    assert floats(parameters) == floats(p.grad for p in parameters) == {torch.float32}
    assert floats(p for p in model.parameters() if not p.requires_grad) == {
        next(iter(model.backbone.parameters())).dtype
    }
    assert all(p.grad.isfinite().all() for p in parameters)
    assert len(floats(model.unload().parameters())) == 1
    backbone(**inputs_for(backbone))


def test_a_head_in_a_bfloat16_backbone_is_trained_in_float32(tmp_path, bert_folder):
    options = lp.BackboneOptions(dtype="bfloat16")
    task, _, trainer = fit(CASES["classification"], bert_folder, tmp_path, "32-true", backbone_options=options)
    assert task.model.trained == ("classifier.weight", "classifier.bias")
    assert_rounded(task, trainer, torch.bfloat16)


def test_a_prefix_may_have_more_bits():
    prefix = lp.PrefixedModel(BACKBONES["gpt2"](), PREFIXES[0]).prefix
    assert floats(prefix.double().parameters()) == {torch.float64}
    assert floats(prefix.bfloat16().parameters()) == {torch.float64}
