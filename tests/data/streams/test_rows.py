import itertools

import pytest

from lightning_prefix.data.streams.rows import RowStream, Source, first_rows, select_stream
from lightning_prefix.errors import InputError


class Numbers(Source):
    """Endless rows; counts those that were read."""

    def __init__(self, is_remote=False):
        self.read, self._is_remote = 0, is_remote

    @property
    def is_remote(self):
        return self._is_remote

    def rows(self, first=0):
        for number in itertools.count(first):
            self.read += 1
            yield {"text": f"film {number}", "label": number % 3}


def test_only_the_first_rows_are_kept():
    source = Numbers()
    stream = RowStream(source, "train")
    assert stream.column_names == ["text", "label"]
    assert len(first_rows(stream)) == source.read == 1000
    assert first_rows([1, 2]) == [1, 2]


def test_shares_hold_each_row_once_and_go_on_anywhere():
    stream = RowStream(Numbers(), "train")
    shares = [list(itertools.islice(stream.share(number, 3), 5)) for number in range(3)]
    assert sorted(index for share in shares for index, _ in share) == list(range(15))
    assert all(row["text"] == f"film {index}" for share in shares for index, row in share)
    assert list(itertools.islice(stream.share(1, 3, first=2), 3)) == shares[1][2:]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("a[:3]", [0, 1, 2]),
        ("a[2:4]", [2, 3]),
        (" a[1:2] + b[5:7]", [1, 5, 6]),
        ("a[100:102]", [100, 101]),
    ],
)
def test_slices_and_sums(name, expected):
    chosen = select_stream({"a": RowStream(Numbers(), "a"), "b": RowStream(Numbers(), "b")}, name)
    assert [row["text"] for row in chosen.source.rows()] == [f"film {number}" for number in expected]
    assert [row["text"] for row in chosen.source.rows(1)] == [f"film {number}" for number in expected[1:]]


@pytest.mark.parametrize("name", ["a[:10%]", "a[-5:]", "a[", "c"])
def test_slices_that_need_the_number_of_rows(name):
    with pytest.raises(InputError, match=r"how many rows they have is not known.*by rows from the first"):
        select_stream({"a": RowStream(Numbers(), "a")}, name)


def test_names_of_classes_are_found_in_one_pass():
    chosen = select_stream({"a": RowStream(Numbers(), "a")}, "a[:5000]")
    assert sorted(chosen.unique("label")) == [0, 1, 2]
    with pytest.raises(InputError, match=r"more than 10000 different values.*Name the column"):
        RowStream(Numbers(), "train").unique("text")


def test_a_remote_source_is_not_read_for_the_names_of_classes():
    with pytest.raises(InputError, match=r"over the network.*Give labels="):
        RowStream(Numbers(is_remote=True), "train").unique("label")
