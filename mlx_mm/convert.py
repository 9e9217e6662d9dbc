"""From a Hugging Face folder to an MLX folder, quantised on the way: prepare, write, describe.

Tensors are read, quantised and written one at a time, so memory stays near the largest block, not the model.
"""

import dataclasses
import json
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import mlx.core as mx

from mlx_mm.backend import device
from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint import atomic, card, matching
from mlx_mm.checkpoint.carrying import carry_files
from mlx_mm.checkpoint.digest import weights_digest
from mlx_mm.checkpoint.padding import pad_to
from mlx_mm.checkpoint.writing import total_bytes
from mlx_mm.errors import MlxMmError, OutputError, QuantizationError, WeightsError, is_whole
from mlx_mm.evaluate.comparing import check_measurable, measure
from mlx_mm.evaluate.effects import layer_options
from mlx_mm.load import OpenCheckpoint, open_checkpoint, parse_dtype
from mlx_mm.models.contracts import Modality, Model
from mlx_mm.probes import Probes, bundled_probes, fitting, folder_probes, joined, prepared, run
from mlx_mm.processing.arguments import flag, text_or_path
from mlx_mm.processing.batch import Batch
from mlx_mm.progress import Progress, check_progress, progressing
from mlx_mm.quantize import record
from mlx_mm.quantize.budget import Choice, Losses, Point, curve
from mlx_mm.quantize.calibrating import Walk
from mlx_mm.quantize.cost import Cost
from mlx_mm.quantize.methods import Method, find_method
from mlx_mm.quantize.plan import LayerPlan, free_layers, plan, to_block, usual_scheme
from mlx_mm.quantize.precision import HALF, WIDER_HALF, OutOfRangeError, choose_precision
from mlx_mm.quantize.recipes import Recipe, find_recipe
from mlx_mm.quantize.scheme import AFFINE, USUAL, QuantConfig, usual
from mlx_mm.quantize.targets import Target, find_target, reach
from mlx_mm.quantize.writing import Tensors, Writing

Dealt: TypeAlias = Mapping[str, QuantConfig | None]


@dataclass(frozen=True)
class ConvertReport:
    """What `convert` did. Sizes in bytes, of the weight files before and of the tensors after.

    choices: one per layer with a weight matrix, empty with bits=None. padded: config keys that were rounded up,
    {key: [old, new]}. licence: as the source's card names it, else the one that binds all published checkpoints of
    the model, else None. seconds: of converting. cost: what it lost, with the seconds of measuring that; None with
    check=False, and where it could not be measured. curve: with a target, from the smallest file to the one that
    loses least, what is expected; empty without one.
    """

    out: Path
    source_bytes: int
    bytes: int
    seconds: float
    parameters: int
    choices: list[LayerPlan] = field(repr=False)
    padded: dict[str, list[int]]
    licence: str | None
    cost: Cost | None = None
    curve: tuple[Point, ...] = ()


