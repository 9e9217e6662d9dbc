"""From an MLX folder back to floats under Hugging Face's names: what transformers loads."""

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint import atomic, card, matching, writing
from mlx_mm.checkpoint.carrying import carry_files
from mlx_mm.checkpoint.padding import cut_to
from mlx_mm.checkpoint.rows import Rows, whole
from mlx_mm.errors import InputError, OutputError, WeightsError
from mlx_mm.load import HALF_MOST, OpenCheckpoint, open_checkpoint, parse_dtype
from mlx_mm.models.contracts import Model
from mlx_mm.processing.arguments import flag
from mlx_mm.progress import Progress, check_progress, progressing
from mlx_mm.quantize import apply

BLOCK_NUMBERS = 16 << 20  # of a table that become floats at a time
OURS = ("quantization", "quantization_config", "padded")  # keys of config.json that tell of packed weights
DTYPE_KEYS = ("torch_dtype", "dtype")

Tensors = dict[str, mx.array | Rows]


@dataclass(frozen=True)
class DequantizeReport:
    """What `dequantize` did. bytes: of the tensors. layers: how many were quantised. parameters: numbers written."""

    out: Path
    bytes: int
    seconds: float
    layers: int
    parameters: int


def dequantize(
    source: str | Path,
    out: str | Path,
    *,
    dtype: str | mx.Dtype | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    progress: Progress = False,
) -> DequantizeReport:
    """Write the weights of an MLX checkpoint as floats, under Hugging Face's names, into the new folder `out`.

    source: a folder that `convert` made, a bundled name or hub id, with `revision`; quantised or not. dtype: "float32",
    which is exact, "float16" or "bfloat16"; by default float32. overwrite: replace a checkpoint that stands at `out`.
    progress: show it on stderr, or a function that is called with (done, total).
    Zeros that widened an MLP are cut off, and what was merged or stacked lies as transformers has it; low-rank adapters
    stay merged, and stand there as zeros. transformers loads the result, and it computes as the quantised model does.
    Raises MlxMmError's subclasses, WeightsError for a source that is Hugging Face's own, OutputError for `out`.
    """
    start = time.perf_counter()
    target = parse_dtype(dtype) or mx.float32
    flag("overwrite", overwrite)
    check_progress(progress)
    out = atomic.as_name(out)
    with atomic.new_folder(out, overwrite) as new:
        opened = open_checkpoint(source, revision=revision)
        if opened.folder.resolve().is_relative_to(out.resolve()):
            raise OutputError(f"{out} is the source, or holds it. Name another folder for the result.")
        with computing():
            values, tensors, layers = _floats(opened, target)
        count = sum(tensor.size for tensor in tensors.values())
        with progressing(progress, count, "writing", "number") as advance:
            sizes: writing.Sizes = {name: (tensor.dtype, tensor.shape) for name, tensor in tensors.items()}
            writing.check_space(new, sizes)
            with writing.ShardWriter(new, sizes, "pt") as writer:
                for name in sizes:
                    with computing():
                        writer.write(name, _checked(name, tensors.pop(name), opened.folder))
                    advance(math.prod(sizes[name][1]))
                size = writer.finish()
        carry_files(opened.folder, new)
        (new / "config.json").write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", "utf-8")
        (new / "README.md").write_text(_card(out.name, opened), "utf-8")
    return DequantizeReport(out, size, time.perf_counter() - start, layers, count)


def _floats(opened: OpenCheckpoint, dtype: mx.Dtype) -> tuple[dict[str, object], Tensors, int]:
    """config.json and tensors as Hugging Face has them, the latter not computed yet; how many layers were packed."""
    opened, checkpoint = opened.with_tensors()
    if not checkpoint.is_mlx:
        raise WeightsError(
            f"{opened.folder} has Hugging Face's own names already, and nothing to bring back; expected a folder that "
            "mlx_mm convert made."
        )
    model = opened.model()
    tensors, layers = {name: whole(tensor) for name, tensor in opened.arrange(model, checkpoint).items()}, 0
    block = apply.read_block(opened.values)
    if block is not None:
        apply.apply_block(model, block, tensors)
    matching.check_match(matching.parameter_shapes(model), tensors, opened.folder)
    checkpoint.arrays.clear()  # so that a tensor can leave the memory once it is written
    floats: Tensors = {}
    for path, layer in model.named_modules():
        name = f"{path}.weight"
        if f"{path}.scales" in tensors:
            scales, biases = tensors.pop(f"{path}.scales"), tensors.pop(f"{path}.biases", None)
            floats[name] = _unpacked(layer, tensors.pop(name), scales, biases)
            layers += 1
    values = _narrowed(opened.values)
    narrow = _model(opened, values)
    floats = cut_to(tensors | floats, matching.parameter_shapes(narrow), narrow.padded_axes)
    return _new_values(values, dtype), _cast(narrow.restore(floats), dtype), layers


