"""The activation cache: the results of every task and family without it, and the lower layers run once per row."""

import copy
import shutil
from contextlib import contextmanager
from pathlib import Path

import lightning
import pytest
import torch
import transformers as hf
import yaml
from contract import close, first, make
from every_task import CASES, case_backbone, review
from tiny_backbones import BACKBONES, VOCABULARY
from tiny_files import WORDS, write_tokenizer

import lightning_prefix as lp
from lightning_prefix.cli import main
from lightning_prefix.tasks.activations import cache_activations

UPPER = lp.FlatPrefixConfig(length=3, layers=1)
REFUSED = {
    "albert": "in no list of layers that run once each",
    "gemma4_shared": "does not give the same when model.layers.2 is replaced",
    "t5_deep_decoder": "stands at the first layer of encoder.block",
    **dict.fromkeys(("t5", "flan_t5_small", "mt5"), "hand more to each other than hidden states"),
}
ENCODER_DECODERS = [family for family in BACKBONES if make(family).config.is_encoder_decoder]
CASES_OF = [(family, UPPER) for family in BACKBONES if family not in REFUSED]
CASES_OF += [(family, lp.FlatPrefixConfig(length=3, sites=["decoder", "cross"])) for family in ENCODER_DECODERS]
MEMORY = lp.ActivationCacheOptions()

pytestmark = pytest.mark.filterwarnings("ignore:layers .* have no softmax attention")


def batch_of(backbone, order=(0, 1, 2, 3), width=8, left=False):
    """Rows of 7, 4, 2 and 6 tokens."""
    ids = torch.randint(5, VOCABULARY, (4, 7), generator=torch.Generator().manual_seed(1))
    lengths = (7, 4, 2, 6)
    tokens, mask = torch.zeros(4, width, dtype=torch.long), torch.zeros(4, width, dtype=torch.long)
    for row, source in enumerate(order):
        n = lengths[source]
        place = slice(width - n, width) if left else slice(0, n)
        tokens[row, place], mask[row, place] = ids[source, :n], 1
    inputs = {"input_ids": tokens, "attention_mask": mask}
    if backbone.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids[list(order), :5].flip(1)
    return inputs


def real(model, output, inputs):
    """What belongs to tokens: (rows or tokens, ...)."""
    if output.ndim == 3 and not model.config.is_encoder_decoder:
        return output[inputs["attention_mask"].bool()]
    return output


def count(model, calls):
    """Note how many rows the attention of the first layer reads."""
    name = model.all_sites[0].name.replace("1.self_attn", "0.linear_attn")  # in hybrids
    module = model.backbone.get_submodule(name)

    def hook(_, args, kwargs):
        calls.append(len(args[0] if args else kwargs["hidden_states"]))

    return module.register_forward_pre_hook(hook, with_kwargs=True)


@contextmanager
def counting(model):
    handle = count(model, calls := [])
    try:
        yield calls
    finally:
        handle.remove()


def results(model, inputs):
    """Outputs of the tokens, and the gradient of the prefix."""
    model.zero_grad()
    output = real(model, first(model(**inputs)), inputs)
    (output * torch.linspace(-1, 1, output.shape[-1])).sum().backward()
    return output.detach(), [p.grad.clone() for p in model.prefix.parameters()]


@pytest.mark.parametrize(("family", "prefix"), CASES_OF, ids=lambda value: value if isinstance(value, str) else "")
def test_every_family_gives_the_same_and_runs_lower_layers_once(family, prefix):
    model = lp.PrefixedModel(make(family), prefix).train()
    batches = [batch_of(model, width=7), batch_of(model, (2, 0, 1, 3), 9), batch_of(model, (2, 2, 1, 1), 4)]
    expected = [results(model, batch) for batch in batches]
    cache_activations(model, MEMORY)
    with counting(model) as calls:
        for batch, (output, gradients) in zip(batches, expected, strict=True):
            actual, actual_gradients = results(model, batch)
            close(actual, output)
            for ours, theirs in zip(actual_gradients, gradients, strict=True):
                close(ours, theirs)
    assert calls == [1, 4]  # for the size of a hidden state, and the rows of the first batch


