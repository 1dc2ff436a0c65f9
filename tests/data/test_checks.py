import datasets
import pytest

from lightning_prefix.data.checks import (
    check_at_least,
    check_columns,
    check_fraction,
    is_unlabelled,
    row_error,
    text_of,
)
from lightning_prefix.errors import InputError


def test_bounds():
    check_at_least("batch_size", 1, 1)
    check_fraction("validation_fraction", 0.5)
    with pytest.raises(InputError, match="batch_size=0 was given; it must be at least 1"):
        check_at_least("batch_size", 0, 1)
    for value in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match="between 0 and 1"):
            check_fraction("validation_fraction", value)


def test_wrong_column_names_the_nearest():
    rows = datasets.Dataset.from_list([{"sentence": "a", "labels": 1}])
    with pytest.raises(InputError, match=r"no column 'label'.*'sentence', 'labels'.*Did you mean 'labels'\?"):
        check_columns(rows, ["label"], "train", "label_column")


def test_rows_count_from_one():
    assert str(row_error("train", 0, "is bad", "Mend it.")) == "row 1 of 'train' is bad. Mend it."


def test_text_of():
    assert text_of(" a ") == " a "
    assert text_of(7) == "7"
    assert [text_of(value) for value in (None, "", " \n", float("nan"))] == [None] * 4
    with pytest.raises(TypeError):
        text_of(["a"])


@pytest.mark.parametrize(
    ("values", "labels", "expected"),
    [
        ([-1, -1], (), True),
        ([-1.0], (), True),
        ([None, None], ("a",), True),
        (["-1", "-1"], ("-1", "1"), False),
        ([-1, 0], (), False),
        ([[], []], ("a",), False),
    ],
)
def test_is_unlabelled(values, labels, expected):
    rows = datasets.Dataset.from_dict({"label": values})
    assert is_unlabelled(rows, "label", labels) is expected
