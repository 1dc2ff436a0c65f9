"""Several texts in one row, beside the contract: positions, masks, prefixes by row, compilation, what is refused."""

import pytest
import torch
import transformers as hf
from contract import close, make
from tiny_backbones import POSITIONS, VOCABULARY

import lightning_prefix as lp
from lightning_prefix.backbone.checkpointing import turn_on

FLAT = lp.FlatPrefixConfig(length=3, init="random")


def texts(*lengths):
    generator = torch.Generator().manual_seed(2)
    return [torch.randint(5, VOCABULARY, (1, length), generator=generator) for length in lengths]


def joined(parts, padding=0):
    numbers = torch.cat([torch.full_like(part, number) for number, part in enumerate(parts, 1)], 1)
    rows = torch.cat(parts, 1), numbers
    ids, numbers = (torch.nn.functional.pad(row, (0, padding)) for row in rows)
    return {"input_ids": ids, "sequence_ids": numbers}


def alone(model, parts, **options):
    return torch.cat([model(input_ids=part, **options).logits for part in parts], 1)


@pytest.mark.parametrize("family", ["gpt2", "opt", "mistral_window", "gemma3"])
def test_shifted_positions(family):
    model = lp.PrefixedModel(make(family), FLAT, positions="shift").eval()
    parts = texts(30, POSITIONS - 3, 2)
    close(model(**joined(parts)).logits, alone(model, parts))
    with pytest.raises(lp.InputError, match=rf"prefix length 3 \+ {POSITIONS - 2} tokens exceeds"):
        model(**joined(texts(2, POSITIONS - 2)))


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_padding_and_implementations(implementation):
    backbone = make("llama")
    backbone.set_attn_implementation(implementation)
    model = lp.PrefixedModel(backbone, FLAT).eval()
    parts = texts(5, 9)
    packed = model(**joined(parts, padding=4), use_cache=False).logits
    assert packed.isfinite().all()
    close(packed[:, :14], alone(model, parts))
    embeddings = backbone.get_input_embeddings()(joined(parts)["input_ids"])
    close(model(inputs_embeds=embeddings, sequence_ids=joined(parts)["sequence_ids"]).logits, alone(model, parts))


def test_equal_numbers_apart_are_different_texts():
    model = lp.PrefixedModel(make("llama"), FLAT).eval()
    parts = texts(4, 6, 3)
    inputs = joined(parts)
    inputs["sequence_ids"][inputs["sequence_ids"] == 3] = 1
    close(model(**inputs).logits, alone(model, parts))


def test_each_row_has_its_own_prefix_or_none():
    model = lp.PrefixedModel(make("gpt2"), FLAT).eval()
    model.add_prefix("other", lp.GatedPrefixConfig(length=5))
    for gate in model.prefixes["other"].gates:
        torch.nn.init.constant_(gate, 0.5)
    names, rows = ["default", "other", None], [texts(4, 6), texts(7, 3), texts(5, 5)]
    inputs = {name: torch.cat([joined(row)[name] for row in rows]) for name in ("input_ids", "sequence_ids")}
    together = model(**inputs, prefix_names=names).logits
    for place, (name, row) in enumerate(zip(names, rows, strict=True)):
        close(together[place : place + 1], alone(model, row, prefix_names=[name]))
    with model.disabled():
        close(model(**joined(rows[0])).logits, alone(model, rows[0]))
    model.set_prefix(None)
    close(model(**joined(rows[0])).logits, alone(model, rows[0]))


@pytest.mark.parametrize("way", ["plain", "checkpointing", "compiled"])
def test_gradients(way):
    backbone = make("llama" if way == "compiled" else "gemma3")
    if way == "checkpointing":
        turn_on(backbone)
    model = lp.PrefixedModel(backbone, FLAT).train()
    if way == "compiled":
        torch._dynamo.reset()
        model.compile(backend="eager", fullgraph=True)
    parameters = list(model.prefix.parameters())
    for lengths in ((12, 11), (3, 4, 9), (20,)):
        parts = texts(*lengths)
        logits = model(**joined(parts), use_cache=False).logits, alone(model, parts, use_cache=False)
        ours, theirs = (torch.autograd.grad(each.square().sum(), parameters) for each in logits)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_what_does_not_fit_together():
    model = lp.PrefixedModel(make("gpt2"), FLAT)
    inputs = joined(texts(3, 4))
    with pytest.raises(lp.InputError, match="sequence_ids and attention_mask are given"):
        model(**inputs, attention_mask=torch.ones(1, 7))
    with pytest.raises(lp.InputError, match="sequence_ids and past_key_values are given"):
        model(**inputs, past_key_values=hf.DynamicCache())
    with pytest.raises(lp.InputError, match=r"shape \(1, 7\) are given for inputs of shape \(1, 3\) to gpt2"):
        model(inputs["input_ids"][:, :3], sequence_ids=inputs["sequence_ids"])


@pytest.mark.filterwarnings("ignore:layers .* have no softmax attention")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("family", "words"),
    [
        ("t5", r"T5ForConditionalGeneration .* is no decoder with position_ids\. Train without data\.packing"),
        ("bert", r"BertForSequenceClassification \(model type 'bert'\) mixes texts that share a row"),
        ("qwen3_next", r"Qwen3NextForCausalLM \(model type 'qwen3_next'\) mixes texts that share a row"),
        ("qwen3_5", r"Qwen3_5ForCausalLM .* mixes texts that share a row"),
    ],
)
def test_models_that_mix_texts_are_refused(family, words, dtype):
    model = lp.PrefixedModel(make(family).to(dtype), lp.FlatPrefixConfig(length=2))
    with pytest.raises(lp.InputError, match=words):
        model.check_packing()
    with pytest.raises(lp.InputError, match=words):
        model(**joined(texts(3, 4)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3", "deepseek_v3"])
def test_rounded_backbones_are_not(family, dtype):
    lp.PrefixedModel(make(family).to(dtype), lp.FlatPrefixConfig(length=2)).check_packing()
