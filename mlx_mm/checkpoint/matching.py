"""Whether the tensors of a folder are those of its model."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_mm.backend.border import largest_magnitude
from mlx_mm.errors import WeightsError

LARGEST = 2.0**63  # the square of a larger number is infinite in float32, and so are products and norms


class HasShape(Protocol):
    """An array, or what will become one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


class HasType(Protocol):
    """An array, or what will become one."""

    @property
    def dtype(self) -> mx.Dtype: ...


def check_match(expected: Mapping[str, tuple[int, ...]], found: Mapping[str, HasShape], where: Path) -> None:
    """Raise one WeightsError that names missing, unexpected and misshapen tensors; the first ten of each kind."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    misshapen = [
        f"{name} {found[name].shape}, expected {shape}"
        for name, shape in expected.items()
        if name in found and found[name].shape != shape
    ]
    problems = [
        f"{len(names)} {kind}: {', '.join(names[:10])}{', …' if len(names) > 10 else ''}"
        for kind, names in (("missing", missing), ("unexpected", unexpected), ("misshapen", misshapen))
        if names
    ]
    if problems:
        raise WeightsError(
            f"The tensors of {where} do not fit its config.json. {'; '.join(problems)}. "
            "Use the config.json and the weights of one and the same checkpoint."
        )


class HasParameters(Protocol):
    """An mlx module."""

    def parameters(self) -> dict[str, object]: ...


def parameter_shapes(model: HasParameters) -> dict[str, tuple[int, ...]]:
    """Names and shapes of all parameters of an mlx module."""
    leaves = dict(tree_flatten(model.parameters()))
    return {name: array.shape for name, array in leaves.items()}


def parameter_bytes(model: HasParameters, itemsize: int) -> dict[str, int]:
    """Of each parameter of an mlx module, where floats have so many bytes each. Nothing is computed."""
    return {
        name: array.size * itemsize if mx.issubdtype(array.dtype, mx.floating) else array.nbytes
        for name, array in dict(tree_flatten(model.parameters())).items()
    }


def check_kinds(model: HasParameters, found: Mapping[str, HasType], where: Path) -> None:
    """Raise WeightsError where a tensor holds whole numbers in the place of others, or the other way round."""
    for name, array in dict(tree_flatten(model.parameters())).items():
        floating = mx.issubdtype(array.dtype, mx.floating)
        fits = mx.issubdtype(found[name].dtype, mx.floating) if floating else found[name].dtype == array.dtype
        if not fits:
            raise WeightsError(
                f"{where} stores {name} as {_type_name(found[name])}; expected {_type_name(array)}. "
                "Use the config.json and the weights of one and the same checkpoint."
            )


def _type_name(array: HasType) -> str:
    return str(array.dtype).removeprefix("mlx.core.")


def check_finite(name: str, array: mx.array, where: Path) -> float:
    """The largest magnitude of a float tensor, 0 of another; WeightsError where it holds NaN or infinity."""
    if not mx.issubdtype(array.dtype, mx.floating) or array.size == 0:
        return 0.0
    largest = largest_magnitude(array)
    if not math.isfinite(largest):
        raise WeightsError(f"{where} holds NaN or infinite numbers in {name}. Download the file again.")
    return largest


def check_numbers(name: str, array: mx.array, where: Path) -> float:
    """The same, and WeightsError for numbers that no model can compute with."""
    largest = check_finite(name, array, where)
    if largest > LARGEST:
        raise WeightsError(
            f"{where} holds numbers up to {largest:.3g} in {name}, whose squares float32 does not have; expected the "
            "weights of a trained model. Download the file again."
        )
    return largest


def check_trained(largest: Mapping[str, float], where: Path) -> None:
    """WeightsError where most matrices are zeros, as a download leaves them that was cut short; one may be.

    largest: the largest magnitude of each matrix, by name.
    """
    zeros = [name for name, size in largest.items() if size == 0]
    if 2 * len(zeros) > len(largest):
        raise WeightsError(
            f"{where} holds nothing but zeros in {len(zeros)} of {len(largest)} matrices: "
            f"{', '.join(zeros[:10])}{', …' if len(zeros) > 10 else ''}. Download the files again."
        )