def convert(
    source: str | Path,
    out: str | Path,
    *,
    bits: int | None = 4,
    group_size: int | None = None,
    mode: str = "affine",
    dtype: str | mx.Dtype | None = None,
    recipe: str | Recipe | None = None,
    target_cosine: float | None = None,
    target_size: int | str | None = None,
    target_kl: float | None = None,
    method: str = "best",
    calibrate: str | Path | None = None,
    revision: str | None = None,
    overwrite: bool = False,
    check: bool = True,
    progress: Progress = False,
) -> ConvertReport:
    """Convert a checkpoint to MLX weights in the new folder `out`.

    source: folder, bundled name or hub id, with `revision`. bits: 2, 3, 4, 5, 6, 8, or None to keep the precision.
    mode: "affine", "mxfp4", "mxfp8" or "nvfp4". group_size: so many weights share a scale, of affine 32, 64 or 128; a
    layer whose width it does not divide has a smaller one. By default 64, or the only one of the mode.
    dtype: of what is not quantised, scales and biases of groups included; by default the source's, but float16 where a
    float32 source is quantised, or bfloat16 where float16 cannot hold its numbers.
    recipe: a name of `quantize.recipes.RECIPES`, or {path pattern or mark: bits | {"bits", "group_size", "mode"} |
    False}, see docs/quantisation.md; by default "all" layers of an encoder, and "text-only" of a model that answers in
    words.
    target_cosine, target_size, target_kl: one of them deals 2 to 8 bits to the layers that the recipe neither excludes
    nor gives bits of its own, so that the file is the smallest with at least that mean cosine of each kind of vectors,
    the one that loses least in so many bytes of tensors ("1.2GB" or a number), or the smallest with at most that mean
    divergence of answers or scores, in nats. bits and mode are left out then. What single layers lose is measured
    first; with check=True the result is too, and converted again where it is not as expected, up to six times.
    method: how weights are rounded, a name of `quantize.methods.METHODS`; "best" runs the model on some inputs while it
    rounds. calibrate: a folder of such inputs, pictures, sounds or texts like those the model is to work on; by default
    those that come with the package, which also add to the texts.
    overwrite: replace a checkpoint that stands at `out`. check: run the source and the result afterwards, on the half
    of the inputs that was not rounded with, and write what was lost into the card and into conversion.json; False
    leaves that out. progress: show it on stderr, or a function that is called with (done, total) while it converts.
    The folder appears complete or not at all, and whether it can is found out first. Raises MlxMmError's subclasses,
    OutputError for `out`.
    """
    start = time.perf_counter()
    scheme, asked, rounding = _scheme(bits, group_size, mode), parse_dtype(dtype), find_method(method)
    target = _target(target_cosine, target_size, target_kl, bits, mode)
    _check_arguments(source, recipe, {"overwrite": overwrite, "check": check}, progress)
    probes = bundled_probes() if calibrate is None else folder_probes(calibrate)
    out = atomic.as_name(out)
    with atomic.new_folder(out, overwrite) as new:
        opened = open_checkpoint(source, revision=revision)
        _check_source(opened, out)
        if check or target is not None:
            check_measurable(opened)
            fitting(probes, opened)
        order = _Order(opened, scheme, recipe, asked, rounding, probes, progress, check)
        if target is None:
            job, size = _convert_once(order, new)
            cost, points = _measured(order, new) if check else None, list[Point]()
        else:
            job, size, cost, points = _convert_to(target, order, group_size, new)
        report = _report(job, out, size, start, cost, points)
        (new / "README.md").write_text(_card(job, report), "utf-8")
        (new / record.FILE).write_text(_record(job, report, method, check, target), "utf-8")
    return report


@dataclass(frozen=True)
class _Job:
    """One conversion. model: without weights. values: the new config.json. parameters: before any padding."""

    source: OpenCheckpoint
    model: Model
    values: dict[str, object]
    tensors: Tensors
    scheme: QuantConfig | None
    parameters: int
    padded: dict[str, list[int]]
    recipe: str | Recipe | None


@dataclass(frozen=True)
class _Order:
    """What is asked of a conversion."""

    source: OpenCheckpoint
    scheme: QuantConfig | None
    recipe: str | Recipe | None
    asked: mx.Dtype | None
    method: Method
    probes: Probes
    progress: Progress
    check: bool


def _convert_once(order: _Order, new: Path, dealt: Dealt = MappingProxyType({})) -> tuple[_Job, int]:
    """Write all files but what tells of it into the folder; what was done, and the bytes of its tensors."""
    for half in (HALF, WIDER_HALF):
        for file in new.iterdir():
            file.unlink()  # what is written anew needs its place on the disk
        with computing():
            job = _prepare(order, half, dealt)
        try:
            return job, _write(job, new, order.progress, _calibration(job, order.probes))
        except OutOfRangeError:
            if half == WIDER_HALF:
                raise
    raise AssertionError


def _convert_to(
    target: Target, order: _Order, group_size: int | None, new: Path
) -> tuple[_Job, int, Cost | None, list[Point]]:
    """The same so that a target is met, with what was measured, and the curve."""
    target.check_kind(order.source.kind)
    with computing():
        job = _prepare(order, HALF, {})
        schemes = free_layers(job.model, job.recipe, None if group_size is None else _as_int(group_size))
        sizes = {
            path: (job.tensors.shapes[f"{path}.weight"], job.tensors.dtype_of(f"{path}.weight")) for path in schemes
        }
        planned = job.tensors.planned_bytes()
    shown = order.progress if isinstance(order.progress, bool) else False
    source = dataclasses.replace(job.source, pads=bool(job.padded))
    options = layer_options(source, schemes, sizes, order.method, order.probes, shown)
    rest = planned - sum(total_bytes(job.tensors.schemes[f"{path}.weight"].sizes(*sizes[path])) for path in options)
    done: list[tuple[_Job, int, Cost | None]] = []

    def attempt(choice: Choice) -> Losses | None:
        job, size = _convert_once(order, new, {path: option.scheme for path, option in choice.items()})
        cost = _measured(order, new) if order.check else None
        done.append((job, size, cost))
        return None if cost is None else cost.losses()

    reach(target, options, rest, job.tensors.checkpoint.num_bytes, attempt)
    return *done[-1], curve(options, rest)


