"""Several prefixes on one backbone: names, files, and rows with prefixes of their own."""

import pytest
import torch
from contract import make
from tiny_backbones import inputs_for

import lightning_prefix as lp


@pytest.fixture
def model():
    model = lp.PrefixedModel(make("gpt2"), lp.FlatPrefixConfig(length=4)).eval()
    model.add_prefix("fr", lp.MLPPrefixConfig(length=2, embedding_dim=4, hidden_dim=4))
    model.add_prefix("de", lp.GatedPrefixConfig(length=3, zero="gates"))
    torch.nn.init.constant_(model.prefixes["de"].gates[0], 0.4)
    return model


IDS = inputs_for(make("gpt2"), rows=3)["input_ids"]


def test_which_prefix_is_set(model):
    assert model.prefix_names == ("default", "fr", "de")
    outputs = {}
    for name in (*model.prefix_names, None):
        model.set_prefix(name)
        outputs[name] = model(IDS).logits
        assert torch.equal(model(IDS, prefix_names=[name] * 3).logits, outputs[name])
    assert torch.equal(outputs[None], model.backbone(IDS).logits)
    assert len({output.sum().item() for output in outputs.values()}) == 4
    with pytest.raises(lp.InputError, match=r"no prefix is set; call set_prefix with one of \['default', 'fr', 'de'\]"):
        _ = model.prefix


def test_a_renamed_prefix_stays_what_it_was(model):
    before = model(IDS).logits
    model.rename_prefix("default", "en")
    assert model.prefix_names == ("fr", "de", "en")
    assert torch.equal(model(IDS).logits, before)


def test_a_deleted_prefix_is_gone(model):
    model.delete_prefix("fr")
    assert model.prefix_names == ("default", "de")
    assert not any(".fr." in name for name in model.state_dict())
    with pytest.raises(lp.InputError, match="'default' is set"):
        model.delete_prefix("default")


@pytest.mark.parametrize("name", ["fr", "a.b", "", "keys"])
def test_names_that_cannot_be_used_are_refused(model, name):
    with pytest.raises(lp.InputError, match="is taken or cannot be used"):
        model.add_prefix(name, lp.FlatPrefixConfig())


def test_unknown_names_are_refused(model):
    message = r"no prefix 'it' on this model; it has \['default', 'fr', 'de'\]"
    for use in (
        lambda: model.set_prefix("it"),
        lambda: model.delete_prefix("it"),
        lambda: model.rename_prefix("it", "x"),
        lambda: model(IDS, prefix_names=["it", None, None]),
    ):
        with pytest.raises(lp.InputError, match=message):
            use()


def test_one_name_per_row(model):
    with pytest.raises(lp.InputError, match="2 prefix_names are given for 3 rows"):
        model(IDS, prefix_names=["fr", "de"])
    with pytest.raises(lp.InputError, match="2 prefix_names are given for 3 rows"):
        model.generate(input_ids=IDS, prefix_names=["fr", "de"])


def test_gradients_reach_the_prefixes_of_the_batch_only(model):
    model(IDS, prefix_names=["fr", None, "fr"]).logits.square().sum().backward()
    assert all(p.grad is None for p in model.prefixes["default"].parameters())
    assert model.prefixes["fr"].mlp[2].weight.grad.abs().sum() > 0


def test_gradients_of_a_mixed_batch_are_those_of_its_rows(model):
    parameters = [*model.prefixes["default"].parameters(), *model.prefixes["de"].parameters()]
    names = ["default", "de", "default"]
    weights = torch.randn(3, IDS.shape[1], 99)
    together = torch.autograd.grad((model(IDS, prefix_names=names).logits * weights).sum(), parameters)
    losses = [
        (model(IDS[row : row + 1], prefix_names=[name]).logits * weights[row]).sum() for row, name in enumerate(names)
    ]
    for ours, theirs in zip(together, torch.autograd.grad(sum(losses), parameters), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-4)


