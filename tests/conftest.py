"""Fixtures for all tests: tiny checkpoints, written afresh for each test."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clap_tiny import clap_weights, tiny_clap_config, write_clap_side_files
from glm_side_files import write_glm_side_files
from glm_tiny import DENSE, MOE, glm_config, glm_weights
from jina_tiny import jina_weights, tiny_jina_config, write_jina_side_files
from metaclip_tiny import tiny_clip_config, tiny_clip_weights, write_clip_side_files
from tiny import tiny_config, tiny_weights, write_checkpoint, write_side_files


@pytest.fixture
def tiny_checkpoint(tmp_path: Path) -> Callable[..., Path]:
    """`tiny_checkpoint(family)` writes a Hugging Face folder of that family and returns its path.

    `family` is a `model_type`: "siglip" (FixRes), "siglip2" (NaFlex), "metaclip_2", "clip", "clap",
    "jina_clip", "glm46v", "glm4v" or "glm4v_moe"; also "clap-fused". `shards=3` writes three files and an index.
    """

    def write(family: str, *, shards: int = 1, name: str = "") -> Path:
        if family in ("metaclip_2", "clip"):
            config, side_files = tiny_clip_config(family), write_clip_side_files
            weights = tiny_clip_weights(config)
        elif family in ("clap", "clap-fused"):
            config, side_files = tiny_clap_config(family == "clap-fused"), write_clap_side_files
            weights = clap_weights(config)
        elif family == "jina_clip":
            config, side_files = tiny_jina_config(), write_jina_side_files
            weights = jina_weights(config)
        elif family in ("glm46v", "glm4v", "glm4v_moe"):
            config, side_files = glm_config(MOE if family == "glm4v_moe" else DENSE), write_glm_side_files
            config["model_type"] = family
            weights = glm_weights(config)
        else:
            config, side_files = tiny_config(family), write_side_files
            weights = tiny_weights(config)
        folder = tmp_path / (name or f"tiny-{family}")
        return write_checkpoint(folder, config, weights, shards=shards, side_files=side_files)

    return write
