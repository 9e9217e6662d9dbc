"""A model's tensors on their way into new files, quantised as planned, one at a time."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import mlx.core as mx

from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint import matching, writing
from mlx_mm.checkpoint.reading import Checkpoint
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.quantize.inputs import Inputs
from mlx_mm.quantize.methods import METHODS, Method, Rounder
from mlx_mm.quantize.plan import LayerPlan
from mlx_mm.quantize.precision import Precision
from mlx_mm.quantize.scheme import AFFINE, QuantConfig


@dataclass
class Tensors:
    """The tensors of one model, and what becomes of each.

    checkpoint, folder: where they come from. arrays: by name; what is written is removed, so that it can leave the
    memory. shapes: of the model's parameters, in the order of the files. method: how weights are rounded.
    """

    folder: Path
    checkpoint: Checkpoint
    arrays: dict[str, mx.array | Rows]
    shapes: dict[str, tuple[int, ...]]
    plans: list[LayerPlan]
    precision: Precision
    method: Method = METHODS["plain"]
    largest: dict[str, float] = field(default_factory=dict, init=False)  # of the matrices that were written

    @property
    def count(self) -> int:
        """How many numbers there are."""
        return sum(array.size for array in self.arrays.values())

    def write(
        self, new: Path, on_written: Callable[[int], object], first: Callable[["Writing"], object] | None = None
    ) -> int:
        """Write all shards into the folder `new`; returns the bytes of the tensors.

        on_written: called with the count of each tensor's numbers. first: called before, it may write some of them.
        Raises WeightsError for numbers that are not finite, OutputError where the disk is too small, and what
        `Precision.check` does.
        """
        sizes = self._sizes()
        writing.check_space(new, sizes)
        with writing.ShardWriter(new, sizes) as writer:
            tensors = Writing(self, writer, on_written)
            if first is not None:
                first(tensors)
            for name in self.shapes:
                if name in self.arrays:
                    with computing():  # a turn for each: other threads may be waiting for theirs
                        tensors.write(name)
            matching.check_trained(self.largest, self.folder)
            return writer.finish()

    @cached_property
    def schemes(self) -> dict[str, QuantConfig]:
        """By the names of those that are quantised."""
        return {f"{layer.path}.weight": layer.scheme for layer in self.plans if layer.scheme is not None}

    def dtype_of(self, name: str) -> mx.Dtype:
        """What a tensor that is still to be written, or its scales and biases, will have."""
        array = self.arrays[name]
        return self.precision.of(array.dtype, array.size)

    def planned_bytes(self) -> int:
        """Of all tensors, as they are to be written."""
        return writing.total_bytes(self._sizes())

    def _sizes(self) -> writing.Sizes:
        sizes: writing.Sizes = {}
        for name, shape in self.shapes.items():
            dtype = self.dtype_of(name)
            if name in self.schemes:
                path = name.removesuffix("weight")
                sizes |= {path + part: size for part, size in self.schemes[name].sizes(shape, dtype).items()}
            else:
                sizes[name] = dtype, shape
        return sizes

    def blocks(self, name: str, bits: int | None) -> Iterator[mx.array]:
        """The blocks of a tensor, checked and cast. No name holds one here while it is written, nor its whole."""
        dtype, largest = self.dtype_of(name), 0.0
        array = self.arrays.pop(name)
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


@dataclass(frozen=True)
class Writing:
    """Tensors of which some are written."""

    tensors: Tensors
    writer: writing.ShardWriter
    on_written: Callable[[int], object]

    def write(self, name: str, inputs: Inputs | Sequence[Inputs] | None = None) -> None:
        """One tensor, quantised as it is planned. inputs: of its layer, or of each of its experts."""
        tensors = self.tensors
        size, dtype, scheme = tensors.arrays[name].size, tensors.dtype_of(name), tensors.schemes.get(name)
        if scheme is None:
            self.writer.write(name, tensors.blocks(name, None))
        else:
            self._write_quantised(name, scheme, tensors.method.rounder(scheme, dtype, inputs))
        self.on_written(size)

    def parts(self, name: str) -> dict[str, mx.array]:
        """What was written of a weight, by the name of the parameter."""
        scheme = self.tensors.schemes.get(name)
        names = ("weight",) if scheme is None else scheme.parts
        return {part: self.writer.read(name.removesuffix("weight") + part) for part in names}

    def _write_quantised(self, name: str, scheme: QuantConfig, rounder: Rounder) -> None:
        path = name.removesuffix("weight")
        rest: list[list[mx.array]] = []

        def packed() -> Iterator[mx.array]:
            for block in self.tensors.blocks(name, scheme.bits if scheme.mode == AFFINE else None):
                weight, *others = rounder(block)
                mx.eval(weight, *others)
                rest.append(others)
                yield weight

        self.writer.write(path + "weight", packed())
        for part, pieces in zip(scheme.parts[1:], zip(*rest, strict=True), strict=True):
            self.writer.write(path + part, pieces)
