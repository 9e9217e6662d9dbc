"""What docs/ says of this repository is there."""

from __future__ import annotations

import ast
import re
from pathlib import Path

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
