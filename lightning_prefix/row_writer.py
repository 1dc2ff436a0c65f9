"""Texts of several rows, each told as it is written, and with an end of its own."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["RowWriter", "RowsStreamer"]


class RowWriter:
    """One text of a batch while it is written.

    Args:
        on_piece: gets more of the text; all pieces together are the text. It comes at the end only when None.
        on_end: called once the text is complete, maybe before those of other rows.
        max_tokens: at which it ends; as in the task when None.
        stop: texts at which it ends, itself without them.
        is_left: asked at each token whether nobody waits for the text any more.

    Attributes:
        text: so far; complete once `finish_reason` is set.
        tokens: how many were written.
        prompt_tokens: how many were read.
        finish_reason: `stop`, `length` or `left`; None while it is written.
    """

    def __init__(
        self,
        on_piece: Callable[[str], None] | None = None,
        on_end: Callable[["RowWriter"], None] = lambda _: None,
        max_tokens: int | None = None,
        stop: Sequence[str] = (),
        is_left: Callable[[], bool] = lambda: False,
    ) -> None:
        self._on_piece, self._on_end, self._is_left = on_piece, on_end, is_left
        self._max_tokens, self._stop = max_tokens, tuple(stop)
        self.text, self.tokens, self.prompt_tokens = "", 0, 0
        self.finish_reason: str | None = None
        self._ids: list[int] = []
        self._told = ""

    def begin(self, ids: Sequence[int], prompt_tokens: int) -> None:
        """Take what the decoder starts with, and how many tokens were read."""
        self._ids, self.prompt_tokens = list(ids), prompt_tokens

    def put(self, token: int, tokenizer: Any, is_end: bool) -> None:
        """Take one more token."""
        if self.finish_reason is not None:
            return
        self._ids.append(token)
        self.tokens += 1
        is_full = self.tokens == self._max_tokens
        if self._stop or is_end or is_full or self._on_piece is not None:
            self._read(tokenizer)
        if self._cut() or is_end:
            self._end("stop")
        elif is_full:
            self._end("length")
        elif self._is_left():
            self._end("left")
        else:  # a word, a character of several tokens, or a stop may not be complete
            held = max((len(stop) for stop in self._stop), default=1) - 1
            self._tell(max(self.text.rfind(" ", 0, len(self.text) - held), 0))

    def finish(self, tokenizer: Any) -> None:
        """No more tokens will come."""
        if self.finish_reason is None:
            self._read(tokenizer)
            self._end("length")

    def _read(self, tokenizer: Any) -> None:
        self.text = tokenizer.decode(self._ids, skip_special_tokens=True).lstrip()

    def _cut(self) -> bool:
        places = [place for place in map(self.text.find, self._stop) if place >= 0]
        if places:
            self.text = self.text[: min(places)]
        return bool(places)

    def _end(self, reason: str) -> None:
        self.finish_reason = reason
        self._tell(len(self.text))
        self.text = self.text.strip()
        self._on_end(self)

    def _tell(self, end: int) -> None:
        whole = self.text[:end].rstrip()
        if self._on_piece is not None and len(whole) > len(self._told) and whole.startswith(self._told):
            self._on_piece(whole[len(self._told) :])
            self._told = whole


class RowsStreamer:
    """Hands the tokens of `generate` to the writers of the rows; also the criterion by which rows end.

    Args:
        writers: one for each row.
        tokenizer: of the task.
        ends: tokens after which a text ends.
        prompt_tokens: of each row.
        is_encoder_decoder: whether what comes first is the start of the text instead of the prompt.
    """

    def __init__(
        self,
        writers: Sequence[RowWriter],
        tokenizer: Any,
        ends: Sequence[int],
        prompt_tokens: Sequence[int],
        is_encoder_decoder: bool,
    ) -> None:
        self._writers, self._tokenizer, self._ends = list(writers), tokenizer, frozenset(ends)
        self._prompt_tokens, self._is_encoder_decoder = list(prompt_tokens), is_encoder_decoder
        self._is_begun = False

    def put(self, tokens: Tensor) -> None:
        """Take the prompts (rows, tokens), then the next token of each row, (rows,)."""
        if not self._is_begun:
            self._is_begun = True
            for writer, ids, read in zip(self._writers, tokens.tolist(), self._prompt_tokens, strict=True):
                writer.begin(ids if self._is_encoder_decoder else [], read)
            return
        for writer, token in zip(self._writers, tokens.tolist(), strict=True):
            writer.put(token, self._tokenizer, token in self._ends)

    def end(self) -> None:
        """Complete the texts that reached the longest length."""
        for writer in self._writers:
            writer.finish(self._tokenizer)

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Which rows have ended, (rows,)."""
        return torch.tensor([w.finish_reason is not None for w in self._writers], device=input_ids.device)
