"""Prefixes from PEFT's files and in PEFT's files, against PEFT itself."""

import inspect
import json
import warnings
from pathlib import Path

import pytest
import torch
import transformers as hf
from contract import close, make
from safetensors.torch import load_file, save_file
from tiny_backbones import inputs_for

import lightning_prefix as lp
from lightning_prefix.peft import from_peft, to_peft

peft = pytest.importorskip("peft")
pytestmark = [  # of peft 0.21.2
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*`past_key_values`:FutureWarning"),
]
# transformers 5.24 renamed caches; peft 0.21.2 then refuses models with heads, and generates without the prefix
IS_PEFT_LOST = "cache" in inspect.signature(hf.BertModel.forward).parameters and tuple(
    map(int, peft.__version__.split(".")[:3])
) <= (0, 21, 2)
LOST = f"peft {peft.__version__} does not know the caches of transformers {hf.__version__}"
needs_peft = pytest.mark.skipif(IS_PEFT_LOST, reason=LOST)

DECODERS = ["gpt2", "llama", "gemma2", "mistral", "opt", "qwen3", "gpt_neox", "gpt_bigcode"]
CLASSIFIERS = ["bert", "roberta", "electra", "xlm_roberta"]
SEQ2SEQ = ["t5", "flan_t5_small", "bart", "marian", "mbart", "pegasus"]
TASKS = {
    **dict.fromkeys(DECODERS, "CAUSAL_LM"),
    **dict.fromkeys(CLASSIFIERS, "SEQ_CLS"),
    **dict.fromkeys(SEQ2SEQ, "SEQ_2_SEQ_LM"),
    "bert_tokens": "TOKEN_CLS",
    "electra_answers": "QUESTION_ANS",
    "roberta_features": "FEATURE_EXTRACTION",
    "llama_cls": "SEQ_CLS",
}
OTHERS = {
    "bert_tokens": ("bert", hf.BertForTokenClassification),
    "electra_answers": ("electra", hf.ElectraForQuestionAnswering),
    "roberta_features": ("roberta", hf.RobertaModel),
    "llama_cls": ("llama", hf.LlamaForSequenceClassification),
}
SIZES = {
    "t5": {"token_dim": 12, "num_attention_heads": 2},
    "flan_t5_small": {"token_dim": 24, "num_attention_heads": 6},
}
SIZES["bart"] = {"num_layers": 4}  # more than the decoder has
LENGTH = 4
GREEDY = {"max_new_tokens": 5, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}


def backbone_of(name):
    """A base model, always with the same weights."""
    if name not in OTHERS:
        return make(name)
    family, model_class = OTHERS[name]
    config = make(family).config
    config.pad_token_id, config.num_labels = 0, 2 if name == "electra_answers" else 3
    torch.manual_seed(4)
    return model_class(config).eval()


def save_with_peft(name, folder, task=None, method=peft.PrefixTuningConfig, **options):
    """A base model in `folder/base`, and on it a prefix of PEFT, N(0, 1) as PEFT starts it, in `folder/theirs`."""
    backbone_of(name).save_pretrained(folder / "base")
    base = type(backbone_of(name)).from_pretrained(folder / "base")
    config = method(task_type=task or TASKS[name], num_virtual_tokens=LENGTH, **SIZES.get(name, {}), **options)
    model = peft.get_peft_model(base, config).eval()
    generator = torch.Generator().manual_seed(6)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.copy_(torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder / "theirs")
    return model


def load_with_peft(name, folder):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing")
        base = type(backbone_of(name)).from_pretrained(folder.parent / "base")
        return peft.PeftModel.from_pretrained(base, folder).eval()


def outputs(model, padded=True, tokens=3):
    """On texts that fit into the windows beside the prefix; with padding on the right, and in a decoder on the left."""
    base = model.backbone if isinstance(model, lp.PrefixedModel) else model.get_base_model()
    inputs = inputs_for(base, tokens=tokens)
    if padded:
        mask = torch.ones_like(inputs["input_ids"])
        mask[0, -1] = 0
        if type(base).__name__.endswith(("ForCausalLM", "LMHeadModel")):
            mask[1, 0] = 0
        inputs["attention_mask"] = mask
    with torch.no_grad():
        output = model(**inputs)
    if "start_logits" in output:
        return torch.stack((output.start_logits, output.end_logits))
    scores = output.logits if "logits" in output else output.last_hidden_state
    return scores * mask[..., None] if padded and scores.ndim == 3 else scores


