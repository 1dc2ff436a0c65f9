"""The folder of a prefix: what is in it, that old ones load forever, and that no damage gets through.

`formats/1` was made by `PYTHONPATH=tests python tests/backbone/test_files.py`. A format that was released is never
written anew: another one gets another number, and its own folder.
"""

import hashlib
import json
import os
import random
from pathlib import Path

import pytest
import torch
import transformers as hf
from jsonschema import Draft202012Validator
from safetensors.torch import load, load_file
from safetensors.torch import save as to_bytes
from tiny_backbones import BACKBONES, inputs_for

import lightning_prefix as lp
from lightning_prefix.backbone import files
from lightning_prefix.backbone.slot import calls_of
from lightning_prefix.prefix.stored import to_tensors

FORMATS = Path(__file__).parent / "formats"
CONFIGS = {
    "flat": lp.FlatPrefixConfig(length=3),
    "mlp": lp.MLPPrefixConfig(length=3, embedding_dim=8, hidden_dim=8),
    "gated": lp.GatedPrefixConfig(length=3),
    "prompt": lp.PromptPrefixConfig(length=3),
    "output": lp.OutputPrefixConfig(),
}
HEAD = ["classifier.weight", "classifier.bias"]
FOLDERS = {"flat": ("bert", HEAD), "gated": ("gpt2", ()), "prompt": ("gpt2", ())}
SCHEMA = json.loads(Path(files.__file__).with_name("prefix.schema.json").read_text())


def stir(model):
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def saved(folder, variant, family="bert", trained=(), **options):
    """A folder, and the model that wrote it."""
    model = lp.PrefixedModel(BACKBONES[family](), CONFIGS[variant], trained=trained, **options)
    stir(model)
    model.save_pretrained(folder)
    return model


def seal(folder):
    """Record the tensors as they are now, as one who means harm would."""
    file = folder / "prefix.json"
    digest = hashlib.sha256((folder / "prefix.safetensors").read_bytes()).hexdigest()
    file.write_text(json.dumps(json.loads(file.read_text()) | {"sha256": digest}))


# What is in it.


def test_the_folder_holds_nothing_of_the_backbone(tmp_path):
    saved(tmp_path, "mlp", trained=HEAD)
    tensors = load_file(tmp_path / "prefix.safetensors")
    assert set(tensors) == {
        *(f"prefix.encoder.{layer}.{name}" for layer in range(2) for name in ("keys", "values")),
        *(f"backbone.{name}" for name in HEAD),
    }
    size = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert size < sum(t.numel() * 4 for t in tensors.values()) + 64 * 1024


def test_the_schema_is_one_and_says_what_each_field_is():
    def fields(schema):
        yield schema
        for inner in [*schema.get("properties", {}).values(), *([schema["items"]] if "items" in schema else [])]:
            yield from fields(inner)

    Draft202012Validator.check_schema(SCHEMA)
    assert all({"title", "description"} <= field.keys() for field in fields(SCHEMA))
    records = [SCHEMA, SCHEMA["properties"]["backbone"], SCHEMA["properties"]["prefix"]]
    assert all(record["additionalProperties"] is False for record in records)


@pytest.mark.parametrize("positions", ["keep", "shift"])
@pytest.mark.parametrize("variant", list(CONFIGS))
def test_what_is_saved_is_what_the_schema_says(variant, positions, tmp_path):
    family = "gpt2" if variant == "prompt" else "bert"
    model = saved(tmp_path, variant, family, positions=positions)
    for task in (None, {"hyper_parameters": {"backbone": "x"}, "data": {}}):
        model.save_pretrained(tmp_path, task=task)
        description = json.loads((tmp_path / "prefix.json").read_text())
        Draft202012Validator(SCHEMA).validate(description)
        assert description.keys() == SCHEMA["properties"].keys()
        assert files.read(tmp_path).description == description


# Which backbone it goes on.


