"""How cost grows with the batch, the size of a picture, the length of a text and of a prompt: four points each.

    python benchmarks/growth.py [--turns 3] [--png docs/growth.png] [--json F]

Engines and checkpoints are those of `compare.py`. The picture needs matplotlib.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from compare import FOLDER, compare
from reports import growth_table, insert, notes

PLANS = {
    "pictures at a time (ViT-B/16)": ("vit", "batch", ({"batch": count} for count in (1, 2, 4, 8))),
    "side of a picture in pixels (GLM-4.6V's vision tower)": (
        *("glm-vision", "side"),
        ({"side": side} for side in (112, 224, 448, 672)),
    ),
    "tokens of a text (Jina CLIP v2)": (
        *("jina-text", "tokens"),
        ({"batch": 1, "tokens": tokens} for tokens in (128, 512, 1024, 2048)),
    ),
    "tokens of a prompt (a layer of GLM-4.6V-Flash, 4 bit)": (
        *("glm-layer", "tokens"),
        ({"stage": "prefill", "tokens": tokens} for tokens in (128, 512, 1024, 2048)),
    ),
}
ENGINES = {
    "vit": ["mlx_mm", "mlx_mm 8 bit", "torch"],
    "glm-vision": ["mlx_mm", "torch"],
    "jina-text": ["mlx_mm", "mlx_mm 8 bit", "torch"],
    "glm-layer": ["mlx_mm 4 bit", "llama.cpp Q4_0"],
}
MOST_TURNS = {"glm-vision": 1, "jina-text": 1}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--works", nargs="+", choices=ENGINES, default=list(ENGINES), help="some of the four")
    parser.add_argument("--turns", type=int, default=3, help="after the first one, fewer of what takes long (default: 3)")
    parser.add_argument("--settle", type=float, default=0.2, help="seconds of rest before a run (default: 0.2)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help=f"of checkpoints (default: {FOLDER})")
    parser.add_argument("--png", type=Path, default=Path("growth.png"), help="(default: growth.png)")
    parser.add_argument("--document", type=Path, help="put the tables there, between the marks of `growth`")
    parser.add_argument("--json", type=Path, help="write everything there")
    arguments = parser.parse_args()
    found, tables = {}, []
    for about, (work, key, cases) in PLANS.items():
        if work in arguments.works:
            turns = min(arguments.turns, MOST_TURNS.get(work, arguments.turns))
            one = compare(work, arguments.folder, ENGINES[work], list(cases), turns, arguments.settle)
            found[about] = {**one, "key": key}
            tables.append("\n".join([growth_table(about, found[about]), *notes(one)]))
            print(tables[-1], end="\n\n", flush=True)
    if arguments.document:
        insert(arguments.document, "growth", "\n\n".join(tables))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1))
    try:
        draw(found, arguments.png)
    except ImportError as error:
        sys.exit(f"no picture: {error.name} is not installed")


def draw(found: dict[str, dict], path: Path) -> None:
    """A panel for each plan: seconds over size, both by powers, with the least and the most of the turns."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    colours = {"mlx_mm": "#1668a8", "mlx_mm 8 bit": "#3fa34d", "mlx_mm 4 bit": "#3fa34d"}
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 7), squeeze=False)
    for axis in axes.flat[len(found) :]:
        axis.axis("off")
    for axis, (about, one) in zip(axes.flat, found.items(), strict=False):
        for engine in dict.fromkeys(row["engine"] for row in one["rows"]):
            rows = [row for row in one["rows"] if row["engine"] == engine]
            sizes = [row["case"][one["key"]] for row in rows]
            times = [[units_of(row) * value / 1e3 for value in row["milliseconds"]] for row in rows]
            errors = [[t[0] - t[1] for t in times], [t[2] - t[0] for t in times]]
            axis.errorbar(sizes, [t[0] for t in times], errors, marker="o", capsize=2, label=engine,
                          color=colours.get(engine, "#888888"))  # fmt: skip
        axis.set_xscale("log", base=2)
        axis.set_yscale("log")
        axis.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axis.set_xlabel(about, fontsize=9)
        axis.set_ylabel("seconds", fontsize=9)
        axis.grid(alpha=0.3)
        axis.legend(fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=100)


def units_of(row: dict) -> int:
    """Times are of one picture, and of a batch here."""
    return row["case"].get("batch", 1)


if __name__ == "__main__":
    main()
