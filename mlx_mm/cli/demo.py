"""`mlx_mm demo`: convert the bundled checkpoint, search and classify the bundled images, draw a contact sheet."""

import argparse
import json
import os
import sys
from pathlib import Path
from typing import TypedDict

from mlx_mm.cli.command import Command
from mlx_mm.cli.opening import DEFAULT_MODEL
from mlx_mm.cli.output import say, say_json, terminal_width, visible
from mlx_mm.cli.tables import table
from mlx_mm.errors import OutputError

BITS = 4
BEST = 5  # images per query
# A picture fits where the model holds it likelier than not. Its scores are probabilities of just that: SigLIP is
# trained to tell pairs from strangers, each by itself. Between the right pictures and the next ones lies a wide gap.
FITS = 0.5


class Hit(TypedDict):
    """A bundled image, the cosine of its vector with the query's, and the model's score: how likely it fits."""

    picture: str
    cosine: float
    score: float


class Search(TypedDict):
    """A query, its language, the image it must find, the nearest ones, best first, and those of them that fit."""

    query: str
    language: str
    expected: str
    hits: list[Hit]
    fitting: list[str]


class Label(TypedDict):
    """A label and its score."""

    label: str
    score: float


class Classified(TypedDict):
    """A bundled image and the labels it was offered, best first."""

    picture: str
    labels: list[Label]


class Conversion(TypedDict):
    """What became of the bundled checkpoint; sizes in bytes."""

    model: str
    folder: str
    bits: int
    source_bytes: int
    bytes: int
    seconds: float


class Demo(TypedDict):
    """What `run_demo` did, with the path of its contact sheet."""

    conversion: Conversion
    searches: list[Search]
    classified: list[Classified]
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
    from mlx_mm import classify, convert, encode_image, encode_text, load
    from mlx_mm.checkpoint import hub
    from mlx_mm.checkpoint.atomic import check_file
    from mlx_mm.cli.contact_sheet import draw_sheet

    if sheet.suffix.lower() != ".png" or not sheet.resolve().parent.is_dir():
        raise OutputError(f"{sheet} cannot be the contact sheet; expected a .png file in a folder that exists.")
    check_file(sheet)
    plan = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))
    folder = cache_folder() / f"{DEFAULT_MODEL}-{BITS}bit"
    report = convert(DEFAULT_MODEL, folder, bits=BITS, overwrite=True)
    model, processor = load(folder)

    files = sorted((hub.BUNDLED / "pictures").glob("*.png"))
    images = encode_image(model, processor, files)
    words = [search["query"] for search in plan["searches"]]
    scores = [dict(found) for found in classify(model, processor, files, words, template="{}")]
    searches: list[Search] = []
    for search, cosines in zip(plan["searches"], encode_text(model, processor, words) @ images.T, strict=True):
        hits: list[Hit] = [
            {
                "picture": files[i].stem,
                "cosine": round(float(cosines[i]), 4),
                "score": round(scores[i][search["query"]], 4),
            }
            for i in (-cosines).argsort(kind="stable")[:BEST]
        ]
        fitting = [hit["picture"] for hit in hits if hit["score"] >= FITS]
        searches.append(
            {
                "query": search["query"],
                "language": search["language"],
                "expected": search["expected"],
                "hits": hits,
                "fitting": fitting,
            }
        )

    classified: list[Classified] = []
    for item in plan["classify"]:
        found = classify(model, processor, hub.BUNDLED / "pictures" / item["picture"], item["labels"])
        labels: list[Label] = [{"label": label, "score": round(score, 4)} for label, score in found]
        classified.append({"picture": Path(item["picture"]).stem, "labels": labels})

    title = f"{DEFAULT_MODEL}, {BITS} bit: of {len(files)} pictures those that fit, and how likely the model holds it"
    draw_sheet(sheet, title, searches, hub.BUNDLED / "pictures", hub.BUNDLED / "fonts")
    return {
        "conversion": {
            "model": DEFAULT_MODEL,
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


def demo_table(result: Demo, width: int | None = None) -> str:
    """The conversion, searches and classifications. width: as of `table`."""
    made = result["conversion"]
    rows = [("search", "", "best picture", "likely", "next one", "likely")]
    for search in result["searches"]:
        best, second = search["hits"][:2]
        fits = best["picture"] if search["fitting"] else "nothing fits"
        likely = [f"{hit['score']:.2f}" for hit in (best, second)]
        rows.append((search["query"], search["language"], fits, likely[0], second["picture"], likely[1]))
    blocks = [
        f"{made['model']}: {made['source_bytes'] / 1e6:.1f} MB -> {made['bytes'] / 1e6:.1f} MB "
        f"({made['bits']} bit) in {made['seconds']:.1f} s",
        table(rows, "<<<><>", width),
    ]
    for item in result["classified"]:
        scores = ", ".join(f"{label['label']} {label['score']:.2f}" for label in item["labels"])
        blocks.append(f"classify {item['picture']}: {scores}")
    blocks.append(f"contact sheet: {visible(result['sheet'])}")
    return "\n\n".join(blocks)


COMMAND = Command(
    "search and classify the bundled pictures, offline",
    add_arguments,
    run,
    ("mlx_mm demo", "mlx_mm demo --out sheet.png", "mlx_mm demo --json"),
)
