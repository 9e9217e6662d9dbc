"""Fixtures for all tests: tiny checkpoints, written afresh for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tiny import tiny_config, tiny_weights, write_checkpoint


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_checkpoint(family)` writes a Hugging Face folder of that family and returns its path.

    `family` is a `model_type`: "siglip" (FixRes) or "siglip2" (NaFlex). `shards=3` writes three files and an index.
    """

    def write(family: str, *, shards: int = 1, name: str = "") -> Path:
        config = tiny_config(family)
        return write_checkpoint(tmp_path / (name or f"tiny-{family}"), config, tiny_weights(config), shards=shards)

    return write
