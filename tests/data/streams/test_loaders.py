"""Training on a stream: exact resume anywhere, epochs without a known length."""

import json
from itertools import islice

import lightning
import pytest
import torch
from every_task import CASES

import lightning_prefix as lp
from lightning_prefix.data.streams.loaders import EvaluationStreamLoader, TrainStreamLoader
from lightning_prefix.data.streams.rows import RecentRows
from lightning_prefix.errors import InputError

ROWS = 83  # 11 batches


class Recorder(lightning.Callback):
    """Records the rows of every batch; saves where it is told to."""

    def __init__(self, save_at=None, where="batch", path=None):
        self.seen, self.save_at, self.where, self.path = [], save_at, where, path

    def _save(self, trainer, where):
        if self.path and (trainer.global_step, where) == (self.save_at, self.where) and not self.path.exists():
            trainer.save_checkpoint(self.path, weights_only=False)

    def on_train_batch_end(self, trainer, task, outputs, batch, number):
        self.seen.append((trainer.current_epoch, batch["index"].tolist()))
        self._save(trainer, "batch")

    def on_validation_end(self, trainer, task):
        self._save(trainer, "validation")

    def on_train_epoch_end(self, trainer, task):
        self._save(trainer, "epoch")


@pytest.fixture
def source(tmp_path):
    for split in ("train", "validation"):
        lines = [json.dumps(CASES["classification"].row(number)) + "\n" for number in range(ROWS)]
        (tmp_path / f"{split}.jsonl").write_text("".join(lines))
    return str(tmp_path)


def make_data(source, **options):
    options = {"batch_size": 8, "shuffle_buffer": 24, "streaming": True, "max_length": 16, **options}
    return lp.TextClassificationDataModule(source, **options)


def make_trainer(*callbacks, **options):
    options = {"max_steps": 24, "val_check_interval": 4, "check_val_every_n_epoch": None, **options}
    return lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        limit_val_batches=1,
        callbacks=list(callbacks),
        **options,
    )


def fit(source, backbone, recorder, checkpoint=None, trainer=None, **options):
    lightning.seed_everything(0, verbose=False)
    prefix = lp.FlatPrefixConfig(length=2, dropout=0.1)
    task = lp.TextClassification(backbone, num_labels=2, prefix=prefix)
    make_trainer(recorder, **(trainer or {})).fit(
        task, make_data(source, **options), ckpt_path=checkpoint, weights_only=False
    )
    return {name: tensor.clone() for name, tensor in task.state_dict().items()}


WORKERS = {"num_workers": 2, "max_batch_tokens": 60}


