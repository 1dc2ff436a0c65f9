"""Rows to token numbers: a top-level function with plain arguments, so that `datasets` caches its result."""

import functools
import hashlib
import json
import reprlib
from collections.abc import Callable
from typing import Any

from lightning_prefix.assets import asset_path, is_asset
from lightning_prefix.data.checks import read_each, row_error, text_of
from lightning_prefix.data.preprocess import preprocess_text
from lightning_prefix.data.reading import LABEL, Reading
from lightning_prefix.data.templates import fit_template
from lightning_prefix.errors import InputError, hub_advice

__all__ = ["encode_rows", "load_tokenizer", "padding_values", "resolve_max_length", "tokenizer_fingerprint"]

VERSION = 3
"""Part of the cache's key: raise it when an encoder or a label reader returns something else."""

_SMALLEST_MAX_LENGTH = 8
_DEFAULT_MAX_LENGTH = 512
_NO_LIMIT = 10**9  # tokenizers without a limit report 10**30


@functools.lru_cache(maxsize=8)
def load_tokenizer(name: str, **languages: str) -> Any:
    """The tokenizer of this hub id, folder or asset, loaded once per process.

    Args:
        name: of the tokenizer.
        languages: `src_lang` and `tgt_lang` of a multilingual translation model.

    Raises:
        InputError: if there is none.
    """
    from transformers import AutoTokenizer

    folder = str(asset_path(name)) if is_asset(name) else name
    try:
        return AutoTokenizer.from_pretrained(folder, **languages)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"the tokenizer {name!r} could not be loaded: {str(error).splitlines()[0].rstrip('.')}. "
            f"{hub_advice(error)}Give the hub id or the folder of a tokenizer or backbone, such as "
            "tokenizer='distilbert/distilroberta-base'."
        ) from error


@functools.lru_cache(maxsize=8)
def tokenizer_fingerprint(name: str) -> str:
    """A hash of what the tokenizer does, since a folder may change under the same name."""
    tokenizer = load_tokenizer(name)
    if tokenizer.is_fast:
        backend = tokenizer.backend_tokenizer
        backend.no_truncation()  # both are left over from earlier calls
        backend.no_padding()
        content = backend.to_str()
    else:
        content = json.dumps([type(tokenizer).__name__, sorted(tokenizer.get_vocab().items())])
    content += json.dumps(tokenizer.model_input_names)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def resolve_max_length(tokenizer: str, max_length: int | None) -> int:
    """The number of tokens a text may have.

    Args:
        tokenizer: name of the tokenizer.
        max_length: what the user gave; None for the tokenizer's own limit, or 512 if it has none.

    Raises:
        InputError: if it is below 8 or above the tokenizer's limit.
    """
    limit = load_tokenizer(tokenizer).model_max_length
    is_limited = limit is not None and limit < _NO_LIMIT
    if max_length is None:
        return int(limit) if is_limited else _DEFAULT_MAX_LENGTH
    if max_length < _SMALLEST_MAX_LENGTH or (is_limited and max_length > limit):
        allowed = f"between {_SMALLEST_MAX_LENGTH} and {limit}" if is_limited else f"at least {_SMALLEST_MAX_LENGTH}"
        raise InputError(
            f"max_length={max_length} was given; for the tokenizer {tokenizer!r} it must be {allowed} "
            "tokens. Give such a number, or leave max_length out for the largest one."
        )
    return max_length


def padding_values(tokenizer: str) -> dict[str, int]:
    """What fills the end of shorter rows, per key of the batch; keys that are not named are filled with 0."""
    loaded = load_tokenizer(tokenizer)
    candidates = (
        loaded.pad_token_id,
        loaded.eos_token_id,
        0,
    )  # GPT-2 has no padding token; it is masked anyway
    pad = next(number for number in candidates if number is not None)
    return {"input_ids": int(pad), "token_type_ids": int(getattr(loaded, "pad_token_type_id", 0) or 0)}


def encode_rows(rows: dict[str, list[Any]], indices: list[int], reading: Reading) -> dict[str, list[Any]]:
    """Tokenise a batch of rows and read its labels: class numbers, lists of them as 0 and 1, or floats.

    Args:
        rows: column -> values.
        indices: position of each row in its split, from 0.
        reading: how.

    Returns:
        What the tokenizer returns, "labels" if they are read, "row" (position in the split) and "cut"
        (whether the text was too long).

    Raises:
        InputError: for the first five rows without text, or with a bad label.
    """
    kept, texts = texts_of_rows(rows, indices, reading)
    places = [indices[position] for position in kept]
    columns, cut = tokenise(texts, places, load_tokenizer(reading.tokenizer), reading)
    if (labels := labels_of_rows(rows, indices, kept, reading)) is not None:
        columns["labels"] = labels
    return {**columns, "row": places, "cut": cut}


