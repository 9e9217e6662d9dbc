"""How the weight of one layer is stored: bits, group size and mode."""

from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_mm.checkpoint.writing import Sizes
from mlx_mm.errors import QuantizationError, shown

Modes = Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]  # mode -> bits, group sizes

# What we convert to
MODES: Modes = {"affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128))}
# What MLX computes with, so files of other programs have it
READ_MODES: Modes = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}


@dataclass(frozen=True)
class QuantConfig:
    """How a layer's weight is stored."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __post_init__(self) -> None:
        check_known({"bits": self.bits, "group_size": self.group_size, "mode": self.mode}, MODES)

    def quantize(self, weight: mx.array) -> list[mx.array]:
        """(out, in) -> packed uint32 weight, scales and biases."""
        return list(mx.quantize(weight, self.group_size, self.bits, self.mode))

    def sizes(self, shape: tuple[int, ...], dtype: mx.Dtype) -> Sizes:
        """Dtype and shape of a weight's parts, by the name of the parameter; dtype: of scales and biases."""
        *rows, width = shape
        groups = (*rows, width // self.group_size)
        return {
            "weight": (mx.uint32, (*rows, width * self.bits // 32)),
            "scales": (dtype, groups),
            "biases": (dtype, groups),
        }


def check_known(values: Mapping[str, object], modes: Modes) -> None:
    """Raise QuantizationError unless `modes` has these mode, bits and group_size."""
    mode = values["mode"]
    if not isinstance(mode, str) or mode not in modes:
        raise QuantizationError(f"mode is {shown(mode)}; expected one of {', '.join(modes)}.")
    for name, known in zip(("bits", "group_size"), modes[mode], strict=True):
        value = values[name]
        if not isinstance(value, int) or isinstance(value, bool) or value not in known:
            raise QuantizationError(
                f"{name} is {shown(value)}; {mode} takes {', '.join(map(str, known))}. Pass one of these."
            )
