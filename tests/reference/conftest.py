"""These tests compare with torch and transformers: `pip install '.[reference]'`, then `pytest -m reference`."""

from __future__ import annotations

import sys

import pytest

# transformers would take torchvision's image processors where it is installed; Pillow's are the reference here.
sys.modules.setdefault("torchvision", None)  # type: ignore[arg-type]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if "reference" in item.path.parts:
            item.add_marker(pytest.mark.reference)