def _model(opened: OpenCheckpoint, values: dict[str, object]) -> Model:
    return replace(opened, values=values, config=opened.family.config.from_dict(values)).model()


def _unpacked(layer: nn.Module, weight: mx.array, scales: mx.array, biases: mx.array | None) -> mx.array | Rows:
    """The weight of a layer in float32: stacks matrix by matrix, large tables in blocks of rows."""

    def unpacked(rows: slice) -> mx.array:
        if biases is None:
            floats = mx.dequantize(weight[rows], scales[rows], None, layer.group_size, layer.bits, layer.mode)
            return floats.astype(mx.float32)  # from bfloat16, which holds what the modes of floats can say
        scale, bias = (part[rows].astype(mx.float32) for part in (scales, biases))
        return mx.dequantize(weight[rows], scale, bias, layer.group_size, layer.bits)

    if weight.ndim > 2:
        step = 1
    elif isinstance(layer, nn.QuantizedEmbedding):
        step = max(1, BLOCK_NUMBERS // (weight.shape[1] * 32 // layer.bits))
    else:
        return unpacked(slice(None))
    return Rows(tuple(unpacked(slice(i, i + step)) for i in range(0, len(weight), step)))


def _narrowed(values: Mapping[str, object]) -> dict[str, object]:
    """config.json with the widths that MLPs had before `convert` widened them."""
    result = dict(values)
    padded = values.get("padded")
    for place, widths in (padded if isinstance(padded, dict) else {}).items():
        section, _, key = place.rpartition(".")
        if not section:
            result[key] = widths[0]
        for name in (section, f"{section}_dict"):
            if isinstance(part := result.get(name), dict):
                result[name] = part | {key: widths[0]}
    return result


def _new_values(values: Mapping[str, object], dtype: mx.Dtype) -> dict[str, object]:
    """config.json without what tells of packed weights, and with the dtype of the floats wherever one is named."""
    name = str(dtype).rpartition(".")[2]

    def named(section: Mapping[str, object]) -> dict[str, object]:
        return {
            key: name if key in DTYPE_KEYS else named(value) if isinstance(value, dict) else value
            for key, value in section.items()
        }

    kept = named({key: value for key, value in values.items() if key not in OURS})
    return kept if any(key in kept for key in DTYPE_KEYS) else kept | {"torch_dtype": name}


def _cast(tensors: Tensors, dtype: mx.Dtype) -> Tensors:
    def cast(array: mx.array) -> mx.array:
        return array.astype(dtype) if mx.issubdtype(array.dtype, mx.floating) else array

    return {
        name: Rows(tuple(map(cast, tensor.blocks))) if isinstance(tensor, Rows) else cast(tensor)
        for name, tensor in tensors.items()
    }


def _checked(name: str, tensor: mx.array | Rows, folder: Path) -> Iterator[mx.array]:
    """The blocks of a tensor; WeightsError for numbers that are none, InputError for those that float16 cannot hold."""
    for block in tensor.blocks if isinstance(tensor, Rows) else (tensor,):
        if block.dtype == mx.float16 and bool(mx.isinf(block).any()):
            raise InputError(
                f"dtype is float16, and {name} has numbers beyond its {HALF_MOST}; expected a dtype that holds them. "
                "Pass bfloat16 or float32, or leave it out."
            )
        matching.check_numbers(name, block, folder)
        yield block


def _card(name: str, opened: OpenCheckpoint) -> str:
    terms = {key: value for key, value in card.front_matter(opened.folder).items() if key in card.CARRIED_KEYS}
    licence = terms.get("license") or opened.config.licence or "not named by the source; see the base model"
    head = ["---", *(f"{key}: {value}" for key, value in terms.items()), "---", ""]
    base = Path(opened.name).name
    return "\n".join(head) + (
        f"\n# {name}\n\n{base} with its weights as floats again, under Hugging Face's names, by mlx_mm. What rounding "
        f"cost is not brought back.\n\nLicence of the weights: {licence}.\n"
    )
