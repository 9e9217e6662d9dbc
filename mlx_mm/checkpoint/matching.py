"""Whether the tensors of a folder are those of its model."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import mlx.core as mx
from mlx.utils import tree_flatten

from mlx_mm.errors import WeightsError


class HasShape(Protocol):
    """An array, or what will become one."""

    @property
    def shape(self) -> tuple[int, ...]: ...


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


def check_finite(name: str, array: mx.array, where: Path) -> None:
    """Raise WeightsError where a float tensor holds NaN or infinity."""
    # 0·x is 0 for every finite x and NaN for the others, and summing zeros cannot overflow.
    if mx.issubdtype(array.dtype, mx.floating) and mx.isnan((array * 0).sum()).item():
        raise WeightsError(f"{where} holds NaN or infinite numbers in {name}. Download the file again.")
