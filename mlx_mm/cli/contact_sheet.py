"""The demo's contact sheet: a row for each query, with the images that fit it best."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from mlx_mm.checkpoint.atomic import new_file

if TYPE_CHECKING:
    from mlx_mm.cli.demo import Search

CELL, GAP, LABEL, ROW, HEAD = 112, 16, 250, 132, 44  # pixels


def draw_sheet(path: Path, title: str, searches: Sequence[Search], folder: Path) -> None:
    """Write a PNG with the hits of all searches, whose images lie in `folder`. Raises OutputError."""
    most = max(len(search["hits"]) for search in searches)
    sheet = Image.new("RGB", (LABEL + most * (CELL + GAP) + GAP, HEAD + ROW * len(searches)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((20, 14), title, "#666666", ImageFont.load_default(16))
    for i, search in enumerate(searches):
        top = HEAD + i * ROW
        draw.line((20, top, sheet.width - 20, top), "#dddddd")
        draw.text((20, top + 40), _drawable(search), "black", ImageFont.load_default(22))
        draw.text((20, top + 70), search["language"], "#888888", ImageFont.load_default(15))
        for j, hit in enumerate(search["hits"]):
            with Image.open(folder / f"{hit['picture']}.png") as image:
                thumbnail = image.convert("RGBA")
            thumbnail.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
            left = LABEL + j * (CELL + GAP) + (CELL - thumbnail.width) // 2
            sheet.paste(thumbnail, (left, top + 10 + (CELL - thumbnail.height) // 2), thumbnail)
    with new_file(path) as new:
        sheet.save(new)


def _drawable(search: Search) -> str:
    """The query, or its meaning where Pillow's own font lacks the script."""
    latin = all(ord(c) < 0x180 for c in search["query"])  # up to Latin Extended-A
    return search["query"] if latin else f"(means {search['expected'].replace('_', ' ')})"
