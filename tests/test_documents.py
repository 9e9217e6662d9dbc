"""What docs/ says of this repository is there."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping
from pathlib import Path

from mlx_mm.quantize.methods import METHODS
from mlx_mm.quantize.recipes import MARKS, RECIPES, Recipe
from mlx_mm.quantize.scheme import MODES

TESTS = Path(__file__).parent
NAMED = re.compile(r"`([\w/]+\.py)::(\w+|\*)`")


def test_the_tests_of_the_field_exist() -> None:
    text = (TESTS.parent / "docs" / "field.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if line.startswith("| ") and not line.startswith("| |")]
    assert len(rows) > 50
    for row in rows:
        named = NAMED.findall(row)
        assert named, row
        for file, name in named:
            functions = [
                node.name
                for node in ast.walk(ast.parse((TESTS / file).read_text("utf-8")))
                if isinstance(node, ast.FunctionDef)
            ]
            assert name == "*" or name in functions, f"{file} has no {name}"


def rules(recipe: Recipe) -> str:
    """In words, layers of one rule together."""
    said: dict[str, list[str]] = {}
    for pattern, rule in recipe.items():
        assert not isinstance(rule, Mapping)
        what = {True: "as asked", False: "as they are"}[rule] if isinstance(rule, bool) else f"{rule} bit"
        said.setdefault(what, []).append(f"`{pattern}`")
    return "; ".join(f"{', '.join(patterns)}: {what}" for what, patterns in said.items())


def test_quantisation_has_every_recipe_method_and_mode() -> None:
    """As the code has them."""
    text = (TESTS.parent / "docs" / "quantisation.md").read_text("utf-8")
    for name, recipe in RECIPES.items():
        assert f"| `{name}` | {rules(recipe)} |" in text, f"| `{name}` | {rules(recipe)} |"
    for method in METHODS:
        assert f"| `{method}` |" in text
    for mode, (bits, sizes) in MODES.items():
        assert f"| `{mode}` | {', '.join(map(str, bits))} | {', '.join(map(str, sizes))} |" in text
    for mark in MARKS:
        assert f"`{mark}`" in text
