"""The index of a user, on each platform."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mlx_mm.errors import StoreError
from mlx_mm.search.place import default_index


@pytest.mark.parametrize(
    ("platform", "data", "expected"),
    [
        ("linux", None, "/home/ann/.local/share/mlx_mm/default.mmindex"),
        ("linux", "", "/home/ann/.local/share/mlx_mm/default.mmindex"),
        ("linux", "/data/ann", "/data/ann/mlx_mm/default.mmindex"),
        ("linux", "not/absolute", "/home/ann/.local/share/mlx_mm/default.mmindex"),
        ("darwin", "/data/ann", "/home/ann/Library/Application Support/mlx_mm/default.mmindex"),
    ],
)
def test_the_default_index(monkeypatch: pytest.MonkeyPatch, platform: str, data: str | None, expected: str) -> None:
    monkeypatch.setattr(sys, "platform", platform)
    monkeypatch.setenv("HOME", "/home/ann")
    if data is None:
        monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    else:
        monkeypatch.setenv("XDG_DATA_HOME", data)
    assert default_index() == Path(expected)


def test_nobody_s_index(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(StoreError, match="--index"):
        default_index()
