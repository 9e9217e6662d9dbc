"""Which layer is quantised, with how many bits, and why another is not."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.checkpoint.writing import Sizes
from mlx_mm.errors import ConfigError, QuantizationError, WeightsError

# mode -> (bits, group sizes) that we convert to
MODES = {"affine": ((4, 8), (32, 64, 128))}
# and that MLX computes with, so files of other programs have them
READ_MODES = {
    "affine": ((2, 3, 4, 5, 6, 8), (32, 64, 128)),
    "mxfp4": ((4,), (32,)),
    "mxfp8": ((8,), (32,)),
    "nvfp4": ((4,), (16,)),
}

Recipe = Mapping[str, Mapping[str, Any] | bool]
# name -> recipe: the first pattern that matches a layer's path decides, no match means the default
RECIPES: dict[str, Recipe] = {
    "all": {},
    "text-only": {"vision_model.*": False, "vision_tower.*": False, "visual_projection": False, "audio_*": False},
    "embeddings-8bit": {"*token_embedding": {"bits": 8}},
}


@dataclass(frozen=True)
class Scheme:
    """How a layer's weight is stored."""

    bits: int
    group_size: int
    mode: str = "affine"

    def __post_init__(self) -> None:
        _check_known(asdict(self), MODES)

    def quantize(self, weight: mx.array) -> list[mx.array]:
        """(out, in) -> packed uint32 weight, scales and biases."""
        return list(mx.quantize(weight, self.group_size, self.bits, self.mode))

    def sizes(self, shape: tuple[int, ...], dtype: mx.Dtype) -> Sizes:
        """Dtype and shape of what `quantize` gives for a weight, by the name of the parameter."""
        *rows, width = shape
        groups = (*rows, width // self.group_size)
        return {
            "weight": (mx.uint32, (*rows, width * self.bits // 32)),
            "scales": (dtype, groups),
            "biases": (dtype, groups),
        }


def _check_known(scheme: Mapping[str, Any], modes: Mapping[str, tuple[tuple[int, ...], ...]]) -> None:
    """Raise QuantizationError unless `modes` has this scheme's mode, bits and group_size."""
    mode = scheme["mode"]
    if not isinstance(mode, str) or mode not in modes:
        raise QuantizationError(f"mode is {mode!r}; expected one of {', '.join(modes)}.")
    for name, known in zip(("bits", "group_size"), modes[mode], strict=True):
        value = scheme[name]
        if isinstance(value, bool) or value not in known:
            raise QuantizationError(f"{name} is {value!r}; {mode} takes {', '.join(map(str, known))}.")


@dataclass(frozen=True)
class Choice:
    """What happens to one layer: quantised by `scheme`, or left as it is for `reason`."""

    path: str
    shape: tuple[int, ...]
    scheme: Scheme | None
    reason: str = ""


def plan(model: Any, scheme: Scheme | None, recipe: str | Recipe | None = None) -> list[Choice]:
    """Decide for every layer of `model` with a weight matrix. scheme None: nothing is quantised.

    Asked in order: has the layer a quantised form, does the model agree, what says the recipe, does the group
    size divide its width. Raises QuantizationError for an unknown or unfitting recipe.
    """
    if scheme is None:
        if recipe is not None:
            raise QuantizationError("A recipe was given with bits=None. Give bits, or leave the recipe out.")
        return []
    named = isinstance(recipe, str)
    rules = _find_recipe(recipe)
    used: set[str] = set()
    choices = []
    for path, module in model.named_modules():
        weight = module.get("weight")
        if not isinstance(weight, mx.array) or weight.ndim < 2:
            continue
        pattern = next((pattern for pattern in rules if fnmatchcase(path, pattern)), None)
        if pattern is not None:
            used.add(pattern)
        choices.append(_choose(model, path, module, scheme, None if pattern is None else (pattern, rules[pattern])))
    if not named and (idle := [pattern for pattern in rules if pattern not in used]):
        raise QuantizationError(
            f"The recipe's pattern {idle[0]!r} matches no layer, or only layers that an earlier pattern matches. "
            f"Layers are named like {choices[0].path}."
        )
    return choices


def _choose(
    model: Any, path: str, module: Any, scheme: Scheme, rule: tuple[str, Mapping[str, Any] | bool] | None
) -> Choice:
    shape = module.weight.shape
    if not hasattr(module, "to_quantized"):
        return Choice(path, shape, None, "no quantised form")
    if not model.quant_predicate(path, module):
        return Choice(path, shape, None, "the model keeps it exact")
    if rule is not None:
        own = _apply_rule(*rule, scheme)
        if own is None:
            return Choice(path, shape, None, "the recipe excludes it")
        scheme = own
    if shape[-1] % scheme.group_size:
        return Choice(path, shape, None, f"width {shape[-1]} is no multiple of {scheme.group_size}")
    return Choice(path, shape, scheme)


def _find_recipe(recipe: Any) -> Recipe:
    if recipe is None:
        return {}
    if isinstance(recipe, Mapping):
        if strangers := [pattern for pattern in recipe if not isinstance(pattern, str)]:
            raise QuantizationError(f"The recipe has the pattern {strangers[0]!r}; expected text such as '*.fc1'.")
        return recipe
    if not isinstance(recipe, str):
        raise QuantizationError(f"The recipe is {recipe!r}; expected a name, or a dict of path patterns.")
    if recipe not in RECIPES:
        raise QuantizationError(f"There is no recipe {recipe!r}; expected one of {', '.join(RECIPES)}, or a dict.")
    return RECIPES[recipe]


def _apply_rule(pattern: str, rule: Mapping[str, Any] | bool, scheme: Scheme) -> Scheme | None:
    """The scheme a recipe asks for; None: it excludes the layer."""
    if isinstance(rule, bool):
        return scheme if rule else None
    if not isinstance(rule, Mapping) or (unknown := set(rule) - {"bits", "group_size", "mode"}):
        found = repr(rule) if not isinstance(rule, Mapping) else f"the key {min(unknown)!r}"
        raise QuantizationError(
            f"The recipe's pattern {pattern!r} has {found}; expected False, or a dict of bits, group_size and mode."
        )
    return Scheme(**{**asdict(scheme), **rule})


def to_config(choices: list[Choice], scheme: Scheme) -> dict[str, Any]:
    """The `quantization` block of config.json: the default scheme, and each layer that differs from it."""
    block: dict[str, Any] = asdict(scheme)
    for choice in choices:
        if choice.scheme is None:
            block[choice.path] = False
        elif choice.scheme != scheme:
            block[choice.path] = asdict(choice.scheme)
    return block


def read_config(values: Mapping[str, Any]) -> dict[str, Any] | None:
    """The `quantization` block of a config.json, None where there is none. Raises ConfigError."""
    block = values.get("quantization")
    if block is None:
        return None
    if not isinstance(block, dict):
        raise ConfigError(f"config.json has quantization = {block!r}; expected bits, group_size and mode.")
    return block


def default_scheme(block: Mapping[str, Any]) -> dict[str, Any]:
    """bits, group_size and mode of the layers that a `quantization` block does not name."""
    return {"bits": block.get("bits"), "group_size": block.get("group_size"), "mode": block.get("mode", "affine")}


def apply_config(model: nn.Module, block: Mapping[str, Any], names: Mapping[str, Any]) -> None:
    """Give `model` the quantised layers of a `quantization` block; `names` are the tensors of the files.

    A layer is quantised when `<path>.scales` is among them. Raises QuantizationError for a block we cannot read
    and WeightsError where no layer has scales.
    """
    if not any(name.endswith(".scales") for name in names):
        raise WeightsError(
            "config.json says that the model is quantised, but its files hold no .scales tensors. "
            "Use the config.json that belongs to the weights, or convert the original again."
        )
    default = default_scheme(block)

    def choose(path: str, module: nn.Module) -> bool | dict[str, Any]:
        if f"{path}.scales" not in names or not hasattr(module, "to_quantized"):
            return False
        own = block.get(path, {})
        own = {key: own[key] for key in default if key in own} if isinstance(own, Mapping) else {}
        # A layer's own block without a mode means MLX's default, whatever that of the others is.
        scheme = {**default, **({"mode": "affine"} if own else {}), **own}
        _check_known(scheme, READ_MODES)
        width = module["weight"].shape[-1]
        if width % scheme["group_size"]:
            raise QuantizationError(
                f"config.json says that {path} is quantised in groups of {scheme['group_size']}, which do not divide "
                f"its width {width}. Use the config.json that belongs to the weights."
            )
        return scheme

    nn.quantize(model, class_predicate=choose)


def dequantize_linears(model: nn.Module, dtype: mx.Dtype) -> None:
    """Replace quantised Linear layers by plain ones; embeddings stay, they look up few rows at a time."""

    def dequantize(path: str, module: nn.Module) -> nn.Module:
        if not isinstance(module, nn.QuantizedLinear):
            return module
        linear = nn.Linear(1, 1, bias="bias" in module)
        linear.weight = mx.dequantize(
            module.weight,
            module.scales.astype(dtype) if module.mode == "affine" else module.scales,  # bytes in the other modes
            None if module.biases is None else module.biases.astype(dtype),
            module.group_size,
            module.bits,
            module.mode,
        ).astype(dtype)
        if "bias" in module:
            linear.bias = module.bias
        return linear

    _replace_leaves(model, dequantize)


def _replace_leaves(model: nn.Module, replace: Callable[[str, nn.Module], nn.Module]) -> None:
    from mlx.utils import tree_map_with_path

    model.update_modules(tree_map_with_path(replace, model.leaf_modules(), is_leaf=nn.Module.is_module))
