"""Dialogues of two people about everyday topics: Myers et al., the Chit-Chat dataset of Brigham Young University."""

import json
from itertools import cycle, groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from lightning_prefix.assets.splits import in_hash_order, write_splits

__all__ = ["conversation", "write_conversations"]


def conversation(turns: list[list[dict[str, Any]]]) -> list[dict[str, str]]:
    """Messages of "user", who begins, and "assistant" in turn; the last is an answer.

    What one person sends before the other speaks is joined with line breaks; blank messages do not count.

    Example:
        >>> conversation([[{"sender": "a", "text": "Hi"}, {"sender": "a", "text": "You?"}]])
        []
    """
    said = [(message["sender"], message["text"].strip()) for turn in turns for message in turn]
    speakers = groupby((pair for pair in said if pair[1]), key=itemgetter(0))
    messages = [
        {"role": role, "content": "\n".join(text for _, text in texts)}
        for role, (_, texts) in zip(cycle(("user", "assistant")), speakers, strict=False)
    ]
    return messages[: len(messages) // 2 * 2]


def write_conversations(unpacked: Path, target: Path) -> None:
    """Write {"messages"} to three JSONL files, without the dialogues that nobody answered."""
    (path,) = unpacked.rglob("dataset.json")
    dialogues = json.loads(path.read_text("utf-8")).values()
    conversations = (conversation(dialogue["messages"]) for dialogue in dialogues)
    rows = in_hash_order({"messages": messages} for messages in conversations if messages)
    write_splits(target, rows, group=lambda row: "\n".join(message["content"] for message in row["messages"]))
