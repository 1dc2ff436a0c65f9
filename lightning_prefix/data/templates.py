"""Templates: a row's columns in a sentence, cut so that the sentence around them stays whole."""

import string
from collections.abc import Callable

from lightning_prefix.errors import InputError

__all__ = ["fit_template", "template_columns", "text_columns"]


def text_columns(text_column: str, pair_column: str | None, template: str | None) -> list[str]:
    """The columns that make up the text of a row.

    Raises:
        InputError: if a template and a pair were given, or the template is malformed.
    """
    if template is None:
        return [text_column] if pair_column is None else [text_column, pair_column]
    if pair_column is not None:
        raise InputError(
            f"template and pair_column={pair_column!r} were both given; a template replaces both texts. "
            f"Leave pair_column out and write {{{pair_column}}} in the template."
        )
    return template_columns(template)


def template_columns(template: str) -> list[str]:
    r"""The columns that a template names, each once.

    Raises:
        InputError: if the braces do not match or no column is named.

    Examples:
        >>> template_columns("Review: {text}\nSentiment:")
        ['text']
    """
    try:
        fields = [
            (name, spec, conversion)
            for _, name, spec, conversion in string.Formatter().parse(template)
            if name is not None
        ]
    except ValueError as error:
        raise InputError(
            f"the template {template!r} is malformed: {error}. Write columns as {{text}}, and braces that "
            "are meant literally twice."
        ) from None
    if not fields or any(not name or spec or conversion for name, spec, conversion in fields):
        raise InputError(
            f"the template {template!r} names no column, or not by its name alone; columns are written as "
            f"{{text}}. Correct the template."
        )
    return list(dict.fromkeys(name for name, _, _ in fields))


def fit_template(
    template: str, values: list[dict[str, str]], lengths: Callable[[list[str]], list[int]], max_length: int
) -> list[str]:
    r"""Fill a template with rows that are too long, each with its longest value cut at its end until it fits.

    Args:
        template: such as "Review: {text}\nSentiment:".
        values: per row, column -> text.
        lengths: tokens of each text, special ones included.
        max_length: tokens allowed.

    Returns:
        One text a row. A row whose template is too long even without the value is returned uncut.
    """
    longest = [max(row, key=lambda column: len(row[column])) for row in values]
    low = [0] * len(values)  # characters kept: this many fit, or none do
    high = [len(row[column]) for row, column in zip(values, longest, strict=True)]  # this many do not fit

    def fill(kept: list[int]) -> list[str]:
        return [
            template.format_map({**row, column: row[column][:end].rstrip()})
            for row, column, end in zip(values, longest, kept, strict=True)
        ]

    while any(end - start > 1 for start, end in zip(low, high, strict=True)):
        middle = [(start + end) // 2 for start, end in zip(low, high, strict=True)]
        fits = [length <= max_length for length in lengths(fill(middle))]
        low = [m if fit else start for m, fit, start in zip(middle, fits, low, strict=True)]
        high = [end if fit else max(m, start + 1) for m, fit, start, end in zip(middle, fits, low, high, strict=True)]
    return fill(low)
