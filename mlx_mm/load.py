"""From a folder or a hub id to a model and its processor."""

import warnings
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import mlx.core as mx

from mlx_mm.backend import device
from mlx_mm.backend.streams import computing
from mlx_mm.checkpoint import hub, matching, reading
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.errors import InputError, shown
from mlx_mm.models import KNOWN_PROBLEMS, find_family
from mlx_mm.models.config import FamilyConfig
from mlx_mm.models.contracts import Modality, Model, Processor
from mlx_mm.models.family import Family
from mlx_mm.processing.arguments import flag, text_or_path
from mlx_mm.quantize import apply

FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    path_or_repo: str | Path,
    *,
    revision: str | None = None,
    dtype: str | mx.Dtype | None = None,
    lazy: bool = False,
) -> tuple[Model, Processor]:
    """Load a checkpoint: Hugging Face's own, or one that `convert` made.

    path_or_repo: a folder, a bundled name, or a hub id. revision: of the hub id.
    dtype: "float32", "float16", "bfloat16" or the mlx dtype to compute in; by default float32 on a CPU, and on a GPU
    the checkpoint's own, but float32 for float16 weights of layers that would lose accuracy. lazy: leave the weights on
    disk until they are used, so that a tower which is not used takes no memory; damaged numbers are not searched for
    then.
    Warns where the published weights of that name are known to be faulty.
    Returns (model, processor). Raises ModelNotFoundError, UnsupportedModelError, ConfigError, WeightsError.
    """
    target, lazy = parse_dtype(dtype), flag("lazy", lazy)
    return open_checkpoint(path_or_repo, revision=revision).load(dtype=target, lazy=lazy)


def open_checkpoint(path_or_repo: str | Path, *, revision: str | None = None) -> "OpenCheckpoint":
    """Find a checkpoint, download it where it is not there, and read its config.json; no weights are read.

    Arguments as of `load`. Raises ModelNotFoundError, UnsupportedModelError, ConfigError.
    """
    text_or_path("path_or_repo", path_or_repo, "a folder, a bundled name or a hub id")
    if revision is not None:
        text_or_path("revision", revision, "a branch, tag or commit")
    folder = hub.resolve(path_or_repo, revision)
    values = hub.read_config(folder)
    family = find_family(values["model_type"])
    return OpenCheckpoint(str(path_or_repo), folder, values, family, family.config.from_dict(values))


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint of which all is known but the weights.

    name: as the user called it. folder: where it lies. values: its config.json, config: what the family read of it.
    """

    name: str
    folder: Path
    values: dict[str, object]
    family: Family[FamilyConfig]
    config: FamilyConfig

    def model(self) -> Model:
        """A new model without its weights. Nothing is computed for it, and it takes next to no memory."""
        return self.family.architecture(self.values.get("architectures"))(self.config)

    def processor(self) -> Processor:
        """The processor, from the files in the folder."""
        return self.family.processor(self.folder, self.config)

    @property
    def kind(self) -> Literal["encoder", "classifier", "generator"]:
        """What the model gives: vectors, scores of its own labels, or answers."""
        return self._about[0]

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """What the model takes."""
        return self._about[1]

    @cached_property
    def _about(self) -> tuple[Literal["encoder", "classifier", "generator"], tuple[Modality, ...]]:
        model = self.model()
        return model.kind, model.modalities

    def load(self, *, dtype: str | mx.Dtype | None = None, lazy: bool = False) -> tuple[Model, Processor]:
        """The model with its weights, and the processor; see `load`."""
        target = parse_dtype(dtype)
        device.prepare()
        if (name := Path(self.name).name) in KNOWN_PROBLEMS:
            warnings.warn(f"{name}: {KNOWN_PROBLEMS[name]}.", stacklevel=3)  # the caller of mlx_mm.load
        with computing():
            model = self.model()
        self._fill(model, reading.Checkpoint(self.folder), dtype=target, lazy=lazy)
        return model, self.processor()

    def _fill(self, model: Model, checkpoint: reading.Checkpoint, *, dtype: mx.Dtype | None, lazy: bool) -> None:
        """Give the model the tensors of the files, strictly."""
        block = apply.read_block(self.values)
        with computing():
            tensors = checkpoint.arrays if checkpoint.is_mlx else model.sanitize(checkpoint.arrays)
            arrays = {name: tensor.join() if isinstance(tensor, Rows) else tensor for name, tensor in tensors.items()}
            if block is not None:
                apply.apply_block(model, block, arrays)
        matching.check_match(matching.parameter_shapes(model), arrays, self.folder)
        if not lazy:
            for name, array in arrays.items():
                with computing():  # a turn for each: other threads may be waiting for theirs
                    matching.check_finite(name, array, self.folder)
        with computing():
            model.load_weights([(name, _cast(model, name, array, dtype)) for name, array in arrays.items()])
            if block is not None and device.dequantize_encoders() and model.kind != "generator":
                apply.dequantize_linears(model, dtype or mx.float32)
            model.eval()
            if not lazy:
                mx.eval(model.parameters())


def parse_dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    """A dtype given by name or as mlx's own; InputError for one that weights cannot have."""
    if dtype is None or (isinstance(dtype, mx.Dtype) and dtype in FLOATS.values()):
        return dtype
    if not isinstance(dtype, str) or dtype not in FLOATS:
        raise InputError(f"dtype is {shown(dtype)}; expected one of {', '.join(FLOATS)}. Leave it out for the usual.")
    return FLOATS[dtype]


def _cast(model: Model, name: str, array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    if not mx.issubdtype(array.dtype, mx.floating):
        return array
    return array.astype(dtype or device.compute_dtype(array.dtype, float16=model.cast_predicate(name)))
