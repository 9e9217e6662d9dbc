"""The demo's contact sheet: each query with the pictures that fit it, and how well."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont, features

from mlx_mm.checkpoint import hub
from mlx_mm.checkpoint.atomic import check_file, new_file
from mlx_mm.errors import OutputError

if TYPE_CHECKING:
    from mlx_mm.cli.demo_run import Search

COLUMNS = 3  # queries side by side
CELL, GAP, LABEL, ROW, HEAD = 112, 16, 176, 132, 44  # pixels
# First word of a letter's Unicode name -> the font with its script, a few letters of each; see training/fonts.py
FONTS = {
    **dict.fromkeys(("LATIN", "CYRILLIC"), "NotoSans.ttf"),
    "ARABIC": "NotoSansArabic.ttf",
    **dict.fromkeys(("CJK", "HIRAGANA", "KATAKANA", "HANGUL"), "NotoSansCJK.otf"),
}
JOINED = {"ARABIC"}  # scripts whose letters change with their neighbours, which Pillow draws where it has libraqm


def check_sheet(path: Path) -> None:
    """OutputError where no sheet can be written, before work is done for it."""
    if path.suffix.lower() != ".png" or not path.resolve().parent.is_dir():
        raise OutputError(f"{path} cannot be the contact sheet; expected a .png file in a folder that exists.")
    check_file(path)


def draw_sheet(path: Path, title: str, searches: Sequence[Search]) -> None:
    """Write a PNG with the bundled pictures that fit each search. Raises OutputError."""
    pictures, fonts = hub.BUNDLED / "pictures", hub.BUNDLED / "fonts"
    most = max(len(search["fitting"]) for search in searches)
    width = LABEL + most * (CELL + GAP) + GAP
    rows = -(-len(searches) // COLUMNS)
    sheet = Image.new("RGB", (width * min(COLUMNS, len(searches)), HEAD + ROW * rows), "white")
    draw = ImageDraw.Draw(sheet)
    plain = fonts / FONTS["LATIN"]
    draw.text((20, 12), title, "#666666", ImageFont.truetype(plain, 16))
    for i, search in enumerate(searches):
        left, top = i % COLUMNS * width, HEAD + i // COLUMNS * ROW
        draw.line((left + 20, top, left + width - GAP, top), "#dddddd")
        words, font = _drawable(search, fonts)
        draw.text((left + 20, top + 60), words, "black", ImageFont.truetype(font, 20), anchor="ls")
        score = f"{search['hits'][0]['score']:.2f}" if search["fitting"] else "nothing fits"
        draw.text((left + 20, top + 70), f"{search['language']}   {score}", "#888888", ImageFont.truetype(plain, 15))
        for j, name in enumerate(search["fitting"]):
            with Image.open(pictures / f"{name}.png") as image:
                thumbnail = image.convert("RGBA")
            thumbnail.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
            x = left + LABEL + j * (CELL + GAP) + (CELL - thumbnail.width) // 2
            sheet.paste(thumbnail, (x, top + 10 + (CELL - thumbnail.height) // 2), thumbnail)
    with new_file(path) as new:
        sheet.save(new)


def script_of(text: str) -> str:
    """The script of the first letter, such as "LATIN" or "CJK"."""
    return next((unicodedata.name(c, "").split(" ")[0] for c in text if c.isalpha()), "LATIN")


def _drawable(search: Search, fonts: Path) -> tuple[str, Path]:
    """The query and its font, or its meaning where Pillow here cannot draw its script."""
    script = script_of(search["query"])
    if script in FONTS and (script not in JOINED or features.check("raqm")):
        return search["query"], fonts / FONTS[script]
    return f"(means {search['expected'].replace('_', ' ')})", fonts / FONTS["LATIN"]
