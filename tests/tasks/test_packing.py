"""Training on packed rows: the losses and gradients of the same examples one a row, exact resume, what is refused."""

from functools import partial

import lightning
import pytest
import torch
from every_task import text
from tiny_files import write_language_model

import lightning_prefix as lp
from lightning_prefix.cross_validation.together import train_together
from lightning_prefix.training import train, trainer_factory

QUIET = {"accelerator": "cpu", "enable_progress_bar": False, "enable_model_summary": False, "logger": False}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    def make(family):
        torch.manual_seed(0)
        return write_language_model(tmp_path_factory.mktemp(family), family)

    return {family: make(family) for family in ("gpt2", "mistral_window", "t5", "qwen3_next")}


def written(row):
    return {"text": text(row, 3 + row % 6), "target": text(row + 5, 2 + row % 3)}


def asked(row):
    return {"question": text(row, 3), "context": text(row + 1, 4 + row % 5), "answers": text(row + 2, 2)}


def translated(row):
    return {"en": text(row, 3 + row % 6), "de": text(row + 5, 2 + row % 3)}


def said(row):
    return {"messages": [text(row + turn, 2 + row % 3) for turn in range(2 + row % 4)]}


LANGUAGES = {"source_language": "en", "target_language": "de"}
KINDS = {
    "text": (lp.TextGeneration, lp.TextGenerationDataModule, written, {}),
    "qa": (lp.GenerativeQA, lp.GenerativeQADataModule, asked, {}),
    "translation": (lp.Translation, lp.TranslationDataModule, translated, LANGUAGES),
    "dialogue": (lp.Dialogue, lp.DialogueDataModule, said, {"max_length": 64}),
}


def data(kind="text", rows=range(23), **options):
    _, module, make, more = KINDS[kind]
    source = {"train": [make(row) for row in rows], "validation": [make(row) for row in range(30, 33)]}
    return module(source, **{"batch_size": 2, "max_target_length": 6, **more, **options})


def task(folder, kind="text", **options):
    return KINDS[kind][0](folder, lp.FlatPrefixConfig(length=3, init="random"), **options)


def trained_on(task, module):
    module.serve(task)
    module.prepare_data()
    module.setup("fit")
    return module.train_dataloader()


@pytest.mark.parametrize("loss", ["token_mean", "example_sum"])
@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("family", ["gpt2", "mistral_window"])
def test_losses_and_gradients_are_those_of_the_same_examples_alone(family, kind, loss, folders):
    one = task(folders[family], kind, loss=loss, label_smoothing=0.1)
    one.configure_model()
    parameters = list(one.model.prefix.parameters())
    module = data(kind)
    trained_on(one, module)
    encoded, collate = list(module._rows("train", "fit")), module.collator()
    several = 0
    for batch in trained_on(one, data(kind, packing=True, packed_length=64 if kind == "dialogue" else 36)):
        examples = [{**example, "index": example["row"]} for example in encoded if example["row"] in batch["index"]]
        chosen = [{name: row[name] for name in ("input_ids", "attention_mask", "labels", "index")} for row in examples]
        unpacked = collate(chosen)
        assert len(chosen) == len(batch["index"])
        several += len(batch["index"]) > len(batch["input_ids"])
        losses = [one.loss(one(each), each) for each in (batch, unpacked)]
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-5)
        ours, theirs = (torch.autograd.grad(loss, parameters) for loss in losses)
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    assert several > 2


def test_a_resumed_run_is_an_uninterrupted_one(folders, tmp_path):
    def fit(folder, ckpt_path=None, stop_at=None):
        lightning.seed_everything(1, verbose=False)
        one = lp.TextGeneration(folders["gpt2"], lp.FlatPrefixConfig(length=3, dropout=0.1), learning_rate=0.05)
        stop = lightning.pytorch.Callback()
        stop.on_train_batch_end = lambda run, *_: setattr(run, "should_stop", run.global_step == stop_at)
        keep = lp.PrefixCheckpoint(dirpath=str(tmp_path / folder), every_n_train_steps=1)
        run = lightning.Trainer(**QUIET, default_root_dir=tmp_path, max_epochs=3, callbacks=[stop, keep])
        run.fit(one, data(packing=True, packed_length=24), ckpt_path=ckpt_path)
        return run.global_step, one.state_dict()

    steps, whole = fit("whole")
    assert steps > 9
    assert fit("stopped", stop_at=5)[0] == 5
    again, resumed = fit("stopped", tmp_path / "stopped" / "last.ckpt")
    assert again == steps
    assert all(torch.equal(whole[name], tensor) for name, tensor in resumed.items())


def test_folds_in_one_batch_are_those_one_by_one(folders, tmp_path):
    rows = [range(12), range(3, 15), range(6, 23)]
    make_trainer = trainer_factory({**QUIET, "max_epochs": 2})
    options = {"optimizer": partial(torch.optim.SGD, lr=0.1)}
    modules = [data(rows=each, packing=True) for each in rows]
    states = train_together(task(folders["gpt2"], **options), modules, make_trainer, tmp_path / "together", seed=1)
    for number, each in enumerate(rows):
        alone = task(folders["gpt2"], **options)
        module = data(rows=each, packing=True)
        train(alone, module, make_trainer, tmp_path / str(number), 1, limit_val_batches=0, num_sanity_val_steps=0)
        torch.testing.assert_close(states[number], alone.state_dict(), rtol=1e-4, atol=2e-6)


@pytest.mark.filterwarnings("ignore:layers .* have no softmax attention")
@pytest.mark.parametrize(
    ("family", "options", "words"),
    [
        ("t5", {}, "packing is given, but the backbone is an encoder-decoder"),
        ("qwen3_next", {}, r"Qwen3NextForCausalLM .* mixes texts that share a row.* Train without data\.packing"),
        ("gpt2", {"activation_cache": lp.ActivationCacheOptions()}, r"data\.packing and model\.activation_cache"),
    ],
)
def test_refused_at_the_start(family, options, words, folders, tmp_path):
    run = lightning.Trainer(**QUIET, default_root_dir=tmp_path, max_epochs=1)
    with pytest.raises(lp.InputError, match=words):
        run.fit(task(folders[family], **options), data(packing=True))
    assert run.global_step == 0
