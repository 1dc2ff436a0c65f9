import datasets
import pytest

from lightning_prefix.data.collate import Collator
from lightning_prefix.data.loaders import evaluation_loader, train_loader
from lightning_prefix.errors import InputError


def rows(count):
    return datasets.Dataset.from_dict(
        {"input_ids": [[row] for row in range(count)], "row": list(range(count)), "cut": [False] * count}
    )


def indices(batches):
    return [index for batch in batches for index in batch["index"].tolist()]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_each_row_is_evaluated_once_and_in_order(ranks):
    seen = [
        indices(
            evaluation_loader(rows(17), Collator(), role="test", batch_size=4, num_workers=0, ranks=ranks, rank=rank)
        )
        for rank in range(ranks)
    ]
    assert sorted(index for part in seen for index in part) == list(range(17))
    assert all(part == sorted(part) for part in seen)


def test_fewer_rows_than_ranks():
    with pytest.raises(InputError, match="the validation rows are 1, for 2 processes"):
        evaluation_loader(rows(1), Collator(), role="validation", batch_size=4, num_workers=0, ranks=2)
    with pytest.raises(InputError, match="the train rows are 1, for 2 processes"):
        train_loader(rows(1), Collator(), batch_size=4, num_workers=0, seed=0, ranks=2)


def test_ranks_train_on_equally_many_rows():
    lengths = {
        len(indices(train_loader(rows(17), Collator(), batch_size=4, num_workers=0, seed=0, ranks=2, rank=rank)))
        for rank in (0, 1)
    }
    assert lengths == {9}


def ragged(count):
    ids = [[7] * (1 + 13 * row % 29) for row in range(count)]
    return datasets.Dataset.from_dict({"input_ids": ids, "row": list(range(count)), "cut": [False] * count})


def padded(batches):
    return sum(batch["input_ids"].numel() for batch in batches)


def test_training_rows_of_like_lengths_share_a_batch():
    options = {"batch_size": 4, "num_workers": 0, "seed": 0}
    grouped, plain = (
        list(train_loader(ragged(203), Collator(), group_by_length=by, **options)) for by in (True, False)
    )
    assert sorted(indices(grouped)) == sorted(indices(plain)) == list(range(203))
    real = sum(len(ids) for ids in ragged(203)["input_ids"])
    assert padded(grouped) < 1.1 * real < padded(plain)
    widths = [batch["input_ids"].shape[1] for batch in grouped]
    assert widths != sorted(widths)  # short and long batches in random order
    assert len(grouped[-1]["index"]) == 3


def test_evaluation_is_sorted_by_length_and_prediction_is_not():
    options = {"batch_size": 4, "num_workers": 0}
    tested = list(evaluation_loader(ragged(50), Collator(), role="test", **options))
    widths = [batch["input_ids"].shape[1] for batch in tested]
    assert widths == sorted(widths)
    assert indices(evaluation_loader(ragged(50), Collator(), role="predict", **options)) == list(range(50))
