"""The folders of an index: those that it has, and those that are added."""

import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from mlx_mm.errors import InputError, StoreError, reason
from mlx_mm.search import words
from mlx_mm.search.ignoring import rules_of
from mlx_mm.search.planning import Root
from mlx_mm.search.store import Store
from mlx_mm.search.writing import name_of, put_words


def known_roots(store: Store) -> list[Root]:
    """Those of the index, by their paths."""
    with store.reading() as rows:
        found = rows.execute("SELECT id, path, device, options FROM roots ORDER BY path").fetchall()
    roots = []
    for number, path, device, text in found:
        options = json.loads(text)
        exclude, videos = tuple(options.get("exclude", ())), bool(options.get("videos", False))
        roots.append(Root(number, path, device, exclude, videos))
    return roots


def with_folders(store: Store, folders: Sequence[Path], exclude: Sequence[str], videos: bool) -> list[Root]:
    """All folders of the index and these, which need not be in it yet; nothing is written.

    exclude, videos: are remembered for the folders that are named, or for all where none is; what is not given stays.
    A folder in one of the index is refreshed with that. Raises InputError for what is no folder, or no pattern.
    """
    rules_of(exclude)
    roots = known_roots(store)
    named: set[bytes] = set() if folders else {root.path for root in roots}
    for folder in folders:
        path = _checked(store, folder)
        owner = next((root for root in roots if _holds(root.path, path)), None)
        if owner is None:
            owner = Root(None, path, os.stat(path).st_dev)
            roots.append(owner)
        named.add(owner.path)
    return [
        replace(root, exclude=tuple(exclude) or root.exclude, videos=videos or root.videos, named=bool(folders))
        if root.path in named
        else root
        for root in roots
    ]


def write_roots(store: Store, roots: Sequence[Root]) -> None:
    """Write those that are new, which have ids then, and what is remembered of the others."""
    before = {root.id: root for root in known_roots(store)}
    for root in roots:
        options = json.dumps({"exclude": root.exclude, "videos": root.videos})
        old = before.get(root.id)
        if root.id is None:
            with store.writing() as rows:
                root.id = rows.execute(
                    "INSERT INTO roots(path, device, options) VALUES (?, ?, ?) RETURNING id",
                    (root.path, root.device, options),
                ).fetchone()[0]
        elif old is not None:
            if (old.exclude, old.videos) != (root.exclude, root.videos):
                with store.writing() as rows:
                    rows.execute("UPDATE roots SET options = ? WHERE id = ?", (options, root.id))
            _follow_volume(store, root)


def _follow_volume(store: Store, root: Root) -> None:
    """Systems give a volume another number when it is mounted again, by which moves would not be seen."""
    try:
        device = os.stat(root.path).st_dev
    except OSError:
        return
    if device != root.device:
        with store.writing() as rows:
            rows.execute("UPDATE roots SET device = ? WHERE id = ?", (device, root.id))
            rows.execute("UPDATE files SET device = ? WHERE root = ? AND device IS ?", (device, root.id, root.device))


def absorb(store: Store, roots: Sequence[Root]) -> list[Root]:
    """Roots that lie in another one become parts of it: their rows take its name before theirs; no file is read."""
    kept = [root for root in roots if not any(other is not root and _holds(other.path, root.path) for other in roots)]
    for root in roots:
        outer = next((other for other in kept if other is not root and _holds(other.path, root.path)), None)
        if outer is None:
            continue
        write_roots(store, [outer])
        prefix = os.path.join(os.path.relpath(os.path.realpath(root.path), os.path.realpath(outer.path)), b"")
        with store.writing() as rows:
            for number, path in rows.execute("SELECT id, path FROM files WHERE root = ?", (root.id,)).fetchall():
                whole = prefix + path
                rows.execute(
                    "UPDATE OR IGNORE files SET root = ?, path = ?, name = ? WHERE id = ?",
                    (outer.id, whole, name_of(whole), number),
                )
                put_words(rows, number, whole)
            left = rows.execute("SELECT id FROM files WHERE root = ?", (root.id,)).fetchall()
            for (number,) in left:  # the outer one has a file of that name already
                words.take_away(rows, number)
            rows.executemany("DELETE FROM files WHERE id = ?", left)
            rows.execute("DELETE FROM roots WHERE id = ?", (root.id,))
    return kept


def moved(store: Store, old: Path, new: Path, wait: float = 0.0) -> int:
    """A folder of the index has another place now; how many files it has. No file is read.

    Raises StoreError where the index has no such folder, InputError for what is none.
    """
    before, after = os.path.abspath(os.fsencode(old.expanduser())), _checked(store, new)
    with store.writer(wait):
        roots = known_roots(store)
        root = next((root for root in roots if root.path == before), None)
        if root is None:
            known = ", ".join(root.shown for root in roots) or "none"
            raise StoreError(
                f"{store.path} has no folder {old}; expected one of its own: {known}. Name it as it was added."
            )
        if any(other.path == after for other in roots):
            raise StoreError(f"{store.path} has the folder {new} already; expected another. Refresh it instead.")
        with store.writing() as rows:
            rows.execute("UPDATE roots SET path = ?, device = ? WHERE id = ?", (after, os.stat(after).st_dev, root.id))
            count: int = rows.execute("SELECT count(*) FROM files WHERE root = ?", (root.id,)).fetchone()[0]
    return count


def _checked(store: Store, folder: Path) -> bytes:
    """The whole path of a folder; InputError for what is none."""
    path = os.path.abspath(os.fsencode(folder.expanduser()))
    try:
        with os.scandir(path):
            pass
    except (OSError, ValueError) as error:
        raise InputError(
            f"{folder} cannot be searched ({reason(error)}); expected a folder with pictures or sounds. Check its name "
            "and its permissions."
        ) from error
    if _holds(os.fsencode(store.path.absolute()), path):
        raise InputError(f"{folder} is the folder of the index, or lies in it; expected one with pictures or sounds.")
    return path


def _holds(outer: bytes, inner: bytes) -> bool:
    """Whether a folder is, or lies in, another one, wherever links lead."""
    real, within = os.path.realpath(outer), os.path.realpath(inner)
    return within == real or within.startswith(os.path.join(real, b""))
