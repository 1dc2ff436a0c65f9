"""Start values: random, of a text, zero and from a file, for every variant and kind of site."""

import pytest
import torch
from contract import make
from tiny_backbones import POSITIONS, inputs_for

import lightning_prefix as lp
from lightning_prefix.backbone.attention import recording
from lightning_prefix.backbone.sites import find_sites, run_body, sample_tokens

FAMILIES = ["bert", "albert", "llama", "deepseek_v3", "t5", "bart", "deberta_v2"]
TEXT = [11, 23, 42, 7, 60]
CONFIGS = {
    "flat": lp.FlatPrefixConfig,
    "mlp": lambda **options: lp.MLPPrefixConfig(embedding_dim=4, hidden_dim=4, **options),
    "gated": lambda **options: lp.GatedPrefixConfig(zero="gates", score_deviation=None, **options),
}


def tokenizer(text):
    return {"input_ids": TEXT}


def wrap(family, config):
    return lp.PrefixedModel(make(family), config, tokenizer=tokenizer)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", list(CONFIGS))
def test_text_takes_the_keys_and_values_of_the_text(family, variant):
    backbone = make(family)
    model = wrap(family, CONFIGS[variant](length=7, init="text", init_text="a text"))
    ids = (TEXT * 2)[:7]
    find_sites(backbone)
    with torch.no_grad(), recording(backbone) as calls:
        run_body(backbone, ids, ids if backbone.config.is_encoder_decoder else None)
    for state, call in zip(model.prefix.states(), calls, strict=True):
        torch.testing.assert_close(state.keys, call.keys[0])
        torch.testing.assert_close(state.values, call.values[0])


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", list(CONFIGS))
def test_zero(family, variant):
    model = wrap(family, CONFIGS[variant](length=3, init="zero"))
    assert all((state.keys == 0).all() and (state.values == 0).all() for state in model.prefix.states())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("variant", list(CONFIGS))
def test_file(family, variant, tmp_path):
    stored = wrap(family, lp.FlatPrefixConfig(length=3))
    stored.save_pretrained(tmp_path)
    model = wrap(family, CONFIGS[variant](length=3, init="file", init_file=str(tmp_path), layers=1))
    states = dict(zip(stored.sites, stored.prefix.states(), strict=True))
    for site, state in zip(model.sites, model.prefix.states(), strict=True):
        assert torch.equal(state.keys, states[site].keys)
        assert torch.equal(state.values, states[site].values)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("init", ["random", "text"])
def test_queries_choose_among_the_positions_of_a_gated_prefix(family, init):
    """Every head's scores lie as far apart as asked for, by the queries and the scaling that attention itself gets."""
    text = {"init_text": "a text"} if init == "text" else {}
    model = wrap(family, lp.GatedPrefixConfig(length=5, init=init, score_deviation=2.0, **text))
    assert not any(values.any() for values in model.prefix.values)
    assert all((gate == 1).all() for gate in model.prefix.gates)
    backbone = model.unload()
    find_sites(backbone)
    ids = sample_tokens(backbone, 64)
    with torch.no_grad(), recording(backbone) as calls:
        run_body(backbone, ids, ids if backbone.config.is_encoder_decoder else None)
    for site, state, call in zip(model.sites, model.prefix.states(), calls, strict=True):
        keys = state.keys.repeat_interleave(site.heads // site.kv_heads, 0)
        scores = call.queries[0] @ keys.transpose(1, 2) * (site.key_dim**-0.5 if call.scaling is None else call.scaling)
        each = scores.std(2, correction=0).mean(1)  # of every query head
        torch.testing.assert_close(each.view(site.kv_heads, -1).mean(1), torch.full((site.kv_heads,), 2.0))


def test_one_position_and_equal_scores_have_nothing_to_choose():
    for options in ({"length": 1}, {"length": 3, "init": "zero"}):
        model = wrap("bert", lp.GatedPrefixConfig(**options))
        assert all(state.keys.isfinite().all() for state in model.prefix.states())


def test_a_gated_file_brings_its_gates(tmp_path):
    stored = wrap("gpt2", lp.GatedPrefixConfig(length=3))
    torch.nn.init.constant_(stored.prefix.gates[1], 0.7)
    stored.save_pretrained(tmp_path)
    model = wrap("gpt2", lp.GatedPrefixConfig(length=3, init="file", init_file=str(tmp_path)))
    assert torch.equal(model.prefix.gates[1], stored.prefix.gates[1])


def test_prompts():
    for family in ("bert", "opt_350m", "t5"):
        model = wrap(family, lp.PromptPrefixConfig(length=5, init="text", init_text="a text"))
        table = model.backbone.get_input_embeddings()
        assert torch.equal(model.prefix.embeddings, table(torch.tensor(TEXT)))
        model = wrap(family, lp.PromptPrefixConfig(length=6))
        differences = (model.prefix.embeddings[:, None] - table.weight).abs().sum(2)
        assert (differences.min(1).values < 1e-5).all()  # rows of the table
        assert (wrap(family, lp.PromptPrefixConfig(length=2, init="zero")).prefix.embeddings == 0).all()


@pytest.mark.parametrize("family", ["gpt2", "llama", "mistral_window", "gemma", "opt", "deepseek_v3"])
def test_a_prompt_is_prompt_tuning_in_a_causal_model(family):
    """Lester et al.: the embeddings in front of those of the text, in one sequence."""
    backbone = make(family)
    ids = inputs_for(backbone, tokens=4)["input_ids"]
    model = lp.PrefixedModel(backbone, lp.PromptPrefixConfig(length=4), positions="shift")
    torch.nn.init.normal_(model.prefix.embeddings, std=0.5)
    prompt = model.prefix.embeddings[None].expand(2, -1, -1)
    joined = torch.cat((prompt, backbone.get_input_embeddings()(ids)), 1)
    weights = torch.randn(2, 4, 99)
    with model.disabled():
        expected = model(inputs_embeds=joined).logits[:, 4:]
    ours = model(ids).logits
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-4)
    (theirs,) = torch.autograd.grad((expected * weights).sum(), [model.prefix.embeddings])
    (mine,) = torch.autograd.grad((ours * weights).sum(), [model.prefix.embeddings])
    torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-3)