def _target(
    cosine: float | None, size: int | str | None, kl: float | None, bits: int | None, mode: str
) -> Target | None:
    target = find_target(cosine, size, kl)
    if target is not None and (bits != USUAL[0] or mode != AFFINE):
        raise QuantizationError(f"{target.name} deals out affine bits; expected neither bits nor mode beside it.")
    return target


def _scheme(bits: int | None, group_size: int | None, mode: str) -> QuantConfig | None:
    """How layers are quantised; what is wrong is said also where none is, so that no argument is passed over."""
    usual_bits, usual_group = usual(mode)
    group_size = usual_group if group_size is None else _as_int(group_size)
    scheme = QuantConfig(usual_bits if bits is None else _as_int(bits), group_size, mode)
    return None if bits is None else scheme


def _as_int(value: int) -> int:
    return int(value) if is_whole(value) else value  # NumPy's, which JSON does not take


def _check_arguments(
    source: str | Path,
    recipe: str | Recipe | None,
    switches: dict[str, bool],
    progress: Progress,
) -> None:
    """Raise InputError or QuantizationError for what is wrong whatever the checkpoint."""
    text_or_path("source", source, "a folder, a bundled name or a hub id")
    for name, value in switches.items():
        flag(name, value)
    check_progress(progress)
    find_recipe(recipe)


def _check_source(source: OpenCheckpoint, out: Path) -> None:
    if source.folder.resolve().is_relative_to(out.resolve()):
        raise OutputError(f"{out} is the source, or holds it. Name another folder for the result.")
    if "quantization" in source.values:
        raise WeightsError(f"{source.folder} is quantised already. Convert the original checkpoint instead.")


def _prepare(order: _Order, half: mx.Dtype, dealt: Dealt) -> _Job:
    """What is to be written; no weights are read. half: for a float32 source that is quantised. dealt: schemes of
    layers by path, whatever the recipe says."""
    scheme, recipe = order.scheme, order.recipe
    source, checkpoint = order.source.with_tensors()
    source, padded = _widen(source, scheme)
    model = source.model()
    shapes = matching.parameter_shapes(model)
    arrays = source.arrange(model, checkpoint)
    checkpoint.arrays.clear()  # so that a tensor can leave the memory once it is written
    parameters = sum(array.size for array in arrays.values())
    if padded:
        arrays = pad_to(arrays, shapes, model.padded_axes)
    matching.check_match(shapes, arrays, source.folder)
    matching.check_kinds(model, arrays, source.folder)
    if recipe is None and scheme is not None and model.kind == "generator":
        recipe = "text-only"
    plans = [
        dataclasses.replace(layer, scheme=dealt[layer.path], reason="") if layer.path in dealt else layer
        for layer in plan(model, scheme, recipe)
    ]
    if scheme is not None:
        scheme = usual_scheme(plans, scheme)  # neither config nor card may name what no layer has
    precision = choose_precision(order.asked, checkpoint.float_dtypes, None if scheme is None else half)
    tensors = Tensors(source.folder, checkpoint, arrays, shapes, plans, precision, order.method)
    return _Job(source, model, _new_values(source, plans, scheme, padded), tensors, scheme, parameters, padded, recipe)


def _widen(source: OpenCheckpoint, scheme: QuantConfig | None) -> tuple[OpenCheckpoint, dict[str, list[int]]]:
    """The same model with widths that a group divides, and which those are."""
    if scheme is None:
        return source, {}
    config = source.family.config
    values, padded = config.widened(source.values, scheme.group_size)
    return dataclasses.replace(source, values=values, config=config.from_dict(values)), padded


