"""The demonstration: convert the bundled checkpoint, search and classify the bundled pictures, draw a sheet."""

import json
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mlx_mm.checkpoint import hub
from mlx_mm.classify import classify
from mlx_mm.convert import convert
from mlx_mm.embed import encode_image, encode_text
from mlx_mm.errors import OutputError
from mlx_mm.load import load

MODEL = "emoji-siglip2"
BITS = 4
BEST = 5  # pictures per query
CELL, LABEL, ROW, HEAD = 112, 250, 132, 44  # pixels of the contact sheet


def cache_folder() -> Path:
    """Where the demo keeps its converted checkpoint; MLX_MM_CACHE overrides the system's place for caches."""
    if folder := os.environ.get("MLX_MM_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx_mm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx_mm"


def run_demo(sheet: Path) -> dict[str, Any]:
    """Run everything and write the contact sheet (PNG) to `sheet`.

    Returns {"conversion", "searches", "classified", "sheet"}, plain types throughout. Raises OutputError.
    """
    if sheet.suffix.lower() != ".png" or not sheet.resolve().parent.is_dir():
        raise OutputError(f"{sheet} cannot be the contact sheet; expected a .png file in a folder that exists.")
    plan = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))
    folder = cache_folder() / f"{MODEL}-{BITS}bit"
    report = convert(MODEL, folder, bits=BITS, overwrite=True)
    model, processor = load(folder)

    pictures = sorted((hub.BUNDLED / "pictures").glob("*.png"))
    vectors = encode_image(model, processor, pictures)
    queries = encode_text(model, processor, [search["query"] for search in plan["searches"]])
    searches = []
    for search, row in zip(plan["searches"], queries @ vectors.T, strict=True):
        best = np.argsort(-row, kind="stable")[:BEST]
        hits = [{"picture": pictures[i].stem, "cosine": round(float(row[i]), 4)} for i in best]
        searches.append({**search, "hits": hits})

    classified = []
    for item in plan["classify"]:
        scores = classify(model, processor, hub.BUNDLED / "pictures" / item["picture"], item["labels"])
        labels = [{"label": label, "score": round(score, 4)} for label, score in scores]
        classified.append({"picture": Path(item["picture"]).stem, "labels": labels})

    _draw_sheet(sheet, searches)
    return {
        "conversion": {
            "model": MODEL,
            "folder": str(folder),
            "bits": BITS,
            "source_bytes": report.source_bytes,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 3),
        },
        "searches": searches,
        "classified": classified,
        "sheet": str(sheet),
    }


def _draw_sheet(path: Path, searches: list[dict[str, Any]]) -> None:
    """One row per query: the query, then its best pictures."""
    sheet = Image.new("RGB", (LABEL + BEST * (CELL + 16) + 16, HEAD + ROW * len(searches)), "white")
    draw = ImageDraw.Draw(sheet)
    draw.text((20, 14), f"{MODEL}, {BITS} bit: query and best {BEST} pictures", "#666666", _font(16))
    for i, search in enumerate(searches):
        top = HEAD + i * ROW
        draw.line((20, top, sheet.width - 20, top), "#dddddd")
        draw.text((20, top + 40), _drawable(search), "black", _font(22))
        draw.text((20, top + 70), search["language"], "#888888", _font(15))
        for j, hit in enumerate(search["hits"]):
            with Image.open(hub.BUNDLED / "pictures" / f"{hit['picture']}.png") as picture:
                thumbnail = picture.convert("RGBA")
            thumbnail.thumbnail((CELL, CELL), Image.Resampling.LANCZOS)
            x = LABEL + j * (CELL + 16) + (CELL - thumbnail.width) // 2
            sheet.paste(thumbnail, (x, top + 10 + (CELL - thumbnail.height) // 2), thumbnail)
    try:
        sheet.save(path)
    except OSError as error:
        raise OutputError(f"Writing {path} failed: {error.strerror or error}. Choose another place.") from error


def _drawable(search: dict[str, Any]) -> str:
    """The query, or its meaning where Pillow's own font lacks the script."""
    latin = all(ord(c) < 0x180 for c in search["query"])  # up to Latin Extended-A
    return search["query"] if latin else f"(means {search['expected'].replace('_', ' ')})"


def _font(size: int) -> Any:
    return ImageFont.load_default(size)
