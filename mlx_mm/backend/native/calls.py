"""The kernels over NumPy arrays: shapes and dtypes are the caller's promise, strides may be any but that numbers of a
row lie together. Results are new arrays.

Raises MemoryError where the library has not enough memory.
"""

from __future__ import annotations

import ctypes
from ctypes import byref
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.backend.native import signatures

Floats: TypeAlias = npt.NDArray[np.float32]
Bytes: TypeAlias = npt.NDArray[np.int8]
Mask: TypeAlias = npt.NDArray[np.bool_] | npt.NDArray[np.float32] | None


class KernelError(RuntimeError):
    """A kernel was called with what it does not know: a mistake of ours."""


def address(array: npt.NDArray[np.generic] | None) -> int | None:
    """Where an array's first number is."""
    if array is None:
        return None
    flags = array.flags
    if flags.c_contiguous and flags.writeable and array.size:  # NumPy's own way takes four times as long
        return ctypes.addressof(ctypes.c_char.from_buffer(array.data))
    return array.ctypes.data


def pack(library: ctypes.CDLL, rows: Floats) -> Floats:
    """A weight (N, K) in panels (panels, K, rows of a panel), the last filled up with zeros."""
    (count, cols), panel = rows.shape, int(library.mm_panel())
    weight = signatures.Weight(signatures.ROWS, signatures.FLOAT32, 0, 0, count, cols, address(rows))
    packed = np.empty((-(-count // panel), cols, panel), np.float32)
    check(library.mm_pack(byref(weight), address(packed)))
    return packed


def product(
    library: ctypes.CDLL,
    weight: signatures.Weight,
    x: Floats,
    *,
    bias: Floats | None = None,
    activation: int = signatures.NONE,
    residual: Floats | None = None,
    inputs: int = signatures.INPUTS_EXACT,
) -> Floats:
    """activation(x wᵀ + bias) + residual: (…, K) and a weight (N, K) -> (…, N)."""
    x = evenly(x)
    residual = None if residual is None else np.ascontiguousarray(residual)
    y = np.empty((*x.shape[:-1], weight.rows), np.float32)
    call = signatures.ProductCall(
        address(x), x.size // weight.cols, _row_stride(x), address(bias), address(residual), weight.rows, address(y),
        weight.rows, activation, inputs,
    )  # fmt: skip
    check(library.mm_product(byref(weight), byref(call)))
    return y


def experts(
    library: ctypes.CDLL,
    weights: signatures.Weight,
    count: int,
    chosen: npt.NDArray[np.int32],
    x: Floats,
    *,
    inputs: int = signatures.INPUTS_EXACT,
) -> Floats:
    """Row i of x (M, K) times the transpose of weight number chosen[i] of `count`, each (N, K) -> (M, N)."""
    x, chosen = evenly(x), np.ascontiguousarray(chosen, np.int32)
    y = np.empty((len(x), weights.rows), np.float32)
    call = signatures.ProductCall(
        address(x), len(x), _row_stride(x), None, None, 0, address(y), weights.rows, signatures.NONE, inputs
    )
    check(library.mm_experts(byref(weights), count, address(chosen), byref(call)))
    return y


def attention(
    library: ctypes.CDLL, q: Floats, k: Floats, v: Floats, *, scale: float, mask: Mask | str, out: Floats | None = None
) -> Floats:
    """softmax(q kᵀ scale + mask) v, (B, H, L, D) as `backend.attention` has it, written into `out` where it is given;
    else its heads lie beside each other."""
    q, k, v = in_rows(q), in_rows(k), in_rows(v)
    (batch, heads, length, width), (_, kv_heads, keys, _) = q.shape, k.shape
    if out is None:
        out = np.empty((batch, length, heads, v.shape[3]), np.float32).transpose(0, 2, 1, 3)
    call = signatures.AttentionCall(
        address(q), address(k), address(v), address(out), batch, heads, kv_heads, length, keys, width, v.shape[3]
    )
    for name, array in (("q", q), ("k", k), ("v", v), ("out", out)):
        setattr(call, f"{name}_strides", _strides(array)[:3])
    call.scale, call.causal = scale, isinstance(mask, str)
    if mask is not None and not isinstance(mask, str):
        spread = np.broadcast_to(mask, (batch, heads, length, keys))
        call.mask, call.mask_type = address(spread), 1 if spread.dtype == np.bool_ else 2
        call.mask_strides = _strides(spread)
    check(library.mm_attention(byref(call)))
    return out


def layer_norm(
    library: ctypes.CDLL,
    x: Floats,
    weight: Floats | None,
    bias: Floats | None,
    eps: float,
    residual: Floats | None = None,
) -> Floats:
    """(…, D) -> (…, D), and the residual is added to the result."""
    x, y, residual = _rows_and_result(x, residual)
    check(library.mm_layer_norm(address(x), x.size // x.shape[-1], x.shape[-1], address(weight), address(bias), eps,
                                address(residual), address(y)))  # fmt: skip
    return y


def rms_norm(
    library: ctypes.CDLL, x: Floats, weight: Floats | None, eps: float, residual: Floats | None = None
) -> Floats:
    """(…, D) -> (…, D), and the residual is added to the result."""
    x, y, residual = _rows_and_result(x, residual)
    check(library.mm_rms_norm(address(x), x.size // x.shape[-1], x.shape[-1], address(weight), eps, address(residual),
                              address(y)))  # fmt: skip
    return y


def activation(library: ctypes.CDLL, kind: int, x: Floats) -> Floats:
    """activation(x), of any shape."""
    x = np.ascontiguousarray(x)
    y = np.empty(x.shape, np.float32)
    check(library.mm_activation(kind, address(x), x.size, address(y)))
    return y


def gated(library: ctypes.CDLL, kind: int, gate: Floats, up: Floats) -> Floats:
    """activation(gate) · up, (…, D) each."""
    gate, up = evenly(gate), evenly(up)
    y = np.empty(gate.shape, np.float32)
    width = gate.shape[-1]
    check(library.mm_gated(kind, address(gate), _row_stride(gate), address(up), _row_stride(up), gate.size // width,
                           width, address(y)))  # fmt: skip
    return y


def rotate(library: ctypes.CDLL, x: Floats, cos: Floats, sin: Floats, *, neighbours: bool) -> Floats:
    """Turns the first numbers of heads x (B, H, L, D) by cos and sin (L, dims / 2) or (B, 1, L, dims / 2)."""
    x, cos, sin = in_rows(x), np.ascontiguousarray(cos), np.ascontiguousarray(sin)
    batch, heads, length, width = x.shape
    y = np.empty((batch, length, heads, width), np.float32).transpose(0, 2, 1, 3)
    half = cos.shape[-1]
    call = signatures.RotateCall(
        address(x), address(cos), address(sin), address(y), batch, length, heads, width, 2 * half
    )
    call.x_strides, call.y_strides = _batch_row_head(x), _batch_row_head(y)
    call.table_strides = (length * half if cos.ndim == 4 and cos.shape[0] == batch and batch > 1 else 0, half)
    call.neighbours = neighbours
    check(library.mm_rotate(byref(call)))
    return y


def patches(library: ctypes.CDLL, x: Floats, size: int) -> Floats:
    """(B, H, W, C) -> (B, H/size · W/size, size·size·C), as `layers.embeddings.extract_patches`."""
    x = np.ascontiguousarray(x)
    batch, height, width, channels = x.shape
    y = np.empty((batch, (height // size) * (width // size), size * size * channels), np.float32)
    check(library.mm_patches(address(x), batch, height, width, channels, size, address(y)))
    return y


def take_rows(library: ctypes.CDLL, x: Floats, order: npt.NDArray[np.int32]) -> Floats:
    """x[:, order]: rows of each (N, D) of a batch (B, N, D)."""
    x, order = np.ascontiguousarray(x), np.ascontiguousarray(order, np.int32)
    batch, rows, cols = x.shape
    y = np.empty((batch, order.size, cols), np.float32)
    check(library.mm_take_rows(address(x), batch, rows, cols, address(order), order.size, address(y)))
    return y


def scan(library: ctypes.CDLL, codes: Bytes, high: Bytes, low: Bytes) -> Floats:
    """codes (N, D) times 128 high + low of queries (Q, D) each -> (Q, N). D: a multiple of 64, 65536 at most; numbers
    of queries are of -127 to 127."""
    codes, high, low = np.ascontiguousarray(codes), np.ascontiguousarray(high), np.ascontiguousarray(low)
    y = np.empty((len(high), len(codes)), np.float32)
    check(library.mm_scan(address(codes), *codes.shape, address(high), address(low), len(high), address(y)))
    return y


def in_rows(x: Floats) -> Floats:
    """x, or a copy of it, whose numbers lie together in each row."""
    return x if x.strides[-1] == x.itemsize or x.shape[-1] == 1 else np.ascontiguousarray(x)


def evenly(x: Floats) -> Floats:
    """x (…, D), or a copy of it, whose rows are evenly apart, each of numbers that lie together."""
    if x.flags.c_contiguous:
        return x
    rows, strides = x.shape[:-1], x.strides
    even = all(strides[i] == strides[i + 1] * rows[i + 1] for i in range(len(rows) - 1) if rows[i] > 1)
    return x if even and strides[-1] == x.itemsize else np.ascontiguousarray(x)


def check(status: int) -> None:
    """Raise what a status other than 0 says."""
    if status == signatures.NO_MEMORY:
        raise MemoryError(signatures.STATUS[status])
    if status:
        raise KernelError(signatures.STATUS.get(status, f"status {status}"))


def _row_stride(x: Floats) -> int:
    """Numbers from one row of (…, D) to the next; the rows must be evenly apart."""
    return x.strides[-2] // x.itemsize if x.ndim > 1 else x.shape[-1]


def _strides(x: npt.NDArray[np.generic]) -> tuple[int, ...]:
    return tuple(stride // x.itemsize for stride in x.strides)


def _batch_row_head(x: Floats) -> tuple[int, int, int]:
    batch, head, row, _ = _strides(x)
    return batch, row, head


def _rows_and_result(x: Floats, residual: Floats | None) -> tuple[Floats, Floats, Floats | None]:
    x = np.ascontiguousarray(x)
    return x, np.empty(x.shape, np.float32), None if residual is None else np.ascontiguousarray(residual)
