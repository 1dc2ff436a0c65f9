"""Packed rows: every example once, no row too long, as many batches in every epoch and rank, resumed exactly."""

import datasets
import pytest
import torch
from lightning.pytorch import LightningModule, Trainer
from tiny_files import write_tokenizer

import lightning_prefix as lp
from lightning_prefix.data.loaders import packed_loader
from lightning_prefix.data.packing import PackingCollator

LENGTHS = [1 + 13 * row % 29 for row in range(203)]


def loader(lengths=LENGTHS, **options):
    ids = [[7] * length for length in lengths]
    columns = {"input_ids": ids, "row": list(range(len(ids))), "cut": [False] * len(ids)}
    given = {"batch_size": 4, "num_workers": 0, "seed": 0, "packed_length": 60, **options}
    return packed_loader(datasets.Dataset.from_dict(columns), PackingCollator({}), **given)


def epochs(batches, count=4):
    seen = []
    for epoch in range(count):
        batches.sampler.set_epoch(epoch)
        seen.append(list(batches))
    return seen


def rows_of(batches):
    return [batch["index"].tolist() for batch in batches]


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize("lengths", [LENGTHS, [60, 1], [9] * 40, [50] * 7, [3]])
def test_every_example_once_and_no_row_too_long(lengths, batch_size):
    batches = loader(lengths, batch_size=batch_size)
    for seen in epochs(batches):
        assert len(seen) == len(batches)
        assert sorted(row for batch in rows_of(seen) for row in batch) == list(range(len(lengths)))
        for batch in seen:
            assert batch["input_ids"].shape == batch["sequence_ids"].shape
            rows, tokens = batch["input_ids"].shape
            assert 1 <= rows <= batch_size
            assert tokens <= 60
            runs = [len(ids.unique()) - (0 in ids) for ids in batch["sequence_ids"]]
            assert sum(runs) == len(batch["index"])
            assert (batch["sequence_ids"] > 0).sum() == sum(lengths[row] for row in batch["index"].tolist())


def test_next_to_nothing_is_padded_and_epochs_differ():
    batches = loader()
    first, second, *_ = epochs(batches)
    assert sum(batch["input_ids"].numel() for batch in first) < 1.04 * sum(LENGTHS)
    assert {tuple(sorted(batch)) for batch in rows_of(first)} != {tuple(sorted(batch)) for batch in rows_of(second)}
    assert rows_of(epochs(loader())[1]) == rows_of(second)
    assert rows_of(epochs(loader(seed=1))[1]) != rows_of(second)


def test_many_examples_are_packed_in_pools():
    lengths = [1 + 7919 * row % 53 for row in range(5000)]
    sampler = loader(lengths, batch_size=7).sampler
    for epoch in range(3):
        batches = sampler.batches(epoch)
        assert len(batches) == len(sampler)
        rows = [row for batch in batches for row in batch]
        assert sorted(example for row in rows for example in row) == list(range(5000))
        assert len(rows) < 1.01 * sum(lengths) / 60
        assert max(sum(lengths[example] for example in row) for row in rows) <= 60


def test_a_row_is_as_long_as_the_longest_example_by_default():
    batches = loader(packed_length=None)
    assert max(batch["input_ids"].shape[1] for batch in batches) == max(LENGTHS)


@pytest.mark.parametrize("lengths", [LENGTHS, [50] * 5])
def test_ranks_have_the_same_number_of_batches(lengths):
    ranks = [loader(lengths, ranks=2, rank=rank) for rank in (0, 1)]
    assert len(ranks[0]) == len(ranks[1])
    for one, other in zip(*map(epochs, ranks), strict=True):
        assert len(one) == len(other)
        seen = [row for batch in rows_of(one) + rows_of(other) for row in batch]
        assert sorted(seen) == list(range(len(lengths)))


def test_two_ranks_and_too_few_examples_for_them():
    ranks = [loader([5, 5, 5], ranks=3, rank=rank, batch_size=1) for rank in range(3)]
    assert [len(list(one)) for one in ranks] == [1, 1, 1]
    with pytest.raises(lp.InputError, match="3 processes"):
        loader([5, 5], ranks=3, rank=0)


