"""The exported cache: plain transformers write with it what we write; what has no place there; the command."""

import re

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file
from tiny_files import write_language_model

import lightning_prefix as lp
from lightning_prefix.cli import main

FAMILIES = ["gpt2", "llama", "qwen3", "opt", "gpt_neox", "gpt_bigcode", "mistral"]
TEXTS = ["good film", "the bad plot : a review", "a"]
GREEDY = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None}
LENGTH = 4


def save(folder, name: str, config: lp.PrefixConfig, auto=hf.AutoModelForCausalLM, positions="shift"):
    """A prefix whose effect is large, on a backbone in a folder."""
    backbone = auto.from_pretrained(write_language_model(folder / "backbone", name)).eval()
    model = lp.PrefixedModel(backbone, config, positions=positions)
    for parameter in model.prefix.parameters():
        torch.nn.init.normal_(parameter, std=3)
    model.save_pretrained(folder / "prefix")
    return model


def snippet_of(folder) -> str:
    return re.search(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)[1]


@pytest.mark.parametrize(
    ("family", "config"),
    [
        *((family, lp.FlatPrefixConfig(length=LENGTH)) for family in FAMILIES),
        ("llama", lp.MLPPrefixConfig(length=LENGTH, hidden_dim=8)),
        ("llama", lp.PromptPrefixConfig(length=LENGTH)),
    ],
)
@pytest.mark.parametrize(
    "options", [GREEDY, {**GREEDY, "num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"]
)
def test_plain_generate_writes_what_we_write(family, config, options, tmp_path, monkeypatch):
    model = save(tmp_path, family, config)
    main(["export", "--prefix", str(tmp_path / "prefix"), "--format", "cache", "--output", str(tmp_path / "cache")])
    tokenizer = hf.AutoTokenizer.from_pretrained(tmp_path / "backbone", padding_side="left")
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    batch = tokenizer(TEXTS, return_tensors="pt", padding=True)
    ids, mask = batch["input_ids"], batch["attention_mask"]
    expected = model.generate(ids, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, **options)
    with model.disabled():
        frozen = model.generate(ids, attention_mask=mask, pad_token_id=tokenizer.pad_token_id, **options)
    assert not torch.equal(frozen, expected)
    monkeypatch.chdir(tmp_path / "cache")
    names = {}
    exec(snippet_of(tmp_path / "cache"), names)  # noqa: S102
    assert names["generate"](TEXTS, **options) == tokenizer.batch_decode(
        expected[:, ids.shape[1] :], skip_special_tokens=True
    )


def test_the_file_holds_what_its_readme_says(tmp_path):
    model = save(tmp_path, "llama", lp.FlatPrefixConfig(length=LENGTH))
    lp.to_cache(tmp_path / "prefix", tmp_path / "cache", backbone=model.unload())
    states = load_file(tmp_path / "cache" / "past_key_values.safetensors")
    layers = model.config.num_hidden_layers
    assert sorted(states) == sorted(f"{layer}.{part}" for layer in range(layers) for part in ("keys", "values"))
    for layer, state in enumerate(model.prefix()):
        assert torch.equal(states[f"{layer}.keys"], state.keys)
        assert torch.equal(states[f"{layer}.values"], state.values)


@pytest.mark.parametrize(
    ("family", "config", "options", "message"),
    [
        ("llama", lp.FlatPrefixConfig(length=2), {"positions": "keep"}, "positions='keep', .* counts the positions"),
        ("llama", lp.GatedPrefixConfig(length=2), {}, "a gated prefix, for which a plain cache has no place"),
        ("llama", lp.OutputPrefixConfig(), {}, "a output prefix, for which a plain cache has no place"),
        ("llama", lp.FlatPrefixConfig(length=[2, 3]), {}, r"a prefix with lengths \[2, 3\]"),
        ("llama", lp.FlatPrefixConfig(length=2, layers=[1]), {}, "no prefix at layer 0"),
        ("qwen3_next", lp.FlatPrefixConfig(length=2), {}, "no prefix at layer"),
        ("deepseek_v3", lp.FlatPrefixConfig(length=2), {}, "this model caches keys and values compressed"),
        ("t5", lp.FlatPrefixConfig(length=2), {"auto": hf.AutoModelForSeq2SeqLM}, "of T5ForConditionalGeneration"),
    ],
)
@pytest.mark.filterwarnings("ignore:layers 0 of")
def test_what_has_no_place(family, config, options, message, tmp_path, capsys):
    save(tmp_path, family, config, **options)
    with pytest.raises(SystemExit):
        main(["export", "--prefix", str(tmp_path / "prefix"), "--format", "cache", "--output", str(tmp_path / "cache")])
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "cache").exists()


def test_the_command_writes_pefts_format_beside(tmp_path, monkeypatch, capsys):
    save(tmp_path, "llama", lp.FlatPrefixConfig(length=LENGTH))
    monkeypatch.chdir(tmp_path)
    main(["export", "--prefix", f"{tmp_path}/prefix/", "--format", "peft"])
    assert sorted(file.name for file in (tmp_path / "prefix-peft").iterdir()) == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    with pytest.raises(SystemExit):
        main(["export", "--prefix", "nowhere", "--format", "peft"])
    assert "there is no folder nowhere" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["export", "--prefix", "prefix", "--format", "onnx"])
