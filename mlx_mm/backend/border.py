"""The border between NumPy, which prepares, and MLX, which computes."""

from collections.abc import Mapping

import mlx.core as mx
import numpy as np
import numpy.typing as npt

NARROW: dict[np.dtype[np.generic], type[np.generic]] = {
    np.dtype(np.int64): np.int32,
    np.dtype(np.float64): np.float32,
}


def to_mlx(batch: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, mx.array]:
    """A processor's NumPy arrays as mlx arrays under the same keys; 64-bit numbers become 32-bit ones."""
    return {key: mx.array(value.astype(NARROW.get(value.dtype, value.dtype))) for key, value in batch.items()}
