"""`PrefixedModel` over families and variants: gradients, the frozen model, checkpointing, padding, copies."""

import pytest
import torch
import transformers as hf
from tiny_backbones import BACKBONES, VOCABULARY, inputs_for

import lightning_prefix as lp
from lightning_prefix.backbone.attention import recording

CONFIGS = {
    "flat": lp.FlatPrefixConfig(length=4),
    "mlp": lp.MLPPrefixConfig(length=4, embedding_dim=8, hidden_dim=8),
    "gated": lp.GatedPrefixConfig(length=4),
}
SITES = {
    "bert": ["encoder.0", "encoder.1"],
    "roberta": ["encoder.0", "encoder.1"],
    "albert": ["encoder.0", "encoder.1", "encoder.2"],
    "distilbert": ["encoder.0", "encoder.1"],
    "modernbert": ["encoder.0", "encoder.1", "encoder.2", "encoder.3"],
    "gpt2": ["decoder.0", "decoder.1"],
    "llama": ["decoder.0", "decoder.1"],
    "gemma2": ["decoder.0", "decoder.1"],
    "t5": ["encoder.0", "encoder.1", "decoder.0", "cross.0", "decoder.1", "cross.1"],
    "bart": [
        "encoder.0",
        "encoder.1",
        "decoder.0",
        "cross.0",
        "decoder.1",
        "cross.1",
        "decoder.2",
        "cross.2",
    ],
}


@pytest.fixture(params=list(CONFIGS))
def config(request):
    return CONFIGS[request.param]


@pytest.mark.parametrize("family", list(SITES))
def test_sites_are_found(family):
    model = lp.PrefixedModel(BACKBONES[family](), lp.FlatPrefixConfig(length=2))
    assert [site.key for site in model.sites] == SITES[family]


def test_models_without_the_attention_interface_are_refused():
    backbone = hf.BloomForCausalLM(hf.BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2))
    with pytest.raises(lp.InputError, match=r"BloomForCausalLM \(model type 'bloom'\) never calls"):
        lp.PrefixedModel(backbone, CONFIGS["flat"])


def test_a_site_without_effect_is_named():
    """The last layer's attention output is cut off, so its prefix cannot matter."""
    backbone = BACKBONES["bert"]()
    last = backbone.bert.encoder.layer[1].attention.output.dense
    torch.nn.init.zeros_(last.weight)
    with pytest.raises(lp.InputError, match=r"bert\.encoder\.layer\.1\.attention\.self does not change the output"):
        lp.PrefixedModel(backbone, CONFIGS["flat"])


def test_other_kernels_are_refused():
    backbone = BACKBONES["llama"]()
    backbone.config._attn_implementation_internal = "flash_attention_2"
    with pytest.raises(lp.InputError, match="attn_implementation='flash_attention_2'"):
        lp.PrefixedModel(backbone, CONFIGS["flat"])


def test_a_backbone_carries_one_prefixed_model():
    backbone = BACKBONES["bert"]()
    first = lp.PrefixedModel(backbone, CONFIGS["flat"])
    with pytest.raises(lp.InputError, match="already carries a prefix"):
        lp.PrefixedModel(backbone, CONFIGS["flat"])
    assert lp.PrefixedModel(first.unload(), CONFIGS["flat"]).sites


def test_the_backbone_stays_in_eval_mode_unless_asked():
    backbone = BACKBONES["bert"]()
    model = lp.PrefixedModel(backbone.train(), CONFIGS["flat"]).train()
    assert not any(m.training for m in backbone.modules())
    assert model.prefix.training
    model.backbone_dropout = True
    assert all(m.training for m in model.train().backbone.modules())


@pytest.mark.parametrize("family", ["bert", "llama", "t5"])
def test_random_start_has_the_scale_of_real_keys_and_values(family):
    backbone = BACKBONES[family]()
    inputs = inputs_for(backbone, rows=8, tokens=30)
    with torch.no_grad(), recording(backbone) as calls:
        backbone.base_model(**inputs)
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=200))
    for call, keys, values in zip(calls, model.prefix.keys, model.prefix.values, strict=True):
        for real, ours in ((call.keys, keys), (call.values, values)):
            assert 0.7 < ours.std() / real.std() < 1.4


def test_text_start_needs_a_text_that_fits():
    with pytest.raises(lp.InputError, match="without init_text"):
        lp.PrefixedModel(BACKBONES["gpt2"](), lp.FlatPrefixConfig(init="text"))
    config = lp.FlatPrefixConfig(length=80, init="text", init_text="a")
    with pytest.raises(lp.InputError, match="positions for 64 tokens"):
        lp.PrefixedModel(BACKBONES["gpt2"](), config, tokenizer=lambda _: {"input_ids": [5]})


def test_unknown_trained_parameters_are_refused():
    with pytest.raises(lp.InputError, match=r"\['nothing'\] are no parameters"):
        lp.PrefixedModel(BACKBONES["bert"](), CONFIGS["flat"], trained=["nothing"])


def checkpointed(family, **options):
    backbone = BACKBONES[family]()
    # renamed in transformers 5.2x
    getattr(backbone, "activation_checkpointing_enable", backbone.gradient_checkpointing_enable)(**options)
    return backbone


def test_reentrant_checkpointing_is_refused():
    name = "activation" if hasattr(hf.PreTrainedModel, "activation_checkpointing_enable") else "gradient"
    backbone = checkpointed("gpt2", **{f"{name}_checkpointing_kwargs": {"use_reentrant": True}})
    model = lp.PrefixedModel(backbone, CONFIGS["flat"]).train()
    with pytest.raises(lp.InputError, match="use_reentrant=True is on; it loses the gradients of a prefix"):
        model(**inputs_for(backbone))


def test_unload_gives_checkpointed_layers_back():
    backbone = checkpointed("bart")
    layer = backbone.model.encoder.layers[0]
    before = layer.dropout, layer._gradient_checkpointing_func
    assert before[0] > 0
    model = lp.PrefixedModel(backbone, CONFIGS["flat"]).train()
    model(**inputs_for(backbone))
    assert layer.dropout == 0
    model.unload()
    assert (layer.dropout, layer._gradient_checkpointing_func) == before


def test_an_error_in_a_pass_leaves_the_frozen_model():
    """Names and states are taken back however a pass ends."""
    backbone = BACKBONES["llama"]()
    inputs = inputs_for(backbone)
    frozen = backbone.requires_grad_(False)(**inputs).logits
    model = lp.PrefixedModel(backbone, CONFIGS["flat"])
    with pytest.raises(IndexError):
        model(torch.tensor([[VOCABULARY + 1]]))
    assert torch.equal(backbone(**inputs).logits, frozen)
    assert not torch.equal(model(**inputs).logits, frozen)
