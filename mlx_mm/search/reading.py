"""One file, read once: the digest of its bytes, what it says of itself, and what a model takes of it."""

import hashlib
import io
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, TypeAlias

import numpy as np

from mlx_mm.errors import MediaError, foreign
from mlx_mm.models.contracts import AudioProcessor, ImageProcessor, Processor
from mlx_mm.models.modalities import unfit
from mlx_mm.processing.audio import seconds_of
from mlx_mm.processing.batch import Batch
from mlx_mm.processing.exif import Taken
from mlx_mm.processing.fetching import short_name
from mlx_mm.processing.files import open_regular
from mlx_mm.processing.glance import Glance
from mlx_mm.processing.image import ImageSource, file_of
from mlx_mm.processing.key_frames import About, key_frames
from mlx_mm.processing.sources import Source
from mlx_mm.search.planning import Job
from mlx_mm.search.records import MediaKind
from mlx_mm.search.scanning import identity
from mlx_mm.search.servers import DATA

DIGEST_BYTES = 16
BLOCK = 1 << 20  # bytes read at once
IN_MEMORY = 64 << 20  # pictures up to so many bytes are read once; larger ones, sounds and videos once more
SETTLED = 2.0  # seconds since its last change after which a file is read: somebody may still be writing


@dataclass
class Facts:
    """What is known of the bytes of a file. seconds: of a sound or a video."""

    kind: MediaKind
    digest: bytes
    size: int
    glance: Glance = field(default_factory=Glance)
    seconds: float | None = None


@dataclass(frozen=True)
class Begun:
    """The bytes of a file were read. status: size, time, device and inode before that. known: the index has them, or
    another file that is being read."""

    facts: Facts
    status: tuple[int, int, int, int]
    known: bool


@dataclass(frozen=True)
class Part:
    """What a model takes for one vector. span: seconds from and to, of windows of sounds and key frames."""

    batch: Batch
    span: tuple[float, float] | None = None


@dataclass(frozen=True)
class Done:
    """All parts of a file were given."""


Step: TypeAlias = Begun | Part | Done
Keep: TypeAlias = Callable[[bytes, bytes], None]  # of a digest and a thumbnail


class Claims:
    """Which bytes are known already, so that the model runs once for all files that have them. From any thread.

    known: asks the index. What is claimed stays so.
    """

    def __init__(self, known: Callable[[bytes], bool]):
        self._known = known
        self._claimed: set[bytes] = set()
        self._lock = threading.Lock()

    def take(self, digest: bytes) -> bool:
        """Whether the caller is the first that has these bytes."""
        with self._lock:
            if digest in self._claimed:
                return False
            self._claimed.add(digest)
        return not self._known(digest)


class Reader:
    """Reads files for one space. patches: the budget of NaFlex models. keep: called with the digest and the thumbnail,
    a JPEG, of each. as_files: parts of pictures are their files, for a server, which decodes them."""

    def __init__(
        self, processor: Processor, patches: int | None, keep: Keep, claims: Claims, *, as_files: bool = False
    ):
        self.processor = processor
        self.patches = patches
        self.keep = keep
        self.claims = claims
        self.as_files = as_files

    def read(self, job: Job) -> Iterator[Step]:
        """Of one file `Begun`, then its parts and `Done`, where its bytes are not known. MediaError for what is not
        a whole file of its kind; OutputError where its thumbnail cannot be written."""
        place = job.place
        name = short_name(os.fsdecode(place))
        _wait_until_settled(job)
        with foreign(MediaError, f"{name} cannot be read", "expected a whole file. Check it, and its permissions."):
            with open_regular(os.fsdecode(place)) as file:
                before = identity(os.fstat(file.fileno()))
                held = job.entry.kind == "image" and before[0] <= IN_MEMORY
                data, digest = _digest(file, held)
            facts = Facts(job.entry.kind, digest, before[0])
            first = self.claims.take(digest)
            yield Begun(facts, before, known=not first)
            if not first:
                return
            opened = (lambda: io.BytesIO(data)) if held else (lambda: open_regular(os.fsdecode(place)))
            source = Source(name, opened, glance=facts.glance)
            yield from self._parts(facts, source)
            if not held and identity(os.stat(place)) != before:
                raise MediaError(f"{name} changed while it was read; expected a file at rest. Refresh again.")
            if facts.glance.small is not None:
                self.keep(digest, facts.glance.small)
                facts.glance.small = None  # it is not held until the vectors are there
            yield Done()

    def _parts(self, facts: Facts, source: Source) -> Iterator[Part]:
        if facts.kind == "audio":
            yield from self._of_sound(facts, source)
        elif facts.kind == "image":
            yield Part(self._picture(source))
        else:
            yield from self._of_video(facts, source)

    def _picture(self, source: ImageSource) -> Batch:
        processor = self.processor
        if processor.kind != "encoder" or not isinstance(processor, ImageProcessor):
            raise unfit("pictures")
        batch = processor.images([source], fast_decode=True, max_num_patches=self.patches)  # which learns of it
        return {DATA: np.array(file_of(source), object)} if self.as_files else batch

    def _of_sound(self, facts: Facts, source: Source) -> Iterator[Part]:
        """Windows follow each other; the last one ends where the sound does."""
        processor = self.processor
        if processor.kind != "encoder" or not isinstance(processor, AudioProcessor):
            raise unfit("sounds")
        length, seconds, before = processor.window_seconds, seconds_of(source), None
        for number, (batch, _) in enumerate(processor.windows(source)):
            if before is not None:
                yield Part(before, ((number - 1) * length, number * length))
            before, last = batch, number * length
        if before is not None:
            # Some headers tell a length that is not quite that of the sound.
            facts.seconds = min(max(seconds, last), last + length)
            yield Part(before, (max(0.0, facts.seconds - length), facts.seconds))

    def _of_video(self, facts: Facts, source: Source) -> Iterator[Part]:
        about = About()
        for frame in key_frames(source, about):
            glance = facts.glance
            if glance.small is None:
                glance.take(frame.image, frame.image.size, 1, frame.image)
                glance.dhash = None  # which tells whether two pictures are the same, not two videos
            yield Part(self._picture(frame.image), (frame.start, frame.stop))
        facts.seconds, facts.glance.taken = about.seconds, Taken(about.taken_at)


def _wait_until_settled(job: Job) -> None:
    age = time.time() - job.entry.mtime_ns / 1e9
    if 0 <= age < SETTLED:
        time.sleep(SETTLED - age)


def _digest(file: BinaryIO, held: bool) -> tuple[bytes, bytes]:
    """The bytes, where they are to be kept, and the digest of them."""
    digest = hashlib.blake2b(digest_size=DIGEST_BYTES)
    if held:
        data = file.read()
        digest.update(data)
        return data, digest.digest()
    while block := file.read(BLOCK):
        digest.update(block)
    return b"", digest.digest()