def texts_of_rows(
    rows: dict[str, list[Any]], indices: list[int], reading: Reading
) -> tuple[list[int], list[dict[str, str]]]:
    """The positions in the batch of the rows that have text, and their texts by column, preprocessed.

    Raises:
        InputError: for the first five rows without text, unless `drop_empty`.
    """
    read = read_each(lambda place: _texts_of_row(rows, *place, reading), enumerate(indices))
    kept = [position for position, texts in enumerate(read) if texts is not None]
    return kept, [texts for texts in read if texts is not None]


def _texts_of_row(rows: dict[str, list[Any]], position: int, index: int, reading: Reading) -> dict[str, str] | None:
    texts = {}
    for column in reading.text_columns:
        try:
            text = text_of(rows[column][position])
        except TypeError as error:
            raise row_error(
                reading.split, index, f"has a {error} in the column {column!r}, not a text", "Name a column of texts."
            ) from None
        processed = "" if text is None else preprocess_text(text, reading.preprocess)
        if not processed.strip():
            if reading.drop_empty:
                return None
            raise row_error(
                reading.split,
                index,
                f"has no text in the column {column!r}"
                + ("" if text is None else f": preprocessing removed everything of {reprlib.repr(text)}"),
                "Every row needs a text that is not blank. "
                + ("Fill it in" if text is None else "Remove less")
                + ", or set drop_empty=True to leave such rows out.",
            )
        texts[column] = processed
    return texts


def labels_of_rows(
    rows: dict[str, list[Any]], indices: list[int], kept: list[int], reading: Reading
) -> list[Any] | None:
    """What is trained on, for the rows at the positions `kept` of the batch; None if no labels are read.

    Raises:
        InputError: for the first five bad labels.
    """
    column, read_label = reading.label_column, reading.read_label
    if column is None or read_label is None:
        return None
    cells = rows[LABEL]
    return read_each(lambda n: label_of_row(cells[n], indices[n], column, reading.split, read_label), kept)


def label_of_row(value: Any, index: int, column: str, split: str, read_label: Callable[[Any], Any]) -> Any:
    """What is trained on, from the cell of the label column.

    Raises:
        InputError: if `read_label` raises `ValueError`.
    """
    try:
        return read_label(value)
    except ValueError as error:
        problem, _, advice = str(error).partition(". ")
        raise row_error(
            split, index, f"has the label {reprlib.repr(value)} in the column {column!r}: {problem}", advice
        ) from None


def tokenise(
    texts: list[dict[str, str]], indices: list[int], loaded: Any, reading: Reading
) -> tuple[dict[str, list[Any]], list[bool]]:
    """What the tokenizer returns for the texts of rows, cut to `max_length`, and which were cut.

    Raises:
        InputError: if the words of the template alone are too long.
    """
    if not texts:  # every row of the batch was left out
        return {name: [] for name in loaded(["a"])}, []
    template, max_length = reading.template, reading.max_length
    columns = dict(loaded(*_arguments(texts, template), truncation=False, verbose=False))
    is_long = [len(ids) > max_length for ids in columns["input_ids"]]
    long = [number for number, too_long in enumerate(is_long) if too_long]
    if not long:
        return columns, is_long
    long_texts = [texts[number] for number in long]
    if template is None:
        arguments = _arguments(long_texts, None)
    else:
        arguments = [_fitted(template, long_texts, [indices[number] for number in long], loaded, reading)]
    shortened = loaded(*arguments, truncation=True, max_length=max_length, verbose=False)
    for name, values in shortened.items():
        for number, value in zip(long, values, strict=True):
            columns[name][number] = value
    return columns, is_long


def _arguments(texts: list[dict[str, str]], template: str | None) -> list[list[str]]:
    if template is not None:
        return [[template.format_map(row) for row in texts]]
    return [list(column) for column in zip(*(row.values() for row in texts), strict=True)]


def _fitted(template: str, texts: list[dict[str, str]], indices: list[int], loaded: Any, reading: Reading) -> list[str]:
    def lengths(filled: list[str]) -> list[int]:
        return [len(ids) for ids in loaded(filled, verbose=False)["input_ids"]]

    fitted = fit_template(template, texts, lengths, reading.max_length)
    for index, length in zip(indices, lengths(fitted), strict=True):
        if length > reading.max_length:
            raise row_error(
                reading.split,
                index,
                f"does not fit: the template {template!r} takes {length} tokens even with its longest column "
                f"left out, and max_length is {reading.max_length}",
                "Shorten the template or raise max_length.",
            )
    return fitted
