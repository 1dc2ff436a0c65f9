"""`TextGenerationDataModule`: a text, and the text to be written for it."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_prefix.data.base import TextDataModule
from lightning_prefix.data.checks import check_at_least, check_columns
from lightning_prefix.data.sources import select_split
from lightning_prefix.data.targets import encode_targets, read_targets
from lightning_prefix.data.tokenize import load_tokenizer
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["TextGenerationDataModule"]

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
    encode_function: ClassVar[Callable[..., dict[str, list[Any]]]] = staticmethod(encode_targets)
    can_pack: ClassVar[bool] = True

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

    def prepare_data(self) -> None:
        """As ever.

        Raises:
            InputError: for `packing` with an encoder-decoder.
        """
        is_fit = self.trainer is None or self.trainer.state.fn == "fit"
        if self.packing and is_fit and self.is_encoder_decoder:
            raise InputError(
                "packing is given, but the backbone is an encoder-decoder, which reads one source a row. Leave it out; "
                "group_by_length and max_batch_tokens save padding."
            )
        super().prepare_data()

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

    def encode_options(self, rows: "datasets.Dataset | None", role: str) -> dict[str, Any]:
        """How targets are read and joined."""
        prefix = self.target_prefix
        if prefix is None:
            template = self.source_template()
            ends_blank = template is not None and template[-1:].isspace()
            prefix = "" if self.is_encoder_decoder or ends_blank else " "
        return {
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
