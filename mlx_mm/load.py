"""From a folder or a hub id to a model and its processor."""

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.backend import device, ranks
from mlx_mm.backend.memory import expect
from mlx_mm.backend.ranks import Group
from mlx_mm.backend.streams import compute, computing
from mlx_mm.checkpoint import hub, matching, reading, shards
from mlx_mm.checkpoint.padding import pad_to
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.checkpoint.sameness import same_on_all_ranks
from mlx_mm.errors import (
    ConfigError,
    InputError,
    ModelNotFoundError,
    UnsupportedModelError,
    WeightsError,
    foreign,
    shown,
    whole_number,
)
from mlx_mm.models import KNOWN_PROBLEMS, find_family
from mlx_mm.models.config import FamilyConfig, StoredSizes, check_sizes
from mlx_mm.models.contracts import Modality, Model, Processor, Share
from mlx_mm.models.family import Family
from mlx_mm.models.weights import own_parts
from mlx_mm.processing.arguments import flag, text_or_path
from mlx_mm.quantize import apply

OF_ONE_CHECKPOINT = "Use the config.json and the weights of one and the same checkpoint."
BYTES_IN_A_TURN = 64 << 20  # that are read at once, in some 20 ms
HALF_MOST = 65504  # of float16
FLOATS = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}


def load(
    path_or_repo: str | Path,
    *,
    revision: str | None = None,
    dtype: str | mx.Dtype | None = None,
    lazy: bool = False,
    group: Group | None = None,
    pipeline: bool | Sequence[int] = False,
) -> tuple[Model, Processor]:
    """Load a checkpoint: Hugging Face's own, or one that `convert` made.

    path_or_repo: a folder, a bundled name, or a hub id. revision: of the hub id.
    dtype: "float32", "float16", "bfloat16" or the mlx dtype to compute in; by default float32 on a CPU, and on a GPU
    the checkpoint's own, but float32 for float16 weights of layers that would lose accuracy. lazy: leave the weights on
    disk until they are used, so that a tower which is not used takes no memory; damaged numbers are not searched for
    then. group: of `mlx.core.distributed.init()` where several processes, its ranks, each load a part of the model and
    compute together: rank 0 uses the model as ever, and the others call `mlx_mm.generation.following.follow`. pipeline:
    the ranks have different layers, instead of a part of each; in proportion to these numbers, such as the memory of
    each machine, or with True as much each.
    Warns where the published weights of that name are known to be faulty.
    Returns (model, processor). Raises ModelNotFoundError, UnsupportedModelError, ConfigError, WeightsError.
    """
    target, lazy = parse_dtype(dtype), flag("lazy", lazy)
    group = None if group is None else ranks.checked(group)
    opened = open_checkpoint(path_or_repo, revision=revision)
    return opened.load(dtype=target, lazy=lazy, group=group, pipeline=pipeline)


def open_checkpoint(path_or_repo: str | Path, *, revision: str | None = None) -> "OpenCheckpoint":
    """Find a checkpoint, download it where it is not there, and read its config.json; no weights are read.

    The sizes in config.json are held against the names and shapes of the tensors, so that nothing is built which they
    cannot fill. Arguments as of `load`. Raises ModelNotFoundError, UnsupportedModelError, ConfigError, WeightsError.
    """
    opened = open_settings(path_or_repo, revision=revision, weights=True)
    with foreign(ConfigError, f"{opened.folder / 'config.json'} cannot be used", OF_ONE_CHECKPOINT):
        _hold_against_tensors(opened.config, opened.folder)
    return opened


def open_settings(path_or_repo: str | Path, *, revision: str | None = None, weights: bool = False) -> "OpenCheckpoint":
    """The same without its weights, of which it downloads none unless they are asked for, and knows nothing."""
    text_or_path("path_or_repo", path_or_repo, "a folder, a bundled name or a hub id")
    if revision is not None:
        text_or_path("revision", revision, "a branch, tag or commit")
    with foreign(ModelNotFoundError, f"{path_or_repo} cannot be opened", "expected a folder or a hub id."):
        folder = hub.resolve(path_or_repo, revision, weights=weights)
    values = hub.read_config(folder)
    family = compute(lambda: find_family(values["model_type"]))  # mlx_lm, if it is imported, begins to draw numbers
    with foreign(ConfigError, f"{folder / 'config.json'} cannot be used", OF_ONE_CHECKPOINT):
        config = family.config.from_dict(values)
        family.architecture(values.get("architectures"))  # a class we do not run matters more than damaged weights
    return OpenCheckpoint(str(path_or_repo), folder, values, family, config)


