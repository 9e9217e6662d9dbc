"""Fixtures for tests of an index."""

from __future__ import annotations

from pathlib import Path

import pytest
from folders import Library, Spy
from recipes import RECIPES

from mlx_mm import batches


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pictures and texts."""
    return RECIPES["siglip2"].write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def hearing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of sounds and texts."""
    return RECIPES["clap"].write(tmp_path_factory.mktemp("models") / "hearing")


@pytest.fixture
def library(tmp_path: Path, tiny_model: Path) -> Library:
    """An empty folder for photos, and an index that is not made yet."""
    return Library(tmp_path, tiny_model)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """Counts what the model of a refresh is given."""
    found = Spy(batches.run_row_by_row)
    monkeypatch.setattr(batches, "run_row_by_row", found)
    return found
