"""What docs/ says of this repository is there."""

from __future__ import annotations

import argparse
import ast
import re
from pathlib import Path

from mlx_mm import Index
from mlx_mm.cli import serve
from mlx_mm.server.app import API
from mlx_mm.server.index_routes import IndexRoutes

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


def test_the_server_s_document_names_its_routes_and_options() -> None:
    text = (TESTS.parent / "docs" / "server.md").read_text("utf-8")
    routes = [route.path for route in [*API, *IndexRoutes(Index("none.mmindex")).routes()]]
    assert len(routes) > 20
    for path in routes:
        assert path.replace("{name:path}", "{id}") in text, path
    parser = argparse.ArgumentParser()
    serve.add_arguments(parser)
    for option in re.findall(r"--[a-z-]+", parser.format_help()):
        assert option == "--help" or f"`{option}" in text or f", `{option}" in text, option