@pytest.mark.parametrize(
    ("options", "save_at", "where"),
    [
        ({}, 3, "batch"),  # mid-epoch
        ({}, 8, "validation"),  # at a validation in mid-epoch
        ({}, 11, "batch"),  # last batch of an epoch
        (WORKERS, 17, "batch"),
        pytest.param(WORKERS, 3, "batch", marks=pytest.mark.slow),
        pytest.param(WORKERS, 8, "validation", marks=pytest.mark.slow),
    ],
)
def test_weights_of_a_resumed_run_equal_those_of_an_uninterrupted_one(
    options, save_at, where, source, bert_folder, tmp_path
):
    path = tmp_path / "there.ckpt"
    whole, rest = Recorder(save_at, where, path), Recorder()
    trainer = {"val_check_interval": 8 if options else 4}  # processes start anew for each validation
    expected = fit(source, bert_folder, whole, trainer=trainer, **options)
    resumed = fit(source, bert_folder, rest, str(path), trainer=trainer, **options)
    assert len(whole.seen) == 24
    assert rest.seen == whole.seen[save_at:]
    assert all(torch.equal(resumed[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize(("save_at", "where"), [(11, "epoch"), (11, "validation"), (22, "epoch")])
def test_resume_at_the_end_of_an_epoch(save_at, where, source, bert_folder, tmp_path):
    path, trainer = tmp_path / "there.ckpt", {"val_check_interval": None, "check_val_every_n_epoch": 1}
    whole, rest = Recorder(save_at, where, path), Recorder()
    fit(source, bert_folder, whole, trainer=trainer)
    fit(source, bert_folder, rest, str(path), trainer=trainer)
    assert rest.seen == whole.seen[save_at:]
    epochs = [[row for epoch, rows in whole.seen if epoch == number for row in rows] for number in range(2)]
    assert all(sorted(rows) == list(range(ROWS)) for rows in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize(("save_at", "where"), [(4, "epoch"), (4, "batch"), (6, "batch")])
def test_resume_with_fewer_batches_per_epoch(save_at, where, source, bert_folder, tmp_path):
    path = tmp_path / "there.ckpt"
    trainer = {"max_steps": -1, "max_epochs": 3, "limit_train_batches": 4}
    trainer |= {"val_check_interval": None, "check_val_every_n_epoch": 1}
    whole, rest = Recorder(save_at, where, path), Recorder()
    fit(source, bert_folder, whole, trainer=trainer)
    fit(source, bert_folder, rest, str(path), trainer=trainer)
    assert len(whole.seen) == 12
    assert rest.seen == whole.seen[save_at:]


def test_the_schedule_needs_the_number_of_steps(source, bert_folder):
    with pytest.raises(InputError, match=r"Give trainer.max_steps .* or trainer.limit_train_batches"):
        fit(source, bert_folder, Recorder(), trainer={"max_steps": -1, "max_epochs": 2})


def test_the_rate_falls_to_zero_with_the_last_step(source, bert_folder):
    rates = []

    class Rates(Recorder):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    fit(source, bert_folder, Rates(), trainer={"max_steps": 10})
    assert rates[0] > 0
    assert rates[-1] == pytest.approx(rates[1] / 9)


def loader(source, backbone, **options):
    data = make_data(source, tokenizer=backbone, **options)
    data.setup("fit")
    return data.train_dataloader()


def batches(loader, count=None):
    return [batch["index"].tolist() for batch in islice(loader, count)]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_without_a_trainer(num_workers, source, bert_folder):
    """The loader alone goes on where its state was taken."""
    whole = loader(source, bert_folder, num_workers=num_workers)
    assert isinstance(whole, TrainStreamLoader)
    expected = batches(whole)
    other = loader(source, bert_folder, num_workers=num_workers)
    assert batches(other, 7) == expected[:7]
    state = json.loads(json.dumps(other.state_dict()))  # plain data
    rest = loader(source, bert_folder, num_workers=num_workers)
    rest.load_state_dict(state)
    assert batches(rest) == expected[7:]
    assert rest.state_dict() == whole.state_dict()
    assert rest.state_dict()["epoch"] == 1


def test_a_state_of_another_order_is_refused(source, bert_folder):
    state = loader(source, bert_folder).state_dict()
    with pytest.raises(InputError, match=r"written with data.batch_size=8, and data.batch_size=4 is given"):
        loader(source, bert_folder, batch_size=4).load_state_dict(state)
    ordinary = loader(source, bert_folder, streaming=False)
    with pytest.raises(InputError, match=r"without data.streaming"):
        loader(source, bert_folder).load_state_dict(ordinary.state_dict())
    with pytest.raises(InputError, match=r"with data.streaming"):
        ordinary.load_state_dict(state)


def test_too_few_rows(source, bert_folder):
    with pytest.raises(InputError, match="is empty"):
        loader(source, bert_folder, train_split="train[90:]")
    data = make_data(source, tokenizer=bert_folder, drop_empty=True, template="{text}", preprocess=lp.Preprocessing())
    data.setup("validate")
    stream = data.val_dataloader().stream
    stream.ranks = 100
    with pytest.raises(InputError, match="are 83, for 100 processes"):
        EvaluationStreamLoader(stream, data.collator())


def test_rows_without_text_alone(tmp_path, bert_folder):
    rows = [{"text": "" if number else "good", "label": "ab"[number % 2]} for number in range(20)]
    for split in ("train", "validation"):
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    empty = loader(str(tmp_path), bert_folder, drop_empty=True, train_split="train[1:]", labels=["a", "b"])
    with pytest.raises(InputError, match="too few rows, or none has text"):
        list(empty)


def test_recent_rows():
    recent = RecentRows()
    for number in range(5):
        recent.add({number: {"text": str(number)}})
    assert recent[4] == {"text": "4"}
    with pytest.raises(IndexError, match="row 0 of a stream is gone"):
        recent[0]
