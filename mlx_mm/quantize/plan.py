"""Which layer is quantised, with how many bits, and why another is not."""

import math
from dataclasses import asdict, dataclass

import mlx.core as mx
import mlx.nn as nn

from mlx_mm.errors import QuantizationError, shown
from mlx_mm.quantize.recipes import Planned, Recipe, Rule, apply_rule, find_recipe, matches, near_misses
from mlx_mm.quantize.scheme import AFFINE, MODES, USUAL, QuantConfig

FREE_BITS = MODES[AFFINE][0]  # that are dealt out
FREE_SIZES = 64, 32  # of groups, where nobody says


@dataclass(frozen=True)
class LayerPlan:
    """What happens to one layer: quantised by `scheme`, or left as it is. reason: why it is left, or why its scheme is
    not the one that was asked for."""

    path: str
    shape: tuple[int, ...]
    scheme: QuantConfig | None
    reason: str = ""


def plan(model: Planned, default: QuantConfig | None, recipe: str | Recipe | None = None) -> list[LayerPlan]:
    """Decide for every layer of `model` with a weight matrix. default None: nothing is quantised.

    Asked in order: has the layer a quantised form, does the model agree, what says the recipe, which group size divides
    its width. Raises QuantizationError for an unknown recipe, a pattern that matches no layer, and a named recipe that
    quantises none.
    """
    if default is None:
        if recipe is not None:
            raise QuantizationError("A recipe was given with bits=None. Give bits, or leave the recipe out.")
        return []
    rules = find_recipe(recipe)
    idle: set[str | None] = set(rules)
    plans = []
    for path, layer in model.named_modules():
        weight = layer.get("weight")
        if not isinstance(weight, mx.array) or weight.ndim < 2:
            continue
        pattern = next((pattern for pattern in rules if matches(pattern, path, layer, model)), None)
        rule = None if pattern is None else (pattern, rules[pattern])
        idle.discard(pattern)
        plans.append(_plan_layer(model, path, layer, default, rule))
    if isinstance(recipe, str):
        if not any(layer.scheme for layer in plans):
            raise QuantizationError(
                f"The recipe {recipe!r} names no layer of this model that can be quantised. Take another, or 'all'."
            )
    elif idle:
        raise _no_match(next(pattern for pattern in rules if pattern in idle), [layer.path for layer in plans])
    return plans


def _no_match(pattern: str, paths: list[str]) -> QuantizationError:
    near = near_misses(pattern, paths)
    advice = f"Near misses: {', '.join(near)}." if near else f"Layers are named like {paths[0]}."
    return QuantizationError(
        f"The recipe's pattern {shown(pattern)} matches no layer, or only layers that an earlier pattern matches. "
        f"{advice}"
    )


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
    return LayerPlan(path, shape, *fit_width(scheme, shape[-1]))


def free_layers(model: Planned, recipe: str | Recipe | None, group_size: int | None) -> dict[str, list[QuantConfig]]:
    """By path what each layer may become whose bits no recipe decides: all bits, in groups of 64 and 32 or of one size.

    Raises QuantizationError where there is none, and what `plan` raises.
    """
    few, many = (plan(model, QuantConfig(bits, group_size or USUAL[1]), recipe) for bits in (USUAL[0], FREE_BITS[-1]))
    sizes = FREE_SIZES if group_size is None else (group_size,)
    free = {}
    for layer, other in zip(few, many, strict=True):
        if layer.scheme != other.scheme:
            fitted = [fit_width(QuantConfig(bits, size), layer.shape[-1])[0] for bits in FREE_BITS for size in sizes]
            free[layer.path] = list(dict.fromkeys(scheme for scheme in fitted if scheme is not None))
    if not free:
        raise QuantizationError(
            "The recipe gives each layer its bits, so a target has none to deal out. Leave one out."
        )
    return free


def fit_width(scheme: QuantConfig, width: int) -> tuple[QuantConfig | None, str]:
    """The scheme with a group size that divides a width, None where none does; and why it is another."""
    fitted = scheme.fitted(width)
    if fitted == scheme:
        return scheme, ""
    reason = f"width {width} is no multiple of {scheme.group_size}"
    return fitted, reason if fitted is None else f"{reason}, but of {fitted.group_size}"


def usual_scheme(plans: list[LayerPlan], default: QuantConfig) -> QuantConfig | None:
    """What most weights are stored as where no layer has the default; None where none is quantised."""
    weights: dict[QuantConfig, int] = {}
    for layer in plans:
        if layer.scheme is not None:
            weights[layer.scheme] = weights.get(layer.scheme, 0) + math.prod(layer.shape)
    return default if default in weights else max(weights, key=lambda scheme: weights[scheme], default=None)


def to_block(plans: list[LayerPlan], default: QuantConfig) -> dict[str, object]:
    """The `quantization` block of config.json: the default, and each layer that differs from it."""
    block: dict[str, object] = asdict(default)
    for layer in plans:
        if layer.scheme is None:
            block[layer.path] = False
        elif layer.scheme != default:
            block[layer.path] = asdict(layer.scheme)
    return block
