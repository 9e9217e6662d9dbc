"""Vectors and scores as a model gave them: whether they are any, and at unit length."""

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.errors import WeightsError

Vectors: TypeAlias = npt.NDArray[np.float32]


def usable(vectors: Vectors, *, scores: bool = False) -> npt.NDArray[np.bool_]:
    """Which rows of (N, D) are finite and have a length that is neither 0 nor beyond float32; of scores, 0 is fine."""
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(vectors, axis=-1)
    good: npt.NDArray[np.bool_] = np.isfinite(lengths) & ((lengths > 0) | scores)
    return good


def unusable(what: str, row: Vectors) -> WeightsError:
    """The error of a row (D,) that is not `usable`. what: such as "vector of text number 3 has"."""
    found = "NaN or infinite numbers" if not np.isfinite(row).all() else "a length that float32 cannot hold"
    found = f"the length 0 in {len(row)} numbers" if not row.any() else found
    return WeightsError(
        f"The {what} {found}; expected finite numbers that are not all 0. The model's weights are damaged or too "
        "large for its precision: load it with dtype='float32' and without dim, or download or convert it again."
    )


def unit_length(vectors: Vectors) -> Vectors:
    """(…, D) in the same directions; of nothing, nothing."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True) if vectors.size else vectors
