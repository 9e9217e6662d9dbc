"""Giving a model the quantised layers that its config.json and its files speak of, or plain ones instead."""

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import mlx.core as mx
import mlx.nn as nn
from mlx.utils import tree_map_with_path

from mlx_mm.backend.streams import compute
from mlx_mm.errors import ConfigError, QuantizationError, WeightsError, shown
from mlx_mm.quantize.scheme import check_known


class Layers(Protocol):
    """What replacing a model's layers asks of it: the part of mlx.nn.Module that does so."""

    def leaf_modules(self) -> dict[str, object]: ...
    def update_modules(self, modules: dict[str, object]) -> nn.Module: ...


def read_block(values: Mapping[str, object]) -> dict[str, object] | None:
    """The `quantization` block of a config.json, None where there is none. Raises ConfigError."""
    block = values.get("quantization")
    if block is None:
        return None
    if not isinstance(block, dict):
        raise ConfigError(f"config.json has quantization = {shown(block)}; expected bits, group_size and mode.")
    return block


def default_settings(block: Mapping[str, object]) -> dict[str, object]:
    """bits, group_size and mode of the layers that a `quantization` block does not name."""
    return {"bits": block.get("bits"), "group_size": block.get("group_size"), "mode": block.get("mode", "affine")}


def bits_of(block: Mapping[str, object], names: Iterable[str]) -> dict[str, int]:
    """The bits of each quantised layer, by path, of a `quantization` block and the names of the files' tensors."""
    found: dict[str, int] = {}
    for path in (name.removesuffix(".scales") for name in names if name.endswith(".scales")):
        own = block.get(path)
        bits = (own if isinstance(own, Mapping) else block).get("bits", block.get("bits"))
        if isinstance(bits, int):
            found[path] = bits
    return found


def largest_group(block: Mapping[str, object]) -> int:
    """The most numbers that a `quantization` block says are quantised together; all sizes are powers of two."""
    blocks = [block, *(own for own in block.values() if isinstance(own, Mapping))]
    sizes = [size for own in blocks if isinstance(size := own.get("group_size"), int)]
    return max(sizes, default=1)


def apply_block(model: Layers, block: Mapping[str, object], names: Iterable[str]) -> None:
    """Give `model` the quantised layers of a `quantization` block; `names` are those of the files' tensors.

    A layer is quantised when `<path>.scales` is among them. Raises QuantizationError for a block we cannot read
    and WeightsError where no layer has scales.
    """
    quantised = {name.removesuffix(".scales") for name in names if name.endswith(".scales")}
    if not quantised:
        raise WeightsError(
            "config.json says that the model is quantised, but its files hold no .scales tensors. "
            "Use the config.json that belongs to the weights, or convert the original again."
        )

    def quantise(path: str, layer: nn.Module) -> nn.Module:
        if path not in quantised or not hasattr(layer, "to_quantized"):
            return layer
        return layer.to_quantized(**_settings(path, layer["weight"].shape[-1], block))

    _replace_layers(model, quantise)


def dequantize_linears(model: Layers, dtype: mx.Dtype) -> None:
    """Replace quantised Linear layers by plain ones; embeddings stay, they look up few rows at a time."""

    def dequantise(_path: str, layer: nn.Module) -> nn.Module:
        if not isinstance(layer, nn.QuantizedLinear):
            return layer
        linear = nn.Linear(1, 1, bias="bias" in layer)
        linear.weight = mx.dequantize(
            layer.weight,
            layer.scales.astype(dtype) if layer.mode == "affine" else layer.scales,  # bytes in the other modes
            None if layer.biases is None else layer.biases.astype(dtype),
            layer.group_size,
            layer.bits,
            layer.mode,
        ).astype(dtype)
        if "bias" in layer:
            linear.bias = layer.bias
        return linear

    _replace_layers(model, dequantise)


def _settings(path: str, width: int, block: Mapping[str, object]) -> dict[str, object]:
    """bits, group_size and mode of one layer, checked."""
    default, own = default_settings(block), block.get(path)
    settings = dict(default)
    if not isinstance(own, Mapping | bool | None):
        raise QuantizationError(
            f"config.json says of {path} that it is quantised with {shown(own)}; expected bits, group_size and mode. "
            "Use the config.json that belongs to the weights."
        )
    if isinstance(own, Mapping) and any(key in own for key in default):
        # A layer's own block without a mode means MLX's default, whatever that of the others is.
        settings |= {"mode": "affine"} | {key: own[key] for key in default if key in own}
    check_known(settings)
    group_size = settings["group_size"]
    if not isinstance(group_size, int) or width % group_size:
        raise QuantizationError(
            f"config.json says that {path} is quantised in groups of {group_size}, which do not divide "
            f"its width {width}. Use the config.json that belongs to the weights."
        )
    return settings


def _replace_layers(model: Layers, replace: Callable[[str, nn.Module], nn.Module]) -> None:
    """New layers begin with random numbers, which a worker draws."""

    def make() -> None:
        model.update_modules(tree_map_with_path(replace, model.leaf_modules(), is_leaf=nn.Module.is_module))

    compute(make)
