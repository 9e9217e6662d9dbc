"""Files that are identical, the same picture, or similar: three kinds, which are never mixed."""

import itertools
import os
import sqlite3
from collections.abc import Iterable, Sequence
from typing import TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import InputError, is_number, shown
from mlx_mm.search.alike import (
    Halves,
    Pairs,
    complete_groups,
    count_bits,
    joined,
    near_hashes,
    near_vectors,
    unit,
)
from mlx_mm.search.filters import MOMENT
from mlx_mm.search.records import Copy, DuplicateKind, Group
from mlx_mm.search.store import Store
from mlx_mm.search.stored_vectors import STORED

# Of pictures that are the same in another size, format or compression: bits of their perceptual hashes that differ,
# and the cosine of their vectors. docs/index.md, "Duplicates", has what was measured.
MOST_BITS = 6
SAME = 0.96
FLAT_SAME = 0.99  # where the hash says nothing: of flat pictures and of gradients all bits are alike
SIMILAR = 0.9
MOST_PAIRS = 5_000_000
Ranked: TypeAlias = tuple[tuple[object, ...], Copy]  # by what the best one comes first

# Endings of what a camera stored itself, of which others were made
ORIGINALS = frozenset(
    (".heic", ".heif", ".dng", ".arw", ".cr2", ".cr3", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2", ".srw")
)


def duplicates(store: Store, kind: DuplicateKind = "same", threshold: float | None = None) -> list[Group]:
    """Groups of one kind, the largest first; in each, any two files are duplicates of each other, and the first one is
    the suggested keeper: it has the most pixels, or else is a camera's original, the earliest, of the shortest path.

    "identical": files with the same bytes. "same": pictures that differ in size, format or compression alone: their
    perceptual hashes in 6 bits of 64 at most, and the cosine is 0.96 (threshold) or more. "similar": pictures, sounds
    and videos with a cosine of 0.9 (threshold) or more; of pictures that are the same, the keeper stands for them all.
    One file of each content, but for identical ones; links to a file are no copies of it. Pairs that are kept apart are
    in no group.
    Raises InputError for another kind, or a threshold that is none.
    """
    if kind not in get_args(DuplicateKind):
        raise InputError(f"kind is {shown(kind)}; expected one of {', '.join(get_args(DuplicateKind))}. Choose one.")
    if threshold is not None and not (is_number(threshold) and 0 < threshold <= 1 and kind != "identical"):
        raise InputError(
            f"threshold is {shown(threshold)}; expected a cosine, above 0 and at most 1, of what is the same or "
            "similar. Leave it out."
        )
    with store.reading() as rows:
        files = _files(rows)
        if kind == "identical":
            return _sorted(Group(kind, tuple(copies), 1.0) for copies in files.values() if len(copies) > 1)
        apart = _kept_apart(rows)
        spaces = [row[0] for row in rows.execute("SELECT id FROM spaces ORDER BY id")]
        groups, seen = list[Group](), set[int]()
        for space in spaces:
            contents, vectors = _vectors(rows, space, files.keys() - seen)
            seen.update(contents.tolist())
            hashes = _hashes(rows, contents)
            least = SAME if threshold is None or kind == "similar" else float(threshold)
            found = _groups(_same(hashes, vectors, least), contents, files, apart, "same")
            if kind == "similar":
                left_out = {copy.content for group in found for copy in group.files[1:]}
                stay = np.array([files[content][0].content not in left_out for content in contents.tolist()], bool)
                least = SIMILAR if threshold is None else float(threshold)
                pairs = near_vectors(vectors[stay], least, MOST_PAIRS)
                found = _groups(pairs, contents[stay], files, apart, "similar")
            groups += found
        return _sorted(groups)


def keep_apart(store: Store, first: str, second: str) -> None:
    """Remember that two contents, by their digests in hexadecimal digits, are no duplicates.

    Raises InputError for digests that the index does not have, or the same one twice.
    """
    digests = sorted(_digest(text) for text in (first, second))
    if digests[0] == digests[1]:
        raise InputError(f"The digest {first} was given twice; expected two. What is identical cannot be kept apart.")
    with store.writer(), store.writing() as rows:
        for digest in digests:
            if rows.execute("SELECT 1 FROM contents WHERE digest = ?", (digest,)).fetchone() is None:
                raise InputError(f"The index has no content {digest.hex()}; expected one that it has. See dups --json.")
        rows.execute("INSERT OR IGNORE INTO kept_apart(a, b) VALUES (?, ?)", digests)


def _digest(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"The digest is {shown(text)}; expected hexadecimal digits, as `content` of a hit or a file has them."
        ) from error


def _files(rows: sqlite3.Connection) -> dict[int, list[Copy]]:
    """All files that are there, by content, the one to be kept first."""
    found: dict[int, dict[object, list[Ranked]]] = {}
    for content, digest, size, width, height, moment, path, root, device, inode in rows.execute(
        f"SELECT c.id, c.digest, c.size, c.width, c.height, {MOMENT}, f.path, r.path, f.device, f.inode "
        "FROM contents c JOIN files f ON f.content = c.id JOIN roots r ON r.id = f.root WHERE f.state = 'here'"
    ):
        name = os.fsdecode(os.path.join(root, path))
        is_original = os.path.splitext(name)[1].lower() in ORIGINALS
        rank = (-(width or 0) * (height or 0), not is_original, moment, len(name), name)
        file = (device, inode) if inode else name
        names = found.setdefault(content, {}).setdefault(file, [])
        names.append((rank, Copy(name, digest.hex(), size, width, height)))
    ranked = {
        content: sorted(map(_itself, copies.values()), key=lambda pair: pair[0]) for content, copies in found.items()
    }
    order = sorted(ranked, key=lambda content: ranked[content][0][0])
    return {content: [copy for _, copy in ranked[content]] for content in order}  # the best contents first


def _itself(names: list[Ranked]) -> Ranked:
    """Of several names of the same file, such as links, one which is no link: who deletes the others loses nothing."""
    if len(names) == 1:
        return names[0]
    return min(names, key=lambda pair: (os.path.islink(pair[1].path), pair[0]))


def _vectors(rows: sqlite3.Connection, space: int, wanted: Iterable[int]) -> tuple[npt.NDArray[np.int64], Halves]:
    """Contents (N,) with their vectors (N, dim); of several parts, the mean."""
    allowed = set(wanted)
    contents, vectors = list[int](), list[Halves]()
    found = rows.execute("SELECT content, vector FROM vectors WHERE space = ? ORDER BY content, part", (space,))
    for content, parts in itertools.groupby(found, key=lambda row: int(row[0])):
        if content in allowed:
            each = np.stack([np.frombuffer(blob, STORED) for _, blob in parts])
            contents.append(content)
            vectors.append(np.asarray(each.mean(axis=0, dtype=np.float32), np.float16))
    return np.array(contents, np.int64), np.array(vectors, np.float16).reshape(len(contents), -1)


def _hashes(rows: sqlite3.Connection, contents: npt.NDArray[np.int64]) -> list[int | None]:
    """Perceptual hashes of pictures, as 64 bits; None where there is none."""
    found = dict(rows.execute("SELECT id, dhash FROM contents WHERE dhash IS NOT NULL AND kind = 'image'"))
    return [found.get(content) for content in contents.tolist()]


def _same(hashes: Sequence[int | None], vectors: Halves, least: float) -> Pairs:
    """Pairs of places that are the same picture. Where both hashes say nothing, the vectors alone must be very near."""
    places = np.array([place for place, value in enumerate(hashes) if value is not None], np.int64)
    values = np.array([value & (1 << 64) - 1 for value in hashes if value is not None], np.uint64)
    bits = count_bits(values)
    is_flat = (bits <= MOST_BITS) | (bits >= 64 - MOST_BITS)
    a, b = (places[some] for some in near_hashes(values, is_flat))
    cosines = np.zeros(len(a), np.float32)
    for start in range(0, len(a), 1 << 16):
        some = slice(start, start + (1 << 16))
        cosines[some] = np.einsum("nd,nd->n", unit(vectors[a[some]]), unit(vectors[b[some]]))
    good = cosines >= least - 1e-6
    flat = places[is_flat]
    of_flat = near_vectors(vectors[flat], max(FLAT_SAME, least), MOST_PAIRS)
    return joined([Pairs(a[good], b[good], cosines[good]), Pairs(flat[of_flat.a], flat[of_flat.b], of_flat.cosines)])


def _kept_apart(rows: sqlite3.Connection) -> set[tuple[str, str]]:
    return {(a.hex(), b.hex()) for a, b in rows.execute("SELECT a, b FROM kept_apart")}


def _groups(
    pairs: Pairs,
    contents: npt.NDArray[np.int64],
    files: dict[int, list[Copy]],
    apart: set[tuple[str, str]],
    kind: DuplicateKind,
) -> list[Group]:
    """Groups with the best content first, given pairs of places in `contents`."""
    best = {content: place for place, content in enumerate(files)}
    digests = [files[content][0].content for content in contents.tolist()]
    place_of = {digest: place for place, digest in enumerate(digests)}
    known = [tuple(sorted((place_of[a], place_of[b]))) for a, b in apart if a in place_of and b in place_of]
    groups = []
    for places, score in complete_groups(pairs, {(a, b) for a, b in known}):
        members = sorted((int(contents[place]) for place in places), key=best.__getitem__)
        groups.append(Group(kind, tuple(files[content][0] for content in members), score))
    return groups


def _sorted(groups: Iterable[Group]) -> list[Group]:
    return sorted(groups, key=lambda group: (-len(group.files), -group.score, group.keeper.path))
