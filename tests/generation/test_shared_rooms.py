"""What generates for every family knows the words of none."""

from __future__ import annotations

from pathlib import Path

import pytest

import mlx_mm

PACKAGE = Path(mlx_mm.__file__).parent
SHARED = [*sorted((PACKAGE / "generation").glob("*.py")), PACKAGE / "generate.py", PACKAGE / "conversation.py"]
SHARED += sorted((PACKAGE / "quantize").glob("*.py"))
WORDS = ("<|", "|>", "<think", "</think", "<tool_call", "glm", "mm_token_type_ids", "grid_thw", "pixel_values")


@pytest.mark.parametrize("path", SHARED, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_no_family_is_named(path: Path) -> None:
    text = path.read_text("utf-8").lower()
    assert [word for word in WORDS if word in text] == []
