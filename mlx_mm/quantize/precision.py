"""In which precision a converted file holds what is not packed into bits: scales and biases of groups, and whatever is
not quantised.

A float32 source is written in float16: with float32 beside packed weights a GPU would compute in float32.
1 − cosine to the source, mean over texts / images (of CLAP sounds), group size 64:

| model | bits | float32 | float16 | bfloat16 |
|---|---|---|---|---|
| emoji-siglip2, trained | 4 | 3.79e-2 / 2.17e-2 | 3.79e-2 / 2.17e-2 | 3.88e-2 / 2.28e-2 |
| emoji-siglip2, trained | 8 | 1.16e-4 / 0.69e-4 | 1.17e-4 / 0.73e-4 | 2.04e-4 / 2.34e-4 |
| base size, random | 4 | 3.48e-2 / 4.91e-2 | 3.49e-2 / 4.91e-2 | 3.55e-2 / 4.88e-2 |
| base size, random | 8 | 1.05e-4 / 1.75e-4 | 1.08e-4 / 2.06e-4 | 3.38e-4 / 12.8e-4 |
| CLAP, tiny, random | 8 | 0.62e-4 / 0.31e-4 | 0.49e-4 / 0.26e-4 | 1.63e-4 / 0.69e-4 |

So float16 costs next to nothing at 4 and at 8 bit, and the file is as small: 12 % less than with float32 at 4 bit. A
weight is cast first and quantised then: in float16 the order makes no difference, in bfloat16 the other one is worse at
8 bit. A model with numbers that float16 cannot hold is written in bfloat16.
"""

from dataclasses import dataclass

import mlx.core as mx

from mlx_mm.errors import InputError

HALF, WIDER_HALF = mx.float16, mx.bfloat16
LARGEST = 65504  # of float16
# Of numbers below it float16 holds no more digits than bfloat16: its steps are 2^-24 there, and half of one is 2^-8.
SMALLEST = 2**-17


class OutOfRangeError(Exception):
    """A tensor that float16 cannot hold; never leaves the converter."""


@dataclass(frozen=True)
class Precision:
    """The dtype that a float tensor is written in.

    asked: by the user, for all of them. half: for all but single numbers. widest: for those that are wider, since what
    is computed from tensors of half precision is float32.
    """

    asked: mx.Dtype | None
    half: mx.Dtype | None
    widest: mx.Dtype

    def of(self, dtype: mx.Dtype, size: int) -> mx.Dtype:
        """For a tensor of this dtype and so many numbers. One alone, such as the scale of logits, keeps its digits."""
        if not mx.issubdtype(dtype, mx.floating):
            return dtype
        if self.asked is not None:
            return self.asked
        if self.half is not None and size > 1:
            return self.half
        return self.widest if dtype.size > self.widest.size else dtype

    def check(self, name: str, array: mx.array, bits: int | None) -> None:
        """Raise OutOfRangeError where the half we chose is float16 and cannot hold a tensor, or with `bits` the steps
        between its weights; InputError where float16 was asked for and would make infinity of a number."""
        if not mx.issubdtype(array.dtype, mx.floating):
            return
        if self.asked is not None:
            if self.asked == HALF and bool(mx.isinf(array.astype(HALF)).any()):
                raise InputError(
                    f"dtype is float16, and {name} has numbers beyond its {LARGEST}; expected a dtype that holds them. "
                    "Pass bfloat16 or float32, or leave it out."
                )
        elif self.half is not None and self.half == HALF and array.size > 1:
            largest = mx.abs(array).max()
            smallest = SMALLEST * (1 if bits is None else 2**bits - 1)
            too_small = array.ndim > 1 and bool((largest > 0) & (largest < smallest))
            if too_small or bool(largest > LARGEST):
                raise OutOfRangeError


def choose_precision(asked: mx.Dtype | None, source: set[mx.Dtype], half: mx.Dtype | None) -> Precision:
    """The one that was asked for, else `half` for a float32 source, else the source's own.

    source: the floating dtypes of its tensors. half: None for a source that is not quantised, which keeps its own.
    """
    widest = max(source, key=lambda dtype: dtype.size, default=mx.float32)
    return Precision(asked, half if source == {mx.float32} else None, widest)
