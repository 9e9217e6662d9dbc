"""How the weight of one layer is stored: bits, group size and mode.

affine: whole numbers times a scale plus a bias, both of a group. mxfp4, mxfp8: OCP's Microscaling Formats (MX) 1.0, 4
or 8 bit floats with a power of two for each 32. nvfp4: 4 bit floats with an 8 bit float for each 16.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import mlx.core as mx

from mlx_mm.backend.streams import compute
from mlx_mm.checkpoint.writing import Sizes
from mlx_mm.errors import QuantizationError, shown

# Mode -> bits, group sizes: all that MLX computes with
MODES: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}
AFFINE = "affine"
USUAL = 4, 64  # bits and group size of the affine mode where nobody says


@dataclass(frozen=True)
class QuantConfig:
    """How a layer's weight is stored."""

    bits: int
    group_size: int
    mode: str = AFFINE

    def __post_init__(self) -> None:
        check_known({"bits": self.bits, "group_size": self.group_size, "mode": self.mode})

    def __str__(self) -> str:
        """In words, such as "4 bit, group 64"; other modes than affine are named."""
        return f"{self.bits} bit, group {self.group_size}" if self.mode == AFFINE else self.mode

    @property
    def parts(self) -> tuple[str, ...]:
        """The parameters that a weight becomes: only the affine mode has biases."""
        return ("weight", "scales", "biases") if self.mode == AFFINE else ("weight", "scales")

    def quantize(self, weight: mx.array) -> list[mx.array]:
        """(…, out, in) -> its `parts`: packed uint32 weight, scales, and biases of the affine mode."""
        return list(mx.quantize(weight, self.group_size, self.bits, self.mode))

    def sizes(self, shape: tuple[int, ...], dtype: mx.Dtype) -> Sizes:
        """Dtype and shape of a weight's parts, by the name of the parameter; dtype: of affine scales and biases, those
        of the other modes are bytes."""
        *rows, width = shape
        groups = dtype if self.mode == AFFINE else mx.uint8, (*rows, width // self.group_size)
        packed = mx.uint32, (*rows, width * self.bits // 32)
        return {part: packed if part == "weight" else groups for part in self.parts}

    def bits_per_weight(self, dtype: mx.Dtype) -> float:
        """What a weight takes on the disk, its share of scales and biases included; dtype: of these."""
        groups = 2 * dtype.size if self.mode == AFFINE else 1
        return self.bits + 8 * groups / self.group_size

    def fitted(self, width: int) -> "QuantConfig | None":
        """The same with the largest group size, no larger than its own, that divides a width; None where none does."""
        sizes = [size for size in MODES[self.mode][1] if size <= self.group_size and width % size == 0]
        return QuantConfig(self.bits, max(sizes), self.mode) if sizes else None


def usual(mode: object) -> tuple[int, int]:
    """Bits and group size of a mode where nobody says; other modes than affine have one of each."""
    if not isinstance(mode, str) or mode not in MODES or mode == AFFINE:
        return USUAL
    (bits,), (group_size,) = MODES[mode]
    return bits, group_size


def check_known(values: Mapping[str, object]) -> None:
    """Raise QuantizationError unless MLX has these mode, bits and group_size, and the installed one the mode."""
    mode = values["mode"]
    if not isinstance(mode, str) or mode not in MODES:
        raise QuantizationError(f"mode is {shown(mode)}; expected one of {', '.join(MODES)}.")
    for name, known in zip(("bits", "group_size"), MODES[mode], strict=True):
        value = values[name]
        if not isinstance(value, int) or isinstance(value, bool) or value not in known:
            raise QuantizationError(
                f"{name} is {shown(value)}; {mode} takes {', '.join(map(str, known))}. Pass one of these."
            )
    if mode != AFFINE and not _installed_has(mode):
        from importlib.metadata import version  # which imports much

        raise QuantizationError(
            f"mode is {shown(mode)}, which the installed MLX {version('mlx')} lacks. "
            "Install a newer mlx, or use affine."
        )


@functools.cache
def _installed_has(mode: str) -> bool:
    """Whether MLX packs weights in a mode; it says so by trying."""
    (bits,), (group_size,) = MODES[mode]
    try:
        compute(lambda: mx.eval(mx.quantize(mx.zeros((2, 64)), group_size, bits, mode)))
    except (TypeError, ValueError):
        return False
    return True
