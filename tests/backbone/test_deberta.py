"""DeBERTa v2 through the attention interface: the frozen numbers, the calls, and the way back."""

import copy
import pickle

import pytest
import torch
import transformers as hf
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, AttentionMaskInterface
from transformers.modeling_utils import AttentionInterface
from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

from lightning_prefix.backbone.deberta import (
    InterfaceSelfAttention,
    eager_attention_forward,
    use_attention_interface,
    use_own_attention_class,
)

LAYERS, HEADS, HEAD_DIM, BATCH, TOKENS = 2, 2, 8, 3, 12
BOTH = {"relative_attention": True, "pos_att_type": ["p2c", "c2p"]}
VARIANTS = {
    "no_relative_attention": {},
    "no_relative_attention_but_terms": {"pos_att_type": ["p2c", "c2p"]},
    "relative_without_terms": {"relative_attention": True},
    "c2p": BOTH | {"pos_att_type": ["c2p"]},
    "p2c": BOTH | {"pos_att_type": ["p2c"]},
    "own_position_keys": BOTH,
    "own_position_keys_buckets": BOTH | {"position_buckets": 8},
    "shared_keys": BOTH | {"share_att_key": True},
    "shared_keys_buckets": BOTH | {"share_att_key": True, "position_buckets": 8},
    "conv": BOTH | {"conv_kernel_size": 3},
    "v3": BOTH
    | {
        "share_att_key": True,
        "position_buckets": 8,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "max_relative_positions": -1,
        "type_vocab_size": 0,
        "layer_norm_eps": 1e-7,
    },
}


def make(variant="v3", model_class=hf.DebertaV2Model, **changes):
    """A random model. Its weights are large, so that the weights of attention are far from uniform."""
    sizes = {"hidden_size": HEADS * HEAD_DIM, "num_hidden_layers": LAYERS, "num_attention_heads": HEADS}
    options = {"vocab_size": 99, "intermediate_size": 32, "max_position_embeddings": 64, "initializer_range": 0.5}
    return model_class(hf.DebertaV2Config(**options | sizes | VARIANTS[variant] | changes)).eval()


def make_both(*args, **kwargs):
    own = make(*args, **kwargs)
    changed = copy.deepcopy(own)
    use_attention_interface(changed)
    return own, changed


def inputs(padded=True):
    ids = torch.randint(1, 99, (BATCH, TOKENS))
    lengths = torch.tensor([TOKENS, 7, 4] if padded else [TOKENS] * BATCH)
    return {"input_ids": ids, "attention_mask": (torch.arange(TOKENS) < lengths[:, None]).long()}


def attentions(model):
    return [m for m in model.modules() if isinstance(m, DisentangledSelfAttention)]


def flat(output):
    """Every tensor of a model's output."""
    return [t for entry in output.to_tuple() for t in (entry if isinstance(entry, tuple) else (entry,))]