def test_the_backbone_is_loaded_by_its_recorded_name(tmp_path):
    folder = tmp_path / "backbone"
    BACKBONES["gpt2"]().save_pretrained(folder)
    model = lp.PrefixedModel(hf.GPT2LMHeadModel.from_pretrained(folder), CONFIGS["gated"])
    stir(model)
    model.save_pretrained(tmp_path / "prefix")
    again = lp.PrefixedModel.from_pretrained(tmp_path / "prefix")
    ids = inputs_for(again.backbone)
    assert torch.equal(again(**ids).logits, model(**ids).logits)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"name": ""}, "the backbone '', which could not be loaded"),
        ({"name": "/no/such/folder"}, "the backbone '/no/such/folder', which could not be loaded"),
        ({"class": "pipeline"}, "was saved from a pipeline, which the installed transformers"),
        ({"class": "BertTokenizer"}, "was saved from a BertTokenizer, which"),
    ],
)
def test_a_record_that_names_no_model_is_refused(record, message, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    saved(tmp_path, "flat")
    file = tmp_path / "prefix.json"
    description = json.loads(file.read_text())
    file.write_text(json.dumps(description | {"backbone": description["backbone"] | record}))
    with pytest.raises(lp.InputError, match=message):
        lp.PrefixedModel.from_pretrained(tmp_path)


def test_another_backbone_is_refused(tmp_path):
    saved(tmp_path, "flat", trained=HEAD)
    with pytest.raises(lp.InputError, match="it has the same sizes but other weights"):
        lp.PrefixedModel.from_pretrained(tmp_path, BACKBONES["bert"]())
    with pytest.raises(lp.InputError, match="it is a 'bert', this one a 'gpt2'"):
        lp.PrefixedModel.from_pretrained(tmp_path, BACKBONES["gpt2"]())


def test_a_head_of_another_size_is_refused(tmp_path):
    backbone = saved(tmp_path, "flat", trained=HEAD).unload()
    backbone.classifier = torch.nn.Linear(16, 5)
    with pytest.raises(lp.InputError, match=r"classifier.bias of shape \(3,\) .* has one of shape \(5,\)"):
        lp.PrefixedModel.from_pretrained(tmp_path, backbone)


def test_a_backbone_in_use_keeps_its_prefix(tmp_path):
    model = saved(tmp_path, "flat")
    ids = inputs_for(model.backbone)
    before = model(**ids).logits
    with pytest.raises(lp.InputError, match="already carries a prefix"):
        lp.PrefixedModel.from_pretrained(tmp_path, model.backbone)
    assert torch.equal(model(**ids).logits, before)


# Damage.


@pytest.mark.parametrize("name", ["prefix.safetensors", "prefix.json"])
def test_damaged_folders_are_refused(name, tmp_path):
    backbone = saved(tmp_path, "flat").unload()
    file = tmp_path / name
    whole = file.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not this", b"[" * 100_000):
        file.write_bytes(content)
        with pytest.raises(lp.InputError, match="cannot be read"):
            lp.PrefixedModel.from_pretrained(tmp_path, backbone)
    file.unlink()
    with pytest.raises(lp.InputError, match=f"has no {name}"):
        lp.PrefixedModel.from_pretrained(tmp_path)
    file.mkdir()
    with pytest.raises(lp.InputError, match=f"has no {name}"):
        lp.PrefixedModel.from_pretrained(tmp_path)


def test_a_newer_format_is_refused(tmp_path):
    saved(tmp_path, "flat")
    (tmp_path / "prefix.json").write_text(json.dumps({"format": 99, "new": "fields"}))
    with pytest.raises(lp.InputError, match="has format 99; this version reads format 1"):
        lp.PrefixedModel.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": "move"}, r"positions is 'move'; allowed is keep \(the text .* copy the folder again"),
        ({"prefix": {"variant": "flat", "length": -1, "sites": []}}, "prefix.length is -1; allowed is a whole number"),
        (
            {"prefix": {"variant": "flat", "length": 3, "sites": [1]}},
            r"prefix.sites\[0\] is 1; allowed is enc",
        ),
        ({"prefix": {"variant": "flat"}}, "prefix is an object with 'variant'; allowed is .* variant, length, sites"),
        ({"prefix": {"variant": "flat", "length": 9, "sites": ["encoder.0"]}}, "describes length 9 at .'encoder.0'"),
        ({"extra": 1}, "its content is an object with .*'extra'; allowed is .* with format, backbone"),
        ({"task": {"data": {}}}, "task is an object with 'data'; allowed is .* with hyper_parameters, data"),
    ],
)
def test_a_wrong_field_is_named(change, message, tmp_path):
    backbone = saved(tmp_path, "flat").unload()
    file = tmp_path / "prefix.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(lp.InputError, match=message):
        lp.PrefixedModel.from_pretrained(tmp_path, backbone)


def test_pickles_are_never_read(tmp_path):
    backbone = saved(tmp_path, "flat").unload()
    torch.save(load((tmp_path / "prefix.safetensors").read_bytes()), tmp_path / "prefix.safetensors")
    seal(tmp_path)
    with pytest.raises(lp.InputError, match="cannot be read"):
        lp.PrefixedModel.from_pretrained(tmp_path, backbone)


def truncations(choose, folder):
    for file in folder.iterdir():
        whole = file.read_bytes()
        for size in choose.sample(range(len(whole)), 12):
            yield lambda f=file, c=whole[:size]: f.write_bytes(c)


def flips(choose, folder):
    for file in folder.iterdir():
        whole = file.read_bytes()
        for place in choose.sample(range(len(whole)), 24):
            changed = bytearray(whole)
            changed[place] ^= choose.choice([1 << choose.randrange(8), choose.randrange(1, 256)])
            yield lambda f=file, c=bytes(changed): f.write_bytes(c)


def header_flips(choose, folder):
    """Of a file that is sealed again, so that the reader of the tensors sees them."""
    file = folder / "prefix.safetensors"
    whole = file.read_bytes()
    for place in choose.sample(range(8 + int.from_bytes(whole[:8], "little")), 24):
        changed = bytearray(whole)
        changed[place] ^= 1 << choose.randrange(8)
        yield lambda c=bytes(changed): (file.write_bytes(c), seal(folder))


MISSING = object()


def field_changes(choose, folder):
    file = folder / "prefix.json"
    whole = file.read_text()

    def places(value, path=()):
        yield path
        inner = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
        for key, item in inner:
            yield from places(item, (*path, key))

    def write(path, value):
        top = {"": json.loads(whole)}
        holder, key = top, ""
        for step in path:
            holder, key = holder[key], step
        if value is MISSING:
            del holder[key]
        else:
            holder[key] = value
        file.write_text(json.dumps(top.get("")))

    for path in places(json.loads(whole)):
        for value in (MISSING, None, True, -1, 7, 10**400, 0.5, float("inf"), "", "x", [], {}, [None], {"x": 1}):
            yield lambda p=path, v=value: write(p, v)


def tensor_changes(choose, folder):
    """Most are sealed again; the checksum alone must find the others."""
    file = folder / "prefix.safetensors"
    tensors = load(file.read_bytes())

    def write(changed, is_sealed=True):
        file.write_bytes(to_bytes({name: t.contiguous() for name, t in changed.items()}))
        if is_sealed:
            seal(folder)

    for name, tensor in tensors.items():
        others = {key: t for key, t in tensors.items() if key != name}
        group = name.split(".")[0]
        broken = tensor.clone()
        broken.view(-1)[choose.randrange(tensor.numel())] = choose.choice([torch.nan, torch.inf, -torch.inf])
        yield lambda t=tensor, n=name: write(tensors | {n: t * 1.001}, is_sealed=False)
        yield lambda o=others: write(o)
        for new_name in (f"{name}s", f"{group}.{name}", name.removeprefix(f"{group}."), "other.x", f"{group}."):
            yield lambda t=tensor, o=others, n=new_name: write(o | {n: t})
        for changed in (
            broken,
            tensor[:-1],
            tensor[..., :-1],
            tensor[None],
            tensor.flatten()[:0],
            torch.cat([tensor, tensor]),
            tensor.int(),
            tensor > 0,
            tensor.to(torch.float8_e4m3fn),
            tensor.to(torch.complex64),
            tensor.double() * 1e300,
            tensor.half(),
        ):
            yield lambda c=changed, n=name: write(tensors | {n: c})
    for new_name in ("other", "prefix.encoder.9.keys", "prefix.x", "backbone.x", "prefix.scale"):
        yield lambda n=new_name: write(tensors | {n: torch.zeros(3)})
    yield lambda: write({})


ALTERATIONS = [truncations, flips, header_flips, field_changes, tensor_changes]


def state_of(backbone):
    """All that a refused folder must leave alone."""
    parameters = {name: p.detach().numpy().tobytes() for name, p in backbone.named_parameters()}
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.modules()]
    calls = [calls_of(m) for m in backbone.modules()]
    return parameters, hooks, calls, backbone.config._attn_implementation


