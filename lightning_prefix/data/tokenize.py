"""Rows to token numbers: a top-level function with plain arguments, so that `datasets` caches its result."""

import functools
import hashlib
import json
import reprlib
from collections.abc import Callable
from typing import Any

from lightning_prefix.assets import asset_path, is_asset
from lightning_prefix.data.checks import row_error, text_of
from lightning_prefix.data.preprocess import Preprocessing, preprocess_text
from lightning_prefix.data.templates import fit_template
from lightning_prefix.errors import InputError

__all__ = ["encode_rows", "load_tokenizer", "padding_values", "resolve_max_length", "tokenizer_fingerprint"]

VERSION = 2
"""Part of the cache's key: raise it when `encode_rows` or a label reader returns something else."""

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
            f"the tokenizer {name!r} could not be loaded: {str(error).splitlines()[0]}. Give the hub id or "
            "the folder of a tokenizer or backbone, such as tokenizer='distilbert/distilroberta-base'."
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


def encode_rows(
    rows: dict[str, list[Any]],
    indices: list[int],
    *,
    split: str,
    tokenizer: str,
    fingerprint: str,  # noqa: ARG001, part of the cache's key
    version: int,  # noqa: ARG001, part of the cache's key
    text_columns: list[str],
    preprocess: Preprocessing,
    template: str | None,
    max_length: int,
    drop_empty: bool,
    label_column: str | None,
    label_name: str | None,
    read_label: Callable[[Any], Any] | None = None,
) -> dict[str, list[Any]]:
    """Tokenise a batch of rows and read its labels.

    Args:
        rows: column -> values.
        indices: position of each row in its split, from 0.
        split: name of the split, for messages.
        tokenizer: name of the tokenizer.
        fingerprint: of the tokenizer and of the libraries that preprocess.
        version: of this function.
        text_columns: the text, or the text and its pair, or the columns of the template.
        preprocess: what is done to each of these first.
        template: "Review: {text}", or None.
        max_length: tokens a row may have, special ones included.
        drop_empty: leave rows without text out, rather than raise.
        label_column: None to read no labels.
        label_name: the user's name of that column, for messages.
        read_label: a cell to a class number, a list of them as 0 and 1, or a float. It raises `ValueError`
            with what is wrong with the cell, a full stop, and what to do.

    Returns:
        What the tokenizer returns, "labels" if they are read, "row" (position in the split) and "cut"
        (whether the text was too long).

    Raises:
        InputError: for the first row without text or with a bad label.
    """
    kept, texts = texts_of_rows(rows, indices, text_columns, preprocess, split, drop_empty)
    places = [indices[position] for position in kept]
    columns, cut = tokenise(texts, places, split, load_tokenizer(tokenizer), template, max_length)
    if label_column is not None and read_label is not None:
        columns["labels"] = [
            label_of_row(rows[label_column][position], indices[position], str(label_name), split, read_label)
            for position in kept
        ]
    return {**columns, "row": places, "cut": cut}


def texts_of_rows(
    rows: dict[str, list[Any]],
    indices: list[int],
    columns: list[str],
    preprocess: Preprocessing,
    split: str,
    drop_empty: bool,
) -> tuple[list[int], list[dict[str, str]]]:
    """The positions in the batch of the rows that have text, and their texts by column, preprocessed.

    Raises:
        InputError: for the first row without text, unless `drop_empty`.
    """
    read = [_texts_of_row(rows, i, index, columns, preprocess, split, drop_empty) for i, index in enumerate(indices)]
    kept = [position for position, texts in enumerate(read) if texts is not None]
    return kept, [texts for texts in read if texts is not None]


def _texts_of_row(
    rows: dict[str, list[Any]],
    position: int,
    index: int,
    columns: list[str],
    preprocess: Preprocessing,
    split: str,
    drop_empty: bool,
) -> dict[str, str] | None:
    texts = {}
    for column in columns:
        try:
            text = text_of(rows[column][position])
        except TypeError as error:
            raise row_error(
                split, index, f"has a {error} in the column {column!r}, not a text", "Name a column of texts."
            ) from None
        processed = "" if text is None else preprocess_text(text, preprocess)
        if not processed.strip():
            if drop_empty:
                return None
            raise row_error(
                split,
                index,
                f"has no text in the column {column!r}"
                + ("" if text is None else f": preprocessing removed everything of {reprlib.repr(text)}"),
                "Every row needs a text that is not blank. "
                + ("Fill it in" if text is None else "Remove less")
                + ", or set drop_empty=True to leave such rows out.",
            )
        texts[column] = processed
    return texts


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
    texts: list[dict[str, str]],
    indices: list[int],
    split: str,
    loaded: Any,
    template: str | None,
    max_length: int,
) -> tuple[dict[str, list[Any]], list[bool]]:
    """What the tokenizer returns for the texts of rows, cut to `max_length`, and which were cut.

    Raises:
        InputError: if the words of the template alone are too long.
    """
    if not texts:  # every row of the batch was left out
        return {name: [] for name in loaded(["a"])}, []
    columns = dict(loaded(*_arguments(texts, template), truncation=False, verbose=False))
    is_long = [len(ids) > max_length for ids in columns["input_ids"]]
    long = [number for number, too_long in enumerate(is_long) if too_long]
    if not long:
        return columns, is_long
    long_texts = [texts[number] for number in long]
    if template is None:
        arguments = _arguments(long_texts, None)
    else:
        arguments = [_fitted(template, long_texts, [indices[number] for number in long], split, loaded, max_length)]
    shortened = loaded(*arguments, truncation=True, max_length=max_length, verbose=False)
    for name, values in shortened.items():
        for number, value in zip(long, values, strict=True):
            columns[name][number] = value
    return columns, is_long


def _arguments(texts: list[dict[str, str]], template: str | None) -> list[list[str]]:
    if template is not None:
        return [[template.format_map(row) for row in texts]]
    return [list(column) for column in zip(*(row.values() for row in texts), strict=True)]


def _fitted(
    template: str,
    texts: list[dict[str, str]],
    indices: list[int],
    split: str,
    tokenizer: Any,
    max_length: int,
) -> list[str]:
    def lengths(filled: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(filled, verbose=False)["input_ids"]]

    fitted = fit_template(template, texts, lengths, max_length)
    for index, length in zip(indices, lengths(fitted), strict=True):
        if length > max_length:
            raise row_error(
                split,
                index,
                f"does not fit: the template {template!r} takes {length} tokens even with its longest column "
                f"left out, and max_length is {max_length}",
                "Shorten the template or raise max_length.",
            )
    return fitted