def assert_same(actual, expected):
    """Bit for bit."""
    torch.testing.assert_close(flat(actual), flat(expected), atol=0, rtol=0)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_output_is_the_frozen_models(variant, padded):
    own, changed = make_both(variant)
    given = inputs(padded) | {"output_attentions": True, "output_hidden_states": True}
    with torch.no_grad():
        expected, actual = own(**given), changed(**given)
    assert len(actual.attentions) == LAYERS
    assert actual.attentions[0].std() > 0.05  # far from uniform, so that a lost term would show
    assert_same(actual, expected)


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("variant", list(VARIANTS))
def test_every_gradient_is_the_frozen_models(variant, padded):
    given = inputs(padded)
    gradients = []
    for model in make_both(variant):
        embeds = model.embeddings.word_embeddings(given["input_ids"]).detach().requires_grad_()
        out = model(inputs_embeds=embeds, attention_mask=given["attention_mask"]).last_hidden_state
        wanted = [embeds, *model.encoder.parameters()]
        gradients.append(torch.autograd.grad((out**3).sum(), wanted, allow_unused=True, materialize_grads=True))
    assert gradients[0][0].abs().max() > 1e-3
    torch.testing.assert_close(gradients[1], gradients[0], atol=0, rtol=0)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_training_draws_the_same_dropout(checkpointing):
    own, changed = make_both(model_class=hf.DebertaV2ForSequenceClassification, num_labels=3)
    given = inputs() | {"labels": torch.tensor([0, 2, 1])}
    results = []
    for model in (own, changed):
        model.train()
        if checkpointing:
            getattr(model, "activation_checkpointing_enable", model.gradient_checkpointing_enable)()
        torch.manual_seed(1)
        out = model(**given)
        out.loss.backward()
        results.append([out.logits, *(p.grad for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(results[1], results[0], atol=0, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(dtype):
    own, changed = make_both(dtype=None)
    given = inputs()
    with torch.no_grad():
        expected, actual = (model.to(dtype)(**given).last_hidden_state for model in (own, changed))
    assert actual.dtype == dtype
    torch.testing.assert_close(actual, expected, atol=0, rtol=0)


def test_other_queries_as_in_the_enhanced_mask_decoder():
    own, changed = make_both()
    hidden, queries = torch.randn(2, BATCH, TOKENS, HEADS * HEAD_DIM)
    mask = inputs()["attention_mask"]
    with torch.no_grad():
        expected, actual = (m.encoder(hidden, mask, query_states=queries) for m in (own, changed))
    assert_same(actual, expected)


def test_without_output_attentions_there_are_no_weights():
    _, changed = make_both()
    module, hidden = attentions(changed)[0], torch.randn(1, 2, HEADS * HEAD_DIM)
    rel_embeddings = changed.encoder.get_rel_embedding()
    assert module(hidden, torch.ones(1, 1, 2, 2), rel_embeddings=rel_embeddings)[1] is None


def test_a_registered_function_is_called_once_per_layer():
    own, changed = make_both()
    calls = []

    def record(module, query, key, value, attention_mask, **kwargs):
        calls.append((module, query.shape, key.shape, value.shape, attention_mask, kwargs))
        return eager_attention_forward(module, query, key, value, attention_mask, **kwargs)

    AttentionInterface.register("test_deberta_recorder", record)
    AttentionMaskInterface.register("test_deberta_recorder", ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    changed.config._attn_implementation_internal = "test_deberta_recorder"
    given = inputs()
    with torch.no_grad():
        assert_same(changed(**given), own(**given))
    assert [call[0] for call in calls] == attentions(changed)
    visible = given["attention_mask"].bool()
    for module, *shapes, mask, kwargs in calls:
        assert shapes == [(BATCH, HEADS, TOKENS, HEAD_DIM)] * 3
        assert torch.equal(mask, visible[:, None, :, None] & visible[:, None, None, :])
        assert kwargs["position_bias"].shape == (BATCH, HEADS, TOKENS, TOKENS)
        assert kwargs["scaling"] == pytest.approx((3 * HEAD_DIM) ** -0.5)
        assert kwargs["dropout"] == 0.0
        assert module.is_causal is False


def test_rows_of_padding_never_reach_a_token():
    """A function that sees more keys, as with a prefix, changes the rows of padding; the text must not notice."""
    _, changed = make_both("conv")
    given = inputs()
    visible = given["attention_mask"].bool()

    def spoil(module, query, key, value, attention_mask, **kwargs):
        output, weights = eager_attention_forward(module, query, key, value, attention_mask, **kwargs)
        return output + 100.0 * ~visible[:, :, None, None], weights

    AttentionInterface.register("test_deberta_spoiler", spoil)
    with torch.no_grad():
        expected = changed(**given).last_hidden_state
        changed.config._attn_implementation_internal = "test_deberta_spoiler"
        actual = changed(**given).last_hidden_state
    assert not torch.allclose(actual, expected)
    torch.testing.assert_close(actual[visible], expected[visible], atol=1e-6, rtol=0)


def test_the_way_back_is_bit_for_bit():
    model = make(model_class=hf.DebertaV2ForSequenceClassification)
    given = inputs()
    modules = attentions(model)
    before = [dict(vars(m)) for m in modules]
    state = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        expected = model(**given, output_attentions=True)
        for _ in range(2):  # either may be called twice
            use_attention_interface(model)
        assert {type(m) for m in attentions(model)} == {InterfaceSelfAttention}
        for _ in range(2):
            use_own_attention_class(model)
        assert {type(m) for m in attentions(model)} == {DisentangledSelfAttention}
        assert attentions(model) == modules
        assert [vars(m) for m in modules] == before
        for actual, wanted in zip(flat(model(**given, output_attentions=True)), flat(expected), strict=True):
            assert torch.equal(actual, wanted)
    assert list(state) == list(model.state_dict())
    assert all(torch.equal(model.state_dict()[name], tensor) for name, tensor in state.items())


def test_somebody_elses_class_is_left_alone():
    class Theirs(DisentangledSelfAttention):
        pass

    model = make()
    attentions(model)[0].__class__ = Theirs
    use_attention_interface(model)
    assert [type(m) for m in attentions(model)] == [Theirs, InterfaceSelfAttention]
    use_own_attention_class(model)
    assert [type(m) for m in attentions(model)] == [Theirs, DisentangledSelfAttention]


def test_copies_and_pickles_follow_their_own_configuration():
    _, changed = make_both()
    for other in (copy.deepcopy(changed), pickle.loads(pickle.dumps(changed))):  # noqa: S301  # our own bytes
        assert {type(m) for m in attentions(other)} == {InterfaceSelfAttention}
        assert all(m.config is other.config for m in attentions(other))


def test_it_compiles_into_one_graph():
    own, changed = make_both()
    given = inputs()
    with torch.no_grad():
        compiled = torch.compile(changed, backend="eager", fullgraph=True)
        torch.testing.assert_close(
            compiled(**given).last_hidden_state, own(**given).last_hidden_state, atol=2e-6, rtol=1e-5
        )