@pytest.mark.parametrize("variant", list(FOLDERS))
def test_no_alteration_gets_through(variant, tmp_path):
    """Each is refused and leaves the backbone alone, or does no harm: a whole, finite prefix of the right shapes."""
    family, trained = FOLDERS[variant]
    model = saved(tmp_path, variant, family, trained)
    shapes = {name: t.shape for name, t in to_tensors(model.prefix).items()}
    exact = {name: t.clone() for name, t in to_tensors(model.prefix).items()}
    backbone = model.unload()
    before, head = state_of(backbone), {name: backbone.get_parameter(name).clone() for name in trained}
    whole = {file: file.read_bytes() for file in tmp_path.iterdir()}
    count, refused, choose = 0, 0, random.Random(variant)  # noqa: S311
    for alterations in ALTERATIONS:
        for alter in alterations(choose, tmp_path):
            alter()
            count += 1
            try:
                loaded = lp.PrefixedModel.from_pretrained(tmp_path, backbone)
            except lp.InputError:
                refused += 1
            else:
                loaded.unload()
                tensors = to_tensors(loaded.prefix)
                assert {name: t.shape for name, t in tensors.items()} == shapes
                assert all(t.isfinite().all() for t in [*tensors.values(), *backbone.parameters()])
                assert loaded.prefix.positions in ("keep", "shift")
                if alterations not in (header_flips, tensor_changes):  # these two are sealed again
                    assert all(torch.equal(exact[name], t) for name, t in tensors.items())
                    assert state_of(backbone) == before
                backbone.load_state_dict(head, strict=False)
            assert state_of(backbone) == before
            for file, content in whole.items():
                file.write_bytes(content)
    assert count >= 300
    assert refused > 0.85 * count
    assert lp.PrefixedModel.from_pretrained(tmp_path, backbone).prefix.length == 3