def test_prompt_and_output_files(tmp_path):
    for name, config in (("prompt", lp.PromptPrefixConfig(length=3)), ("output", lp.OutputPrefixConfig())):
        stored = wrap("t5", config)
        for parameter in stored.prefix.parameters():
            torch.nn.init.normal_(parameter)
        stored.save_pretrained(tmp_path / name)
        again = wrap("t5", type(config)(**{**vars(config), "init": "file", "init_file": str(tmp_path / name)}))
        for ours, theirs in zip(again.prefix.parameters(), stored.prefix.parameters(), strict=True):
            assert torch.equal(ours, theirs)
    flat = wrap("t5", lp.FlatPrefixConfig(length=3, init="file", init_file=str(tmp_path / "prompt")))
    assert flat.prefix.length == 3
    with pytest.raises(lp.InputError, match=r"holds a output prefix of length 0; this one needs a prompt of length 3"):
        wrap("t5", lp.PromptPrefixConfig(length=3, init="file", init_file=str(tmp_path / "output")))
    with pytest.raises(lp.InputError, match=r"holds a prompt prefix of length 3 .* needs an output prefix"):
        wrap("t5", lp.OutputPrefixConfig(init="file", init_file=str(tmp_path / "prompt")))
    with pytest.raises(lp.InputError, match=r"needs keys and values of length 4 at encoder\.0"):
        wrap("t5", lp.FlatPrefixConfig(length=4, init="file", init_file=str(tmp_path / "prompt")))


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "bart"])
def test_a_prompt_longer_than_the_positions_is_refused(family):
    assert wrap(family, lp.PromptPrefixConfig(length=POSITIONS)).prefix.length == POSITIONS
    with pytest.raises(lp.InputError, match=f"length 65 is given with a prompt, but .* has positions for {POSITIONS}"):
        wrap(family, lp.PromptPrefixConfig(length=POSITIONS + 1))


def test_a_file_of_another_backbone_is_refused(tmp_path):
    wrap("bert", lp.FlatPrefixConfig(length=3)).save_pretrained(tmp_path)
    with pytest.raises(lp.InputError, match="it is a 'bert', this one a 'gpt2'"):
        wrap("gpt2", lp.FlatPrefixConfig(length=3, init="file", init_file=str(tmp_path)))


def test_a_model_that_reads_no_other_embeddings_is_named():
    with pytest.raises(lp.InputError, match="Gemma4ForCausalLM cannot read arbitrary embeddings"):
        wrap("gemma4", lp.PromptPrefixConfig(length=3))


def test_a_failed_start_leaves_the_backbone_free():
    backbone = make("deberta_v2")
    before = type(backbone.deberta.encoder.layer[0].attention.self)
    with pytest.raises(lp.InputError, match="without init_text"):
        lp.PrefixedModel(backbone, lp.FlatPrefixConfig(init="text"))
    assert type(backbone.deberta.encoder.layer[0].attention.self) is before
    assert lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=2)).sites


@pytest.mark.parametrize("family", ["bert", "gpt2", "t5", "bart"])
def test_layers_without_a_prefix_and_unequal_lengths(family):
    """A site of length 0 behaves as the frozen one; the others as a prefix of that length."""
    backbone = make(family)
    inputs = inputs_for(backbone)
    sites = [site.key for site in lp.PrefixedModel(make(family), lp.FlatPrefixConfig(length=1)).sites]
    lengths = {key: index + 1 for index, key in enumerate(sites[1:])}
    model = lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=lengths))
    assert [site.key for site in model.sites] == sites[1:]
    output = model(**inputs)[0]
    (output * torch.randn(output.shape)).sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in model.prefix.parameters())
    # the same prefix, shorter ones made long by positions that are hidden from every query
    model.add_prefix("none", lp.OutputPrefixConfig())
    together = model(**inputs, prefix_names=["default", "none"])[0]
    torch.testing.assert_close(together[0], output[0], atol=1e-5, rtol=1e-4)