def greedy(model):
    base = model.backbone if isinstance(model, lp.PrefixedModel) else model.get_base_model()
    inputs = inputs_for(base)
    inputs.pop("decoder_input_ids", None)
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][0, :2] = 0
    return model.generate(**inputs, **GREEDY)


@pytest.mark.parametrize("name", list(TASKS))
def test_a_prefix_of_peft_gives_the_same_here_and_again_there(name, tmp_path):
    if IS_PEFT_LOST and TASKS[name] in ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS"):
        pytest.skip(LOST)
    theirs = save_with_peft(name, tmp_path)
    from_peft(tmp_path / "theirs", tmp_path / "ours")
    ours = lp.PrefixedModel.from_pretrained(tmp_path / "ours").eval()
    to_peft(tmp_path / "ours", tmp_path / "again")
    again = load_with_peft(name, tmp_path / "again")
    for padded in (False, True):
        close(outputs(ours, padded), outputs(theirs, padded))
        close(outputs(again, padded), outputs(theirs, padded))
    frozen = backbone_of(name).eval()
    with torch.no_grad():
        plain = frozen(**inputs_for(frozen, tokens=3))[0]
    assert not torch.allclose(outputs(ours, padded=False).reshape(-1)[: plain.numel()], plain.reshape(-1), atol=1e-3)
    if name in SEQ2SEQ:
        return
    first, second = (load_file(tmp_path / folder / "adapter_model.safetensors") for folder in ("theirs", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    first, second = (json.loads((tmp_path / f / "adapter_config.json").read_text()) for f in ("theirs", "again"))
    heads = [set(config.pop("modules_to_save") or ()) for config in (first, second)]  # PEFT lists them twice
    del first["peft_version"], first["init_weights"]
    assert first == second
    assert heads[0] == heads[1]


@needs_peft
@pytest.mark.parametrize("name", ["gpt2", "llama", "qwen3", "t5", "bart"])
def test_generation_is_the_same(name, tmp_path):
    theirs = save_with_peft(name, tmp_path)
    from_peft(tmp_path / "theirs", tmp_path / "ours")
    ours = lp.PrefixedModel.from_pretrained(tmp_path / "ours").eval()
    assert torch.equal(greedy(ours), greedy(theirs))


@needs_peft
@pytest.mark.parametrize("name", SEQ2SEQ)
def test_every_decoder_layer_keeps_its_own_prefix_in_peft(name, tmp_path):
    ours = ours_in(tmp_path, name, sites=["decoder"])
    to_peft(tmp_path / "ours", tmp_path / "theirs")
    theirs = load_with_peft(name, tmp_path / "theirs")
    close(outputs(theirs), outputs(ours))
    assert torch.equal(greedy(theirs), greedy(ours))
    from_peft(tmp_path / "theirs", tmp_path / "again")
    first, second = (load_file(tmp_path / folder / "prefix.safetensors") for folder in ("ours", "again"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_cartridge_is_read(tmp_path):
    theirs = save_with_peft("llama", tmp_path, method=peft.CartridgeConfig, num_frozen_tokens=1)
    from_peft(tmp_path / "theirs", tmp_path / "ours")
    close(outputs(lp.PrefixedModel.from_pretrained(tmp_path / "ours").eval()), outputs(theirs))


def test_a_reparameterised_prefix_is_read_as_keys_and_values(tmp_path):
    theirs = save_with_peft("gpt2", tmp_path, prefix_projection=True, encoder_hidden_size=8)
    from_peft(tmp_path / "theirs", tmp_path / "ours")
    close(outputs(lp.PrefixedModel.from_pretrained(tmp_path / "ours").eval()), outputs(theirs))


def test_a_config_written_by_hand_is_enough(tmp_path):
    theirs = save_with_peft("gpt2", tmp_path)
    few = {"peft_type": "PREFIX_TUNING", "task_type": "CAUSAL_LM", "num_virtual_tokens": LENGTH}
    (tmp_path / "theirs/adapter_config.json").write_text(json.dumps(few))
    with pytest.raises(lp.InputError, match="names no base model; load it and pass it as `backbone`"):
        from_peft(tmp_path / "theirs", tmp_path / "ours")
    from_peft(tmp_path / "theirs", tmp_path / "ours", backbone=make("gpt2"))
    close(outputs(lp.PrefixedModel.from_pretrained(tmp_path / "ours", make("gpt2")).eval()), outputs(theirs))


def test_the_callers_backbone_stays_as_it_was(tmp_path):
    save_with_peft("bert", tmp_path)
    backbone, untouched = backbone_of("bert"), backbone_of("bert").state_dict()
    from_peft(tmp_path / "theirs", tmp_path / "ours", backbone=backbone)
    assert all(torch.equal(tensor, untouched[name]) for name, tensor in backbone.state_dict().items())
    lp.PrefixedModel(backbone, lp.FlatPrefixConfig(length=2))  # it carries no prefix


def test_a_prompt_becomes_keys_and_values(tmp_path):
    ours = ours_in(tmp_path, "llama", lp.PromptPrefixConfig(length=LENGTH))
    to_peft(tmp_path / "ours", tmp_path / "theirs")
    close(outputs(load_with_peft("llama", tmp_path / "theirs")), outputs(ours))


@needs_peft
@pytest.mark.parametrize("trained", [[], ["classifier.weight"]])
def test_a_head_of_which_not_all_was_trained_goes_along(trained, tmp_path):
    ours = ours_in(tmp_path, "bert", trained=trained)
    with torch.no_grad():
        ours.backbone.classifier.weight.mul_(-1 if trained else 1)
    ours.save_pretrained(tmp_path / "ours")
    to_peft(tmp_path / "ours", tmp_path / "theirs")
    close(outputs(load_with_peft("bert", tmp_path / "theirs")), outputs(ours))


def test_a_backbone_without_a_name_is_given(tmp_path):
    ours = lp.PrefixedModel(make("gpt2"), lp.FlatPrefixConfig(length=LENGTH), positions="shift").eval()
    ours.save_pretrained(tmp_path / "ours")
    with pytest.raises(lp.InputError, match="records no name of its backbone; load it and pass it as `backbone`"):
        to_peft(tmp_path / "ours", tmp_path / "theirs")
    to_peft(tmp_path / "ours", tmp_path / "theirs", backbone=make("gpt2"))
    close(outputs(peft.PeftModel.from_pretrained(make("gpt2"), tmp_path / "theirs").eval()), outputs(ours))
    with pytest.raises(lp.InputError, match="the backbone here is"):
        to_peft(tmp_path / "ours", tmp_path / "theirs", backbone=make("llama"))


def ours_in(folder, name, config=None, positions="shift", trained=(), **options):
    """A model of ours on `folder/base`, saved in `folder/ours`."""
    backbone_of(name).save_pretrained(folder / "base")
    base = type(backbone_of(name)).from_pretrained(folder / "base")
    config = config or lp.FlatPrefixConfig(length=LENGTH, **options)
    model = lp.PrefixedModel(base, config, positions=positions, trained=trained).eval()
    model.save_pretrained(folder / "ours")
    return model


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("gpt2", {"config": lp.GatedPrefixConfig(length=2)}, "a gated prefix, .* it only joins keys and values"),
        ("gpt2", {"config": lp.OutputPrefixConfig()}, "an? output prefix, for which PEFT has no place"),
        ("gpt2", {"positions": "keep"}, "positions='keep', .* there the text starts after the prefix"),
        ("t5", {}, r"sites cross, decoder, encoder, .* self-attention only; train with sites=\[decoder\]"),
        ("gpt2", {"layers": [0]}, "no prefix at decoder.1, .* there every layer has one"),
        ("gpt2", {"layers": 1}, "no prefix at decoder.0"),
        ("bart", {"sites": ["decoder"], "layers": [0, 2]}, "no prefix at decoder.1"),
        ("gpt2", {"config": lp.FlatPrefixConfig(length=[2, 3])}, r"lengths \[2, 3\], .* all layers have one length"),
        ("gemma4", {}, "keys and values of one size"),
        ("gemma4_shared", {}, "some of its layers share keys and values"),
        ("deepseek_v3", {}, "keys and values of one size"),
        ("bert", {"trained": ["bert.pooler.dense.bias"]}, "trained bert.pooler.dense.bias, .* classifier and score"),
        ("gpt2", {"trained": ["transformer.ln_f.bias"]}, "as CAUSAL_LM it keeps nothing of the model"),
    ],
)
def test_what_peft_has_no_place_for_is_refused(name, options, message, tmp_path):
    ours_in(tmp_path, name, **options)
    with pytest.raises(lp.InputError, match=message):
        to_peft(tmp_path / "ours", tmp_path / "theirs")
    assert not (tmp_path / "theirs").exists()


def test_a_hybrid_is_refused(tmp_path):
    with pytest.warns(UserWarning, match="no softmax attention"):
        ours_in(tmp_path, "qwen3_next")
    with pytest.raises(lp.InputError, match=r"no prefix at decoder\.1"):
        to_peft(tmp_path / "ours", tmp_path / "theirs")


def test_a_head_outside_the_backbone_is_refused(tmp_path):
    ours_in(tmp_path, "roberta_features").save_pretrained(tmp_path / "ours", head={"linear.weight": torch.zeros(2, 16)})
    with pytest.raises(lp.InputError, match=r"trained head\.linear\.weight, for which PEFT has no place"):
        to_peft(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("name", ["albert", "distilbert", "modernbert", "deberta_v2"])
def test_encoders_that_take_no_cache_are_refused(name, tmp_path):
    ours_in(tmp_path, name)
    with pytest.raises(lp.InputError, match="takes no past_key_values"):
        to_peft(tmp_path / "ours", tmp_path / "theirs")


@pytest.mark.parametrize("method", ["LORA", "PROMPT_TUNING", None])
def test_other_methods_are_refused(method, tmp_path):
    edit(saved(tmp_path), peft_type=method)
    with pytest.raises(lp.InputError, match=f"has peft_type {method!r}; PREFIX_TUNING and CARTRIDGE can be read"):
        from_peft(tmp_path / "theirs", tmp_path / "ours")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"num_virtual_tokens": 5}, "num_virtual_tokens 5, and its tensors and the base model need 4"),
        ({"num_layers": "2"}, "num_layers '2', .* need 2"),
        ({"num_attention_heads": 4}, "num_attention_heads 4, .* need 2"),
        ({"token_dim": [16]}, r"token_dim \[16\], .* need 16"),
        ({"num_transformer_submodules": 2}, "num_transformer_submodules 2, .* need 1"),
        ({"task_type": "SEQ_2_SEQ_LM"}, "could not be loaded"),
        ({"task_type": "TALK"}, "task_type 'TALK' is given"),
        ({"task_type": ["CAUSAL_LM"]}, "task_type .* is given"),
        ({"task_type": "SEQ_CLS"}, "neither .* nor its base model .* has score.weight"),
        ({"base_model_name_or_path": None}, "names no base model"),
        ({"base_model_name_or_path": "/no/such"}, "'/no/such' could not be loaded"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(change, message, tmp_path):
    edit(saved(tmp_path), **change)
    with pytest.raises(lp.InputError, match=message):
        from_peft(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"prompt_embeddings of shape \(0,\), which needs shape"),
        ({"prompt_embeddings": torch.zeros(64)}, r"of shape \(64,\)"),
        ({"prompt_embeddings": torch.zeros(4, 63)}, r"2 layers x 2 x 2 key-value heads x 8 columns"),
        ({"prompt_embeddings": torch.zeros(4, 32)}, r"2 layers x 2 x 2"),
        ({"prompt_embeddings": torch.zeros(4, 128)}, r"2 layers x 2 x 2"),
        ({"prompt_embeddings": torch.full((4, 64), torch.nan)}, "not finite floats in prompt_embeddings"),
        ({"prompt_embeddings": torch.zeros(4, 64, dtype=torch.int8)}, "not finite floats in prompt_embeddings"),
        ({"prompt_embeddings": torch.zeros(4, 64), "x": torch.zeros(1)}, "has x, which a prefix of PEFT does not"),
        ({"prompt_embeddings": torch.zeros(4, 64), "base_model.x": torch.zeros(1)}, "has no such parameter"),
        (
            {"prompt_embeddings": torch.zeros(4, 64), "base_model.transformer.wpe.weight": torch.zeros(1)},
            r"wpe.weight with shape \(1,\), and GPT2LMHeadModel has shape \(64, 16\)",
        ),
    ],
)
def test_tensors_that_do_not_fit_are_refused(tensors, message, tmp_path):
    save_file(tensors, saved(tmp_path) / "adapter_model.safetensors")
    with pytest.raises(lp.InputError, match=message):
        from_peft(tmp_path / "theirs", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_encoder_decoder_needs_a_slot_for_every_layer(tmp_path):
    backbone = make("t5_deep_decoder")  # PEFT takes the encoder's depth, and then fails
    theirs = saved(tmp_path)
    edit(theirs, task_type="SEQ_2_SEQ_LM", num_layers=1, num_transformer_submodules=2)
    save_file({"prompt_embeddings": torch.zeros(4, 32)}, theirs / "adapter_model.safetensors")
    with pytest.raises(lp.InputError, match="3 layers or more x 2 x 2 key-value heads x 8 columns"):
        from_peft(theirs, tmp_path / "ours", backbone=backbone)
    edit(theirs, task_type="CAUSAL_LM")
    with pytest.raises(lp.InputError, match="PEFT has prefixes for encoder-decoders as SEQ_2_SEQ_LM"):
        from_peft(theirs, tmp_path / "ours", backbone=backbone)


def test_damaged_files_are_refused(tmp_path):
    theirs = saved(tmp_path)
    files = {name: (theirs / name).read_bytes() for name in ("adapter_config.json", "adapter_model.safetensors")}
    for name, content in files.items():
        for end in {0, 1, 7, 8, 9, 40, len(content) // 2, len(content) - 1 - name.endswith("json")}:
            (theirs / name).write_bytes(content[:end])
            with pytest.raises(lp.InputError, match=r"cannot be read .* truncated or damaged"):
                from_peft(theirs, tmp_path / "ours")
        (theirs / name).unlink()
        with pytest.raises(lp.InputError, match=f"has no {name}; a folder that PEFT wrote has"):
            from_peft(theirs, tmp_path / "ours")
        (theirs / name).write_bytes(content)
    for text in (b"[]", b"null", b"3", b'"x"', b"{}"):
        (theirs / "adapter_config.json").write_bytes(text)
        with pytest.raises(lp.InputError, match="has peft_type None"):
            from_peft(theirs, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_a_pickle_is_never_read(tmp_path):
    theirs = saved(tmp_path)
    (theirs / "adapter_model.safetensors").rename(theirs / "adapter_model.bin")
    with pytest.raises(lp.InputError, match=r"a pickle, which can run code .* safe_serialization=True"):
        from_peft(theirs, tmp_path / "ours")


def saved(folder) -> Path:
    """A prefix of PEFT on GPT-2."""
    save_with_peft("gpt2", folder)
    return folder / "theirs"


def edit(folder, **changes):
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_folder_that_peft_wrote_gives_the_logits_that_peft_gave(tmp_path):
    """Written by peft 0.21.2 with transformers 5.23 on the classifier of `tests/backbone/formats/1`, kept for ever."""
    stored = Path(__file__).with_name("stored")
    base = Path(__file__).parents[1] / "backbone" / "formats" / "1" / "backbone"
    backbone = hf.AutoModelForSequenceClassification.from_pretrained(base).eval()
    from_peft(stored, tmp_path / "ours", backbone=backbone)
    ours = lp.PrefixedModel.from_pretrained(tmp_path / "ours", backbone).eval()
    expected = json.loads((stored / "expected.json").read_text())
    close(
        ours(**{name: torch.tensor(ids) for name, ids in expected["inputs"].items()}).logits,
        torch.tensor(expected["logits"]),
    )
    to_peft(tmp_path / "ours", tmp_path / "theirs", backbone=ours.unload())
    again, first = (load_file(folder / "adapter_model.safetensors") for folder in (tmp_path / "theirs", stored))
    assert again.keys() == first.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in first.items())
