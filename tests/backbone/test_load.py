"""Options of the backbone that save memory or time: the same numbers, and refusals in words."""

import lightning
import pytest
import torch
import transformers as hf
from tiny_backbones import BACKBONES, inputs_for

import lightning_prefix as lp
from lightning_prefix.backbone import BackboneOptions, load_backbone
from lightning_prefix.backbone.quantization import is_quantized

FLAT = lp.FlatPrefixConfig(length=3)


def saved(family, folder):
    """A folder that `from_pretrained` reads."""
    model = BACKBONES[family]()
    model.save_pretrained(folder)
    return str(folder), type(model).__name__


def gradients(model, inputs):
    output = model(**inputs)[0]
    output.float().square().sum().backward()
    return [parameter.grad for parameter in model.prefix.parameters()]


@pytest.mark.parametrize("family", ["gpt2", "bert", "t5"])
def test_gradient_checkpointing(family, tmp_path):
    """The upper layer runs twice, the frozen one below the prefix has no gradients, and the prefix the same."""
    name, auto_class = saved(family, tmp_path)
    config = lp.FlatPrefixConfig(length=3, layers=1)
    found, calls = [], []
    for options in (BackboneOptions(), BackboneOptions(gradient_checkpointing=True)):
        torch.manual_seed(0)
        model = lp.PrefixedModel(load_backbone(name, auto_class, options)[0], config).train()
        calls.append([])
        site = model.sites[0].name
        model.backbone.get_submodule(site).register_forward_hook(lambda *_, seen=calls[-1]: seen.append(1))
        embeddings = []
        model.backbone.get_input_embeddings().register_forward_hook(lambda *io, seen=embeddings: seen.append(io[2]))
        found.append(gradients(model, inputs_for(model.backbone)))
        assert not any(output.requires_grad for output in embeddings)
    assert [len(each) for each in calls] == [1, 2]
    torch.testing.assert_close(found[0], found[1])


def test_gradient_checkpointing_is_refused_where_there_is_none(tmp_path):
    name, auto_class = saved("albert", tmp_path)
    with pytest.raises(lp.InputError, match="gradient_checkpointing is given, but AlbertModel does not support it"):
        load_backbone(name, auto_class, BackboneOptions(gradient_checkpointing=True))


KINDS = {"int8": "bitsandbytes", "nf4": "bitsandbytes", "int8-weight-only": "torchao"}


@pytest.mark.parametrize("kind", KINDS)
def test_a_missing_package_is_named(kind, tmp_path, monkeypatch):
    name, auto_class = saved("gpt2", tmp_path)
    monkeypatch.setattr(f"transformers.utils.is_{KINDS[kind]}_available", lambda: False)
    with pytest.raises(lp.InputError, match=rf"'{kind}' is given, for which {KINDS[kind]} and accelerate"):
        load_backbone(name, auto_class, BackboneOptions(quantization=kind))


@pytest.fixture(params=KINDS)
def kind(request):
    pytest.importorskip("accelerate")
    pytest.importorskip(KINDS[request.param], reason="the extra lightning-prefix[quantization] is not installed")
    return request.param


def test_quantized(kind, tmp_path):
    """Nearly the same outputs; the prefix is trained, and loads on the quantised backbone and on the plain one."""
    torch.manual_seed(0)
    name, auto_class = saved("llama", tmp_path / "backbone")
    plain = load_backbone(name, auto_class)[0]
    small = load_backbone(name, auto_class, BackboneOptions(quantization=kind))[0]
    assert sum(is_quantized(parameter) for parameter in small.parameters()) == 14
    inputs = inputs_for(plain)
    error = (small(**inputs).logits - plain(**inputs).logits).abs().max() / plain(**inputs).logits.abs().max()
    assert 0 < error < (0.3 if kind == "nf4" else 0.05)
    model = lp.PrefixedModel(small, FLAT)
    assert all(gradient.abs().sum() > 0 for gradient in gradients(model, inputs))
    torch.optim.SGD(model.prefix.parameters(), lr=0.1).step()
    model.save_pretrained(tmp_path / "prefix")
    here = lp.PrefixedModel.from_pretrained(tmp_path / "prefix", plain)
    again = lp.PrefixedModel.from_pretrained(tmp_path / "prefix", model.unload())
    for other in (here, again):
        assert all(map(torch.equal, other.prefix.state_dict().values(), model.prefix.state_dict().values()))
    assert here.fingerprint()["shapes"] == again.fingerprint()["shapes"]
    text = again.to(torch.bfloat16).generate(inputs["input_ids"], max_new_tokens=3, do_sample=False)
    assert text.shape == (2, 10)
    other = hf.LlamaForCausalLM(plain.config)
    with pytest.raises(lp.InputError, match="other weights"):
        lp.PrefixedModel.from_pretrained(tmp_path / "prefix", other)


def test_a_new_head_on_a_quantized_backbone_is_trained(kind, tmp_path, bert_folder, reviews):
    options = BackboneOptions(quantization=kind)
    task = lp.TextClassification(bert_folder, FLAT, num_labels=2, backbone_options=options)
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    trainer = lightning.Trainer(
        accelerator="cpu", max_steps=3, default_root_dir=tmp_path, precision="bf16-true", **quiet
    )
    data = lp.TextClassificationDataModule(reviews, batch_size=8)
    trainer.fit(task, data)
    assert task.model.trained == ("classifier.weight", "classifier.bias")
    assert {parameter.dtype for parameter in task.parameters() if parameter.requires_grad} == {torch.float32}
    assert task.model.backbone.classifier.weight.std() > 0
    task.save_pretrained(tmp_path / "prefix")
    again = lp.PrefixTask.from_pretrained(tmp_path / "prefix")
    checkpoint = lp.TextClassification.load_from_checkpoint(trainer.checkpoint_callback.best_model_path)
    batch = next(iter(data.train_dataloader()))
    task.model.float()
    with torch.no_grad():
        expected = task.eval()(batch)
        for other in (again, checkpoint.eval()):
            assert sum(is_quantized(parameter) for parameter in other.model.parameters()) > 0
            torch.testing.assert_close(other(batch), expected, rtol=0.05, atol=0.02)  # the trained one was rounded


def test_int8_computes_in_float16(tmp_path):
    pytest.importorskip("bitsandbytes")
    name, auto_class = saved("t5", tmp_path)
    with pytest.raises(lp.InputError, match="quantization int8 is given for a backbone of type 't5'"):
        load_backbone(name, auto_class, BackboneOptions(quantization="int8"))
