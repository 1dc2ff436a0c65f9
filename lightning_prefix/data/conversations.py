"""Conversations to tokens by a chat template, with labels on the replies only."""

import logging
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from lightning_prefix.data.checks import row_error
from lightning_prefix.data.collate import NO_LABEL
from lightning_prefix.data.messages import Message, read_messages, reply_places, split_system
from lightning_prefix.data.preprocess import Preprocessing, preprocess_text
from lightning_prefix.data.reading import Reading
from lightning_prefix.data.targets import target_tokens, without_unknown
from lightning_prefix.data.tokenize import load_tokenizer
from lightning_prefix.errors import InputError

__all__ = ["encode_conversations"]

_PLAIN_TEMPLATE = (
    "{% for message in messages %}{{ message['role'] | capitalize }}: {{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{{ '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)


class Writer(NamedTuple):
    """Writes conversations as tokens.

    Args:
        tokenizer: loaded.
        template: Jinja, or None for the tokenizer's.
    """

    tokenizer: Any
    template: str | None

    def text(self, messages: Sequence[Message], *, is_prompt: bool = False) -> str:
        """The conversation; a prompt ends where a reply begins."""
        template = self.template
        if template is None and not self.tokenizer.chat_template:
            template = _plain_template(self.tokenizer.name_or_path)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), tokenize=False, add_generation_prompt=is_prompt, chat_template=template
                )
            )
        except Exception as error:  # of Jinja, or raised by the template
            raise InputError(
                f"the chat template cannot write {list(messages)!r:.200} ({type(error).__name__}: {error}). Give "
                "another chat_template, or leave out what it does not take, such as the system message."
            ) from error

    def tokens(self, texts: list[str]) -> list[list[int]]:
        """Without special tokens: the template writes them."""
        ids: list[list[int]] = self.tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def pieces(self, messages: Sequence[Message]) -> "Pieces | None":
        """Tokens of each pair of turns; None where the template writes a turn differently for its neighbours."""
        head, turns = split_system(messages)
        pairs = [turns[i : i + 2] for i in range(0, len(turns), 2)]
        is_prompt = len(pairs[-1]) == 1
        before = [self.text([*head, pair[0]], is_prompt=True) for pair in pairs]
        whole = [self.text([*head, *pair]) if len(pair) == 2 else before[-1] for pair in pairs]
        front = ""
        if len(pairs[0]) == 2:  # what stands before the first turn: what a pair has more when it comes first
            pair, alone = (pairs * 2)[1], (whole * 2)[1]
            second = self.text([*head, *pairs[0], *pair], is_prompt=len(pair) == 1).removeprefix(whole[0])
            front = alone.removesuffix(second)
        parts = [front]
        for prompt, both in zip(before, whole, strict=True):
            parts += [prompt.removeprefix(front), both.removeprefix(prompt)]
        if "".join(parts) != self.text(messages, is_prompt=is_prompt):
            return None
        ids = self.tokens(parts)
        return Pieces(ids[0], list(zip(ids[1::2], ids[2::2], strict=True)))

    def blank(self, messages: Sequence[Message]) -> str:
        """White space that the template puts between the prompt and the reply, which is the last message."""
        reply = self.text(messages).removeprefix(self.text(messages[:-1], is_prompt=True))
        return reply[: len(reply) - len(reply.lstrip())]

    def labels(self, reply: list[int]) -> list[int]:
        """A reply up to its end token; what a template puts after it is not learnt."""
        end = self.tokenizer.eos_token_id
        kept = reply.index(end) + 1 if end in reply else len(reply)
        return without_unknown(reply[:kept], self.tokenizer) + [NO_LABEL] * (len(reply) - kept)

    def prompt(self, messages: Sequence[Message], room: int) -> tuple[list[int], bool]:
        """Tokens before a reply, at most `room`, without the oldest turns if need be; and whether any was left out."""
        if (pieces := self.pieces(messages)) is not None:
            start = pieces.start(len(pieces.pairs), room)
            ids = [*pieces.front, *(token for pair in pieces.pairs[start:] for part in pair for token in part)]
            return ids[-room:], start > 0 or len(ids) > room
        head, turns = split_system(messages)
        lengths = [len(ids) for ids in self.tokens([turn["content"] for turn in turns])]
        for start in range(0, len(turns), 2):
            if sum(lengths[start:]) <= room:
                (ids,) = self.tokens([self.text([*head, *turns[start:]], is_prompt=True)])
                if len(ids) <= room:
                    return ids, start > 0
        (ids,) = self.tokens([self.text([*head, turns[-1]], is_prompt=True)])
        return ids[-room:], True


class Pieces(NamedTuple):
    """A conversation whose parts are written alike wherever they stand.

    Args:
        front: tokens before the first turn, such as a system message.
        pairs: for every pair of turns, the tokens up to the reply, and of the reply.
    """

    front: list[int]
    pairs: list[tuple[list[int], list[int]]]

    def start(self, end: int, room: int) -> int:
        """The first of the pairs before `end` that can stand together with at most `room` tokens; at least one does."""
        total, start = len(self.front), end
        while start > 0 and (start == end or total + sum(map(len, self.pairs[start - 1])) <= room):
            start -= 1
            total += sum(map(len, self.pairs[start]))
        return start


class Row(NamedTuple):
    """A row of tokens: what the model reads, what it learns, and where the last reply begins."""

    input_ids: list[int]
    labels: list[int]
    prompt_length: int
    reference: str
    is_cut: bool


