"""`torch.compile`: the same numbers, and no new compilation for a new length, batch or prefix."""

import copy
from functools import partial

import lightning
import torch
from every_task import CASES
from tiny_backbones import BACKBONES, inputs_for
from transformers import CompileConfig

import lightning_prefix as lp

FLAT = lp.FlatPrefixConfig(length=3)


def gradients(model, inputs):
    model(**inputs)[0].square().sum().backward()
    return [parameter.grad for parameter in model.prefix.parameters()]


class Graphs:
    """A backend of `torch.compile` that counts what it is given."""

    def __init__(self):
        self.count = 0

    def __call__(self, graph, inputs):
        self.count += 1
        return graph

    def __deepcopy__(self, memo):
        return self  # transformers copies its options


def test_compiled_for_all_lengths():
    """One graph for training and one for evaluation, whatever the batch, the length and the prefix's values."""
    graphs = Graphs()
    torch._dynamo.reset()
    models = []
    for _ in range(2):
        torch.manual_seed(0)
        backbone = BACKBONES["bert"]()
        head = [name for name, _ in backbone.named_parameters() if "classifier" in name]
        models.append(lp.PrefixedModel(backbone, FLAT, trained=head))
    plain, compiled = models
    compiled.compile(backend=graphs, fullgraph=True)
    seen = []
    for rows, tokens in ((4, 7), (5, 11), (3, 9), (6, 13)):
        inputs = inputs_for(plain.backbone, rows, tokens)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        inputs["attention_mask"][0, -2:] = 0
        for model in models:
            model.train().zero_grad()
        torch.testing.assert_close(*(gradients(model, inputs) for model in models), rtol=1e-4, atol=1e-6)
        for model in models:
            model.eval()
        with torch.no_grad():
            torch.testing.assert_close(compiled(**inputs)[0], plain(**inputs)[0], rtol=1e-4, atol=1e-6)
            for parameter in (parameter for model in models for parameter in model.prefix.parameters()):
                parameter.add_(0.01)
        seen.append(graphs.count)
    assert seen == [2, 2, 2, 2]
    copied = copy.deepcopy(compiled)
    torch.testing.assert_close(copied(**inputs)[0], plain(**inputs)[0])
    assert graphs.count == 2


def test_compiled_decoding():
    """Transformers compiles the steps of a static cache by itself on a GPU; here it is told to."""
    torch._dynamo.reset()
    model = lp.PrefixedModel(BACKBONES["gpt2"](), FLAT).eval()
    for parameter in model.backbone.parameters():
        parameter.mul_(4)  # else all texts are alike
    graphs = Graphs()
    options = CompileConfig(backend=graphs, mode=None)
    options._compile_all_devices = True
    greedy = {"max_new_tokens": 5, "do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    counts = []
    for tokens in (7, 9, 8):
        inputs = {"input_ids": inputs_for(model.backbone, tokens=tokens)["input_ids"]}
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        expected = model.generate(**inputs, **greedy)
        given = model.generate(**inputs, **greedy, cache_implementation="static", compile_config=options)
        assert torch.equal(given.sequences, expected.sequences)
        torch.testing.assert_close(given.logits, expected.logits, rtol=1e-4, atol=1e-5)
        counts.append(graphs.count)
    assert counts[0] == 1
    assert counts[2] <= 2


def test_a_task_compiles(gpt2_folder, tmp_path, monkeypatch):
    """Also with a language-model head, whose positions differ in every batch."""
    graphs = Graphs()
    torch._dynamo.reset()
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend=graphs, fullgraph=True))
    case = CASES["decoder"]
    data = {"train": range(24), "validation": range(30, 36)}
    states = []
    for is_compiled in (False, True):
        torch.manual_seed(0)
        task = case.make_task(gpt2_folder, FLAT, backbone_options=lp.BackboneOptions(compile=is_compiled))
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
        trainer = lightning.Trainer(accelerator="cpu", max_epochs=1, default_root_dir=tmp_path, **quiet)
        trainer.fit(task, case.make_data(data))
        states.append(task.state_dict())
        assert (graphs.count > 0) == is_compiled
    assert graphs.count <= 4
    torch.testing.assert_close(states[0], states[1], rtol=1e-3, atol=1e-4)
