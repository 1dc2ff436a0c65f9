"""Texts with the texts to be written for them, to tokens."""

from collections.abc import Mapping
from typing import Any

from lightning_prefix.data.checks import row_error
from lightning_prefix.data.collate import NO_LABEL
from lightning_prefix.data.linearize import linearize
from lightning_prefix.data.reading import Reading
from lightning_prefix.data.tokenize import labels_of_rows, load_tokenizer, texts_of_rows, tokenise

__all__ = ["encode_targets", "read_targets", "target_tokens", "without_unknown"]


def read_targets(value: Any, no_answer: str | None = None) -> list[str]:
    """The target texts of a cell, each once.

    Args:
        value: a text, a list of texts, or a dict with a list of them as "text", as in SQuAD.
        no_answer: the target of an empty list; None where that is an error.

    Raises:
        ValueError: if there is none, or it is blank.

    Examples:
        >>> read_targets(["a", "b", "a"]), read_targets({"text": [], "answer_start": []}, "no answer")
        (['a', 'b'], ['no answer'])
    """
    if isinstance(value, Mapping):
        value = value.get("text")
    texts = value if isinstance(value, list) else [value]
    found = list(dict.fromkeys(text.strip() for text in texts if isinstance(text, str) and text.strip()))
    if found or (no_answer is not None and value in ([], None)):
        return found or [str(no_answer)]
    raise ValueError(
        "a target must be a text that is not blank, or a list of such. Correct the row, or remove it."
        if no_answer is None
        else "the answers must be texts that are not blank. Correct the row, or remove it."
    )


def encode_targets(
    rows: dict[str, list[Any]],
    indices: list[int],
    reading: Reading,
    *,
    target_prefix: str,
    max_target_length: int,
    is_encoder_decoder: bool,
    is_train: bool,
    languages: dict[str, str],
    is_table: bool = False,
) -> dict[str, list[Any]]:
    """Tokenise sources and targets; the first arguments are those of `encode_rows`.

    `reading.read_label` makes of a cell the list of its targets. `target_prefix` comes in front of each, which then
    has up to `max_target_length` tokens with its end. Unless `is_encoder_decoder`, it is appended to the source. With
    `is_train` every target is a row, and there are no references. `languages` holds `src_lang` and `tgt_lang`. With
    `is_table` the source columns are linearised.

    Returns:
        The columns of a batch, "row", "cut" and "length".

    Raises:
        InputError: for the first row without text or target.
    """
    if is_table:
        rows = {**rows, **{column: [linearize(cell) for cell in rows[column]] for column in reading.text_columns}}
    kept, texts = texts_of_rows(rows, indices, reading)
    places = [indices[position] for position in kept]
    loaded = load_tokenizer(reading.tokenizer, **languages)
    sources, cut = tokenise(texts, places, loaded, reading)
    if not is_encoder_decoder:
        sources = {"input_ids": [without_end(ids, loaded) for ids in sources["input_ids"]]}
        sources["attention_mask"] = [[1] * len(ids) for ids in sources["input_ids"]]
    if (targets := labels_of_rows(rows, indices, kept, reading)) is None:
        return {**sources, "row": places, "cut": cut}
    pairs = [(place, target) for place, row in enumerate(targets) for target in (row if is_train else row[:1])]
    tokens = target_tokens([target_prefix + text for _, text in pairs], loaded, max_target_length, is_encoder_decoder)
    labels = [without_unknown(ids, loaded) for ids in tokens]
    added = {NO_LABEL, *loaded.all_special_ids}  # the end of the text, languages
    for (place, text), ids in zip(pairs, labels, strict=True):
        if NO_LABEL in ids and added.issuperset(ids):
            raise row_error(
                reading.split,
                places[place],
                f"has the target {text!r}, of which the tokenizer {reading.tokenizer!r} knows no token",
                "Give a target in a language of the backbone, or remove the row.",
            )
    order = [place for place, _ in pairs]
    columns = {name: [values[place] for place in order] for name, values in sources.items()}
    if is_encoder_decoder:
        columns["labels"] = labels
        columns["length"] = [len(ids) + len(target) for ids, target in zip(columns["input_ids"], tokens, strict=True)]
    else:
        prompts = columns["input_ids"]
        columns = joined(prompts, tokens, labels)
        if not is_train:
            columns["prompt_length"] = [len(prompt) for prompt in prompts]
    if not is_train:
        columns["references"] = targets
    return {**columns, "row": [places[place] for place in order], "cut": [cut[place] for place in order]}


def target_tokens(texts: list[str], loaded: Any, max_length: int, is_encoder_decoder: bool) -> list[list[int]]:
    """The tokens of targets, at most `max_length`; each ends in the end-of-text token unless it was cut."""
    if not texts:
        return []
    if is_encoder_decoder:
        tokens = loaded(text_target=texts, truncation=True, max_length=max_length, verbose=False)["input_ids"]
    else:
        tokens = loaded(texts, add_special_tokens=False, verbose=False)["input_ids"]
    end = loaded.eos_token_id
    ended = [ids if end is None or end in ids else [*ids, end] for ids in tokens]
    return [ids[:max_length] for ids in ended]


def without_end(ids: list[int], loaded: Any) -> list[int]:
    """The tokens of a source without the ones that end a text, since its target follows."""
    ends = {loaded.eos_token_id, loaded.sep_token_id}
    while ids and ids[-1] in ends:
        ids = ids[:-1]
    return ids


def without_unknown(ids: list[int], loaded: Any) -> list[int]:
    """Labels from tokens: the unknown token is none, since nobody wants it written; some models cannot write it."""
    special = {loaded.eos_token_id, loaded.bos_token_id, loaded.pad_token_id}
    unknown = loaded.unk_token_id
    return ids if unknown is None or unknown in special else [NO_LABEL if i == unknown else i for i in ids]


def joined(sources: list[list[int]], tokens: list[list[int]], labels: list[list[int]]) -> dict[str, list[Any]]:
    """Rows of a decoder: the source, and the target after it, which alone is labelled."""
    rows = [[*source, *target] for source, target in zip(sources, tokens, strict=True)]
    return {
        "input_ids": rows,
        "attention_mask": [[1] * len(row) for row in rows],
        "labels": [[NO_LABEL] * len(source) + target for source, target in zip(sources, labels, strict=True)],
    }
