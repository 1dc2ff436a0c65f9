"""Tables as text, in the form of Li & Liang (2021): "name : value | name : value"."""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["linearize"]

_SLOT = re.compile(r"\s*([^\[\],]+?)\s*\[([^\]]*)\]\s*(?:,|$)")


def linearize(value: Any) -> Any:
    """A table as one text; what is no table stays as it is.

    Args:
        value: E2E's "name[The Eagle], area[riverside]"; a dict of values; or triples, each a list or, as in WebNLG,
            a text "subject | relation | object", in a list or in lists of lists.

    Examples:
        >>> linearize("name[The Eagle], area[riverside]"), linearize({"name": "The Eagle"})
        ('name : The Eagle | area : riverside', 'name : The Eagle')
        >>> linearize(["Aarhus | leader | Jacob"]), linearize([["Aarhus", "leader", "Jacob"]])
        ('Aarhus : leader : Jacob', 'Aarhus : leader : Jacob')
    """
    if isinstance(value, str):
        slots = _SLOT.findall(value)
        return _joined(slots) if slots and not _SLOT.sub("", value).strip() else value
    if isinstance(value, Mapping):
        return _joined([(name, cell) for name, cell in value.items() if cell not in (None, "")])
    if isinstance(value, list | tuple):
        return _joined([_triple(row) for row in value])
    return value


def _triple(row: Any) -> list[Any]:
    return [part.strip() for part in row.split("|")] if isinstance(row, str) else list(row)


def _joined(rows: Any) -> str:
    return " | ".join(" : ".join(map(str, row)) for row in rows)
