"""`GenerativeQADataModule`: questions, with or without a context, and answers in words."""

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from lightning_prefix.data.generation import TextGenerationDataModule
from lightning_prefix.data.targets import read_targets

if TYPE_CHECKING:
    import datasets

__all__ = ["GenerativeQADataModule"]

_ENCODER_DECODER = "question: {question} context: {context}"
_DECODER = "Context: {context}\nQuestion: {question}\nAnswer:"


class GenerativeQADataModule(TextGenerationDataModule):
    """Questions about a context, and answers in words.

    Args:
        source: as in `TextDataModule`; SQuAD's files and data sets fit without further options.
        answer_column: column of the answer: a text, a list of texts that are all right, or SQuAD's dict of them.
        template: how context and question are written; None for "question: {question} context: {context}" before an
            encoder-decoder (as T5 knows it) and "Context: {context} Question: {question} Answer:" on three lines
            before a decoder. Other columns, or a question alone, may stand in it.
        no_answer: the answer to be written where a question has none, such as "unanswerable"; None where every
            question has one.
        max_target_length: tokens an answer may have, >= 2.
        **options: see `TextGenerationDataModule`.
    """

    stored: ClassVar[tuple[str, ...]] = (
        *(name for name in TextGenerationDataModule.stored if name not in ("text_column", "target_column")),
        "no_answer",
    )

    def __init__(
        self,
        source: str | dict[str, str] | Any | None = None,
        *,
        answer_column: str = "answers",
        template: str | None = None,
        no_answer: str | None = None,
        max_target_length: int = 32,
        **options: Any,
    ) -> None:
        super().__init__(
            source,
            target_column=answer_column,
            template=template or _DECODER,
            max_target_length=max_target_length,
            **options,
        )
        self.template = template
        self.no_answer = no_answer

    def source_template(self) -> str:
        """The template that was given, or the one for this kind of backbone."""
        return self.template or (_ENCODER_DECODER if self.is_encoder_decoder else _DECODER)

    def label_reader(self, rows: "datasets.Dataset") -> Callable[[Any], list[str]]:
        """`read_targets`, with the answer of questions that have none."""
        return functools.partial(read_targets, no_answer=self.no_answer)
