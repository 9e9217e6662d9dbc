"""How results look in a terminal."""

import contextlib
import json
import math
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlx_mm.convert import ConvertReport
    from mlx_mm.errors import MediaError
    from mlx_mm.quantize.plan import LayerPlan


def is_terminal() -> bool:
    """Whether somebody watches stderr, so that a progress bar makes sense."""
    return sys.stderr.isatty()


def note(text: str) -> None:
    """One line on stderr."""
    print(text, file=sys.stderr)


@contextlib.contextmanager
def warnings_as_notes() -> Iterator[None]:
    """Inside, a UserWarning is one line on stderr, without the place in the code; the same one appears once."""

    def show(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, UserWarning):
            note(f"warning: {' '.join(str(message).split())}")
        else:
            usual(message, category, *place, **more)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        usual, warnings.showwarning = warnings.showwarning, show
        yield


def plural(count: int, noun: str) -> str:
    """ "1 layer", "2 layers"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


class Skipped:
    """Counts inputs that could not be read, with one warning line each."""

    def __init__(self) -> None:
        self.count = 0
        self._bad: set[int] = set()

    def find(self, names: Sequence[str], kind: str = "image") -> list[str]:
        """The files of that kind ("image", "audio") behind what the user named; names without files are warned of."""
        from mlx_mm.cli.collect import find_files

        found = find_files(names, kind)
        for problem in found.problems:
            self._warn(problem)
        return found.files

    def on_error(self, files: Sequence[str]) -> Callable[[int, "MediaError"], None]:
        """A callback for `encode_image` and `encode_audio` over `files`."""

        def skip(index: int, error: "MediaError") -> None:
            self._bad.add(index)
            self._warn(str(error) if files[index] in str(error) else f"{files[index]}: {error}")

        return skip

    def remaining(self, files: Sequence[str]) -> list[str]:
        """Those of `files` that were read."""
        return [name for index, name in enumerate(files) if index not in self._bad]

    def report(self) -> None:
        """Say at the end how many were skipped."""
        if self.count:
            note(f"{plural(self.count, 'input')} skipped, see the warnings above")

    def _warn(self, text: str) -> None:
        self.count += 1
        note(f"warning: skipped {text}")


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


def key_values(values: Mapping[str, Any]) -> str:
    """One line per key; nested groups are joined on theirs."""
    rows = [(key.replace("_", " "), _plain(value)) for key, value in values.items()]
    return table(rows, "<<")


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items() if item != "")
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,}" if isinstance(value, int) else str(value)


def report_as_dict(report: "ConvertReport") -> dict[str, Any]:
    """A conversion report with plain types only."""
    return {**asdict(report), "out": str(report.out)}


def report_table(report: "ConvertReport") -> str:
    """What a conversion did: groups of layers, sizes, licence."""
    groups: dict[tuple[str, str], list[LayerPlan]] = {}
    for choice in report.choices:
        scheme = choice.scheme
        what = f"{scheme.bits} bit, group {scheme.group_size}" if scheme else f"kept, {choice.reason}"
        groups.setdefault((choice.path.split(".")[0], what), []).append(choice)
    rows = []
    for (tower, what), choices in groups.items():
        kinds = ", ".join(sorted({choice.path.split(".")[-1] for choice in choices}))
        parameters = sum(math.prod(choice.shape) for choice in choices)
        rows.append((tower, what, plural(len(choices), "layer"), f"{parameters:,} weights", kinds))
    lines = [table(sorted(rows), "<<>><")] if rows else ["nothing quantised"]
    for key, (old, new) in report.padded.items():
        lines.append(f"{key} {old} -> {new}: zeros added so that the group size divides it; exact")
    lines.append(
        f"{report.parameters:,} parameters, {report.source_bytes / 1e6:,.1f} MB -> {report.bytes / 1e6:,.1f} MB "
        f"in {report.seconds:.1f} s"
    )
    for kind, (mean, low) in (report.cosines or {}).items():
        lines.append(f"{kind} vectors against the source's: cosine {mean:.4f} on average, {low:.4f} at the lowest")
    lines.append(f"licence of the weights: {report.licence or 'not named by the source'}")
    lines.append(f"written to {report.out}")
    return "\n".join(lines)


Scores = Sequence[tuple[str, Sequence[tuple[str, float]]]]


def scores_table(results: Scores) -> str:
    """File, label, score; the file only in its first line."""
    rows = []
    for name, scores in results:
        for i, (label, score) in enumerate(scores):
            rows.append((name if i == 0 else "", label, f"{score:.3f}"))
    return table(rows, "<<>")


def scores_json(results: Scores) -> str:
    """A JSON array of {"id", "labels": [{"label", "score"}]}."""
    rows = [
        {"id": name, "labels": [{"label": label, "score": score} for label, score in scores]}
        for name, scores in results
    ]
    return json.dumps(rows, ensure_ascii=False, indent=2)


def demo_table(result: Mapping[str, Any]) -> str:
    """The demo's conversion, searches and classifications."""
    made = result["conversion"]
    rows = [("search", "", "best picture", "")]
    for search in result["searches"]:
        best, *others = (hit["picture"] for hit in search["hits"])
        rows.append((search["query"], search["language"], best, f"then {', '.join(others)}"))
    blocks = [
        f"{made['model']}: {made['source_bytes'] / 1e6:.1f} MB -> {made['bytes'] / 1e6:.1f} MB "
        f"({made['bits']} bit) in {made['seconds']:.1f} s",
        table(rows, "<<<<"),
    ]
    for item in result["classified"]:
        scores = ", ".join(f"{hit['label']} {hit['score']:.2f}" for hit in item["labels"])
        blocks.append(f"classify {item['picture']}: {scores}")
    blocks.append(f"contact sheet: {result['sheet']}")
    return "\n\n".join(blocks)