@pytest.mark.parametrize("family", list(REFUSED))
def test_families_that_cannot_go_on_are_refused_and_left_as_they_were(family):
    model = lp.PrefixedModel(make(family), UPPER).eval()
    expected = first(model(**batch_of(model)))
    with pytest.raises(lp.InputError, match=REFUSED[family]):
        cache_activations(model, MEMORY)
    assert torch.equal(first(model(**batch_of(model))), expected)
    assert not any("forward" in vars(module) for module in model.backbone.modules())


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "bart"])
def test_gradient_checkpointing(family):
    model = lp.PrefixedModel(make(family), UPPER).train()
    batch = batch_of(model)
    expected = results(model, batch)
    getattr(model.backbone, "activation_checkpointing_enable", model.backbone.gradient_checkpointing_enable)()
    cache_activations(model, MEMORY)
    with counting(model) as calls:
        for _ in range(2):
            output, gradients = results(model, batch)
            close(output, expected[0])
            for ours, theirs in zip(gradients, expected[1], strict=True):
                close(ours, theirs)
    assert calls == [1, 4]


@pytest.mark.parametrize("family", ["bert", "gpt2", "llama", "qwen3_next"])
def test_nothing_below_the_first_prefix_has_a_gradient(family):
    """Without a cache: the graph begins at the first prefix."""
    model = lp.PrefixedModel(make(family), UPPER).train()
    asked = {}
    for site in model.all_sites:
        module = model.backbone.get_submodule(site.name)
        module.register_forward_hook(lambda m, _, output: asked.update({m: output[0].requires_grad}))
    layers = next(m for m in model.backbone.modules() if isinstance(m, torch.nn.ModuleList))
    layers[0].register_forward_hook(
        lambda m, _, output: asked.update(
            {m: (output if isinstance(output, torch.Tensor) else output[0]).requires_grad}
        )
    )
    results(model, batch_of(model))
    assert asked.pop(layers[0]) is False
    assert list(asked.values()) == [False] * (len(asked) - 1) + [True]


def test_rows_are_known_by_their_content():
    """Types of tokens, left padding, positions and `positions: shift` make other rows; the width does not."""
    model = lp.PrefixedModel(make("bert"), UPPER).eval()
    shifted = lp.PrefixedModel(make("bert"), UPPER, positions="shift").eval()
    plain = batch_of(model)
    typed = {
        **plain,
        "token_type_ids": plain["attention_mask"] - (torch.arange(8) < 2).long() * plain["attention_mask"],
    }
    left = batch_of(model, left=True)
    placed = {**plain, "position_ids": torch.arange(1, 9).repeat(4, 1)}
    whole = {"input_ids": plain["input_ids"][:1, :7]}
    for own in (model, shifted):
        expected = [first(own(**batch)) for batch in (plain, typed, left, placed, whole)]
        cache_activations(own, MEMORY)
        for _ in range(2):
            for batch, output in zip((plain, typed, left, placed, whole), expected, strict=True):
                close(first(own(**batch)), output)
        with counting(own) as calls:
            own(**whole)
        assert calls == []


def test_mixed_rows_and_prefixes_further_down():
    """Names per row, no prefix, a shifted prefix, and one below the stored layer."""
    model = lp.PrefixedModel(make("llama"), UPPER).eval()
    model.add_prefix("shifted", UPPER, positions="shift")
    model.add_prefix("lower", lp.FlatPrefixConfig(length=2))
    batch = batch_of(model)
    mixed = [
        ["default", None, "shifted", "default"],
        ["shifted", "shifted", None, None],
        ["lower", None, "default", None],
    ]
    expected = [model(**batch, prefix_names=names).logits for names in mixed]
    with model.disabled():
        frozen = model(**batch).logits
    cache_activations(model, MEMORY)
    for _ in range(2):
        for names, logits in zip(mixed, expected, strict=True):
            close(real(model, model(**batch, prefix_names=names).logits, batch), real(model, logits, batch))
        with model.disabled():
            close(real(model, model(**batch).logits, batch), real(model, frozen, batch))
    for names, message in ([["default"] * 3], "3 prefix_names are given for 4 rows"), ([["x"] * 4], "no prefix 'x'"):
        with pytest.raises(lp.InputError, match=message):
            model(**batch, prefix_names=names[0])


