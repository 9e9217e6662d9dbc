"""A model's tensors on their way into new files, quantised as planned, one after the other."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import mlx.core as mx

from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint import matching, writing
from mlx_mm.checkpoint.reading import Checkpoint
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.quantize.plan import LayerPlan
from mlx_mm.quantize.precision import Precision
from mlx_mm.quantize.scheme import AFFINE, QuantConfig


@dataclass
class Tensors:
    """The tensors of one model, and what becomes of each.

    checkpoint, folder: where they come from. arrays: by name; what is written is removed, so that it can leave the
    memory. shapes: of the model's parameters, in the order of the files.
    """

    folder: Path
    checkpoint: Checkpoint
    arrays: dict[str, mx.array | Rows]
    shapes: dict[str, tuple[int, ...]]
    plans: list[LayerPlan]
    precision: Precision
    largest: dict[str, float] = field(default_factory=dict, init=False)  # of the matrices that were written

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(array.size for array in self.arrays.values())

    def write(self, new: Path, on_written: Callable[[int], object]) -> int:
        """Write all shards into the folder `new`; returns the bytes of the tensors.

        on_written: called with the count of each tensor's numbers.
        Raises WeightsError for numbers that are not finite, OutputError where the disk is too small, and what
        `Precision.check` does.
        """
        schemes = {f"{layer.path}.weight": layer.scheme for layer in self.plans if layer.scheme is not None}
        sizes = self._sizes(schemes)
        writing.check_space(new, sizes)
        with writing.ShardWriter(new, sizes) as writer:
            for name in self.shapes:
                size = self.arrays[name].size
                scheme = schemes.get(name)
                with computing():  # a turn for each: other threads may be waiting for theirs
                    if scheme is None:
                        writer.write(name, self._blocks(name, None))
                    else:
                        self._write_quantised(writer, name.removesuffix("weight"), scheme)
                on_written(size)
            matching.check_trained(self.largest, self.folder)
            return writer.finish()

    def _sizes(self, schemes: dict[str, QuantConfig]) -> writing.Sizes:
        sizes: writing.Sizes = {}
        for name, shape in self.shapes.items():
            array = self.arrays[name]
            dtype = self.precision.of(array.dtype, array.size)
            if name in schemes:
                path = name.removesuffix("weight")
                sizes |= {path + part: size for part, size in schemes[name].sizes(shape, dtype).items()}
            else:
                sizes[name] = dtype, shape
        return sizes

    def _write_quantised(self, writer: writing.ShardWriter, path: str, scheme: QuantConfig) -> None:
        rest: list[list[mx.array]] = []

        def packed() -> Iterator[mx.array]:
            for block in self._blocks(path + "weight", scheme.bits if scheme.mode == AFFINE else None):
                weight, *others = scheme.quantize(block)
                mx.eval(weight, *others)
                rest.append(others)
                yield weight

        writer.write(path + "weight", packed())
        for part, pieces in zip(scheme.parts[1:], zip(*rest, strict=True), strict=True):
            writer.write(path + part, pieces)

    def _blocks(self, name: str, bits: int | None) -> Iterator[mx.array]:
        """The blocks of a tensor, checked and cast. No name holds one here while it is written, nor its whole."""
        array = self.arrays.pop(name)
        dtype, largest = self.precision.of(array.dtype, array.size), 0.0
        is_matrix = mx.issubdtype(array.dtype, mx.floating) and array.ndim > 1
        waiting = deque(array.blocks if isinstance(array, Rows) else (array,))
        del array
        while waiting:
            for block in self.checkpoint.blocks(waiting.popleft()):
                largest = max(largest, matching.check_numbers(name, block, self.folder))
                self.precision.check(name, block, bits)
                yield block.astype(dtype)
        if is_matrix:
            self.largest[name] = largest
