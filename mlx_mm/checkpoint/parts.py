"""Parts of stored tensors: which numbers of one a process takes, read without the others."""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import WeightsError

LEAST_RUN = 1024  # bytes that are worth a read of their own; around shorter ones, all between them is read too
BLOCK = 8 << 20  # bytes that are read at once there


@dataclass(frozen=True)
class Part:
    """Ranges of one axis, from and to, one after the other. Without any, nothing of the tensor is taken."""

    axis: int
    ranges: tuple[tuple[int, int], ...]

    def shape(self, whole: tuple[int, ...]) -> tuple[int, ...]:
        """Of the part of a tensor."""
        size = sum(end - start for start, end in self.ranges)
        return (*whole[: self.axis], size, *whole[self.axis + 1 :])


NOTHING = Part(0, ())
# Name and shape of a tensor in the files -> the part that is taken; None: all of it
Chooser: TypeAlias = Callable[[str, tuple[int, ...]], Part | None]


def read_part(
    file: Path, offset: int, itemsize: int, shape: tuple[int, ...], part: Part
) -> tuple[npt.NDArray[np.uint8], int]:
    """The bytes of a part of the tensor at an offset, in order, and how many bytes were read for it.

    Raises WeightsError where the file ends before.
    """
    inner = math.prod(shape[part.axis + 1 :]) * itemsize
    row = shape[part.axis] * inner
    outer = math.prod(shape[: part.axis])
    runs = [(start * inner, (end - start) * inner) for start, end in part.ranges]
    taken = np.empty((outer, sum(size for _, size in runs)), np.uint8)
    with file.open("rb", buffering=0) as opened:
        if outer == 1 or min(size for _, size in runs) >= LEAST_RUN:
            return taken.reshape(-1), _read_runs(opened.fileno(), offset, row, runs, taken, file)
        rows = max(1, BLOCK // row)
        for first in range(0, outer, rows):
            block = np.empty((min(rows, outer - first), row), np.uint8)
            _read(opened.fileno(), memoryview(block.data).cast("B"), offset + first * row, file)
            done = 0
            for start, size in runs:
                taken[first : first + len(block), done : done + size] = block[:, start : start + size]
                done += size
    return taken.reshape(-1), outer * row


def _read_runs(
    descriptor: int, offset: int, row: int, runs: list[tuple[int, int]], taken: npt.NDArray[np.uint8], file: Path
) -> int:
    for number, own in enumerate(taken):
        done, numbers = 0, memoryview(own.data)
        for start, size in runs:
            _read(descriptor, numbers[done : done + size], offset + number * row + start, file)
            done += size
    return taken.nbytes


def _read(descriptor: int, into: memoryview, offset: int, file: Path) -> None:
    done = 0
    while done < len(into):
        count = os.preadv(descriptor, [into[done:]], offset + done)
        if not count:
            raise WeightsError(f"{file} ends in the middle of a tensor; expected all of it. Download it again.")
        done += count