def test_generation_and_passes_with_other_inputs_run_all_layers():
    model = lp.PrefixedModel(make("gpt2"), UPPER).eval()
    batch = batch_of(model, left=True)
    options = {"max_new_tokens": 4, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    written = model.generate(**batch, **options)
    embeddings = {"inputs_embeds": model.backbone.get_input_embeddings()(batch["input_ids"])}
    expected = model(**embeddings).logits
    cache_activations(model, MEMORY)
    model(**batch)
    assert torch.equal(model.generate(**batch, **options), written)
    with pytest.warns(UserWarning, match=r"without the activation cache: its inputs are \['inputs_embeds'\]"):
        assert torch.equal(model(**embeddings).logits, expected)
    seen = model(**batch, use_cache=True).past_key_values
    assert [layer.keys.shape[2] for layer in seen.layers] == [8, 8]


def test_an_error_in_a_pass_leaves_the_layers_running():
    model = lp.PrefixedModel(make("bert"), UPPER).eval()
    cache_activations(model, MEMORY)
    batch = batch_of(model)
    with pytest.raises(ValueError, match="batch_size"):  # of labels and logits
        model(**batch, labels=torch.zeros(3, dtype=torch.long))
    with counting(model) as calls:
        model.backbone(**batch)
    assert calls == [4]


def test_unload_gives_the_layers_back():
    backbone = make("bert")
    expected = first(backbone(**batch_of(backbone)))
    model = lp.PrefixedModel(backbone, UPPER).eval()
    cache_activations(model, MEMORY)
    model(**batch_of(backbone))
    assert torch.equal(first(model.unload()(**batch_of(backbone))), expected)
    assert not any("forward" in vars(module) for module in backbone.modules())


def test_what_is_refused():
    for prefix in (lp.FlatPrefixConfig(length=2), lp.PromptPrefixConfig(length=2), lp.FlatPrefixConfig(layers=[0])):
        with pytest.raises(lp.InputError, match=r"at the first layer of bert\.encoder\.layer"):
            cache_activations(lp.PrefixedModel(make("bert"), prefix), MEMORY)
    with pytest.raises(lp.InputError, match="backbone_dropout"):
        cache_activations(lp.PrefixedModel(make("bert"), UPPER, backbone_dropout=True), MEMORY)
    name = "bert.encoder.layer.0.output.dense.bias"
    with pytest.raises(lp.InputError, match=f"{name} is trained below"):
        cache_activations(lp.PrefixedModel(make("bert"), UPPER, trained=[name]), MEMORY)
    config = copy.deepcopy(make("llama").config)
    config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}
    with pytest.raises(lp.InputError, match="depend on the longest row"):
        cache_activations(lp.PrefixedModel(hf.LlamaForCausalLM(config), UPPER), MEMORY)


def test_an_output_prefix_has_all_but_the_last_layer_below_it():
    model = lp.PrefixedModel(make("modernbert"), lp.OutputPrefixConfig()).eval()
    batch = batch_of(model)
    expected = first(model(**batch))
    cache_activations(model, MEMORY)
    model(**batch)
    with counting(model) as calls:
        close(real(model, first(model(**batch)), batch), real(model, expected, batch))
    assert calls == []


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_kept_as_it_is(dtype):
    model = lp.PrefixedModel(make("llama").to(dtype), UPPER).eval()
    batch = batch_of(model)
    cache_activations(model, MEMORY)
    one = model(**batch).logits
    assert one.dtype == dtype
    assert torch.equal(model(**batch).logits, one)


def test_precision_is_part_of_a_row():
    model = lp.PrefixedModel(make("llama"), UPPER).eval()
    batch = batch_of(model)
    cache_activations(model, MEMORY)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = model(**batch).logits
    exact = model(**batch).logits
    model.unload()
    again = lp.PrefixedModel(model.backbone, UPPER).eval()
    again.load_state_dict(model.state_dict())
    close(real(model, again(**batch).logits, batch), real(model, exact, batch))
    assert not torch.allclose(mixed.float(), exact, atol=1e-5)


# Tasks.


@pytest.fixture(scope="module")
def deep_folders(tmp_path_factory):
    """BERT and GPT-2 of three layers."""
    folders = {}
    sizes = {"vocab_size": len(WORDS), "num_hidden_layers": 3, "hidden_size": 16, "num_attention_heads": 2}
    for family, model in (
        ("bert", hf.BertModel(hf.BertConfig(**sizes, intermediate_size=32, max_position_embeddings=64))),
        ("gpt2", hf.GPT2LMHeadModel(hf.GPT2Config(**sizes, n_positions=64, bos_token_id=3, eos_token_id=3))),
    ):
        folder = tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        folders[family] = write_tokenizer(folder, is_bert=family == "bert")
    return folders


