"""What the inputs of a layer say of the columns of its weight: how much they weigh, and how they hang together.

With H = Σ x·xᵀ = R·Rᵀ, R upper triangular, the errors δ of a row of the weight cost Σᵢ (Rᵢᵢ·δᵢ + Σ Rₖᵢ·δₖ over k < i)².
"""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.backend import device
from mlx_mm.backend.blas import numpy_on_one_thread

Floats: TypeAlias = npt.NDArray[np.float32]

# H is taken on the way to its mean diagonal: of `width` columns and n inputs by width / (width + 2·n), but no less than
# this. GPTQ's 1 % (section 3.3) fits a layer to the few inputs that were seen, of a few texts or pictures whose rows
# resemble each other; on others it then loses more than a search (docs/quantisation.md, "Methods").
LEAST_SHARE = 0.1
MOST_COLUMNS = 2048  # that H relates to each other: its factors take the cube of them
FACTOR_COLUMNS = 128  # of those that one step finds


@dataclass(frozen=True)
class Inputs:
    """What the inputs of a layer say of the columns of its weight.

    energy: (in,), the sum of their squares. triangles: R, each column divided by its diagonal, for each of
    `column_blocks`; None where errors are not compensated.
    """

    energy: Floats
    triangles: tuple[Floats, ...] | None = None


@numpy_on_one_thread()
def inputs_of(x: Floats, group_size: int | None) -> Inputs:
    """Of inputs (rows, in). group_size: of the weight whose errors are to be compensated, None where they are not."""
    if group_size is None:
        energy, share = np.einsum("ij,ij->j", x, x), _share(*x.shape)
        return Inputs((1 - share) * energy + np.float32(share * energy.mean()))

    def of_block(columns: slice) -> tuple[Floats, Floats]:
        squares = shrunk_squares(x[:, columns])
        return squares.diagonal().copy(), _triangle(squares)

    with ThreadPoolExecutor(device.processors()) as threads:
        energies, triangles = zip(*threads.map(of_block, column_blocks(x.shape[1], group_size)), strict=True)
    return Inputs(np.concatenate(energies), triangles)


def shrunk_squares(x: Floats) -> Floats:
    """H of inputs (rows, in), as far on the way to its mean diagonal as they are too few."""
    squares, share = x.T @ x, _share(*x.shape)
    mean = float(squares.diagonal().mean())
    squares *= 1 - share
    squares[np.diag_indices_from(squares)] += share * mean if mean > 0 else 1.0
    return squares


def _share(rows: int, width: int) -> float:
    return max(LEAST_SHARE, width / (width + 2 * rows))


def column_blocks(width: int, group_size: int) -> list[slice]:
    """The fewest blocks of whole groups, alike in size, that MOST_COLUMNS allows."""
    groups, count = width // group_size, -(-width // MOST_COLUMNS)
    bounds = [groups * number // count * group_size for number in range(count + 1)]
    return [slice(*pair) for pair in pairwise(bounds)]


def _triangle(squares: Floats) -> Floats:
    """R of H = R·Rᵀ, each column divided by its diagonal. By blocks of columns, the last first: mostly products, which
    take a third of the time of LAPACK's factors where H is 3072 wide."""
    upper = np.zeros_like(squares)
    for stop in range(len(squares), 0, -FACTOR_COLUMNS):
        first = max(stop - FACTOR_COLUMNS, 0)
        block = slice(first, stop)
        left = squares[:stop, block] - upper[:stop, stop:] @ upper[block, stop:].T
        own = np.linalg.cholesky(left[first:][::-1, ::-1])[::-1, ::-1]  # of the reversed matrix, R from its end
        upper[block, block] = own
        upper[:first, block] = left[:first] @ np.linalg.inv(own).T
    upper /= upper.diagonal().copy()
    return upper
