"""Precisions of a Trainer: what is trained stays in float32, whatever the backbone is."""

import pytest
import torch
from every_task import CASES, case_backbone
from lightning.pytorch import Callback, Trainer
from tiny_files import write_language_model

import lightning_prefix as lp

ROWS = {"train": range(12), "validation": range(6), "test": range(6)}
OPTIONS = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
VARIANTS = {
    "flat": lp.FlatPrefixConfig(length=3),
    "mlp": lp.MLPPrefixConfig(length=3, embedding_dim=4, hidden_dim=4),
    "gated": lp.GatedPrefixConfig(length=3),
    "prompt": lp.PromptPrefixConfig(length=3),
    "output": lp.OutputPrefixConfig(),
}


class Watch(Callback):
    """Precision of what is trained, of what it is made of, and of the rest, when training ends."""

    def on_train_end(self, trainer, task):
        self.trained = {p.dtype for p in task.parameters() if p.requires_grad}
        self.stored = {value.dtype for value in task.state_dict().values() if value.is_floating_point()}
        self.frozen = {p.dtype for p in task.parameters() if not p.requires_grad and p.is_floating_point()}
        self.moments = {
            value.dtype
            for state in trainer.optimizers[0].state.values()
            for value in state.values()
            if value.is_floating_point()
        }
        self.metrics = {task.val_loss.mean_value.dtype}


def fit(folder, precision, case="classification", prefix=VARIANTS["flat"], **options):
    kind = CASES[case]
    task, data, watch = kind.make_task(folder, prefix, **options), kind.make_data(ROWS), Watch()
    trainer = Trainer(**OPTIONS, precision=precision, max_steps=3, callbacks=[watch], enable_checkpointing=False)
    trainer.fit(task, data)
    (metrics,) = trainer.test(task, data, verbose=False)
    return task, watch, metrics


@pytest.mark.parametrize("precision", ["bf16-true", "bf16-mixed"])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_the_prefix_and_its_moments_are_float32(precision, variant, bert_folder):
    _, watch, metrics = fit(bert_folder, precision, prefix=VARIANTS[variant])
    assert watch.trained == watch.stored == watch.moments == watch.metrics == {torch.float32}
    assert watch.frozen == {torch.bfloat16 if precision == "bf16-true" else torch.float32}
    assert 0 < metrics["test/loss"] < 5


@pytest.mark.parametrize("case", ["pooled", "tokens", "spans", "decoder", "encoder_decoder"])
def test_every_task_trains_in_bf16_true(case, bert_folder, gpt2_folder, tmp_path):
    folder = case_backbone(CASES[case], bert_folder, gpt2_folder, tmp_path)
    _, watch, metrics = fit(folder, "bf16-true", case)
    assert watch.trained == watch.stored == {torch.float32}
    assert 0 < metrics["test/loss"] < 20


def test_the_same_steps_as_with_a_bfloat16_backbone(bert_folder):
    """`bf16-true` is `backbone_options.dtype: bfloat16`, with the same start."""
    torch.manual_seed(0)
    one, _, first = fit(bert_folder, "bf16-true")
    torch.manual_seed(0)
    other, watch, second = fit(bert_folder, "32-true", backbone_options=lp.BackboneOptions(dtype="bfloat16"))
    assert watch.trained == {torch.float32}
    assert watch.frozen == {torch.bfloat16}
    assert first == pytest.approx(second, rel=0.05)
    for name, tensor in one.state_dict().items():
        torch.testing.assert_close(other.state_dict()[name], tensor, atol=0.05, rtol=0.1)


def test_ratings_are_not_rounded(bert_folder):
    with pytest.raises(lp.InputError, match=r"labels have become torch.bfloat16, .* bf16-true .* Use 32-true with"):
        fit(bert_folder, "bf16-true", "regression")
    _, watch, _ = fit(bert_folder, "32-true", "regression", backbone_options=lp.BackboneOptions(dtype="bfloat16"))
    assert watch.trained == {torch.float32}


@pytest.mark.parametrize("half", ["to", "half", "bfloat16"])
def test_a_model_made_half_keeps_its_prefix_and_head(half, bert_folder, tmp_path):
    task = lp.TextClassification(bert_folder, VARIANTS["flat"], labels=["a", "b"])
    task.configure_model()
    before = {name: value.clone() for name, value in task.state_dict().items()}
    task.to(torch.bfloat16) if half == "to" else getattr(task, half)()
    for name, value in task.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert next(task.model.backbone.parameters()).dtype != torch.float32
    backbone = task.model.unload()
    assert {p.dtype for p in backbone.parameters()} == {torch.float16 if half == "half" else torch.bfloat16}


@pytest.mark.parametrize("precision", ["16-mixed", "16-true"])
def test_t5_in_float16_is_refused_unless_forced(precision, tmp_path, monkeypatch):
    folder = write_language_model(tmp_path, "t5")
    kind = CASES["encoder_decoder"]

    def check(**options):
        task = kind.make_task(folder, VARIANTS["flat"], **options)
        task._trainer = type("Asked", (), {"precision": precision, "datamodule": None})()
        task.configure_model()

    with pytest.raises(lp.InputError, match=r"\(t5\) overflows in it.*Use bfloat16 or float32"):
        check()
    check(backbone_options=lp.BackboneOptions(force_float16=True))
    half = lp.BackboneOptions(dtype="float16")
    with pytest.raises(lp.InputError, match=r"\(t5\) overflows in it"):
        kind.make_task(folder, VARIANTS["flat"], backbone_options=half).configure_model()


def test_gradient_checkpointing_by_an_option(bert_folder, monkeypatch):
    results = []
    for flag in (False, True):
        torch.manual_seed(0)
        task, _, metrics = fit(bert_folder, "32-true", backbone_options=lp.BackboneOptions(gradient_checkpointing=flag))
        assert any(getattr(module, "gradient_checkpointing", False) for module in task.modules()) is flag
        results.append((metrics, task.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], tensor, atol=1e-6, rtol=1e-5)
    monkeypatch.setattr("transformers.BertPreTrainedModel.supports_gradient_checkpointing", False)
    with pytest.raises(lp.InputError, match=r"BertForSequenceClassification .* has none\. Leave it out"):
        fit(bert_folder, "32-true", backbone_options=lp.BackboneOptions(gradient_checkpointing=True))


def test_compiling_by_an_option(bert_folder, monkeypatch):
    """The same numbers, and one compilation for texts of any length."""
    monkeypatch.setattr("torch._dynamo.config.cache_size_limit", 8)
    compiled = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: compiled(self, backend=count, **options))
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    results = []
    for flag in (False, True):
        torch.manual_seed(0)
        task, _, metrics = fit(bert_folder, "32-true", backbone_options=lp.BackboneOptions(compile=flag))
        assert bool(graphs) is flag
        results.append((metrics, task.state_dict()))
    assert results[0][0] == pytest.approx(results[1][0], rel=1e-5)
    for name, tensor in results[0][1].items():
        torch.testing.assert_close(results[1][1][name], tensor, atol=1e-6, rtol=1e-5)
    before, inputs = len(graphs), torch.randint(5, 9, (4, 30))
    with torch.no_grad():
        for tokens in range(5, 17, 2):
            task({"input_ids": inputs[:, :tokens], "attention_mask": torch.ones(4, tokens).long()})
    assert len(graphs) - before <= 2