# One stored folder of each format and variant, forever.


def expected(number):
    return json.loads((FORMATS / str(number) / "expected.json").read_text())


@pytest.mark.parametrize("variant", ["flat", "gated", "prompt", "output"])
@pytest.mark.parametrize("number", range(1, files.FORMAT + 1))
def test_stored_folders_load_forever(number, variant, monkeypatch):
    monkeypatch.chdir(FORMATS / str(number))  # where they find the folder `backbone`
    model = lp.PrefixedModel.from_pretrained(variant)
    logits = model(torch.tensor(expected(number)["input_ids"])).logits
    torch.testing.assert_close(logits, torch.tensor(expected(number)["logits"][variant]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("number", range(1, files.FORMAT + 1))
def test_a_stored_task_loads_forever(number, monkeypatch):
    monkeypatch.chdir(FORMATS / str(number))
    task = lp.PrefixTask.from_pretrained("flat")
    ids = torch.tensor(expected(number)["input_ids"])
    logits = task({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
    torch.testing.assert_close(logits, torch.tensor(expected(number)["logits"]["flat"]), atol=1e-5, rtol=0)
    assert task.labels == ["negative", "positive"]


def write_format():
    """Write `formats/FORMAT` with the code of today."""
    folder = FORMATS / str(files.FORMAT)
    folder.mkdir(parents=True)
    os.chdir(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    tokens = {"vocab_size": 20, "max_position_embeddings": 16, "pad_token_id": 0}
    hf.BertForMaskedLM(hf.BertConfig(**sizes, **tokens, initializer_range=0.4)).save_pretrained("backbone")
    ids, logits = torch.tensor([[3, 8, 13, 5], [17, 4, 9, 11]]), {}
    task = lp.TextClassification("backbone", lp.FlatPrefixConfig(length=2), labels=["negative", "positive"]).eval()
    task.configure_model()
    stir(task.model)
    task.save_pretrained("flat", {"columns": ["text"], "template": None, "tokenizer": None, "max_length": 16})
    logits["flat"] = task({"input_ids": ids, "attention_mask": torch.ones_like(ids)}).tolist()
    for variant in ("gated", "prompt", "output"):
        model = lp.PrefixedModel(hf.BertForMaskedLM.from_pretrained("backbone").eval(), CONFIGS[variant])
        stir(model)
        model.save_pretrained(variant)
        logits[variant] = model(ids).logits.tolist()
    Path("expected.json").write_text(json.dumps({"input_ids": ids.tolist(), "logits": logits}) + "\n")


if __name__ == "__main__":
    write_format()
