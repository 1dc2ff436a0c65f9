import lightning
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_prefix.data.collate import Collator
from lightning_prefix.data.loaders import train_loader
from lightning_prefix.data.resume import ResumableDataLoader, ResumableSampler

pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # lightning 2.6 with torch 2.13

ROWS, BATCH_SIZE, EPOCHS = 23, 4, 4
STEPS = 6  # per epoch


class Recorder(lightning.LightningModule):
    """Records the rows of every train batch, and saves a checkpoint where it is told to."""

    def __init__(self, save_at=None, where="batch", path=None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen, self.validated = [], 0
        self.save_at, self.where, self.path = save_at, where, path

    def training_step(self, batch):
        self.seen.append((self.current_epoch, batch["index"].tolist()))
        return self.weight.sum()

    def validation_step(self, _):
        self.validated += 1

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def save(self, where):
        if self.where == where and self.global_step == self.save_at and not self.path.exists():
            self.trainer.save_checkpoint(self.path)

    def on_train_batch_end(self, *_):
        self.save("batch")

    def on_validation_end(self):
        self.save("validation")

    def on_train_epoch_end(self):
        self.save("epoch")


def loader(num_workers=0, **options):
    import datasets

    rows = datasets.Dataset.from_dict(
        {"input_ids": [[row] * (1 + row % 5) for row in range(ROWS)], "row": list(range(ROWS)), "cut": [False] * ROWS}
    )
    return train_loader(rows, Collator(), batch_size=BATCH_SIZE, num_workers=num_workers, seed=3, **options)


def fit(module, num_workers=0, checkpoint=None, **options):
    options = {"max_epochs": EPOCHS, "val_check_interval": 3, **options}
    trainer = lightning.Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        **{"enable_checkpointing": False, **options},
    )
    trainer.fit(module, loader(num_workers), torch.utils.data.DataLoader(range(2)), ckpt_path=checkpoint)
    return module.seen


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("save_at", "where"),
    [
        (1, "batch"),
        (8, "batch"),  # mid-epoch
        (9, "validation"),  # at a validation in mid-epoch
        (12, "batch"),  # last batch of an epoch
        (12, "validation"),
        (12, "epoch"),
        (20, "batch"),
    ],
)
def test_resumed_run_sees_what_the_uninterrupted_run_sees(tmp_path, num_workers, save_at, where):
    path = tmp_path / "there.ckpt"
    whole = fit(Recorder(save_at, where, path), num_workers)
    assert len(whole) == STEPS * EPOCHS
    rest = fit(Recorder(), num_workers, path)
    assert rest == whole[save_at:]


@pytest.mark.parametrize("where", ["batch", "validation", "epoch"])
@pytest.mark.parametrize("limit", [1.0, 4])
def test_resume_at_an_epoch_end_of_a_run_of_steps(tmp_path, where, limit):
    """Lightning's own number of the epoch is one ahead then."""
    path, save_at = tmp_path / "there.ckpt", 2 * (STEPS if limit == 1.0 else limit)
    options = {"max_steps": 20, "max_epochs": -1, "limit_train_batches": limit, "val_check_interval": 1.0}
    whole = fit(Recorder(save_at, where, path), **options)
    rest = fit(Recorder(), 0, path, **options)
    assert [rows for _, rows in rest] == [rows for _, rows in whole[save_at:]]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_run_that_was_stopped_and_resumed_twice(tmp_path, num_workers):
    whole = fit(Recorder(), num_workers)
    seen, path = [], None
    for stop in (4, 15, STEPS * EPOCHS):
        saver = ModelCheckpoint(tmp_path, save_last=True, every_n_train_steps=1)
        part = Recorder()
        fit(part, num_workers, path, max_steps=stop, callbacks=[saver], enable_checkpointing=True)
        seen += part.seen
        path = saver.last_model_path
    assert seen == whole


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(("save_at", "where"), [(6, "batch"), (8, "epoch"), (8, "batch")])
def test_resume_with_fewer_batches_per_epoch(tmp_path, num_workers, save_at, where):
    path = tmp_path / "there.ckpt"
    options = {"limit_train_batches": 4, "val_check_interval": 1.0}
    whole = fit(Recorder(save_at, where, path), num_workers, **options)
    assert fit(Recorder(), num_workers, path, **options) == whole[save_at:]


def test_epochs_differ_and_each_is_whole():
    seen = fit(Recorder())
    epochs = [[row for epoch, rows in seen if epoch == number for row in rows] for number in range(EPOCHS)]
    assert all(sorted(rows) == list(range(ROWS)) for rows in epochs)
    assert len({tuple(rows) for rows in epochs}) == EPOCHS


def test_order_depends_on_seed_and_epoch_alone():
    first = [batch["index"].tolist() for batch in loader()]
    torch.rand(10)
    assert [batch["index"].tolist() for batch in loader(2)] == first


def test_loading_takes_no_random_numbers():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    list(loader())
    assert torch.equal(torch.rand(3), expected)


def test_state_counts_batches_and_turns_over_with_the_epoch():
    batches = loader()
    assert batches.state_dict() == {"epoch": 0, "batches": 0}
    iterator = iter(batches)
    next(iterator)
    assert batches.state_dict() == {"epoch": 0, "batches": 1}
    list(iterator)
    assert batches.state_dict() == {"epoch": 1, "batches": 0}


def test_loaded_state_is_returned_and_skips_once():
    batches = loader()
    batches.load_state_dict({"epoch": 2, "batches": 4})
    assert batches.state_dict() == {"epoch": 2, "batches": 4}
    assert len(batches) == STEPS
    assert len(list(batches)) == 2
    assert len(list(batches)) == STEPS


def test_skipped_rows_are_not_read():
    class Rows(torch.utils.data.Dataset):
        def __init__(self):
            self.read = []

        def __len__(self):
            return 10

        def __getitem__(self, index):
            self.read.append(index)
            return index

    rows = Rows()
    batches = ResumableDataLoader(rows, batch_size=2, sampler=ResumableSampler(rows, 1, 0, seed=1))
    batches.load_state_dict({"epoch": 0, "batches": 4})
    list(batches)
    assert len(rows.read) == 2


def test_two_ranks_share_the_rows_and_resume_alike():
    ranks = [loader(ranks=2, rank=rank) for rank in (0, 1)]
    whole = [[batch["index"].tolist() for batch in batches] for batches in ranks]
    assert {row for batches in whole for batch in batches for row in batch} == set(range(ROWS))
    for batches, expected in zip([loader(ranks=2, rank=rank) for rank in (0, 1)], whole, strict=True):
        batches.load_state_dict({"epoch": 0, "batches": 1})
        assert [batch["index"].tolist() for batch in batches] == expected[1:]


def test_overfit_batches_replaces_the_sampler():
    seen = fit(Recorder(), overfit_batches=2, val_check_interval=1.0, max_epochs=2)
    assert [rows for _, rows in seen] == [[0, 1, 2, 3], [4, 5, 6, 7]] * 2
