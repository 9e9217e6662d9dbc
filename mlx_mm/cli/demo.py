"""`mlx_mm demo`: convert the bundled checkpoint, index the bundled pictures, search them, tag them, draw a sheet."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mlx_mm.cli.command import Command
from mlx_mm.cli.indexes import shown_path
from mlx_mm.cli.opening import DEFAULT_MODEL
from mlx_mm.cli.output import say, say_json, terminal_width, visible
from mlx_mm.cli.tables import table
from mlx_mm.errors import OutputError, reason

if TYPE_CHECKING:
    from mlx_mm.search.index import Index
    from mlx_mm.search.records import DuplicateKind

BITS = 4
BEST = 5  # pictures per query
# Pictures that are there twice, so that there is something to find: one as a smaller JPEG, one as a copy of the file
SMALLER, COPIED = "mushroom", "frog"


class Hit(TypedDict):
    """A picture, the cosine of its vector with the query's, and whether the model holds it to fit."""

    picture: str
    score: float
    strong: bool


class Search(TypedDict):
    """A query, its language, the picture it must find ("" where there is none), the nearest ones, best first, and
    those of them that fit."""

    query: str
    language: str
    expected: str
    hits: list[Hit]
    fitting: list[str]


class Conversion(TypedDict):
    """What became of the bundled checkpoint; sizes in bytes."""

    model: str
    folder: str
    bits: int
    source_bytes: int
    bytes: int
    seconds: float


class Demo(TypedDict):
    """What `run_demo` did, with the paths of its index and of its contact sheet. indexed: a RefreshReport's fields.
    duplicates: kind -> groups of names, the one to keep first. tags: label -> how many pictures have it."""

    conversion: Conversion
    index: str
    indexed: dict[str, object]
    searches: list[Search]
    duplicates: dict[str, list[list[str]]]
    tags: dict[str, int]
    sheet: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("mlx_mm-demo.png"), help="contact sheet to write (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demonstration and print what it found."""
    result = run_demo(args.out)
    if args.json:
        say_json(result)
    else:
        say(demo_table(result, terminal_width()))
    return 0


def cache_folder() -> Path:
    """Where the demo keeps its converted checkpoint; MLX_MM_CACHE overrides the system's place for caches."""
    if folder := os.environ.get("MLX_MM_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx_mm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx_mm"


def run_demo(sheet: Path) -> Demo:
    """Run everything and write the contact sheet (PNG) to `sheet`. Raises OutputError."""
    from mlx_mm import convert
    from mlx_mm.checkpoint import hub
    from mlx_mm.cli.contact_sheet import check_sheet, draw_sheet
    from mlx_mm.search.index import Index

    check_sheet(sheet)
    plan = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))
    model = cache_folder() / f"{DEFAULT_MODEL}-{BITS}bit"
    report = convert(DEFAULT_MODEL, model, bits=BITS, overwrite=True, check=False)
    folder = _fresh(cache_folder() / "demo")
    pictures = lay_out(folder / "pictures")
    with Index(folder / "demo.mmindex", model=str(model)) as index:
        indexed = index.refresh(pictures)
        absent = [{**search, "expected": ""} for search in plan["absent"]]
        searches = [_searched(index, search) for search in [*plan["searches"], *absent]]
        kinds: tuple[DuplicateKind, ...] = ("identical", "same")
        duplicates: dict[str, list[list[str]]] = {
            kind: [[Path(file.path).name for file in group.files] for group in index.duplicates(kind)] for kind in kinds
        }
        tags = index.tag(dict.fromkeys(label for item in plan["classify"] for label in item["labels"]))
    title = f"{DEFAULT_MODEL}, {BITS} bit: of {indexed.files} files the pictures that fit, and their scores"
    draw_sheet(sheet, title, searches, hub.BUNDLED / "pictures", hub.BUNDLED / "fonts")
    return {
        "conversion": {
            "model": DEFAULT_MODEL,
            "folder": str(model),
            "bits": BITS,
            "source_bytes": report.source_bytes,
            "bytes": report.bytes,
            "seconds": round(report.seconds, 3),
        },
        "index": str(folder / "demo.mmindex"),
        "indexed": asdict(indexed),
        "searches": searches,
        "duplicates": duplicates,
        "tags": tags,
        "sheet": str(sheet),
    }


def lay_out(folder: Path) -> Path:
    """The bundled pictures in a folder of their own, two of them twice."""
    from PIL import Image

    from mlx_mm.checkpoint import hub

    folder.mkdir(parents=True)
    for picture in sorted((hub.BUNDLED / "pictures").glob("*.png")):
        shutil.copyfile(picture, folder / picture.name)
    shutil.copyfile(folder / f"{COPIED}.png", folder / f"{COPIED}-copy.png")
    with Image.open(folder / f"{SMALLER}.png") as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    white.convert("RGB").resize((96, 96), Image.Resampling.LANCZOS).save(folder / f"{SMALLER}-small.jpg", quality=90)
    return folder


def _fresh(folder: Path) -> Path:
    """Of the cache, without what an earlier demonstration left in it."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made anew ({reason(error)}); expected a folder of ours. Remove it."
        ) from error
    return folder


def _searched(index: "Index", search: Mapping[str, str]) -> Search:
    found = index.search(search["query"], top=BEST, strong_only=False)
    hits: list[Hit] = [
        {"picture": Path(hit.path).stem, "score": round(hit.score or 0.0, 4), "strong": hit.strong} for hit in found
    ]
    return {
        "query": search["query"],
        "language": search["language"],
        "expected": search["expected"],
        "hits": hits,
        "fitting": [hit["picture"] for hit in hits if hit["strong"]],
    }


def demo_table(result: Demo, width: int | None = None) -> str:
    """The conversion, the index, searches, duplicates and tags. width: as of `table`."""
    from mlx_mm.cli.index import summary
    from mlx_mm.search.records import RefreshReport

    made = result["conversion"]
    rows = [("search", "", "best picture", "score", "next one", "score")]
    for search in result["searches"]:
        best, second = search["hits"][:2]
        fits = best["picture"] if search["fitting"] else "nothing fits"
        scores = [f"{hit['score']:.2f}" for hit in (best, second)]
        rows.append((search["query"], search["language"], fits, scores[0], second["picture"], scores[1]))
    blocks = [
        f"{made['model']}: {made['source_bytes'] / 1e6:.1f} MB -> {made['bytes'] / 1e6:.1f} MB "
        f"({made['bits']} bit) in {made['seconds']:.1f} s",
        f"indexed: {summary(RefreshReport(**result['indexed']))}",  # type: ignore[arg-type]
        table(rows, "<<<><>", width),
    ]
    found = [f"{' = '.join(names)} ({kind})" for kind, groups in result["duplicates"].items() for names in groups]
    blocks.append(f"duplicates: {', '.join(found) or 'none'}")
    blocks.append("tags: " + ", ".join(f"{label} {count}" for label, count in result["tags"].items()))
    blocks.append(
        f"contact sheet: {visible(result['sheet'])}\n"
        f'search on: mlx_mm search "a red apple" --index {visible(shown_path(result["index"]))}'
    )
    return "\n\n".join(blocks)


COMMAND = Command(
    "index the bundled pictures, search and tag them, offline",
    add_arguments,
    run,
    ("mlx_mm demo", "mlx_mm demo --out sheet.png", "mlx_mm demo --json"),
)
