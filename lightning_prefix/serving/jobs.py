"""What goes between the process that speaks HTTP and the one that holds the backbone."""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

__all__ = ["Answer", "Failure", "Job", "Piece", "RequestError"]


@dataclass(frozen=True)
class Job:
    """One input for one prefix.

    Args:
        prefix: its name.
        input: text, list, or dict with the columns that the prefix reads.
        is_streamed: whether pieces of a generated text are wanted as they are written.
        max_tokens: of a generated text, >= 1; what else limits it when None.
        stop: texts at which a generated text ends, itself without them.
        generation: options of transformers' `generate` that count more than those of the task.
    """

    prefix: str
    input: Any
    is_streamed: bool = False
    max_tokens: int | None = None
    stop: tuple[str, ...] = ()
    generation: dict[str, Any] = field(default_factory=dict)


class Piece(NamedTuple):
    """Some more of a generated text."""

    text: str


class Answer(NamedTuple):
    """The end of a job: its output, and of a generated text why it ended and the tokens read and written.

    `rows` is how many were answered in the same pass.
    """

    output: Any
    rows: int
    finish_reason: str = "stop"
    prompt_tokens: int = 0
    new_tokens: int = 0


class Failure(NamedTuple):
    """The end of a job that has no answer: the HTTP status, and what to do."""

    status: int
    message: str


class RequestError(Exception):
    """A request that is not answered.

    Args:
        status: of HTTP.
        message: what was given, what is allowed, what to do.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status, self.message = status, message
