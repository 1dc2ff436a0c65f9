"""Runs trained in one batch are those trained one by one."""

from functools import partial

import pytest
import torch
from every_task import CASES, case_backbone
from torch.optim import SGD

import lightning_prefix as lp
from lightning_prefix.cross_validation.together import train_together
from lightning_prefix.training import train, trainer_factory

QUIET = {
    "max_epochs": 2,
    "accelerator": "cpu",
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "log_every_n_steps": 1,
}
ROWS = [range(12), range(3, 15), range(6, 23)]  # the last has one batch more


@pytest.mark.parametrize("name", CASES)
def test_as_one_by_one(name, bert_folder, gpt2_folder, tmp_path):
    case = CASES[name]
    backbone = case_backbone(case, bert_folder, gpt2_folder, tmp_path / "backbone")
    prefix = lp.GatedPrefixConfig(length=4) if name == "pooled" else lp.MLPPrefixConfig(length=4, init="random")
    # AdamW makes whole steps of rounding errors where gradients are zero, as those of the span head's bias are
    options = {} if name in ("classification", "regression") else {"optimizer": partial(SGD, lr=0.1)}
    make_trainer = trainer_factory({**QUIET, "gradient_clip_val": 0.5})

    def data():
        return [case.make_data({"train": rows, "validation": range(90, 94)}) for rows in ROWS]

    task = case.make_task(backbone, prefix, **options)
    states = train_together(task, data(), make_trainer, tmp_path / "together", seed=1)
    assert task.model.prefix_names == ("default",)
    start = None
    for number, one in enumerate(data()):
        alone = case.make_task(backbone, prefix, **options)
        train(alone, one, make_trainer, tmp_path / str(number), 1, limit_val_batches=0, num_sanity_val_steps=0)
        state = alone.state_dict()
        assert state.keys() == states[number].keys()
        for key, tensor in state.items():
            torch.testing.assert_close(states[number][key], tensor, rtol=1e-4, atol=2e-6)
        if start is not None:  # the runs are different ones
            assert any(not torch.allclose(state[key], start[key], atol=1e-4) for key in state)
        start = state
        task.load_state_dict(states[number])


@pytest.mark.parametrize(
    ("option", "words"),
    [
        ({"accumulate_grad_batches": 2}, "accumulate_grad_batches=2 does not work for folds in one batch"),
        ({"devices": 2, "strategy": "ddp_spawn"}, "2 devices do not work"),
    ],
)
def test_what_works_alone_only_is_refused(option, words, bert_folder, tmp_path):
    case = CASES["classification"]
    task = case.make_task(bert_folder, lp.FlatPrefixConfig(length=2))
    with pytest.raises(lp.InputError, match=words):
        train_together(task, [], trainer_factory({**QUIET, **option}), tmp_path, seed=0)


def test_a_loss_that_is_no_number_names_the_run(bert_folder, tmp_path):
    case = CASES["regression"]
    good = case.make_data({"train": range(12), "validation": range(4)})
    rows = [{"text": "a film", "label": label} for label in (1e38, -1e38)] * 6
    bad = case.data({"train": rows, "validation": [case.row(0)]}, batch_size=4)
    task = case.make_task(bert_folder, lp.FlatPrefixConfig(length=2))
    with pytest.raises(lp.InputError, match="loss of run 1 of those in one batch is not finite at step 0"):
        train_together(task, [good, bad], trainer_factory(QUIET), tmp_path, seed=0)