@dataclass(frozen=True)
class OpenCheckpoint:
    """A checkpoint of which all is known but the weights.

    name: as the user called it. folder: where it lies. values: its config.json, config: what the family read of it.
    pads: where the config has wider MLPs than the files, their tensors are filled up with zeros.
    """

    name: str
    folder: Path
    values: dict[str, object]
    family: Family[FamilyConfig]
    config: FamilyConfig
    pads: bool = False

    def model(self) -> Model:
        """A new model without its weights. Nothing is computed for it, and it takes next to no memory."""
        build = self.family.architecture(self.values.get("architectures"))
        with foreign(
            ConfigError, f"{self.folder / 'config.json'} describes a model that cannot be built", OF_ONE_CHECKPOINT
        ):
            return compute(lambda: build(self.config))

    def processor(self) -> Processor:
        """The processor, from the files in the folder."""
        with foreign(ConfigError, f"The processor files in {self.folder} cannot be used", "Take the checkpoint's own."):
            try:
                return self.family.processor(self.folder, self.config)
            except ConfigError as error:
                if str(self.folder) in str(error):
                    raise
                raise ConfigError(f"The processor files in {self.folder} do not fit: {error}") from error

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

    def load(
        self,
        *,
        dtype: str | mx.Dtype | None = None,
        lazy: bool = False,
        group: Group | None = None,
        pipeline: bool | Sequence[int] = False,
    ) -> tuple[Model, Processor]:
        """The model with its weights, and the processor; see `load`."""
        target, memory = parse_dtype(dtype), _memory(pipeline, group)
        if (name := Path(self.name).name) in KNOWN_PROBLEMS:
            warnings.warn(f"{name}: {KNOWN_PROBLEMS[name]}.", stacklevel=3)  # the caller of mlx_mm.load
        opened, checkpoint = self.with_tensors()
        if group is None:
            return opened._loaded(opened.model(), checkpoint, target, lazy=lazy), opened.processor()
        same_on_all_ranks(self.folder, group, f"pipeline {memory}")
        rank, names = group.rank(), shards.tensor_names(self.folder)
        if memory is None:
            share = opened.share(rank, group.size())
        else:
            share = opened.stages(memory, opened.parameter_bytes(names))[rank]
        model = opened.with_config(share.config).model()
        compute(lambda: share.divide(model, group))
        checkpoint = reading.Checkpoint(self.folder, share.part)
        return opened._loaded(model, checkpoint, target, lazy=lazy), opened.processor()

    def load_lazily(self, *, cast_tables: bool = True) -> Model:
        """The model alone, whose weights stay on disk until they are used. cast_tables: False leaves those of tokens as
        they are stored where there are kernels, so that what is looked up in them is still to be cast."""
        opened, checkpoint = self.with_tensors()
        return opened._loaded(opened.model(), checkpoint, None, lazy=True, cast_tables=cast_tables)

    def _loaded(
        self,
        model: Model,
        checkpoint: reading.Checkpoint,
        dtype: mx.Dtype | None,
        *,
        lazy: bool,
        cast_tables: bool = True,
    ) -> Model:
        device.prepare()
        with foreign(WeightsError, f"The weights in {self.folder} cannot be loaded", OF_ONE_CHECKPOINT):
            self._fill(model, checkpoint, dtype=dtype, lazy=lazy, cast_tables=cast_tables)
        return model

    def with_tensors(self) -> tuple["OpenCheckpoint", reading.Checkpoint]:
        """The tensors, and this checkpoint as they have it, where config.json says otherwise; see `settled`."""
        checkpoint = reading.Checkpoint(self.folder)
        config = self.family.config
        with foreign(WeightsError, f"The tensors of {self.folder} cannot be read", OF_ONE_CHECKPOINT):
            values = config.settled(self.values, checkpoint)
        return replace(self, values=values, config=config.from_dict(values)), checkpoint

    def with_config(self, config: FamilyConfig) -> "OpenCheckpoint":
        """The same of other sizes, such as those of a rank."""
        return replace(self, config=config)

    def with_values(self, values: Mapping[str, object]) -> "OpenCheckpoint":
        """The same with other values of config.json, which change no size."""
        return replace(self, values={**self.values, **values})

    def share(self, rank: int, count: int) -> Share:
        """What one of `count` ranks has of the model. Raises UnsupportedModelError for a model of one part alone, and
        InputError for a number of ranks that does not divide it."""
        if self.family.share is None:
            raise self._undivided()
        block = apply.read_block(self.values)
        return self.family.share(self.config, rank, count, 1 if block is None else apply.largest_group(block))

    def stages(self, memory: Sequence[int], sizes: Mapping[str, int]) -> Sequence[Share]:
        """What each rank has of the model where it is divided by layers, by the memory of each, in any unit, and the
        bytes of each parameter. Errors as of `share`."""
        if self.family.stages is None:
            raise self._undivided()
        return self.family.stages(self.config, sizes, memory)

    def _undivided(self) -> UnsupportedModelError:
        return UnsupportedModelError(
            f"{self.name} is a model that is not divided; expected one that answers in words. Give each process a "
            "whole one, and a part of the inputs."
        )

    @property
    def itemsize(self) -> int:
        """Bytes of a float as config.json says that they are stored; of bfloat16 where it does not."""
        stored = self.values.get("dtype") or self.values.get("torch_dtype")
        text = self.values.get("text_config")
        if stored is None and isinstance(text, dict):
            stored = text.get("dtype") or text.get("torch_dtype")
        return FLOATS.get(str(stored), FLOATS["bfloat16"]).size

    def parameter_bytes(self, names: Collection[str]) -> dict[str, int]:
        """Of each parameter. names: of the tensors, which say what is quantised."""
        model, block = self.model(), apply.read_block(self.values)

        def sizes() -> dict[str, int]:
            if block is not None:
                apply.apply_block(model, block, names)
            return matching.parameter_bytes(model, self.itemsize)

        return compute(sizes)

    def arrange(self, model: Model, checkpoint: reading.Checkpoint) -> dict[str, mx.array | Rows]:
        """The tensors of the files under the model's names and in its layout; those of shapes that do not fit may
        keep other names."""
        with foreign(WeightsError, f"The tensors of {self.folder} do not fit its config.json", OF_ONE_CHECKPOINT):
            if not checkpoint.is_mlx:
                return dict(model.sanitize(checkpoint.arrays))
            return dict(own_parts(checkpoint.arrays, matching.parameter_shapes(model)))

    def _fill(
        self, model: Model, checkpoint: reading.Checkpoint, *, dtype: mx.Dtype | None, lazy: bool, cast_tables: bool
    ) -> None:
        """Give the model the tensors of the files, strictly."""
        block = apply.read_block(self.values)
        with computing():
            tensors = self.arrange(model, checkpoint)
            if block is not None:
                apply.apply_block(model, block, tensors)
            if self.pads:
                tensors = pad_to(tensors, matching.parameter_shapes(model), model.padded_axes)
            matching.check_match(matching.parameter_shapes(model), tensors, self.folder)
            matching.check_kinds(model, tensors, self.folder)
            arrays = {name: tensor.join() if isinstance(tensor, Rows) else tensor for name, tensor in tensors.items()}
        if not lazy:
            for names in _in_turns(arrays):
                with computing():
                    expect(sum(arrays[name].nbytes for name in names))
                    mx.eval([arrays[name] for name in names])
                    for name in names:
                        self._check_numbers(name, arrays[name], dtype)
        as_stored = _read_as_stored(model, tables=not cast_tables) if dtype is None else set()
        with computing():
            model.load_weights(
                [
                    (name, array if name in as_stored else _cast(model, name, array, dtype))
                    for name, array in arrays.items()
                ]
            )
            if block is not None and device.dequantize_encoders() and model.kind != "generator":
                apply.dequantize_linears(model, dtype or mx.float32)
            model.eval()
            if not lazy:
                mx.eval(model.parameters())

    def _check_numbers(self, name: str, array: mx.array, dtype: mx.Dtype | None) -> None:
        largest = matching.check_numbers(name, array, self.folder)
        if dtype is not None and dtype == mx.float16 and largest > HALF_MOST:
            raise InputError(
                f"dtype is float16, and {name} of {self.folder} has numbers up to {largest:.3g}; expected "
                "a dtype that holds them. Pass bfloat16 or float32, or leave it out."
            )


