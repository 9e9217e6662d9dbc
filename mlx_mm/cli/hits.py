"""How the hits of a search look: a table, JSON, and a line that says how many fit."""

from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_mm.cli.indexes import clock, shown_path
from mlx_mm.cli.tables import table

if TYPE_CHECKING:
    from mlx_mm.search.records import Hit, Hits

DOTS = 5  # of the best match


def hits_table(hits: "Hits", width: int | None = None) -> str:
    """Rank, match, score, when, file. width: as of `table`."""
    scored = any(hit.score is not None for hit in hits)
    rows = []
    for number, hit in enumerate(hits, 1):
        match = (dots(hit, hits), "" if hit.score is None else f"{hit.score:.3f}") if scored else ()
        rows.append((str(number), *match, (hit.taken_at or "")[:10], file_cell(hit)))
    heading = ("#", "match", "score", "when", "file") if scored else ("#", "when", "file")
    return table([heading, *rows], "><><<" if scored else "><<", width)


def dots(hit: "Hit", hits: "Hits") -> str:
    """How well a hit fits beside the best one: three dots or more where it is held to fit, else two or one; "name"
    where nothing but its name or a tag has the words."""
    if hit.score is None:
        return "name"
    scores = [other.score for other in hits if other.strong == hit.strong and other.score is not None]
    low, high = min(scores), max(scores)
    share = 1.0 if high == low else (hit.score - low) / (high - low)
    least, most = (DOTS - 2, DOTS) if hit.strong else (1, DOTS - 3)
    full = least + round(share * (most - least))
    return "●" * full + "○" * (DOTS - full)


def file_cell(hit: "Hit") -> str:
    """Its path, the part that fits, and how many copies there are."""
    times = "" if hit.start is None or hit.stop is None else f"  {clock(hit.start)}-{clock(hit.stop)}"
    copies = f"  (+{len(hit.copies)})" if hit.copies else ""
    return f"{shown_path(hit.path)}{times}{copies}"


def summary(hits: "Hits", asked: str, *, show_all: bool) -> str:
    """How many fit, how many do not so well, and how to see those."""
    if hits and all(hit.score is None for hit in hits):
        more = f", {len(hits):,} shown (--top)" if len(hits) < hits.strong else ""
        return counted(hits.strong, "file") + more
    weaker = counted(hits.weaker, "weaker one")
    if hits.strong:
        shown = sum(hit.strong for hit in hits)
        more = f", the best {shown:,} shown (--top)" if shown < hits.strong else ""
        rest = f"; {weaker}{'' if show_all else ' (--all)'}" if hits.weaker else ""
        return f"{counted(hits.strong, 'strong match', 'strong matches')}{more}{rest}"
    if not hits.weaker:
        return f"nothing fits {asked}; there was no file to compare with it"
    return f"nothing fits {asked}; {f'{weaker} above' if hits else f'--all shows {weaker}'}"


def counted(count: int, noun: str, nouns: str | None = None) -> str:
    """ "1 file", "12,431 files"."""
    return f"{count:,} {noun if count == 1 else nouns or noun + 's'}"


def hits_json(hits: "Hits") -> dict[str, object]:
    """The hits with plain types, and how many fit beside them."""
    return {"strong": hits.strong, "weaker": hits.weaker, "hits": [asdict(hit) for hit in hits]}