def run_task(case, backbone, prefix, folder, cache, stop_at=None, ckpt_path=None, **options):
    """Losses of three epochs, what was logged, and how many rows the first layer has read."""
    lightning.seed_everything(1, verbose=False)
    task = case.make_task(backbone, prefix, learning_rate=0.05, activation_cache=cache)
    data = case.make_data({"train": range(20), "validation": range(5, 12), "test": range(30, 37)}, batch_size=4)
    losses, calls = [], []

    class Watch(lightning.Callback):
        def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
            losses.append(outputs["loss"].item())
            trainer.should_stop = trainer.global_step == stop_at

        def on_fit_start(self, trainer, pl_module):
            count(pl_module.model, calls)

    trainer = lightning.Trainer(
        max_epochs=3,
        accelerator="cpu",
        default_root_dir=folder,
        callbacks=[Watch(), lp.PrefixCheckpoint(dirpath=str(folder))],
        enable_progress_bar=False,
        enable_model_summary=False,
        logger=False,
        **options,
    )
    trainer.fit(task, data, ckpt_path=ckpt_path)
    logged = {name: value.item() for name, value in trainer.callback_metrics.items() if "train" not in name}
    test = {} if stop_at else trainer.test(task, data, verbose=False)[0]
    return losses, {**logged, **test}, calls, task


NO_TEXTS = {"decoded_rows": 0, "logged_samples": 0}


@pytest.mark.parametrize("kind", [*CASES, "disk"])
def test_every_task_trains_and_is_measured_as_without(kind, deep_folders, tmp_path):
    case = CASES["classification" if kind == "disk" else kind]
    cache = lp.ActivationCacheOptions("disk", folder=str(tmp_path / "kept")) if kind == "disk" else MEMORY
    prefix = lp.FlatPrefixConfig(length=3, dropout=0.1, layers=1)
    if kind == "encoder_decoder":
        prefix = lp.FlatPrefixConfig(length=3, dropout=0.1, sites=["decoder", "cross"])
    backbone = case_backbone(case, **deep_folders, folder=tmp_path / "backbone")
    if case.task is lp.TextGeneration:  # texts are written by `generate`, which has no cache
        case = copy.copy(case)
        object.__setattr__(case, "task_options", NO_TEXTS)
    losses, metrics, plain_calls, _ = run_task(case, backbone, prefix, tmp_path / "without", None)
    cached_losses, cached_metrics, calls, _ = run_task(case, backbone, prefix, tmp_path / "with", cache)
    assert cached_losses == pytest.approx(losses, rel=1e-4)
    assert cached_metrics == pytest.approx(metrics, rel=1e-4, abs=1e-4)
    if case.task is not lp.TextGeneration:  # whose test writes texts
        assert sum(calls) < 0.5 * sum(plain_calls)


@pytest.mark.parametrize("where", ["memory", "disk"])
def test_resume(where, deep_folders, tmp_path):
    """To rounding, since rows are made in other batches; exactly where they are still on disk."""
    prefix = lp.FlatPrefixConfig(length=3, dropout=0.1, layers=1)

    def cache(name):
        return MEMORY if where == "memory" else lp.ActivationCacheOptions("disk", folder=str(tmp_path / name))

    case, bert = CASES["classification"], deep_folders["bert"]
    losses, _, _, whole = run_task(case, bert, prefix, tmp_path / "whole", cache("a"))
    begun, _, _, _ = run_task(case, bert, prefix, tmp_path / "begun", cache("b"), stop_at=7)
    rest, _, _, resumed = run_task(
        case, bert, prefix, tmp_path / "begun", cache("b"), ckpt_path=tmp_path / "begun" / "last.ckpt"
    )
    assert begun + rest == pytest.approx(losses, rel=0 if where == "disk" else 1e-5)
    for name, tensor in whole.state_dict().items():
        torch.testing.assert_close(
            resumed.state_dict()[name], tensor, **({"rtol": 0, "atol": 0} if where == "disk" else {})
        )


