"""Fixtures for tests of an index."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from folders import Library, Spy
from indexed import PICTURES
from recipes import RECIPES

from mlx_mm import Index, batches


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of pictures and texts."""
    return RECIPES["siglip2"].write(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def hearing_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of sounds and texts."""
    return RECIPES["clap"].write(tmp_path_factory.mktemp("models") / "hearing")


@pytest.fixture(scope="session")
def emoji(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Index]:
    """An index of the 42 bundled pictures, in a folder whose names say nothing of them."""
    folder = tmp_path_factory.mktemp("emoji")
    for number, picture in enumerate(PICTURES):
        shutil.copy(picture, folder / f"{number:02}.png")
    with Index(folder / "emoji.mmindex", "emoji-siglip2") as index:
        index.refresh(folder)
        yield index


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
