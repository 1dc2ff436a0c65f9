"""Tables of text on the terminal."""

from collections.abc import Sequence


def table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells, the first of them the header, as lines of even columns.

    Examples:
        >>> print(table([("name", "size"), ("minilm-l6", "91 MB")]))
        name       size
        minilm-l6  91 MB
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows)
    return "\n".join(lines)
