"""Fixtures for all tests: tiny checkpoints, written afresh for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from metaclip_tiny import tiny_clip_config, tiny_clip_weights, write_clip_side_files
from tiny import tiny_config, tiny_weights, write_checkpoint, write_side_files


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_checkpoint(family)` writes a Hugging Face folder of that family and returns its path.

    `family` is a `model_type`: "siglip" (FixRes), "siglip2" (NaFlex), "metaclip_2" or "clip". `shards=3` writes three
    files and an index.
    """

    def write(family: str, *, shards: int = 1, name: str = "") -> Path:
        clip = family in ("metaclip_2", "clip")
        config = tiny_clip_config(family) if clip else tiny_config(family)
        weights = tiny_clip_weights(config) if clip else tiny_weights(config)
        side_files = write_clip_side_files if clip else write_side_files
        folder = tmp_path / (name or f"tiny-{family}")
        return write_checkpoint(folder, config, weights, shards=shards, side_files=side_files)

    return write
