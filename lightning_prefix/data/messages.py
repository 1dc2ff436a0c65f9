"""Conversations as people write them to checked lists of messages."""

from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Message", "read_messages", "reply_places", "split_system"]

Message = dict[str, str]
"""{"role": "system", "user" or "assistant", "content": text}"""

_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "model": "assistant"}
_TURNS = ("user", "assistant")


def read_messages(value: Any, separator: str | None = None, system: str | None = None) -> list[Message]:
    """The messages of a conversation, checked.

    Args:
        value: a list of dicts or texts, or a text.
        separator: between the turns of a text.
        system: content of a system message for conversations without one.

    Raises:
        ValueError: "what is wrong. What to do."

    Examples:
        >>> [m["role"] for m in read_messages("Hi! __eou__ Hello. __eou__", "__eou__")]
        ['user', 'assistant']
    """
    if isinstance(value, Mapping) and all(isinstance(column, list) for column in value.values()):
        # how datasets before 4 hands out a list of dicts
        value = [dict(zip(value, turn, strict=True)) for turn in zip(*value.values(), strict=True)]
    if isinstance(value, str):
        value = [turn.strip() for turn in (value.split(separator) if separator else [value])]
        value = value[:-1] if value and not value[-1] else value  # a separator may end the text
    if not isinstance(value, Sequence) or not value:
        raise ValueError(
            "has no conversation: a list of messages, a list of texts, or a text is needed. Correct or remove it."
        )
    messages = [_message(turn, place) for place, turn in enumerate(value)]
    if system is not None and messages[0]["role"] != "system":
        messages = [{"role": "system", "content": system}, *messages]
    head, turns = split_system(messages)
    if not turns:
        raise ValueError("has a system message only. Correct or remove it.")
    for place, turn in enumerate(turns):
        if turn["role"] != _TURNS[place % 2]:
            after = f" after {turns[place - 1]['role']!r}" if place else ""
            raise ValueError(
                f"has the role {turn['role']!r}{after} in message {place + len(head) + 1}, where {_TURNS[place % 2]!r} "
                "is due: user and assistant take turns, the user first. Join messages of one speaker, or correct roles."
            )
    return messages


def _message(turn: Any, place: int) -> Message:
    if isinstance(turn, str):
        turn = {"role": _TURNS[place % 2], "content": turn}
    if not isinstance(turn, Mapping):
        raise ValueError(
            f"has a {type(turn).__name__} as message {place + 1}. Give texts, or objects with role and content."
        )
    role, content = (turn.get(name, turn.get(other)) for name, other in (("role", "from"), ("content", "value")))
    role = _ROLES.get(str(role), role)
    if role not in ("system", *_TURNS):
        raise ValueError(
            f"has the role {role!r} in message {place + 1}; the roles are system, user and assistant. Rename it."
        )
    if not isinstance(content, str) or not content.strip():
        raise ValueError(f"has no text in message {place + 1}, of the {role}. Fill it in, or remove the message.")
    return {"role": str(role), "content": content}


def split_system(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """The system message, if there is one, and the turns."""
    count = int(messages[0]["role"] == "system")
    return list(messages[:count]), list(messages[count:])


def reply_places(messages: Sequence[Message]) -> list[int]:
    """Positions of the replies."""
    return [place for place, message in enumerate(messages) if message["role"] == "assistant"]
