import datasets
import pytest

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
        indices(evaluation_loader(rows(17), {}, role="test", batch_size=4, num_workers=0, ranks=ranks, rank=rank))
        for rank in range(ranks)
    ]
    assert sorted(index for part in seen for index in part) == list(range(17))
    assert all(part == sorted(part) for part in seen)


def test_fewer_rows_than_ranks():
    with pytest.raises(InputError, match="the validation rows are 1, for 2 processes"):
        evaluation_loader(rows(1), {}, role="validation", batch_size=4, num_workers=0, ranks=2)
    with pytest.raises(InputError, match="the train rows are 1, for 2 processes"):
        train_loader(rows(1), {}, batch_size=4, num_workers=0, seed=0, ranks=2)


def test_ranks_train_on_equally_many_rows():
    lengths = {
        len(indices(train_loader(rows(17), {}, batch_size=4, num_workers=0, seed=0, ranks=2, rank=rank)))
        for rank in (0, 1)
    }
    assert lengths == {9}
