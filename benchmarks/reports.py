"""What `compare.py` found, as a table for a document and as a picture."""

from __future__ import annotations

from pathlib import Path

UNITS = {"float32": ("GF/s", "FMA peak"), "int8": ("Gop/s", "int8 peak"), "read": ("GB/s", "read peak")}


def table(found: dict) -> str:
    """Markdown: the machine, a row for each case and engine, and who was left out."""
    base, unit = found["base"], found["unit"]
    lines = [f"**{found['work']}**: {found['about']}; medians of {found['turns']} turns (least - most)", ""]
    lines += [f"| case | engine | ms a {unit} | × {base} | × CPU time | rate | of the peak | GB | 1 − cos |"]
    lines += ["|---|---|---|---|---|---|---|---|---|"]
    for row in found["rows"]:
        cells = [named(row["case"]), row["engine"], ranged(row["milliseconds"])]
        cells.append(ranged(row["ratio"]) if "ratio" in row else "")
        cells.append(f"{row['ratio_of_processor_time']:.2f}" if "ratio_of_processor_time" in row else "")
        limit = row.get("limit")
        cells.append(f"{row['rate'] / 1e9:.0f} {UNITS[limit][0]}" if limit else "")
        cells.append(share(row) if limit else "")
        cells.append(f"{row['memory_gb']:.2f}")
        cells.append(f"{row['distance']:.1e}" if row.get("distance") is not None else "")
        lines.append("| " + " | ".join(cells) + " |")
    lines += ["", *notes(found)]
    return "\n".join(lines) + "\n"


def share(row: dict) -> str:
    """Of the peak, and by processor time, which other processes do not lengthen."""
    wall, own = 100 * row["share"][0], 100 * row["share_of_processor_time"]
    return f"{wall:.0f} % of {UNITS[row['limit']][1]} ({own:.0f} % of CPU time)"


def insert(document: Path, name: str, text: str) -> None:
    """Puts a table between the marks <!-- name --> and <!-- /name --> of a document."""
    whole, marks = document.read_text("utf-8"), (f"<!-- {name} -->", f"<!-- /{name} -->")
    before, first, rest = whole.partition(marks[0])
    _, last, after = rest.partition(marks[1])
    if not first or not last:
        raise SystemExit(f"{document} has no marks {' '.join(marks)}")
    document.write_text(f"{before}{first}\n{text.strip()}\n{last}{after}", "utf-8")


def notes(found: dict) -> list[str]:
    """The machine in two lines, and a line for each engine that did not run."""
    peaks = [
        f"{UNITS[key][1]} {value[0] / 1e9:.0f} ({value[1] / 1e9:.0f} - {value[2] / 1e9:.0f}) {UNITS[key][0]}"
        for key, value in found["peaks"].items()
        if value[0]
    ]
    loads = " to ".join(f"{found['load'][when][0]:.1f}" for when in ("before", "after"))
    versions = ", ".join(f"{name} {version}" for name, version in found["versions"].items())
    environment = ", ".join(f"{name}={value}" for name, value in found["environment"].items()) or "nothing set"
    return [
        f"{found['processor']}, {found['cpus']} CPUs, {found['kernels']}; load {loads}; {', '.join(peaks)}.",
        f"{versions}. Environment: {environment}.",
        *(f"Left out: {who}: {why}" for who, why in found["left_out"].items()),
    ]


def named(case: dict) -> str:
    return ", ".join(f"{value}" if isinstance(value, str) else f"{key} {value:,}" for key, value in case.items())


def ranged(values: list[float]) -> str:
    """Median (least - most), with three digits."""
    shown = [f"{value:.0f}" if value >= 100 else f"{value:.3g}" for value in values]
    return f"{shown[0]} ({shown[1]} - {shown[2]})"


def draw(found: list[dict], path: Path) -> None:
    """A panel for each work: how fast each engine is, as a multiple of the work's base."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(found), 1, figsize=(9, 0.6 + 0.32 * sum(len(one["rows"]) + 3 for one in found)),
                                   height_ratios=[len(one["rows"]) + 2 for one in found], squeeze=False)  # fmt: skip
    for axis, one in zip(axes[:, 0], found, strict=True):
        rows = [row for row in one["rows"] if "ratio" in row][::-1]
        ratios = [row["ratio"] for row in rows]
        errors = [[r[0] - r[1] for r in ratios], [r[2] - r[0] for r in ratios]]
        colours = ["#1668a8" if row["engine"].startswith("mlx_mm") else "#b8b8b8" for row in rows]
        labels = [f"{named(row['case'])}: {row['engine']}" for row in rows]
        axis.barh(labels, [r[0] for r in ratios], xerr=errors, color=colours, ecolor="#444444")
        axis.axvline(1, color="black", linewidth=0.8)
        axis.set_title(f"{one['about']}: × {one['base']}", fontsize=9)
        axis.tick_params(labelsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)


def growth_table(about: str, found: dict) -> str:
    """Milliseconds of each engine over the sizes of a plan."""
    sizes = list(dict.fromkeys(row["case"][found["key"]] for row in found["rows"]))
    lines = [f"| {about}: ms a {found['unit']} | " + " | ".join(f"{size:,}" for size in sizes) + " |"]
    lines.append("|---" * (len(sizes) + 1) + "|")
    for engine in dict.fromkeys(row["engine"] for row in found["rows"]):
        cells = {row["case"][found["key"]]: row["milliseconds"] for row in found["rows"] if row["engine"] == engine}
        shown = [ranged(cells[size]) if size in cells else "" for size in sizes]
        lines.append(f"| {engine} | " + " | ".join(shown) + " |")
    return "\n".join(lines) + "\n"
