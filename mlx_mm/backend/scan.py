"""Products of many rows of bytes with a few queries: by a kernel where there are some, else by NumPy."""

import numpy as np

from mlx_mm.backend.native import calls
from mlx_mm.backend.native.calls import Bytes, Floats
from mlx_mm.backend.native.library import open_library

STEP = 64  # rows are whole multiples of it
WIDEST = 1 << 16
MOST = 127 * 128  # of a query's numbers, as two bytes
CHUNK = 1 << 18  # numbers that become float32 at once: they stay in a cache, and OpenBLAS starts no thread for so few
SINGLE = 2.0**-24  # to which float32 rounds


def products(codes: Bytes, queries: Floats) -> Floats:
    """codes (N, width) times queries (Q, width) -> (Q, N). width: a multiple of STEP, at most WIDEST."""
    library = open_library()
    if library is None:
        return _by_numpy(codes, queries)
    high, low, scale = rounded(queries)
    found = calls.scan(library, codes, high, low)
    found *= scale[:, None]
    return found


def deviations(queries: Floats) -> Floats:
    """(Q,) by how much `products` of queries (Q, width) may be wrong, for each unit of a row's length."""
    lengths = np.linalg.norm(queries, axis=1)
    if open_library() is None:  # sums of products in float32: each of them rounds, and so does each addition
        found = lengths * SINGLE * (queries.shape[1] + 1)
    else:
        high, low, scale = rounded(queries)
        lost = queries - (128 * high.astype(np.float32) + low) * scale[:, None]
        found = np.linalg.norm(lost, axis=1) + lengths * SINGLE * 8
    return found.astype(np.float32)


def greatest_deviation(width: int) -> float:
    """The most that `deviations` are of queries of length 1."""
    lost: float = np.sqrt(width) / (2 * MOST)  # of a query with one number that sticks out
    return max(lost + 8 * SINGLE, SINGLE * (width + 1)) * (1 + 1e-5)


def rounded(queries: Floats) -> tuple[Bytes, Bytes, Floats]:
    """(Q, width) as (128 high + low) scale: two times (Q, width) of -127 to 127, and (Q,)."""
    greatest = np.abs(queries).max(axis=1, initial=0)
    scale = np.where(greatest > 0, greatest / MOST, 1).astype(np.float32)
    whole = np.rint(queries / scale[:, None]).clip(-MOST, MOST).astype(np.int32)
    high = (whole + 64) >> 7
    return high.astype(np.int8), (whole - (high << 7)).astype(np.int8), scale


def _by_numpy(codes: Bytes, queries: Floats) -> Floats:
    found = np.empty((len(queries), len(codes)), np.float32)
    step = max(1, CHUNK // max(1, codes.shape[1]))
    wide = np.empty((step, codes.shape[1]), np.float32)
    for start in range(0, len(codes), step):
        part = codes[start : start + step]
        np.copyto(wide[: len(part)], part)
        for query, own in zip(queries, found, strict=True):
            np.dot(wide[: len(part)], query, out=own[start : start + len(part)])
    return found
