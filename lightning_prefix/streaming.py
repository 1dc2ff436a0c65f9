"""A generated text piece by piece, as it is written."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from threading import Event, Thread
from typing import Any

import torch

from lightning_prefix.errors import InputError
from lightning_prefix.tasks import TextGeneration
from lightning_prefix.tasks.base import Batch

__all__ = ["stream_text"]


def stream_text(task: Any, batch: Batch, options: dict[str, Any], within: AbstractContextManager[Any]) -> Iterator[str]:
    """Pieces of the text for one row; together they are what `TextGeneration.write` writes, but for white space around.

    Generation runs in a thread of its own, and stops at the next token when the iterator is closed.

    Args:
        task: with weights.
        batch: of one row, on the device of the task.
        options: of `generate` that count more than those of the task.
        within: entered in that thread.

    Raises:
        InputError: if the task writes no texts, or writes several at a time.
    """
    if not isinstance(task, TextGeneration):
        raise InputError(f"{type(task).__name__} has no text that could be streamed; call the predictor instead.")
    given = {**task.generation, **options}
    if several := [name for name in ("num_beams", "num_return_sequences") if given.get(name, 1) != 1]:
        raise InputError(
            f"{several[0]} {given[several[0]]} is given, which writes several texts at a time; to stream one give "
            f"{several[0]}=1."
        )
    return _pieces(task, batch, options, within)


def _pieces(
    task: TextGeneration, batch: Batch, options: dict[str, Any], within: AbstractContextManager[Any]
) -> Iterator[str]:
    from transformers import TextIteratorStreamer

    streamer = TextIteratorStreamer(task.tokenizer, skip_prompt=not task.is_encoder_decoder, skip_special_tokens=True)
    is_closed, errors = Event(), []

    def run() -> None:
        try:
            with torch.inference_mode(), within:
                task.write(batch, streamer=streamer, stopping_criteria=[lambda *_: is_closed.is_set()], **options)
        except Exception as error:  # it is raised where the text is read
            errors.append(error)
            streamer.end()

    thread = Thread(target=run, daemon=True)
    thread.start()
    try:
        yield from (piece for piece in streamer if piece)
    finally:
        is_closed.set()
        thread.join()
    if errors:
        raise errors[0]