def _memory(pipeline: bool | Sequence[int], group: Group | None) -> Sequence[int] | None:
    """That of each rank, in any unit; None where the model is not divided by layers."""
    if pipeline is False:
        return None
    if group is None:
        raise InputError("pipeline is given without group; expected the ranks that share the layers. Pass both.")
    if pipeline is True:
        return [1] * group.size()
    if not isinstance(pipeline, Sequence) or len(pipeline) != group.size():
        raise InputError(
            f"pipeline is {shown(pipeline)}, and there are {group.size()} ranks; expected True, or a number for each."
        )
    return [whole_number("pipeline", size, advice="Give each rank some memory.") for size in pipeline]


def _in_turns(arrays: Mapping[str, mx.array]) -> Iterator[list[str]]:
    """Names of arrays that are read in a turn, after which other threads have theirs."""
    names, size = list[str](), 0
    for name, array in arrays.items():
        if size + array.nbytes > BYTES_IN_A_TURN and names:
            yield names
            names, size = [], 0
        names.append(name)
        size += array.nbytes
    yield names


def _hold_against_tensors(config: FamilyConfig, folder: Path) -> None:
    """Raise ConfigError for sizes that the tensors cannot have.

    Files that cannot be read are a WeightsError once they are needed: that a model is of the wrong kind is told first.
    """
    stored, damage = StoredSizes(), None
    try:
        if shards.has_weights(folder):
            stored = StoredSizes(*shards.read_weight_files(folder).limits())
    except WeightsError as error:
        damage = error
    try:
        check_sizes(config, stored)
    except ConfigError as error:
        raise (damage or error) from error


