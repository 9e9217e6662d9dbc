"""Which layer is quantised, with how many bits, and why another is not."""

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import QuantizationError
from mlx_mm.quantize.recipes import Planned, Recipe, Rule, apply_rule, find_recipe
from mlx_mm.quantize.scheme import QuantConfig


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer: quantised by `scheme`, or left as it is for `reason`."""

    path: str
    shape: tuple[int, ...]
    scheme: QuantConfig | None
    reason: str = ""


def plan(model: Planned, default: QuantConfig | None, recipe: str | Recipe | None = None) -> list[LayerPlan]:
    """Decide for every layer of `model` with a weight matrix. default None: nothing is quantised.

    Asked in order: has the layer a quantised form, does the model agree, what says the recipe, does the group
    size divide its width. Raises QuantizationError for an unknown or unfitting recipe.
    """
    if default is None:
        if recipe is not None:
            raise QuantizationError("A recipe was given with bits=None. Give bits, or leave the recipe out.")
        return []
    rules = find_recipe(recipe, model)
    idle = set(rules)
    plans = []
    for path, layer in model.named_modules():
        weight = layer.get("weight")
        if not isinstance(weight, mx.array) or weight.ndim < 2:
            continue
        rule = next(((pattern, rules[pattern]) for pattern in rules if fnmatchcase(path, pattern)), None)
        if rule is not None:
            idle.discard(rule[0])
        plans.append(_plan_layer(model, path, layer, default, rule))
    if idle and not isinstance(recipe, str):
        raise QuantizationError(
            f"The recipe's pattern {next(p for p in rules if p in idle)!r} matches no layer, or only layers that an "
            f"earlier pattern matches. Layers are named like {plans[0].path}."
        )
    return plans


def _plan_layer(
    model: Planned, path: str, layer: nn.Module, default: QuantConfig, rule: tuple[str, Rule] | None
) -> LayerPlan:
    shape = layer["weight"].shape
    if not hasattr(layer, "to_quantized"):
        return LayerPlan(path, shape, None, "no quantised form")
    if not model.quant_predicate(path, layer):
        return LayerPlan(path, shape, None, "the model keeps it exact")
    scheme = default if rule is None else apply_rule(*rule, default)
    if scheme is None:
        return LayerPlan(path, shape, None, "the recipe excludes it")
    if shape[-1] % scheme.group_size:
        return LayerPlan(path, shape, None, f"width {shape[-1]} is no multiple of {scheme.group_size}")
    return LayerPlan(path, shape, scheme)


def to_block(plans: list[LayerPlan], default: QuantConfig) -> dict[str, object]:
    """The `quantization` block of config.json: the default, and each layer that differs from it."""
    block: dict[str, object] = asdict(default)
    for layer in plans:
        if layer.scheme is None:
            block[layer.path] = False
        elif layer.scheme != default:
            block[layer.path] = asdict(layer.scheme)
    return block