def encode_conversations(
    rows: dict[str, list[Any]],
    indices: list[int],
    reading: Reading,
    *,
    max_target_length: int,
    is_encoder_decoder: bool,
    role: str,
    turn_separator: str | None,
    system: str | None,
    chat_template: str | None,
) -> dict[str, list[Any]]:
    """Tokenise conversations; the first arguments are those of `encode_rows`.

    Returns:
        The columns of a batch, "row", "cut" and "length"; one row a conversation or more, exactly one to predict.

    Raises:
        InputError: for the first conversation that is not one; with `drop_empty` those without a reply are left out.
    """
    writer = Writer(load_tokenizer(reading.tokenizer), chat_template)
    found: list[tuple[int, Row]] = []
    for value, index in zip(rows[reading.text_columns[0]], indices, strict=True):
        try:
            messages = read_messages(value, turn_separator, system)
            if role != "predict" and not reply_places(messages):
                if reading.drop_empty:
                    continue
                raise ValueError(
                    f"has no reply: it holds only {' and '.join(message['role'] for message in messages)}. Set "
                    "turn_separator if its text has several turns, or drop_empty=True to leave such conversations out."
                )
            messages = [_preprocessed(message, reading.preprocess) for message in messages]
        except ValueError as error:
            problem, _, advice = str(error).partition(". ")
            raise row_error(reading.split, index, problem, advice) from None
        made = _rows(messages, writer, role, reading.max_length, max_target_length, is_encoder_decoder)
        found += [(index, row) for row in made]
    columns: dict[str, list[Any]] = {
        "input_ids": [row.input_ids for _, row in found],
        "attention_mask": [[1] * len(row.input_ids) for _, row in found],
        "row": [index for index, _ in found],
        "cut": [row.is_cut for _, row in found],
    }
    if role != "predict":
        columns["labels"] = [row.labels for _, row in found]
        columns["length"] = [len(row.input_ids) + is_encoder_decoder * len(row.labels) for _, row in found]
    if role not in ("train", "predict"):
        columns["references"] = [[row.reference] for _, row in found]
        if not is_encoder_decoder:
            columns["prompt_length"] = [row.prompt_length for _, row in found]
    return columns


def _preprocessed(message: Message, options: Preprocessing) -> Message:
    content = preprocess_text(message["content"], options)
    if not content.strip():
        given = message["content"][:40]
        raise ValueError(
            f"has a message of which preprocessing leaves nothing: {given!r}. Use fewer steps in data.preprocess."
        )
    return {**message, "content": content}


def _rows(
    messages: list[Message],
    writer: Writer,
    role: str,
    max_length: int,
    max_target_length: int,
    is_encoder_decoder: bool,
) -> list[Row]:
    reserved = 0 if role == "train" or is_encoder_decoder else max_target_length  # tokens of a row, to write in
    if role == "predict":
        last = max(place for place, message in enumerate(messages) if message["role"] == "user")
        ids, is_cut = writer.prompt(messages[: last + 1], max_length - reserved)
        return [Row(ids, [], len(ids), "", is_cut)]
    messages = messages[: reply_places(messages)[-1] + 1]
    pieces = None if is_encoder_decoder else writer.pieces(messages)
    if pieces is None:
        return [
            _reply_row(messages, place, writer, max_length, max_target_length, reserved, is_encoder_decoder)
            for place in reply_places(messages)
        ]
    replies = [messages[place]["content"] for place in reply_places(messages)]
    rows, end = [], len(replies)
    while end > 0:  # from the end to the beginning, each as long as allowed
        room = max_length - max(reserved - len(pieces.pairs[end - 1][1]), 0)
        start = pieces.start(end, room)
        rows.append(_pairs_row(pieces.front, pieces.pairs[start:end], writer, replies[end - 1], room))
        end = start
    return rows[::-1]


def _reply_row(
    messages: list[Message],
    place: int,
    writer: Writer,
    max_length: int,
    max_target_length: int,
    reserved: int,
    is_encoder_decoder: bool,
) -> Row:
    """One reply, after what comes before it."""
    reply, tokenizer = messages[place]["content"], writer.tokenizer
    blank = "" if is_encoder_decoder else writer.blank(messages[: place + 1])
    limit = max_target_length if is_encoder_decoder else max_length // 2
    (target,) = target_tokens([blank + reply.lstrip()], tokenizer, limit, is_encoder_decoder)
    labels = without_unknown(target, tokenizer)
    if is_encoder_decoder:
        ids, is_cut = writer.prompt(messages[:place], max_length)
        return Row(ids, labels, len(ids), reply, is_cut)
    ids, is_cut = writer.prompt(messages[:place], max_length - max(len(target), reserved))
    is_cut |= tokenizer.eos_token_id not in (None, *target)
    return Row([*ids, *target], [NO_LABEL] * len(ids) + labels, len(ids), reply, is_cut)


def _pairs_row(
    front: list[int], pairs: list[tuple[list[int], list[int]]], writer: Writer, reference: str, max_length: int
) -> Row:
    """Pairs of turns, every reply labelled; a single pair that is too long loses its beginning, then its end."""
    ids, labels = list(front), [NO_LABEL] * len(front)
    for prompt, reply in pairs:
        prompt_length = len(ids) + len(prompt)
        ids += [*prompt, *reply]
        labels += [NO_LABEL] * len(prompt) + writer.labels(reply)
    too_long = max(len(ids) - max_length, 0)
    cut = min(too_long, prompt_length - 1)
    return Row(
        ids[cut : cut + max_length], labels[cut : cut + max_length], prompt_length - cut, reference, too_long > 0
    )


@lru_cache(maxsize=8)
def _plain_template(name: str) -> str:
    logging.getLogger(__name__).warning(
        "the tokenizer %r has no chat template; conversations are written as lines 'User: ...' and 'Assistant: ...'. "
        "Give chat_template for another form.",
        name,
    )
    return _PLAIN_TEMPLATE
