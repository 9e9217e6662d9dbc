"""Recipes: which layers are quantised otherwise than the rest, or not at all."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from typing import Protocol, TypeAlias

import mlx.nn as nn

from mlx_mm.errors import QuantizationError, shown
from mlx_mm.quantize.scheme import QuantConfig

Rule: TypeAlias = Mapping[str, object] | bool  # bits, group_size and mode that differ; False: stay as it is
Recipe: TypeAlias = Mapping[str, Rule]  # pattern of paths -> rule; the first pattern that matches decides


class Planned(Protocol):
    """What planning asks of a model.

    towers: modality -> how the paths of its layers begin. quant_predicate: whether a layer may be quantised.
    """

    @property
    def towers(self) -> Mapping[str, tuple[str, ...]]: ...
    def named_modules(self) -> list[tuple[str, nn.Module]]: ...
    def quant_predicate(self, path: str, module: nn.Module) -> bool: ...


def _all(_model: Planned) -> Recipe:
    return {}


def _text_only(model: Planned) -> Recipe:
    text = model.towers.get("text", ())
    others = [prefix for prefixes in model.towers.values() for prefix in prefixes if prefix not in text]
    return {**_below(text, True), **_below(others, False)}


def _embeddings_8bit(model: Planned) -> Recipe:
    return {path: {"bits": 8} for path, layer in model.named_modules() if isinstance(layer, nn.Embedding)}


def _below(prefixes: Iterable[str], rule: Rule) -> dict[str, Rule]:
    names = [prefix.rstrip(".") for prefix in prefixes]
    return {pattern: rule for name in names for pattern in (name, f"{name}.*")}


RECIPES: Mapping[str, Callable[[Planned], Recipe]] = {
    "all": _all,
    "text-only": _text_only,
    "embeddings-8bit": _embeddings_8bit,
}


def find_recipe(recipe: str | Recipe | None, model: Planned) -> Recipe:
    """A recipe's patterns, of a named one those for this model; QuantizationError for what is no recipe."""
    check_recipe(recipe)
    if recipe is None:
        return {}
    return RECIPES[recipe](model) if isinstance(recipe, str) else recipe


def check_recipe(recipe: str | Recipe | None) -> None:
    """Raise QuantizationError for what is no recipe, whatever the model."""
    if isinstance(recipe, str) and recipe not in RECIPES:
        raise QuantizationError(f"There is no recipe {shown(recipe)}; expected one of {', '.join(RECIPES)}, or a dict.")
    if recipe is None or isinstance(recipe, str):
        return
    if not isinstance(recipe, Mapping):
        raise QuantizationError(f"The recipe is {shown(recipe)}; expected a name, or a dict of path patterns.")
    if strangers := [pattern for pattern in recipe if not isinstance(pattern, str)]:
        raise QuantizationError(f"The recipe has the pattern {shown(strangers[0])}; expected text such as '*.fc1'.")


def apply_rule(pattern: str, rule: Rule, default: QuantConfig) -> QuantConfig | None:
    """How a recipe's rule wants a layer; None: it excludes it. Raises QuantizationError for what is no rule."""
    if isinstance(rule, bool):
        return default if rule else None
    if not isinstance(rule, Mapping) or (unknown := set(rule) - {"bits", "group_size", "mode"}):
        found = shown(rule) if not isinstance(rule, Mapping) else f"the key {shown(min(unknown))}"
        raise QuantizationError(
            f"The recipe's pattern {shown(pattern)} has {found}; "
            "expected False, or a dict of bits, group_size and mode."
        )
    return QuantConfig(**{**asdict(default), **rule})