@pytest.mark.parametrize("options", [{}, {"at_once": 3, "select": "last"}], ids=["one by one", "at once"])
def test_folds_share_what_was_computed(options, deep_folders, tmp_path):
    """Of 24 rows in three folds, and with folds in one batch, each is read once by the lower layers."""
    rows = [review(row) for row in range(24)]
    seen = []

    class Count(lightning.Callback):
        def on_fit_start(self, trainer, pl_module):
            task = getattr(pl_module, "task", pl_module)
            self.handle = count(task.model, seen)

        def on_fit_end(self, trainer, pl_module):  # the next fold has the same backbone
            self.handle.remove()

    def losses(folder, cache):
        def make_task():
            return lp.TextClassification(deep_folders["bert"], UPPER, learning_rate=0.5, activation_cache=cache)

        settings = {"max_epochs": 2, "accelerator": "cpu", "enable_progress_bar": False, "callbacks": Count()}
        data = lp.TextClassificationDataModule(rows, batch_size=8)
        result = lp.cross_validate(make_task, data, folds=3, directory=folder, trainer=settings, **options)
        return result.frame["test/loss"].tolist()

    without = losses(tmp_path / "without", None)
    plain = sum(seen)
    seen.clear()
    assert losses(tmp_path / "with", MEMORY) == pytest.approx(without, rel=1e-4)
    different = len({row["text"] for row in rows})
    assert plain > 6 * different
    assert sum(seen) <= different + 3  # in each fold one for the size of a hidden state


def test_a_full_cache_computes_the_rest_and_says_so_once(deep_folders, tmp_path, caplog):
    few = lp.ActivationCacheOptions(limit_gb=1000e-9)
    case = CASES["classification"]
    losses, metrics, _, _ = run_task(case, deep_folders["bert"], UPPER, tmp_path / "without", None)
    with caplog.at_level("INFO"):
        cached_losses, cached_metrics, _, _ = run_task(case, deep_folders["bert"], UPPER, tmp_path / "with", few)
    assert cached_losses == pytest.approx(losses, rel=1e-4)
    assert cached_metrics == pytest.approx(metrics, rel=1e-4)
    assert sum("the activation cache keeps" in record.message for record in caplog.records) == 1


def test_files_do_not_turn_a_cache_on(deep_folders, tmp_path):
    cache = lp.ActivationCacheOptions("disk", folder=str(tmp_path / "kept"))
    _, _, _, task = run_task(CASES["classification"], deep_folders["bert"], UPPER, tmp_path, cache)
    assert task.hparams["activation_cache"]["where"] == "disk"
    again = lp.TextClassification.load_from_checkpoint(tmp_path / "last.ckpt")
    assert again.activation_cache is None
    task.save_pretrained(tmp_path / "saved")
    assert lp.PrefixTask.from_pretrained(tmp_path / "saved").activation_cache is None
    with pytest.raises(lp.InputError, match="limit_gb -1"):
        lp.TextClassification("somewhere", UPPER, activation_cache=lp.ActivationCacheOptions(limit_gb=-1))


def test_the_command_line_and_predict_which_reads_each_row_once(deep_folders, reviews, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    args = ["--model.prefix.layers", "1", "--model.activation_cache.where", "disk", "--data.source", reviews]
    args += ["--model.activation_cache.folder", "kept", "--model.backbone", deep_folders["bert"]]
    args += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    model = {"class_path": "TextClassification", "init_args": {"prefix": {"class_path": "FlatPrefixConfig"}}}
    Path("run.yaml").write_text(yaml.safe_dump({"model": model, "data": "TextClassificationDataModule"}))
    main(["fit", "--config", "run.yaml", *args, "--trainer.max_steps", "2", "--checkpoint.dirpath", "checkpoints"])
    assert len(list(Path("kept").rglob("*.rows"))) == 1
    shutil.rmtree("kept")
    main(["predict", "--config", "run.yaml", *args, "--ckpt_path", "checkpoints/last.ckpt"])
    assert not Path("kept").exists()
    main(["validate", "--config", "run.yaml", *args, "--ckpt_path", "checkpoints/last.ckpt"])
    assert len(list(Path("kept").rglob("*.rows"))) == 1


def test_not_with_a_compiled_backbone(bert_folder):
    options = {"activation_cache": lp.ActivationCacheOptions(), "backbone_options": lp.BackboneOptions(compile=True)}
    with pytest.raises(lp.InputError, match=r"activation_cache and backbone_options\.compile"):
        lp.TextClassification(bert_folder, **options)
