"""Batches by tokens: no more than asked for, every row once, as many in every epoch and rank, resumed exactly."""

import datasets
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_files import review, write_tokenizer

import lightning_prefix as lp
from lightning_prefix.data.collate import Collator
from lightning_prefix.data.loaders import train_loader

LENGTHS = [1 + 13 * row % 29 for row in range(203)]


def loader(lengths=LENGTHS, **options):
    ids = [[7] * length for length in lengths]
    columns = {"input_ids": ids, "row": list(range(len(ids))), "cut": [False] * len(ids)}
    given = {"batch_size": 64, "num_workers": 0, "seed": 0, "max_batch_tokens": 60, **options}
    return train_loader(datasets.Dataset.from_dict(columns), Collator(), **given)


def epochs(batches, count=4):
    seen = []
    for epoch in range(count):
        batches.sampler.set_epoch(epoch)
        seen.append([batch["index"].tolist() for batch in batches])
    return seen


@pytest.mark.parametrize("max_rows", [3, 64])
@pytest.mark.parametrize("lengths", [LENGTHS, [60, 1], [9] * 40, [50] * 7])
def test_batches_hold_what_fits(lengths, max_rows):
    batches = loader(lengths, batch_size=max_rows)
    for rows in epochs(batches):
        assert len(rows) == len(batches)
        assert sorted(row for batch in rows for row in batch) == list(range(len(lengths)))
        for batch in rows:
            assert 1 <= len(batch) <= max_rows
            assert len(batch) * max(lengths[row] for row in batch) <= 60


def test_little_is_padded_and_epochs_differ():
    batches = loader()
    padded = sum(batch["input_ids"].numel() for batch in batches)
    assert padded < 1.15 * sum(LENGTHS)
    assert padded / len(batches) > 45  # of 60
    first, second, *_ = epochs(batches)
    assert {tuple(sorted(batch)) for batch in first} != {tuple(sorted(batch)) for batch in second}
    assert epochs(loader())[1] == second
    assert epochs(loader(seed=1))[1] != second


@pytest.mark.parametrize("lengths", [LENGTHS, [50] * 5])
def test_ranks_have_the_same_number_of_batches(lengths):
    ranks = [loader(lengths, ranks=2, rank=rank) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    for one, other in zip(*map(epochs, ranks), strict=True):
        assert len(one) == len(other)
        assert {row for batch in one + other for row in batch} == set(range(len(lengths)))


def test_a_row_longer_than_a_batch():
    with pytest.raises(lp.InputError, match=r"12 is given, but 119 of 203 .* the longest 29 tokens; .* >= 29, or"):
        loader(max_batch_tokens=12)
    with pytest.raises(lp.InputError, match="max_batch_tokens"):
        lp.TextClassificationDataModule(max_batch_tokens=0)


class Recorder(LightningModule):
    def __init__(self, save_at=None, path=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.save_at, self.path = [], save_at, path

    def training_step(self, batch):
        self.seen.append(batch["index"].tolist())
        return self.weight.sum()

    def on_train_batch_end(self, *_):
        if self.global_step == self.save_at:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 3 * self.trainer.num_training_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("save_at", [1, 20])
def test_a_resumed_run_sees_what_is_left(num_workers, save_at, tmp_path):
    rows = {"train": [review(row) for row in range(60)], "validation": [review(0)]}

    def fit(recorder, checkpoint=None):
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_epochs=3, enable_checkpointing=False, limit_val_batches=0, **options)
        data = lp.TextClassificationDataModule(
            rows, tokenizer=tokenizer, max_batch_tokens=60, num_workers=num_workers, max_length=32
        )
        trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint)
        return recorder.seen

    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    whole = fit(Recorder(save_at, tmp_path / "there.ckpt"))
    assert fit(Recorder(), tmp_path / "there.ckpt") == whole[save_at:]