def test_sampled_sequences_keep_the_prefix_of_their_row(model):
    torch.manual_seed(0)
    options = {"max_new_tokens": 4, "do_sample": True, "top_k": 0, "eos_token_id": None, "pad_token_id": 0}
    names = ["fr", None, "de"]
    result = model.generate(
        IDS, prefix_names=names, num_return_sequences=2, output_logits=True, return_dict_in_generate=True, **options
    )
    repeated = [name for name in names for _ in range(2)]
    forced = model(result.sequences, prefix_names=repeated).logits[:, -5:-1]
    torch.testing.assert_close(torch.stack(result.logits, 1), forced, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", ["gpt2", "llama", "opt"])
def test_rows_may_shift_their_positions_by_unequal_lengths(family):
    model = lp.PrefixedModel(make(family), lp.FlatPrefixConfig(length=4), positions="shift").eval()
    model.add_prefix("long", lp.FlatPrefixConfig(length=9), positions="shift")
    model.add_prefix("kept", lp.FlatPrefixConfig(length=3))
    names = ["long", "kept", "default", None]
    ids = inputs_for(model.backbone, rows=4)["input_ids"]
    together = model(ids, prefix_names=names).logits
    for row, name in enumerate(names):
        alone = model(ids[row : row + 1], prefix_names=[name]).logits
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    generated = model.generate(ids, prefix_names=names, **options)
    for row, name in enumerate(names):
        assert torch.equal(generated[row], model.generate(ids[row : row + 1], prefix_names=[name], **options)[0])


@pytest.mark.parametrize("family", ["bart", "t5"])
def test_one_start_per_batch_where_the_model_knows_no_other(family):
    model = lp.PrefixedModel(make(family), lp.FlatPrefixConfig(length=4), positions="shift")
    model.add_prefix("long", lp.FlatPrefixConfig(length=9), positions="shift")
    with pytest.raises(lp.InputError, match=r"starts at positions \[4, 9\] are in one batch"):
        model(**inputs_for(model.backbone), prefix_names=["default", "long"])


def test_files_of_each_prefix(model, tmp_path):
    model.set_prefix("de")
    model.save_pretrained(tmp_path)
    other = lp.PrefixedModel(make("gpt2"), lp.FlatPrefixConfig(length=1)).eval()
    other.load_prefix("german", tmp_path)
    other.set_prefix("german")
    assert torch.equal(other(IDS).logits, model(IDS).logits)
    with pytest.raises(lp.InputError, match="'german' is taken"):
        other.load_prefix("german", tmp_path)


def test_a_folder_with_a_head_is_no_further_prefix(tmp_path):
    backbone = make("bert")
    lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=2), trained=["classifier.bias"]).save_pretrained(tmp_path)
    other = lp.PrefixedModel(make("bert"), lp.FlatPrefixConfig(length=1))
    with pytest.raises(lp.InputError, match=r"also holds classifier\.bias of the backbone"):
        other.load_prefix("more", tmp_path)


def test_averages_and_concatenations_are_prefixes_too(model):
    model.add_prefix("mean", lp.average_prefixes([model.prefixes["default"]] * 2))
    model.add_prefix("both", lp.concatenate_prefixes([model.prefixes["default"], model.prefixes["fr"]]))
    logits = model(IDS, prefix_names=["mean", "both", "both"]).logits
    torch.testing.assert_close(logits[0], model(IDS).logits[0], atol=1e-5, rtol=1e-4)
    assert model.prefixes["both"].length == 6


def test_a_prefix_of_another_model_is_refused(model):
    other = lp.PrefixedModel(make("llama"), lp.FlatPrefixConfig(length=2)).prefix
    with pytest.raises(lp.InputError, match=r"which this backbone does not have"):
        model.add_prefix("other", other)


def test_one_part_of_a_concatenation_is_the_prefix_itself():
    """The halves of a prefix, put together again, are the prefix."""
    model = lp.PrefixedModel(make("bart"), lp.FlatPrefixConfig(length=6))
    states = model.prefix.states()
    halves = [
        lp.FlatPrefix(model.sites, [s._replace(keys=s.keys[:, a:b], values=s.values[:, a:b]) for s in states])
        for a, b in ((0, 2), (2, 6))
    ]
    model.add_prefix("again", lp.concatenate_prefixes(halves))
    inputs = inputs_for(model.backbone)
    assert torch.equal(model(**inputs, prefix_names=["again"] * 2).logits, model(**inputs).logits)
