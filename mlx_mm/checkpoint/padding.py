"""Tensors filled up with zeros, for a model whose MLPs are wider than those of its files, and cut again."""

from collections.abc import Mapping, Sequence

import mlx.core as mx

from mlx_mm.checkpoint.rows import Rows

# How a parameter's path ends -> the axis that grows, or that axis and into how many equal parts it is divided
Axes = Sequence[tuple[str, int | tuple[int, int]]]


def pad_to(
    arrays: Mapping[str, mx.array | Rows], shapes: Mapping[str, tuple[int, ...]], axes: Axes
) -> dict[str, mx.array | Rows]:
    """The tensors, those that `axes` knows with zeros after their numbers, of each part of the axis, as far as the
    shape of that name reaches. Others come back as they are, and so do those that fit no shape."""
    return {
        name: _pad(array, shapes[name], _growing(name, axes)) if name in shapes else array
        for name, array in arrays.items()
    }


def cut_to(
    arrays: Mapping[str, mx.array | Rows], shapes: Mapping[str, tuple[int, ...]], axes: Axes
) -> dict[str, mx.array | Rows]:
    """The other way: without the zeros after the numbers of each part of an axis, as far as the shapes reach."""
    return {name: _cut(array, shapes[name], _growing(name, axes)) for name, array in arrays.items()}


def _cut(array: mx.array | Rows, shape: tuple[int, ...], growing: tuple[int, int] | None) -> mx.array | Rows:
    if array.shape == shape or growing is None:
        return array
    axis, parts = growing
    if isinstance(array, Rows):  # stacks, whose blocks have the other axes whole
        return Rows(tuple(_cut_axis(block, axis, parts, shape[axis]) for block in array.blocks))
    return _cut_axis(array, axis, parts, shape[axis])


def _cut_axis(array: mx.array, axis: int, parts: int, size: int) -> mx.array:
    divided = mx.unflatten(array, axis, (parts, -1))
    kept = [slice(None)] * (axis + 1) + [slice(size // parts)]
    return divided[tuple(kept)].flatten(axis, axis + 1)


def _growing(name: str, axes: Axes) -> tuple[int, int] | None:
    found = next((axis for suffix, axis in axes if name.endswith(suffix)), None)
    return (found, 1) if isinstance(found, int) else found


def _pad(array: mx.array | Rows, shape: tuple[int, ...], growing: tuple[int, int] | None) -> mx.array | Rows:
    if growing is None or array.ndim != len(shape):
        return array
    axis, parts = growing
    size = array.shape[axis]
    missing = shape[axis] - size
    if missing <= 0 or missing % parts or size % parts:
        return array
    if isinstance(array, Rows):  # blocks of rows have the other axes whole
        return Rows(tuple(_fill(block, axis, parts, missing) for block in array.blocks)) if axis else array
    return _fill(array, axis, parts, missing)


def _fill(array: mx.array, axis: int, parts: int, missing: int) -> mx.array:
    widths = [(0, 0)] * (array.ndim + 1)
    widths[axis + 1] = (0, missing // parts)
    return mx.pad(mx.unflatten(array, axis, (parts, -1)), widths).flatten(axis, axis + 1)
