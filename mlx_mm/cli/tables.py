"""How results look in a terminal: columns, and one line per key."""

import unicodedata
from collections.abc import Mapping, Sequence


def plural(count: int, noun: str) -> str:
    """ "1 layer", "2 layers"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def table(rows: Sequence[Sequence[str]], align: str) -> str:
    """Columns of equal width; align has one of < and > per column."""
    widths = [max(_columns(row[i]) for row in rows) for i in range(len(align))]
    lines = []
    for row in rows:
        cells = []
        for cell, a, width in zip(row, align, widths, strict=True):
            space = " " * (width - _columns(cell))
            cells.append(cell + space if a == "<" else space + cell)
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)


def _columns(text: str) -> int:
    """Columns a terminal takes for `text`: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def key_values(values: Mapping[str, object]) -> str:
    """One line per key; nested groups are joined on theirs."""
    rows = [(key.replace("_", " "), _plain(value)) for key, value in values.items()]
    return table(rows, "<<")


def _plain(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item != "")
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else str(value)