def _new_values(
    source: OpenCheckpoint, plans: list[LayerPlan], scheme: QuantConfig | None, padded: dict[str, list[int]]
) -> dict[str, object]:
    """config.json as it is written."""
    values: dict[str, object] = dict(source.family.config.complete(source.values))
    values.pop("quantization_config", None)
    if scheme is not None:
        values["quantization"] = values["quantization_config"] = to_block(plans, scheme)
    return values | ({"padded": padded} if padded else {})


def _calibration(job: _Job, probes: Probes) -> dict[Modality, Batch]:
    """What the model is run on while its weights are rounded, a batch of each kind; none where that needs no inputs,
    nor of a kind that has no head to run to: those layers are rounded without."""
    model, schemes = job.model, job.tensors.schemes.values()
    wanted = job.tensors.method.asks_for_inputs and any(scheme.mode == AFFINE for scheme in schemes)
    if not wanted or (model.kind == "generator" and not model.has_head):
        return {}
    processor = job.source.processor()
    batches = prepared(fitting(probes, model).halves()[0], model, processor)
    headless = job.source.config.without_vectors if model.kind == "encoder" else ()
    return joined({kind: some for kind, some in batches.items() if kind not in headless}, processor)


def _write(job: _Job, new: Path, progress: Progress, calibration: Mapping[Modality, Batch]) -> int:
    """Weights, config and the files that are carried over; returns the bytes of the tensors."""

    def calibrate(writing: Writing) -> None:
        device.prepare()
        walk = Walk(job.model, writing)
        for modality, batch in calibration.items():
            real = batch.get("attention_mask", batch.get("pixel_attention_mask"))
            walk.see(partial(run, job.model, modality, batch), real)

    with progressing(progress, job.tensors.count, "converting", "number") as advance:
        size = job.tensors.write(new, advance, calibrate if calibration else None)
    carry_files(job.source.folder, new)
    (new / "config.json").write_text(json.dumps(job.values, indent=2, ensure_ascii=False) + "\n", "utf-8")
    return size


def _report(job: _Job, out: Path, size: int, start: float, cost: Cost | None, points: Sequence[Point]) -> ConvertReport:
    return ConvertReport(
        out=out,
        source_bytes=job.tensors.checkpoint.num_bytes,
        bytes=size,
        seconds=time.perf_counter() - start - (0.0 if cost is None else cost.seconds),
        parameters=job.parameters,
        choices=job.tensors.plans,
        padded=job.padded,
        licence=card.read_licence(job.source.folder) or job.source.config.licence,
        cost=cost,
        curve=tuple(points),
    )


def _measured(order: _Order, new: Path) -> Cost | None:
    """What the new files lost. They are whole whatever comes of it, so an error is a warning."""
    shown = order.progress if isinstance(order.progress, bool) else False
    try:
        return measure(order.source, open_checkpoint(new), order.probes, shown)
    except MlxMmError as error:
        warnings.warn(f"What the conversion lost was not measured: {error}", stacklevel=3)  # the caller of convert
        return None


def _names(job: _Job, report: ConvertReport) -> tuple[str, str]:
    """Of the new checkpoint and of its source, without paths."""
    source = job.source
    base = source.folder.resolve().name if Path(source.name).expanduser().is_dir() else source.name
    name, base = (" ".join(os.fsencode(each).decode("utf-8", "replace").split()) for each in (report.out.name, base))
    return name, base


def _card(job: _Job, report: ConvertReport) -> str:
    source, scheme = job.source, job.scheme
    how = "without quantisation" if scheme is None else f"to {scheme}"
    sizes = report.source_bytes, report.bytes
    measured = "" if report.cost is None else report.cost.as_markdown()
    names = _names(job, report)
    return card.write_card(*names, source.folder, how, sizes, measured, default_licence=source.config.licence)


def _record(job: _Job, report: ConvertReport, method: str, check: bool, target: Target | None) -> str:
    return record.conversion_record(
        source=_names(job, report)[1],
        digest=weights_digest(job.source.folder) if check else None,
        scheme=job.scheme,
        plans=job.tensors.plans,
        recipe=job.recipe,
        target=None if target is None else {target.name: target.value},
        method=None if job.scheme is None else method,
        sizes=(report.source_bytes, report.bytes),
        parameters=report.parameters,
        padded=report.padded,
        seconds=report.seconds,
        cost=report.cost,
    )
