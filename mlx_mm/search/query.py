"""Finding what fits: words and examples, for and against, within filters; and saying when nothing does."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import get_args

import numpy as np

from mlx_mm.errors import InputError, is_number, shown, whole_number
from mlx_mm.processing.arguments import flag
from mlx_mm.processing.vectors import Vectors
from mlx_mm.search import words
from mlx_mm.search.asking import Part, Query, vectors_of
from mlx_mm.search.codes import open_codes
from mlx_mm.search.comparing import Compared, Flags
from mlx_mm.search.cutoffs import Cutoffs, cutoffs_of, least_of_example
from mlx_mm.search.filters import Kept, check, keep
from mlx_mm.search.found import File, Match, files_of, hits_of
from mlx_mm.search.ranking import Named, Ranked, among, count_contents, merged
from mlx_mm.search.records import Hits, SortBy, Where
from mlx_mm.search.spaces import Space, Spaces
from mlx_mm.search.store import Store


@dataclass(frozen=True)
class Limits:
    """How much of what was found is shown. Raises InputError for what cannot be."""

    top: int = 20
    min_score: float | None = None
    strong_only: bool = True
    sort: SortBy = "score"

    def __post_init__(self) -> None:
        whole_number("top", self.top)
        flag("strong_only", self.strong_only)
        if self.min_score is not None and not (is_number(self.min_score) and abs(self.min_score) <= 1):
            raise InputError(
                f"min_score is {shown(self.min_score)}; expected a cosine, -1 to 1. Leave it out for the usual one."
            )
        if self.sort not in get_args(SortBy):
            raise InputError(
                f"sort is {shown(self.sort)}; expected one of {', '.join(get_args(SortBy))}. Leave it out for score."
            )


class Searcher:
    """Searches an index, and keeps what the next search needs too. May be used from any thread."""

    def __init__(self, store: Store, spaces: Spaces):
        self._store = store
        self._spaces = spaces
        self._cutoffs: dict[int, Cutoffs] = {}

    def search(self, query: Query, where: Where, limits: Limits) -> Hits:
        """The contents that fit, best first, each with the part that fits best; see `Index.search`."""
        check(where)
        is_filtered = where != Where()
        if not query.parts and not is_filtered:
            raise InputError("Nothing was asked; expected words, an example or a filter. Give one.")
        wanted = [part for part in query.parts if part.weight > 0]
        if limits.min_score is not None and not wanted:
            raise InputError("min_score compares with words or examples, and there are none. Leave it out.")
        with self._store.reading() as rows:
            kept = keep(rows, where) if is_filtered else None
            hidden = {row[0] for row in rows.execute("SELECT id FROM contents WHERE live = 0")}
            named = _find_named(rows, query.parts, kept)
        if not query.parts and kept is not None:
            return self._newest(kept, limits)
        spaces = [space for space in self._spaces.all() if where.kind is None or where.kind in space.kinds]
        asked = [vectors_of(self._store, spaces, part) for part in query.parts]
        results = []
        for index, space in enumerate(spaces):
            vectors = [of_part[index] for of_part in asked]
            compared = self._compare(space, query.parts, vectors, hidden)
            if compared is not None:
                live, result = compared
                contents = result.codes.contents
                allowed = live if kept is None else live & among(contents, kept.contents)
                results.append(Ranked.of(self._store, result, allowed, named, limits.min_score, limits.strong_only))
        return self._best(results, named, kept, limits)

    def _compare(
        self, space: Space, parts: Sequence[Part], vectors: Sequence[Vectors | None], hidden: set[int]
    ) -> tuple[Flags, Compared] | None:
        """The vectors of a space against those parts that it can take, and which of them are of files that are there;
        None where nothing that is wanted is among these, or no vector there."""
        taken = [(part, vector) for part, vector in zip(parts, vectors, strict=True) if vector is not None]
        lost = any(part.weight > 0 for part in parts) and not any(part.weight > 0 for part, _ in taken)
        codes = open_codes(self._store, space.id)
        live = ~among(codes.contents, hidden)
        if lost or not taken or not live.any():
            return None
        weights = np.array([part.weight for part, _ in taken], np.float32)
        compared = Compared.of(codes, np.stack([vector for _, vector in taken]), weights, live)
        if any(part.kind == "words" for part, _ in taken):
            self._cutoffs[space.id] = cutoffs_of(self._store, space, codes.ids, self._cutoffs.get(space.id))
            of_words = self._cutoffs[space.id].of(codes.ids)
        compared.least = np.stack(
            [
                of_words
                if part.kind == "words"
                else np.full(len(codes.ids), least_of_example(cosines[live]), np.float32)
                for (part, _), cosines in zip(taken, compared.cosines, strict=True)
            ]
        )
        return live, compared

    def _best(self, results: Sequence[Ranked], named: Named, kept: Kept | None, limits: Limits) -> Hits:
        """Those that fit best, or of all that fit the newest or first by name."""
        beyond = limits.strong_only and limits.sort != "score"
        found = merged(self._store, results, named, None if beyond else limits.top)
        has_vector = set[int]().union(*(result.named(named) for result in results))
        by_name = named.wanted.keys() - named.unwanted - has_vector if limits.min_score is None else set[int]()
        found += [(named.wanted[content], Match(content)) for content in by_name]
        strong = count_contents((result.compared.codes.contents, result.strong) for result in results)
        total = count_contents((result.compared.codes.contents, result.allowed) for result in results)
        if not beyond and len(found) > limits.top:  # of those that tie with the last one, paths decide
            last = sorted((value for value, _ in found), reverse=True)[limits.top - 1]
            found = [pair for pair in found if pair[0] >= last]
        with self._store.reading() as rows:
            files = files_of(rows, [match.content for _, match in found], _first(named, kept, found))
            there = [(value, match) for value, match in found if match.content in files]
            there.sort(key=lambda pair: (-pair[0], files[pair[1].content].paths[0]))
            matches = [match for _, match in there]
            if not beyond:
                matches = matches[: limits.top]
            matches = _sorted(matches, files, limits.sort)[: limits.top]
            return Hits(
                hits_of(rows, matches, files),
                strong=strong + len(by_name),
                weaker=total - strong,
            )

    def _newest(self, kept: Kept, limits: Limits) -> Hits:
        """All that pass the filters, the newest first or by name."""
        contents = kept.contents
        if limits.sort != "name" and len(contents) > limits.top:
            # The newest contents are among the newest files, copies and ties included.
            order = np.argsort(-kept.moments, kind="stable")
            first = np.sort(np.unique(contents[order], return_index=True)[1])
            last = kept.moments[order[first[min(limits.top, len(first)) - 1]]]
            contents = contents[kept.moments >= last]
        with self._store.reading() as rows:
            files = files_of(rows, set(contents.tolist()), set(kept.files.tolist()))
            matches = _sorted([Match(content) for content in files], files, "name" if limits.sort == "name" else "date")
            total = len(np.unique(kept.contents))
            return Hits(hits_of(rows, matches[: limits.top], files), strong=total, weaker=0)


def _find_named(rows: sqlite3.Connection, parts: Iterable[Part], kept: Kept | None) -> Named:
    """Files whose names or tags hold the words of a part, if they are there and pass the filters."""
    named = Named()
    for part in parts:
        files = words.find(rows, str(part.value)) if part.kind == "words" else []
        if kept is not None and files:
            files = np.array(files)[np.isin(files, kept.files)].tolist()
        if not files:
            continue
        content_of = dict(
            rows.execute(
                "SELECT id, content FROM files WHERE state = 'here' AND content IS NOT NULL "
                "AND id IN (SELECT value FROM json_each(?))",
                (json.dumps(files),),
            )
        )
        there = [file for file in files if file in content_of]
        named.add((content_of[file] for file in there), part.weight)
        if part.weight > 0:
            named.files.update(there)
    return named


def _first(named: Named, kept: Kept | None, found: Iterable[tuple[float, Match]]) -> set[int]:
    """Ids of the files whose paths stand for their contents: they have the names, or pass the filters."""
    if kept is None:
        return named.files
    shown = np.array([match.content for _, match in found if match.content not in named.wanted], np.int64)
    return named.files | set(kept.files[np.isin(kept.contents, shown)].tolist())


def _sorted(matches: list[Match], files: dict[int, File], sort: SortBy) -> list[Match]:
    """By date the newest first, those without one last; by name from a to z."""
    if sort == "name":
        return sorted(matches, key=lambda match: files[match.content].paths[0])
    if sort == "date":
        matches = sorted(matches, key=lambda match: files[match.content].paths[0])
        return sorted(matches, key=lambda match: files[match.content].moment or datetime.min, reverse=True)
    return matches
