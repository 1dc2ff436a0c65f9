"""`DialogueDataModule`: conversations, of which the replies are learnt."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_prefix.data.checks import check_columns
from lightning_prefix.data.conversations import encode_conversations
from lightning_prefix.data.generation import TextGenerationDataModule
from lightning_prefix.errors import InputError

if TYPE_CHECKING:
    import datasets

__all__ = ["DialogueDataModule"]


class DialogueDataModule(TextGenerationDataModule):
    """Conversations; the loss is on the replies only, every reply of a conversation in one row where it fits.

    A conversation is a list of {"role": ..., "content": ...} (or {"from", "value"}), with the roles user and assistant
    in turn, perhaps after one system message; or a list of texts, or one text with `turn_separator`, where the user
    speaks first. A conversation longer than `max_length` becomes several rows, cut between turns, so that every reply
    is learnt once. What the model reads before a reply loses its oldest turns first. Turns after the last reply are
    not used. In evaluation the last reply of every row is written by the model, too, in `max_target_length` tokens.

    Args:
        source: as in `TextDataModule`.
        messages_column: column of the conversation.
        turn_separator: between the turns where a conversation is one text, such as "__eou__".
        system: system message of conversations that have none.
        chat_template: Jinja template of the conversation, as transformers' `apply_chat_template` takes it; None for
            the tokenizer's own, or "User: ..." and "Assistant: ..." on lines if it has none.
        max_target_length: tokens of a reply that is written, >= 2.
        **options: see `TextGenerationDataModule`; `max_length` is that of the whole row. Templates are not used.
    """

    stored: ClassVar[tuple[str, ...]] = (
        *(name for name in TextGenerationDataModule.stored if name not in ("text_column", "target_column", "template")),
        "messages_column",
        "turn_separator",
        "system",
        "chat_template",
    )
    encode_function: ClassVar[Callable[..., dict[str, list[Any]]]] = staticmethod(encode_conversations)

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        messages_column: str = "messages",
        turn_separator: str | None = None,
        system: str | None = None,
        chat_template: str | None = None,
        max_target_length: int = 64,
        **options: Any,
    ) -> None:
        super().__init__(
            source,
            text_column=messages_column,
            target_column="",
            max_target_length=max_target_length,
            **options,
        )
        if self.template is not None:
            raise InputError("a template is given; conversations are written by a chat_template, which is Jinja.")
        self.messages_column, self.turn_separator = messages_column, turn_separator
        self.system, self.chat_template = system, chat_template

    @property
    def reserved(self) -> int:
        """Nothing: `max_length` is that of the whole row."""
        return 0

    def is_labelled(self, rows: "datasets.Dataset") -> bool:
        """Whether there are conversations."""
        return self.messages_column in rows.column_names

    def check_labels(self, rows: "datasets.Dataset", role: str) -> None:
        """Nothing: the replies are looked for as conversations are read."""

    def _encode(self, role: str, rows: "datasets.Dataset", *, is_labelled: bool) -> "datasets.Dataset":
        check_columns(rows, [self.messages_column], self.split_names.get(role, role), "messages_column")
        return super()._encode(role, rows, is_labelled=is_labelled)

    def input_row(self, given: Any) -> dict[str, Any]:
        """One conversation up to a message of the user: its messages or texts, one text, or a dict with the column."""
        is_row = isinstance(given, Mapping) and self.messages_column in given
        return {self.messages_column: given[self.messages_column] if is_row else given}

    def encode_options(self, rows: "datasets.Dataset | None", role: str) -> dict[str, Any]:
        """How a conversation is written.

        Raises:
            InputError: if a reply leaves too little of a row.
        """
        max_length = self._resolve_max_length()
        if not self.is_encoder_decoder and max_length - self.max_target_length < 8:  # tokens, as for `max_length`
            raise InputError(
                f"max_target_length={self.max_target_length} leaves too little of max_length={max_length} for what "
                f"a reply follows; use max_length >= {self.max_target_length + 8}, or a smaller max_target_length."
            )
        return {
            "max_target_length": self.max_target_length,
            "is_encoder_decoder": self.is_encoder_decoder,
            "role": role,
            "turn_separator": self.turn_separator,
            "system": self.system,
            "chat_template": self.chat_template,
        }
