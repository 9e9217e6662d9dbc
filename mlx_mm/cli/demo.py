"""`mlx_mm demo`: search the bundled pictures and sounds, ask about pictures, draw a sheet, write a page."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.cli.command import Command
from mlx_mm.cli.demo_run import Answer, Conversion, Demo, Search, Telling, run_demo
from mlx_mm.cli.indexes import clock, shown_path
from mlx_mm.cli.notes import note
from mlx_mm.cli.output import flush, put, say, say_json, terminal_width, visible
from mlx_mm.cli.tables import table

if TYPE_CHECKING:
    from mlx_mm.search.records import RefreshReport

PAGE = Path("mlx_mm-demo.html")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `demo`."""
    parser.add_argument(
        "--out", type=Path, default=Path("mlx_mm-demo.png"), help="contact sheet to write (default: %(default)s)"
    )
    parser.add_argument("--page", type=Path, metavar="FILE", help="write all of it as one HTML page, sounds included")
    parser.add_argument("--open", action="store_true", help=f"show that page in the browser (without --page: {PAGE})")


def run(args: argparse.Namespace) -> int:
    """Run the demonstration, and print what it finds as it finds it."""
    from mlx_mm.cli.contact_sheet import check_sheet, draw_sheet
    from mlx_mm.cli.demo_page import check_page, write_page

    sheet: Path = args.out
    page: Path | None = args.page or (PAGE if args.open else None)
    check_sheet(sheet)
    if page is not None:
        check_page(page)
    result = run_demo(Telling() if args.json else Printed())
    draw_sheet(sheet, title_of(result), result["searches"])
    if page is not None:
        write_page(page, result)
    if args.json:
        say_json({**result, "sheet": str(sheet), "page": None if page is None else str(page)})
    else:
        say(end(result, sheet, page))
    flush()
    if page is not None and args.open:
        show(page)
    return 0


def show(page: Path) -> None:
    """In the desktop's browser, or where there is none say where the page is."""
    from mlx_mm.cli.viewer import has_display, show_file

    if has_display():
        show_file(str(page))
    else:
        note(f"there is no desktop to show {page} on; open it in a browser: {page.resolve().as_uri()}")


def title_of(result: Demo) -> str:
    """That of the contact sheet."""
    made = result["models"][0]
    files = result["pictures"]["files"]
    return f"{made['model']}, {made['bits']} bit: of {files} files the pictures that fit, and their scores"


class Printed(Telling):
    """Told on stdout."""

    def converted(self, made: Conversion) -> None:
        """A line."""
        say(
            f"{made['model']}: {made['source_bytes'] / 1e6:.1f} MB -> {made['bytes'] / 1e6:.1f} MB "
            f"({made['bits']} bit) in {made['seconds']:.1f} s"
        )
        flush()

    def searched(self, what: str, report: "RefreshReport", searches: Sequence[Search]) -> None:
        """A table."""
        from mlx_mm.cli.index import summary

        say(f"\n{what}: {summary(report)}\n\n{searches_table(searches, terminal_width())}")
        flush()

    def asking(self, model: str) -> None:
        """A heading."""
        say(f"\nquestions, answered by {visible(model)}:\n")

    def asked(self, picture: str, question: str) -> None:
        """The beginning of a line."""
        put(f"{visible(picture)}  {visible(question)}  ")
        flush()

    def said(self, text: str) -> None:
        """More of the line; what a model says neither ends it nor steers a terminal."""
        put(visible(text))
        flush()

    def answered(self, answer: Answer) -> None:
        """Its end."""
        say(f"  ({answer['seconds']:.2f} s)")
        flush()


def searches_table(searches: Sequence[Search], width: int | None = None) -> str:
    """A line for each search: what fits best, and what comes next. width: as of `table`."""
    rows = [("search", "", "best", "score", "next one", "score")]
    for search in searches:
        best, second = search["hits"][:2]
        fits = best["name"] if search["fitting"] else "nothing fits"
        if search["fitting"] and best["start"] is not None and best["stop"] is not None:
            fits += f"  {clock(best['start'])}-{clock(best['stop'])}"
        scores = [f"{hit['score']:.2f}" for hit in (best, second)]
        rows.append((search["query"], search["language"], fits, scores[0], second["name"], scores[1]))
    return table(rows, "<<<><>", width)


def end(result: Demo, sheet: Path, page: Path | None) -> str:
    """Duplicates, tags, what was written, and how to go on."""
    found = [f"{' = '.join(names)} ({kind})" for kind, groups in result["duplicates"].items() for names in groups]
    written = f"contact sheet: {visible(str(sheet))}\n"
    written += "" if page is None else f"page: {visible(str(page))}\n"
    return (
        f"\nduplicates: {', '.join(found) or 'none'}\n"
        f"tags: {', '.join(f'{label} {count}' for label, count in result['tags'].items())}\n\n"
        f"{result['seconds']:.1f} s in all, on this machine alone\n{written}"
        f'search on: mlx_mm search "a dog" --index {visible(shown_path(result["index"]))}'
    )


COMMAND = Command(
    "search bundled pictures and sounds and ask about them, offline",
    add_arguments,
    run,
    ("mlx_mm demo", "mlx_mm demo --open", "mlx_mm demo --out sheet.png --page demo.html", "mlx_mm demo --json"),
)
