"""`TextGenerationDataModule`: a text, and the text to be written for it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_prefix.data.base import TextDataModule
from lightning_prefix.data.checks import check_at_least, check_columns, row_error
from lightning_prefix.data.collate import NO_LABEL
from lightning_prefix.data.linearize import linearize
from lightning_prefix.data.preprocess import Preprocessing
from lightning_prefix.data.sources import select_split
from lightning_prefix.data.tokenize import label_of_row, load_tokenizer, texts_of_rows, tokenise
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["TextGenerationDataModule", "encode_targets", "read_targets"]

_SMALLEST_SOURCE = 8  # tokens, as for `max_length`


class TextGenerationDataModule(TextDataModule):
    r"""Texts, each with a text to be written for it: summaries, text from tables, and the like.

    A batch for an encoder-decoder holds `input_ids` and `attention_mask` of the source, and `labels`, the tokens of
    the target, long (batch, target tokens). For a decoder the target follows the source in `input_ids`, and `labels`,
    long (batch, tokens), are -100 everywhere else. Rows to evaluate also hold `references`, one list of texts a row,
    and for a decoder `prompt_length`.

    Args:
        source: as in `TextDataModule`.
        text_column: column of the source text.
        target_column: column of the target: a text, or a list of texts that are all right. In training each of these
            is a row of its own; in evaluation the best counts.
        template: a text with columns in braces that replaces the source text, such as "summarize: {text}" for T5.
        linearize: write tables in the source columns as "name : value | name : value" (Li & Liang 2021): E2E's
            "name[value], ...", dicts, and lists of triples as in WebNLG and DART.
        target_prefix: put in front of every target; None for a blank where a decoder's source does not end with white
            space, else nothing.
        max_target_length: tokens a target may have, >= 2; longer ones are cut for the loss, not for the metrics.
        is_encoder_decoder: whether the backbone reads the source with an encoder; None for what the task's backbone is.
        **options: see `TextDataModule`; `max_length` is that of the source, without the target.
    """

    stored: ClassVar[tuple[str, ...]] = (
        *(name for name in TextDataModule.stored if name != "pair_column"),
        "target_column",
        "linearize",
        "target_prefix",
        "max_target_length",
        "is_encoder_decoder",
    )
    encode_function: ClassVar[Callable[..., dict[str, list[Any]]]]

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        target_column: str = "target",
        linearize: bool = False,
        target_prefix: str | None = None,
        max_target_length: int = 128,
        is_encoder_decoder: bool | None = None,
        **options: Any,
    ) -> None:
        super().__init__(source, label_column=target_column, **options)
        check_at_least("max_target_length", max_target_length, 2)
        self.target_column, self.target_prefix = target_column, target_prefix
        self.max_target_length, self.linearize = max_target_length, linearize
        self._is_encoder_decoder = is_encoder_decoder

    @property
    def is_encoder_decoder(self) -> bool:
        """Whether the backbone reads the source with an encoder.

        Raises:
            InputError: if it is not known.
        """
        known = self._is_encoder_decoder
        if known is None:
            known = getattr(self.task, "is_encoder_decoder", None)
        if known is None:
            raise InputError(
                f"{type(self).__name__} does not know how its rows are read: no task with a backbone is being run. "
                "Give is_encoder_decoder=True for an encoder-decoder, False for a causal language model."
            )
        return bool(known)

    @property
    def reserved(self) -> int:
        """A decoder's row holds the target too.

        Raises:
            InputError: if the target leaves too little of the backbone's positions.
        """
        if self.is_encoder_decoder:
            return 0
        positions = getattr(self.task, "position_limit", None)
        if positions is not None and positions - self.max_target_length < _SMALLEST_SOURCE:
            raise InputError(
                f"max_target_length={self.max_target_length} was given, but the backbone has positions for {positions} "
                f"tokens of source and target; use max_target_length <= {positions - _SMALLEST_SOURCE}."
            )
        return self.max_target_length

    @property
    def generation(self) -> dict[str, Any]:
        """What `generate` must know of these data."""
        return {"max_new_tokens": self.max_target_length}

    def serve(self, task: Any) -> None:
        """Read texts for this task outside of a Trainer; it writes with the tokenizer that reads them."""
        super().serve(task)
        if self.tokenizer is not None:
            task.tokenizer = load_tokenizer(self.tokenizer)

    def find_labels(self) -> tuple[str, ...]:
        """No names: the targets are texts."""
        return ()

    def label_reader(self, rows: "datasets.Dataset") -> Callable[[Any], list[str]]:
        """`read_targets`, for every split."""
        return read_targets

    def is_labelled(self, rows: "datasets.Dataset") -> bool:
        """Whether any row has a target."""
        name = self.label_column
        return name in rows.column_names and any(value not in (None, "", []) for value in rows[name])

    def check_labels(self, rows: "datasets.Dataset", role: str) -> None:
        """Raise `InputError` unless there are targets."""
        split = self.split_names[role]
        check_columns(rows, [self.label_column], split, "target_column")
        if not self.is_labelled(rows):
            raise InputError(
                f"the split {split!r} has no targets: every {self.label_column!r} is empty, as in hidden test sets. "
                f"Name another split with {role}_split, such as 'validation'."
            )

    def cut_validation(self, rows: "datasets.Dataset") -> "tuple[datasets.Dataset, datasets.Dataset]":
        """Cut `validation_fraction` of the raw rows off, with every row that was made of them."""
        one_of_each = {row: place for place, row in enumerate(rows["row"][:])}
        held = set(super().cut_validation(rows.select(one_of_each.values()))[1]["row"][:])
        train = rows.select([place for place, row in enumerate(rows["row"][:]) if row not in held])
        validation = select_split(self.splits, self.split_names["train"]).select(sorted(held))
        return train, self._encode("validation", validation, is_labelled=True)

    def source_template(self) -> str | None:
        """The template that is used."""
        return self.template

    def encode_options(self, rows: "datasets.Dataset | None", role: str) -> dict[str, Any]:
        """How targets are read and joined."""
        template = self.source_template()
        prefix = self.target_prefix
        if prefix is None:
            ends_blank = template is not None and template[-1:].isspace()
            prefix = "" if self.is_encoder_decoder or ends_blank else " "
        return {
            **super().encode_options(rows, role),
            "template": template,
            "target_prefix": prefix,
            "max_target_length": self.max_target_length,
            "is_encoder_decoder": self.is_encoder_decoder,
            "is_train": role == "train",
            "languages": self.languages(),
            "is_table": self.linearize,
        }

    def languages(self) -> dict[str, str]:
        """Options of a tokenizer that must know languages."""
        return {}


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
    read_label: Callable[[Any], list[str]] | None,
    target_prefix: str,
    max_target_length: int,
    is_encoder_decoder: bool,
    is_train: bool,
    languages: dict[str, str],
    is_table: bool = False,
) -> dict[str, list[Any]]:
    """Tokenise sources and targets; the first arguments are those of `encode_rows`.

    `read_label` makes of a cell the list of its targets. `target_prefix` comes in front of each, which then has up to
    `max_target_length` tokens with its end. Unless `is_encoder_decoder`, it is appended to the source. With `is_train`
    every target is a row, and there are no references. `languages` holds `src_lang` and `tgt_lang`.
    With `is_table` the source columns are linearised.

    Returns:
        The columns of a batch, "row", "cut" and "length".

    Raises:
        InputError: for the first row without text or target.
    """
    if is_table:
        rows = {**rows, **{column: [linearize(cell) for cell in rows[column]] for column in text_columns}}
    kept, texts = texts_of_rows(rows, indices, text_columns, preprocess, split, drop_empty)
    places = [indices[position] for position in kept]
    loaded = load_tokenizer(tokenizer, **languages)
    sources, cut = tokenise(texts, places, split, loaded, template, max_length)
    if not is_encoder_decoder:
        sources = {"input_ids": [without_end(ids, loaded) for ids in sources["input_ids"]]}
        sources["attention_mask"] = [[1] * len(ids) for ids in sources["input_ids"]]
    if label_column is None or read_label is None:
        return {**sources, "row": places, "cut": cut}
    targets = [
        label_of_row(rows[label_column][position], indices[position], str(label_name), split, read_label)
        for position in kept
    ]
    pairs = [(place, target) for place, row in enumerate(targets) for target in (row if is_train else row[:1])]
    tokens = target_tokens([target_prefix + text for _, text in pairs], loaded, max_target_length, is_encoder_decoder)
    labels = [without_unknown(ids, loaded) for ids in tokens]
    added = {NO_LABEL, *loaded.all_special_ids}  # the end of the text, languages
    for (place, text), ids in zip(pairs, labels, strict=True):
        if NO_LABEL in ids and added.issuperset(ids):
            raise row_error(
                split,
                places[place],
                f"has the target {text!r}, of which the tokenizer {tokenizer!r} knows no token",
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


TextGenerationDataModule.encode_function = staticmethod(encode_targets)
