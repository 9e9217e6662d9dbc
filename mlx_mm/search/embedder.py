"""Files into rows of a part, on any machine: for engines that hand batches to actors, such as Ray Data."""

import contextlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from typing import cast

from mlx_mm.errors import InputError
from mlx_mm.load import open_checkpoint
from mlx_mm.search.encoding import encode
from mlx_mm.search.fingerprint import fingerprint
from mlx_mm.search.part_files import Row, space_text, table_of
from mlx_mm.search.planning import Job, Root
from mlx_mm.search.reading import Claims
from mlx_mm.search.scanning import Entry, ending_of, identity, kinds_by_ending
from mlx_mm.search.spaces import Space, described
from mlx_mm.search.stored_vectors import as_stored
from mlx_mm.search.writing import FACTS, Outcome, facts_of


class Embedder:
    """Makes of files what `Index.merge` takes, as a refresh makes it, to the bit.

    model: as of `Index`. root: the folder that all files are below of, or the address of an object store. Called with a
    batch, {"path": (N,)} of whole paths, and {"bytes": (N,)} where they come from an object store, it gives a table of
    pyarrow with a row for each file of the model's kinds, also for those that cannot be read.
    Raises ModalityError for a model that makes no vectors, InputError for a file that is not below the root.
    """

    def __init__(self, model: str, root: str, *, max_num_patches: int | None = None):
        self.root = root.rstrip("/") if "://" in root else os.path.abspath(os.path.expanduser(root))
        self._device = os.stat(self.root).st_dev if os.path.isdir(self.root) else None
        checkpoint = open_checkpoint(model)
        self._row = described(checkpoint, fingerprint(checkpoint, max_num_patches))
        self._space = Space.of(self._row, 0, "this part")
        self._text = space_text(self._row)

    def __call__(self, batch: Mapping[str, Sequence[object]]) -> object:
        names = [self._below(name) for name in batch["path"]]
        data = batch.get("bytes")
        with tempfile.TemporaryDirectory() as folder:
            if data is not None:
                for name, content in zip(names, data, strict=True):
                    _put(os.path.join(os.fsencode(folder), name), content)
            kept = _Kept(os.fsencode(self.root), self._device, self._text, fetched=data is not None)
            jobs = self._jobs(names, self.root if data is None else folder)
            encode(kept.keep, self._space, jobs, Claims(lambda digest: False), kept, lambda count: None)
            return table_of(kept.rows())

    def _below(self, name: object) -> bytes:
        """The path of a file below the root."""
        path = name if isinstance(name, bytes) else os.fsencode(str(name))
        root = os.fsencode(self.root)
        if b"://" in root and b"://" not in path:  # as Ray Data names what it fetched
            root = root.partition(b"://")[2]
        below = path[len(root) + 1 :]
        if not path.startswith(root.rstrip(b"/") + b"/") or b".." in below.split(b"/") or not below:
            raise InputError(
                f"{os.fsdecode(path)} is not below {self.root}; expected a file that is. Name another root, or file."
            )
        return below

    def _jobs(self, names: Sequence[bytes], folder: str) -> list[Job]:
        """Files of the model's kinds that are there."""
        jobs, root = [], Root(None, os.fsencode(folder), None)
        for name in names:
            kind = kinds_by_ending().get(ending_of(name))
            with contextlib.suppress(FileNotFoundError):
                if kind in self._space.kinds:
                    jobs.append(Job(root, name, Entry(kind, *identity(os.stat(os.path.join(root.path, name))))))
        return jobs


class _Kept:
    """What became of the files of a batch. fetched: they have no place on a disk."""

    def __init__(self, root: bytes, device: int | None, space: str, *, fetched: bool):
        self._shared = {"root": root, "root_device": device, "space": space}
        self._fetched = fetched
        self._outcomes: list[Outcome] = []
        self._thumbnails: dict[bytes, bytes] = {}

    waiting = 0

    def add(self, outcome: Outcome) -> None:
        self._outcomes.append(outcome)

    def commit(self) -> None:
        """All is kept until the batch is done."""

    def keep(self, digest: bytes, jpeg: bytes) -> None:
        """A thumbnail."""
        self._thumbnails[digest] = jpeg

    def rows(self) -> list[Row]:
        """One for each file; copies have what the first one has."""
        first = {
            outcome.facts.digest: outcome
            for outcome in self._outcomes
            if outcome.facts is not None and (outcome.vectors is not None or outcome.error is not None)
        }
        rows = list[Row]()
        for outcome in self._outcomes:
            same = outcome if outcome.facts is None else first.get(outcome.facts.digest, outcome)
            error = outcome.error or same.error
            if error is not None and isinstance(error.__cause__, FileNotFoundError):  # it went away meanwhile
                continue
            size, *where = outcome.status
            mtime, device, inode = (0, 0, 0) if self._fetched else where
            row: dict[str, object] = self._shared | {"path": outcome.job.path, "error": error and str(error)}
            row |= {"size": size, "mtime_ns": mtime, "device": device, "inode": inode}
            if error is None and same.facts is not None and same.vectors is not None:
                row |= zip(FACTS, facts_of(same.facts), strict=True)
                row["vectors"] = b"".join(as_stored(same.vectors))
                row["spans"] = [second for span in same.spans if span is not None for second in span]
                row["thumbnail"] = self._thumbnails.get(same.facts.digest)
            rows.append(row)
        return rows


def _put(place: bytes, content: object) -> None:
    """A file of long ago, for which nobody waits until it is whole."""
    os.makedirs(os.path.dirname(place), exist_ok=True)
    with open(place, "wb") as file:
        file.write(cast(bytes, content))
    os.utime(place, (0, 0))