def parse_dtype(dtype: str | mx.Dtype | None) -> mx.Dtype | None:
    """A dtype given by name or as mlx's own; InputError for one that weights cannot have."""
    if dtype is None or (isinstance(dtype, mx.Dtype) and dtype in FLOATS.values()):
        return dtype
    if not isinstance(dtype, str) or dtype not in FLOATS:
        raise InputError(f"dtype is {shown(dtype)}; expected one of {', '.join(FLOATS)}. Leave it out for the usual.")
    return FLOATS[dtype]


def _read_as_stored(model: Model, *, tables: bool) -> set[str]:
    """The names of weights that products read in 16 bits, where kernels do: as fast as float32, in half the memory.
    tables: and of those that may be quantised, in which tokens are looked up."""
    if not device.has_kernels():
        return set()
    kinds, names = nn.Linear | nn.QuantizedLinear, ("weight", "scales", "biases")
    modules = list(model.named_modules())
    layers = ((path, layer) for path, layer in modules if isinstance(layer, kinds) or hasattr(layer, "num_experts"))
    found = {f"{path}.{name}" for path, layer in layers for name in names if name in layer}
    if tables:
        for path, layer in modules:
            if isinstance(layer, nn.Embedding) and model.quant_predicate(path, layer):
                found.add(f"{path}.weight")
    return found


def _cast(model: Model, name: str, array: mx.array, dtype: mx.Dtype | None) -> mx.array:
    if not mx.issubdtype(array.dtype, mx.floating):
        return array
    return array.astype(dtype or device.compute_dtype(array.dtype, float16=model.cast_predicate(name)))
