"""Recipes: which layers are quantised otherwise than the rest, or not at all."""

import difflib
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from fnmatch import fnmatchcase
from typing import Protocol, TypeAlias

import mlx.nn as nn

from mlx_mm.errors import QuantizationError, shown
from mlx_mm.quantize.scheme import QuantConfig

# Bits, or what differs of bits, group_size and mode; True: as the rest; False: stays as it is
Rule: TypeAlias = Mapping[str, object] | int
Recipe: TypeAlias = Mapping[str, Rule]  # pattern of paths, or a mark -> rule; the first that matches a layer decides

# Marks stand for layers by what they are, since families name them differently.
TABLES = "@tables"  # of tokens and the like
TOWERS = {f"@{modality}": modality for modality in ("text", "image", "audio", "video")}  # what a modality is read with
MARKS = (TABLES, *TOWERS)

NEAR = 3  # of the names that are like a pattern


def _mixed(bits: int) -> Recipe:
    """More bits for what most of the loss comes from: values, what leaves an MLP or a tower, and tables."""
    last = ("*.v_proj", "*.fc2", "*.down_proj", "*projection*", "*lm_head", "*.head")
    return {TABLES: bits, **dict.fromkeys(last, bits), "*": 4}


RECIPES: Mapping[str, Recipe] = {
    "all": {"*": True},
    "all-4": {"*": 4},
    "all-8": {"*": 8},
    "text-only": {"@text": True, "@image": False, "@audio": False, "@video": False},
    "embeddings-8bit": {TABLES: 8},
    "mixed-4-6": _mixed(6),
    "mixed-4-8": _mixed(8),
}


class Planned(Protocol):
    """What planning asks of a model.

    towers: modality -> how the paths of its layers begin. quant_predicate: whether a layer may be quantised.
    """

    @property
    def towers(self) -> Mapping[str, tuple[str, ...]]: ...
    def named_modules(self) -> list[tuple[str, nn.Module]]: ...
    def quant_predicate(self, path: str, module: nn.Module) -> bool: ...


def find_recipe(recipe: str | Recipe | None) -> Recipe:
    """A recipe's patterns; QuantizationError for what is no recipe, whatever the model."""
    if recipe is None:
        return {}
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise QuantizationError(
                f"There is no recipe {shown(recipe)}; expected one of {', '.join(RECIPES)}, or a dict."
            )
        return RECIPES[recipe]
    if not isinstance(recipe, Mapping):
        raise QuantizationError(f"The recipe is {shown(recipe)}; expected a name, or a dict of path patterns.")
    if not recipe:
        raise QuantizationError("The recipe is empty and names no layer; expected path patterns such as '*.fc1'.")
    for pattern in recipe:
        if not isinstance(pattern, str):
            raise QuantizationError(f"The recipe has the pattern {shown(pattern)}; expected text such as '*.fc1'.")
        if pattern.startswith("@") and pattern not in MARKS:
            raise QuantizationError(
                f"The recipe has the mark {shown(pattern)}; expected one of {', '.join(MARKS)}, or a path pattern."
            )
    return recipe


def matches(pattern: str, path: str, layer: nn.Module, model: Planned) -> bool:
    """Whether a pattern of paths, or a mark, means this layer."""
    if pattern == TABLES:
        return isinstance(layer, nn.Embedding)
    if pattern in TOWERS:
        starts = model.towers.get(TOWERS[pattern], ())
        return any(f"{path}.".startswith(f"{start.rstrip('.')}.") for start in starts)
    return fnmatchcase(path, pattern)


def near_misses(pattern: str, paths: list[str]) -> list[str]:
    """Paths, or patterns of some, that are spelt almost like a pattern without a match."""
    words = sorted({word for path in paths for word in _patterns_of(path)} | set(MARKS))
    return difflib.get_close_matches(pattern, words, NEAR)


def _patterns_of(path: str) -> Iterator[str]:
    names = path.split(".")
    yield path
    for i in range(1, len(names)):
        yield f"*.{'.'.join(names[i:])}"
        yield f"{'.'.join(names[:i])}.*"


def apply_rule(pattern: str, rule: Rule, default: QuantConfig) -> QuantConfig | None:
    """How a recipe's rule wants a layer; None: it excludes it. Raises QuantizationError for what is no rule."""
    if isinstance(rule, bool):
        return default if rule else None
    if isinstance(rule, int):
        rule = {"bits": rule}
    if not isinstance(rule, Mapping) or (unknown := set(rule) - {"bits", "group_size", "mode"}):
        found = shown(rule) if not isinstance(rule, Mapping) else f"the key {shown(min(unknown))}"
        raise QuantizationError(
            f"The recipe's pattern {shown(pattern)} has {found}; "
            "expected False, bits, or a dict of bits, group_size and mode."
        )
    return QuantConfig(**{**asdict(default), **rule})