def test_what_does_not_fit_together():
    with pytest.raises(lp.InputError, match=r"packed_length 12 is given, but 119 of 203 .* 29 tokens; .* >= 29, or"):
        loader(packed_length=12)
    with pytest.raises(lp.InputError, match="TextClassificationDataModule reads one example a row"):
        lp.TextClassificationDataModule(packing=True)
    with pytest.raises(lp.InputError, match="max_batch_tokens 99 are given"):
        lp.TextGenerationDataModule(packing=True, max_batch_tokens=99)
    with pytest.raises(lp.InputError, match="set packing=True"):
        lp.TextGenerationDataModule(packed_length=99)


def generation_data(tokenizer, **options):
    rows = [{"text": "the good film" + " plot" * (row % 5), "target": "bad film"} for row in range(60)]
    sources = {"train": rows, "validation": rows[:1]}
    options = {"tokenizer": tokenizer, "max_length": 16, "max_target_length": 6, "batch_size": 2, **options}
    return lp.TextGenerationDataModule(sources, packing=True, **options)


def test_encoder_decoders_are_refused(tokenizer):
    data = generation_data(tokenizer, is_encoder_decoder=True)
    with pytest.raises(lp.InputError, match="encoder-decoder, which reads one source a row"):
        data.prepare_data()


def test_examples_are_unchanged_but_for_the_label_of_the_first_token(tokenizer):
    data = generation_data(tokenizer, is_encoder_decoder=False, packed_length=40)
    data.prepare_data()
    data.setup("fit")
    encoded = data._rows("train", "fit")
    found = {}
    for batch in data.train_dataloader():
        assert batch.keys() == {"input_ids", "labels", "sequence_ids", "index"}
        indices = iter(batch["index"].tolist())
        for ids, labels, numbers in zip(batch["input_ids"], batch["labels"], batch["sequence_ids"], strict=True):
            for number in range(1, int(numbers.max()) + 1):
                own = numbers == number
                found[next(indices)] = ids[own].tolist(), labels[own].tolist()
            assert (labels[numbers == 0] == -100).all()
    for row in encoded:
        ids, labels = found[row["row"]]
        assert ids == row["input_ids"]
        assert labels == [-100, *row["labels"][1:]]
    assert "attention_mask" in next(iter(data.val_dataloader()))  # evaluation is not packed


class Recorder(LightningModule):
    def __init__(self, save_at=None, path=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.save_at, self.path = [], save_at, path

    def training_step(self, batch):
        self.seen.append((batch["index"].tolist(), batch["sequence_ids"].tolist()))
        return self.weight.sum()

    def on_train_batch_end(self, *_):
        if self.global_step == self.save_at:
            self.trainer.save_checkpoint(self.path)

    def configure_optimizers(self):
        assert self.trainer.estimated_stepping_batches == 3 * self.trainer.num_training_batches
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("save_at", [1, 14])
def test_a_resumed_run_sees_what_is_left(num_workers, save_at, tmp_path):
    def fit(recorder, checkpoint=None):
        options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
        trainer = Trainer(accelerator="cpu", max_epochs=3, enable_checkpointing=False, limit_val_batches=0, **options)
        data = generation_data(tokenizer, is_encoder_decoder=False, packed_length=40, num_workers=num_workers)
        trainer.fit(recorder, datamodule=data, ckpt_path=checkpoint)
        return recorder.seen

    tokenizer = write_tokenizer(tmp_path / "tokenizer")
    whole = fit(Recorder(save_at, tmp_path / "there.ckpt"))
    assert len(whole) > save_at + 1
    assert fit(Recorder(), tmp_path / "there.ckpt") == whole[save_at:]


@pytest.mark.parametrize(("option", "value"), [("packing", True), ("max_batch_tokens", 40)])
def test_overfitting_is_refused(option, value, tokenizer, tmp_path):
    rows = [{"text": "the film", "target": "good"}] * 9
    data = lp.TextGenerationDataModule(rows, tokenizer=tokenizer, is_encoder_decoder=False, **{option: value})
    trainer = Trainer(accelerator="cpu", overfit_batches=2, logger=False, default_root_dir=tmp_path, max_epochs=1)
    with pytest.raises(lp.InputError, match=rf"overfit_batches 2 is given with {option}; .* Leave one of the two out"):
        trainer.fit(Recorder(), datamodule=data)
