"""From a Hugging Face folder to an MLX folder, quantised on the way.

Tensors are read, quantised and written one at a time, so memory stays near the largest block, not the model.
"""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlx.core as mx
from tqdm import tqdm

from mlx_mm.checkpoint import card, hub, matching, reading, writing
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.errors import InputError, OutputError, WeightsError
from mlx_mm.load import parse_dtype
from mlx_mm.models import find_family
from mlx_mm.models.weights import widen_mlps
from mlx_mm.quantize import plan as quantize
from mlx_mm.quantize.plan import Choice, Recipe, Scheme

# Files that travel with the weights; config.json and the index are written anew.
CARRIED = ("*.json", "*.jinja", "*.txt", "*.model", "LICENSE*")
NOT_CARRIED = ("config.json", "*.index.json")
# Parameters that grow with an MLP's width, and the axis that does; which of them grow depends on the family.
PADDED_AXES = {".mlp.fc1.weight": 0, ".mlp.fc1.bias": 0, ".mlp.fc2.weight": 1, ".mlp.down_proj.weight": 1}


@dataclass(frozen=True)
class ConvertReport:
    """What `convert` did. Sizes in bytes, of the weight files before and of the tensors after.

    choices: one per layer with a weight matrix, empty with bits=None. padded: config keys that were rounded up,
    {key: [old, new]}. licence: as the source's card names it, else the one that binds all published checkpoints of
    the model, else None. cosines: with check=True, {"text" | "image" | "audio": (mean, lowest)} of converted against
    source vectors.
    """

    out: Path
    source_bytes: int
    bytes: int
    seconds: float
    parameters: int
    choices: list[Choice] = field(repr=False)
    padded: dict[str, list[int]]
    licence: str | None
    cosines: dict[str, tuple[float, float]] | None = None


