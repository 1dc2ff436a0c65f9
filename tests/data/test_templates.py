import pytest

from lightning_prefix.data.templates import fit_template, template_columns
from lightning_prefix.errors import InputError


def words(texts):
    return [len(text.split()) for text in texts]


def test_columns():
    assert template_columns("{a} and {b}, {a}. {{literally}}") == ["a", "b"]


@pytest.mark.parametrize("template", ["Review: {text", "no column", "{}", "{text!r}", "{text:>5}"])
def test_malformed_template(template):
    with pytest.raises(InputError, match="the template"):
        template_columns(template)


def test_longest_column_is_cut_and_the_rest_stays():
    rows = [{"a": "x y", "b": " ".join(map(str, range(100)))}, {"a": "x " * 50, "b": "y"}]
    texts = fit_template("A: {a} B: {b} ?", rows, words, 10)
    assert texts == ["A: x y B: 0 1 2 3 4 ?", "A: x x x x x x B: y ?"]


def test_template_that_never_fits_is_returned_without_the_value():
    assert fit_template("one two three {a}", [{"a": "x y z"}], words, 2) == ["one two three "]


def test_braces_in_a_value_are_text():
    assert fit_template("{a}", [{"a": "{b} " * 9}], words, 2) == ["{b} {b}"]
