"""Size against loss: the curve of a conversion to a target, as a table and as a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.cli.tables import table

if TYPE_CHECKING:
    from mlx_mm.convert import ConvertReport
    from mlx_mm.quantize.budget import Point

SHOWN = 9  # points of a curve in a table
SIZE = 960, 600  # pixels
LEFT, RIGHT, TOP, BOTTOM = 90, 60, 60, 70  # of them outside of the axes
COLOURS = ("#2f6fb0", "#c5561d", "#3d8b45", "#8a4fa3", "#8c6d1f", "#4a4a4a")
MARKS = 5  # of the axis of sizes
LEAST = 1e-9  # that a logarithm is taken of

Line = Sequence[tuple[float, float]]  # megabytes and losses, the smaller first


def curve_table(points: Sequence[Point], size: int, width: int | None = None) -> str:
    """Some of the points, with the one that was chosen, of `size` bytes. width: as of `table`."""
    kinds = sorted({kind for point in points for kind in point.losses})
    nearest = min(range(len(points)), key=lambda place: abs(points[place].bytes - size))
    places = {place * (len(points) - 1) // (SHOWN - 1) for place in range(SHOWN)} | {nearest}
    rows = [("", "MB", *(f"{kind} loses" for kind in kinds))]
    for place in sorted(places):
        point = points[place]
        losses = [f"{point.losses.get(kind, 0.0):.2g}" for kind in kinds]
        rows.append(("nearest >" if place == nearest else "", f"{point.bytes / 1e6:,.2f}", *losses))
    return "expected of each size, layers rounded one at a time:\n" + table(rows, "<>" + ">" * len(kinds), width)


def check_plot(path: Path) -> None:
    """OutputError where no picture can be written, before work is done for it."""
    from mlx_mm.checkpoint.atomic import check_file
    from mlx_mm.errors import OutputError

    if path.suffix.lower() != ".png" or not path.resolve().parent.is_dir():
        raise OutputError(f"{path} cannot be the plot; expected a .png file in a folder that exists.")
    check_file(path)


def draw_report(path: Path, report: ConvertReport) -> None:
    """The curve of a conversion, and what was measured, as a PNG. Raises OutputError."""
    kinds = sorted({kind for point in report.curve for kind in point.losses})
    lines = {
        f"{kind}, expected": [(point.bytes / 1e6, point.losses.get(kind, 0.0)) for point in report.curve]
        for kind in kinds
    }
    measured = {} if report.cost is None else report.cost.losses()
    dots = {f"{kind}, expected": (report.bytes / 1e6, loss) for kind, loss in measured.items()}
    draw(path, "what is lost at which size; a dot is what was measured", lines, dots)


def draw(path: Path, title: str, lines: Mapping[str, Line], dots: Mapping[str, tuple[float, float]]) -> None:
    """Losses over sizes, these linear and those by their logarithm, as a PNG. dots: of a line's colour, by its name.

    Raises OutputError.
    """
    from PIL import Image, ImageDraw, ImageFont

    from mlx_mm.checkpoint.atomic import new_file
    from mlx_mm.checkpoint.hub import BUNDLED

    font = ImageFont.truetype(BUNDLED / "fonts" / "NotoSans.ttf", 16)
    image = Image.new("RGB", SIZE, "white")
    pen = ImageDraw.Draw(image)
    every = [point for line in lines.values() for point in line] + list(dots.values())
    low, high = min(x for x, _ in every), max(x for x, _ in every)
    least = math.floor(min(_log(y) for _, y in every if y > 0) if any(y > 0 for _, y in every) else -1)
    most = max(math.ceil(max(_log(y) for _, y in every)), least + 1)

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - low) / ((high - low) or 1)
        up = (max(_log(y), least) - least) / (most - least)
        return LEFT + across * (SIZE[0] - LEFT - RIGHT), SIZE[1] - BOTTOM - up * (SIZE[1] - TOP - BOTTOM)

    pen.text((LEFT, 20), title, "#444444", font)
    for power in range(least, most + 1):
        _, y = place(low, 10.0**power)
        pen.line((LEFT, y, SIZE[0] - RIGHT, y), "#dddddd")
        pen.text((LEFT - 10, y), f"{10.0**power:g}", "#666666", font, anchor="rm")
    for mark in range(MARKS):
        megabytes = low + (high - low) * mark / (MARKS - 1)
        x, _ = place(megabytes, 1.0)
        pen.line((x, SIZE[1] - BOTTOM, x, SIZE[1] - BOTTOM + 6), "#666666")
        pen.text((x, SIZE[1] - BOTTOM + 12), f"{megabytes:,.4g} MB", "#666666", font, anchor="ma")
    for number, (name, line) in enumerate(lines.items()):
        colour = COLOURS[number % len(COLOURS)]
        pen.line([place(*point) for point in line], colour, 2)
        pen.text((SIZE[0] - RIGHT - 8, TOP + 8 + 24 * number), name, colour, font, anchor="ra")
        if name in dots:
            x, y = place(*dots[name])
            pen.ellipse((x - 6, y - 6, x + 6, y + 6), colour)
    with new_file(path) as new:
        image.save(new, "PNG")


def _log(value: float) -> float:
    return math.log10(max(value, LEAST))
