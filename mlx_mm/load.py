"""From a folder or a hub id to a model and its processor."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import mlx.core as mx

from mlx_mm.backend import device
from mlx_mm.checkpoint import hub, matching, reading
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.errors import InputError
from mlx_mm.models import KNOWN_PROBLEMS, find_family
from mlx_mm.models.config import FamilyConfig
from mlx_mm.models.contracts import Kind, Modality, Model, Processor
from mlx_mm.models.family import Family
from mlx_mm.quantize import plan as quantize

FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    path_or_repo: str | Path, *, revision: str | None = None, dtype: Any = None, lazy: bool = False
) -> tuple[Any, Any]:
    """Load a checkpoint: Hugging Face's own, or one that `convert` made.

    path_or_repo: a folder, a bundled name, or a hub id. revision: of the hub id.
    dtype: "float32", "float16", "bfloat16" or the mlx dtype to compute in; by default float32 on a CPU and the
    checkpoint's own on a GPU. lazy: leave the weights on disk until they are used, so that a tower which is not used
    takes no memory; damaged numbers are not searched for then.
    Warns where the published weights of that name are known to be faulty.
    Returns (model, processor). Raises ModelNotFoundError, UnsupportedModelError, ConfigError, WeightsError.
    """
    parse_dtype(dtype)
    device.prepare()
    return open_checkpoint(path_or_repo, revision=revision).load(dtype=dtype, lazy=lazy)


@dataclass(frozen=True)
class Opened:
    """A checkpoint whose configuration was read, and none of its weights."""

    name: str
    folder: Path
    values: dict[str, Any]
    family: Family[FamilyConfig]
    config: FamilyConfig

    @cached_property
    def _empty(self) -> Model:
        return self.family.architecture(self.values.get("architectures"))(self.config)

    @property
    def kind(self) -> Kind:
        """Of the model that `load` gives."""
        return self._empty.kind

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model takes."""
        return self._empty.modalities

    def load(self, *, dtype: Any = None, lazy: bool = False) -> tuple[Model, Processor]:
        """As the function `load`."""
        target = parse_dtype(dtype)
        device.prepare()
        if self.name in KNOWN_PROBLEMS:
            warnings.warn(f"{self.name}: {KNOWN_PROBLEMS[self.name]}.", stacklevel=3)
        model = self.family.architecture(self.values.get("architectures"))(self.config)
        load_weights(model, reading.Checkpoint(self.folder), self.values, self.folder, dtype=target, lazy=lazy)
        return model, self.family.processor(self.folder, self.config)


def open_checkpoint(path_or_repo: str | Path, *, revision: str | None = None) -> Opened:
    """Read what a checkpoint is, from its files but the weights; arguments and errors as in `load`."""
    folder = hub.resolve(path_or_repo, revision)
    values = hub.read_config(folder)
    family = find_family(values["model_type"])
    opened = Opened(Path(path_or_repo).name, folder, values, family, family.config.from_dict(values))
    family.architecture(values.get("architectures"))
    return opened


def load_weights(
    model: Any,
    checkpoint: reading.Checkpoint,
    values: dict[str, Any],
    folder: Path,
    *,
    dtype: mx.Dtype | None,
    lazy: bool,
) -> None:
    """Fill `model` with the tensors of `checkpoint`, strictly; values is its config.json."""
    tensors = checkpoint.arrays if checkpoint.is_mlx else model.sanitize(checkpoint.arrays)
    arrays = {name: tensor.join() if isinstance(tensor, Rows) else tensor for name, tensor in tensors.items()}
    block = quantize.read_config(values)
    if block is not None:
        quantize.apply_config(model, block, arrays)
    matching.check_match(matching.parameter_shapes(model), arrays, folder)
    if not lazy:
        for name, array in arrays.items():
            matching.check_finite(name, array, folder)
    model.load_weights([(name, _cast(array, dtype)) for name, array in arrays.items()])
    if block is not None and device.dequantize_encoders() and model.kind != "generator":
        quantize.dequantize_linears(model, dtype or mx.float32)
    model.eval()
    if not lazy:
        mx.eval(model.parameters())


def parse_dtype(dtype: Any) -> mx.Dtype | None:
    """A dtype given by name or as mlx's own; InputError for one that weights cannot have."""
    if dtype is None or dtype in FLOATS.values():
        return dtype
    if dtype not in FLOATS:
        raise InputError(f"dtype is {dtype!r}; expected one of {', '.join(FLOATS)}.")
    return FLOATS[dtype]


def _cast(array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    if not mx.issubdtype(array.dtype, mx.floating):
        return array
    return array.astype(dtype or device.compute_dtype(array.dtype))