def convert(
    source: str | Path,
    out: str | Path,
    *,
    bits: int | None = 4,
    group_size: int = 64,
    mode: str = "affine",
    dtype: Any = None,
    recipe: str | Recipe | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    check: bool = False,
    progress: bool = False,
) -> ConvertReport:
    """Convert a checkpoint to MLX weights in the new folder `out`.

    source: folder, bundled name or hub id, with `revision`. bits: 4, 8, or None to keep the precision.
    group_size: 32, 64 or 128 weights share a scale. dtype: of what is not quantised, by default the source's.
    recipe: a name of `quantize.RECIPES`, or {path pattern: {"bits", "group_size", "mode"} | False}; by default "all"
    layers of an encoder, and "text-only" of a model that answers in words.
    overwrite: replace a checkpoint that stands at `out`. check: compare vectors with the source afterwards and
    write the result into the card. progress: show a bar on stderr.
    The folder appears complete or not at all. Raises MlxMmError's subclasses, OutputError for `out`.
    """
    start = time.perf_counter()
    scheme = None if bits is None else Scheme(bits, group_size, mode)
    target = parse_dtype(dtype)
    out = Path(out).expanduser()
    _check_output(out, overwrite)
    folder = hub.resolve(source, revision)
    if folder.resolve().is_relative_to(out.resolve()):
        raise OutputError(f"{out} is the source, or holds it. Name another folder for the result.")
    values = hub.read_config(folder)
    if "quantization" in values:
        raise WeightsError(f"{folder} is quantised already. Convert the original checkpoint instead.")
    family = find_family(values["model_type"])
    config = family.config.from_dict(values)
    padded: dict[str, list[int]] = {}
    if scheme is not None:
        values, padded = widen_mlps(values, config, scheme.group_size)
        config = family.config.from_dict(values)
    model = family.architecture(values.get("architectures"))(config)
    if check and model.kind != "encoder":
        kind = "answers in words" if model.kind == "generator" else "is a classifier"
        raise InputError(f"check compares vectors, and this checkpoint {kind}. Leave check out.")
    checkpoint = reading.Checkpoint(folder)
    shapes = matching.parameter_shapes(model)
    arrays = dict(checkpoint.arrays) if checkpoint.is_mlx else model.sanitize(checkpoint.arrays)
    checkpoint.arrays.clear()  # so that a tensor can leave the memory once it is written
    parameters = sum(array.size for array in arrays.values())
    arrays = {name: _pad(name, array, shapes) for name, array in arrays.items()} if padded else arrays
    matching.check_match(shapes, arrays, folder)
    if recipe is None and scheme is not None and model.kind == "generator":
        recipe = "text-only"
    choices = quantize.plan(model, scheme, recipe)
    del model

    values = family.config.complete(values)
    values.pop("quantization_config", None)
    if not any(choice.scheme for choice in choices):
        scheme = None  # the recipe left nothing to quantise, and neither config nor card may say otherwise
    if scheme is not None:
        values["quantization"] = values["quantization_config"] = quantize.to_config(choices, scheme)
    if padded:
        values["padded"] = padded
    licence = card.read_licence(folder) or config.licence
    with _new_folder(out, overwrite) as new:
        job = _Job(folder, checkpoint, arrays, shapes, choices, target)
        total = job.write(new, progress)
        _carry_files(folder, new)
        (new / "config.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
        cosines = None
        if check:
            from mlx_mm.evaluate import cosines_to_source

            cosines = cosines_to_source(folder, new)
        report = ConvertReport(
            out=out,
            source_bytes=checkpoint.num_bytes,
            bytes=total,
            seconds=time.perf_counter() - start,
            parameters=parameters,
            choices=choices,
            padded=padded,
            licence=licence,
            cosines=cosines,
        )
        base = folder.resolve().name if Path(source).expanduser().is_dir() else str(source)
        sizes = report.source_bytes, report.bytes
        how = "without quantisation" if scheme is None else f"to {scheme.bits} bit, group size {scheme.group_size}"
        text = card.write_card(out.name, base, folder, how, sizes, cosines, default_licence=config.licence)
        (new / "README.md").write_text(text, "utf-8")
    return report


@dataclass
class _Job:
    """The tensors of one conversion, and where each comes from."""

    folder: Path
    checkpoint: reading.Checkpoint
    arrays: dict[str, mx.array | Rows]
    shapes: dict[str, tuple[int, ...]]
    choices: list[Choice]
    dtype: mx.Dtype | None

    def write(self, new: Path, progress: bool) -> int:
        """Write all shards into `new`; returns the bytes of the tensors."""
        schemes = {f"{c.path}.weight": c.scheme for c in self.choices if c.scheme is not None}
        sizes: writing.Sizes = {}
        for name, shape in self.shapes.items():
            dtype = self._target(self.arrays[name].dtype)
            if name in schemes:
                path = name.removesuffix("weight")
                sizes |= {path + part: size for part, size in schemes[name].sizes(shape, dtype).items()}
            else:
                sizes[name] = dtype, shape
        _check_space(new, sizes)
        todo = sum(array.size for array in self.arrays.values())
        bar = tqdm(total=todo, unit="", unit_scale=True, desc="converting", disable=not progress)
        with bar, writing.ShardWriter(new, sizes) as writer:
            for name in self.shapes:
                array = self.arrays.pop(name)
                size = array.size
                blocks = self._read(name, array)
                del array
                if name in schemes:
                    self._write_quantised(writer, name.removesuffix("weight"), blocks, schemes[name])
                else:
                    writer.write(name, blocks)
                bar.update(size)
            return writer.finish()

    def _write_quantised(
        self, writer: writing.ShardWriter, path: str, blocks: Iterator[mx.array], scheme: Scheme
    ) -> None:
        rest: list[list[mx.array]] = []

        def packed() -> Iterator[mx.array]:
            for block in blocks:
                weight, *others = scheme.quantize(block)
                mx.eval(weight, *others)
                rest.append(others)
                yield weight

        writer.write(path + "weight", packed())
        for part, pieces in zip(("scales", "biases"), zip(*rest, strict=True), strict=True):
            writer.write(path + part, pieces)

    def _read(self, name: str, array: mx.array | Rows) -> Iterator[mx.array]:
        """The blocks of a tensor, checked and cast."""
        waiting = deque(array.blocks if isinstance(array, Rows) else (array,))
        del array  # so that a block can leave the memory once it is written
        while waiting:
            for block in self.checkpoint.blocks(waiting.popleft()):
                matching.check_finite(name, block, self.folder)
                yield block.astype(self._target(block.dtype))

    def _target(self, dtype: mx.Dtype) -> mx.Dtype:
        """The dtype asked for, else the tensor's own, but none wider than the source has: a sum of its tensors is
        computed in float32."""
        if not mx.issubdtype(dtype, mx.floating):
            return dtype
        if self.dtype is not None:
            return self.dtype
        widest = self.checkpoint.widest_float
        return widest if dtype.size > widest.size else dtype


def _pad(name: str, array: mx.array | Rows, shapes: dict[str, tuple[int, ...]]) -> mx.array | Rows:
    """Zeros at the end of the axis along which an MLP was widened; other tensors come back as they are."""
    axis = next((axis for suffix, axis in PADDED_AXES.items() if name.endswith(suffix)), None)
    if axis is None or name not in shapes or isinstance(array, Rows) or array.ndim != len(shapes[name]):
        return array
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, max(0, shapes[name][axis] - array.shape[axis]))
    return mx.pad(array, widths)


def _check_output(out: Path, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise OutputError(f"{out} is a file; expected the name of a new folder.")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if not overwrite:
        raise OutputError(f"{out} exists already. Choose another name, or pass overwrite (--overwrite).")
    if not (out / "config.json").exists():
        raise OutputError(f"{out} is no checkpoint, so it is not overwritten. Choose another name.")


def _check_space(folder: Path, sizes: writing.Sizes) -> None:
    needed = writing.total_bytes(sizes)
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutputError(
            f"The converted model needs {needed / 1e9:.2f} GB and {folder.parent} has {free / 1e9:.2f} GB free. "
            "Free some space, or write to another disk."
        )


@contextlib.contextmanager
def _new_folder(out: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary sibling of `out` that takes its place when the block succeeds, and vanishes when it fails."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        new = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise OutputError(f"Cannot write to {out.parent}: {error.strerror}. Choose another place.") from error
    old = new.with_name(new.name + ".old")
    try:
        yield new
        new.chmod(0o755)
        if out.exists():
            out.rename(old)
        new.rename(out)
    except OSError as error:
        raise OutputError(f"Converting to {out} failed ({error}). Nothing was kept.") from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _carry_files(source: Path, new: Path) -> None:
    skipped = {path for pattern in NOT_CARRIED for path in source.glob(pattern)}
    for path in sorted({path for pattern in CARRIED for path in source.glob(pattern)} - skipped):
        if path.is_file():
            shutil.copyfile(path, new / path.name)
            os.chmod(new / path.name, 0o644)
