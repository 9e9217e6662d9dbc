"""How results look in a terminal: columns, and one line per key."""

import unicodedata
from collections.abc import Mapping, Sequence
from itertools import zip_longest

from mlx_mm.cli.output import visible

GAP = "  "  # between columns
NARROWEST = 12  # that a column is made, in columns of the terminal


def plural(count: int, noun: str, nouns: str | None = None) -> str:
    """ "1 layer", "2 layers"."""
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def table(rows: Sequence[Sequence[str]], align: str, width: int | None = None) -> str:
    """Columns of equal width; align has one of < and > per column. What a cell holds cannot leave it.

    width: of a terminal that cannot show longer lines; of the columns of texts the widest are then broken into several.
    """
    cells = [[visible(cell) for cell in row] for row in rows]
    widths = [max(_columns(row[i]) for row in cells) for i in range(len(align))]
    excess = 0 if width is None else sum(widths) + len(GAP) * (len(align) - 1) - width
    for i in sorted((i for i, a in enumerate(align) if a == "<"), key=lambda i: -widths[i]):
        cut = min(excess, widths[i] - NARROWEST)
        if cut > 0:
            widths[i] -= cut
            excess -= cut
    lines = []
    for row in cells:
        for parts in zip_longest(*map(_break, row, widths), fillvalue=""):
            lines.append(GAP.join(map(_padded, parts, align, widths)).rstrip())
    return "\n".join(lines)


def _padded(cell: str, align: str, width: int) -> str:
    space = " " * (width - _columns(cell))
    return cell + space if align == "<" else space + cell


def _break(text: str, width: int) -> list[str]:
    """Pieces of at most `width` columns, between words where there is a space."""
    pieces = []
    while (end := _fitting(text, width)) < len(text):
        space = text.rfind(" ", 1, end + 1)
        end = end if space < 0 else space
        pieces.append(text[:end].rstrip())
        text = text[end:].lstrip()
    return [*pieces, text]


def _fitting(text: str, width: int) -> int:
    """How many characters take at most `width` columns; at least one."""
    used = 0
    for i, character in enumerate(text):
        used += _columns(character)
        if used > width:
            return max(i, 1)
    return len(text)


def _columns(text: str) -> int:
    """Columns a terminal takes for `text`: two for wide characters, none for combining ones."""
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me", "Cf") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def key_values(values: Mapping[str, object], width: int | None = None) -> str:
    """One line per key; nested groups are joined on theirs. width: as of `table`."""
    rows = [(key.replace("_", " "), _plain(value)) for key, value in values.items()]
    return table(rows, "<<", width)


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
