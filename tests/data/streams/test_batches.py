from itertools import chain

import pytest

from lightning_prefix.data.streams.batches import Batching, EncodedRow
from lightning_prefix.errors import InputError

ROWS = [EncodedRow({"index": number}, length=1 + number * 7 % 10) for number in range(23)]


def indices(batches):
    return [[row.values["index"] for row in batch] for batch in batches]


def flat(lists):
    return list(chain.from_iterable(lists))


def test_rows_of_like_lengths_share_a_batch():
    batches = Batching(batch_size=4).batches(ROWS, "train", "a")
    assert sorted(flat(indices(batches))) == list(range(23))
    assert [len(batch) for batch in batches] == [4] * 5 + [3]
    assert all(max(row.length for row in batch) - min(row.length for row in batch) <= 2 for batch in batches)
    assert indices(Batching(batch_size=4).batches(ROWS, "train", "b")) != indices(batches)


def test_without_grouping_the_order_stays():
    batches = Batching(batch_size=4, group_by_length=False).batches(ROWS, "train", "a")
    assert flat(indices(batches)) == list(range(23))


def test_tokens_of_a_batch_are_limited():
    batches = Batching(batch_size=5, max_batch_tokens=20).batches(ROWS, "train", "a")
    assert sorted(flat(indices(batches))) == list(range(23))
    assert all(len(batch) <= 5 and len(batch) * max(row.length for row in batch) <= 20 for batch in batches)


def test_a_row_that_is_longer_than_a_batch():
    with pytest.raises(InputError, match=r"row 8 of 'train' has 10 tokens, and max_batch_tokens is 9. Raise"):
        Batching(batch_size=5, max_batch_tokens=9).batches(ROWS, "train", "a")
