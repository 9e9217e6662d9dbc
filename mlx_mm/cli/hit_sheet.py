"""The contact sheet of a search: the thumbnails of its hits, with ranks, scores and names."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image, ImageDraw, ImageFont

from mlx_mm.checkpoint.atomic import new_file
from mlx_mm.cli.hits import file_cell
from mlx_mm.cli.output import visible
from mlx_mm.errors import MediaError
from mlx_mm.search.thumbnail_files import thumbnail_path

if TYPE_CHECKING:
    from mlx_mm.search.records import Hit, Hits

COLUMNS, CELL, GAP, CAPTION, HEAD = 5, 220, 14, 42, 46  # pixels
BACK, LINE, TEXT, FAINT = "white", "#dddddd", "black", "#777777"


def draw_hits(path: Path, title: str, hits: "Hits", index: Path) -> None:
    """Write a PNG with a cell for each hit. index: the folder that has the thumbnails. Raises OutputError."""
    columns = min(COLUMNS, max(len(hits), 3))
    rows = max(-(-len(hits) // columns), 1)
    size = (GAP + columns * (CELL + GAP), HEAD + rows * (CELL + CAPTION + GAP))
    sheet = Image.new("RGB", size, BACK)
    draw = ImageDraw.Draw(sheet)
    _write(draw, (GAP, 14), title if hits else f"nothing fits {title}", 16, TEXT, size[0] - 2 * GAP)
    for number, hit in enumerate(hits):
        left = GAP + number % columns * (CELL + GAP)
        top = HEAD + number // columns * (CELL + CAPTION + GAP)
        image = thumbnail_of(hit, index)
        if image is None:
            draw.rectangle((left, top, left + CELL - 1, top + CELL - 1), outline=LINE)
            _write(draw, (left + 10, top + CELL // 2 - 8), hit.kind, 16, FAINT, CELL - 20)
        else:
            sheet.paste(image, (left + (CELL - image.width) // 2, top + (CELL - image.height) // 2))
        score = "" if hit.score is None else f"   {hit.score:.3f}{'' if hit.strong else ' weak'}"
        date = f"   {hit.taken_at[:10]}" if hit.taken_at else ""
        _write(draw, (left, top + CELL + 4), f"{number + 1}{score}{date}", 13, FAINT, CELL)
        _write(draw, (left, top + CELL + 21), Path(file_cell(hit)).name, 14, TEXT, CELL)
    with new_file(path) as new:
        sheet.save(new)


def thumbnail_of(hit: "Hit", index: Path) -> Image.Image | None:
    """A picture of a hit, at most CELL pixels high and wide: of the index, or else of the file; None where neither is
    there."""
    from mlx_mm.processing.image import open_image

    for file in _pictures(hit, index):
        try:
            image = open_image(file)
        except MediaError:
            continue
        image.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
        return image
    return None


def _pictures(hit: "Hit", index: Path) -> Iterator[Path]:
    yield thumbnail_path(index, bytes.fromhex(hit.content))
    if hit.kind == "image":
        yield from map(Path, (hit.path, *hit.copies))


def _write(draw: ImageDraw.ImageDraw, at: tuple[int, int], text: str, size: int, colour: str, width: int) -> None:
    """One line that ends where the room ends. Pillow's own font has the letters of Latin scripts."""
    font = ImageFont.load_default(size)
    line = visible(text)
    if draw.textlength(line, font) > width:
        while line and draw.textlength(f"{line}…", font) > width:
            line = line[:-1]
        line += "…"
    draw.text(at, line, colour, font)
