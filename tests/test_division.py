"""What `info --ranks` says of a model that is not there, held against the loader's own choice of every tensor."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from glm_tiny import MOE, glm_config, glm_shapes
from tiny import write_json

from mlx_mm.checkpoint.shards import INDEX
from mlx_mm.cli.division import describe_division, in_lines, read_memory
from mlx_mm.errors import InputError, UnsupportedModelError
from mlx_mm.load import open_settings

TENSORS = 18_106  # of the published files of GLM-4.5V, whose sizes 4.6V has


def published() -> dict[str, Any]:
    """config.json with the sizes of GLM-4.6V."""
    config = glm_config(MOE)
    text = config["text_config"]
    text |= {"hidden_size": 4096, "num_hidden_layers": 46, "num_attention_heads": 96, "num_key_value_heads": 8}
    text |= {"head_dim": 128, "intermediate_size": 10944, "moe_intermediate_size": 1408, "n_routed_experts": 128}
    text |= {"num_experts_per_tok": 8, "vocab_size": 151552}
    text["rope_parameters"] |= {"mrope_section": [8, 12, 12], "rope_theta": 500000}
    vision = {"depth": 24, "hidden_size": 1536, "num_heads": 12, "out_hidden_size": 4096, "intermediate_size": 10944}
    config["vision_config"] |= {**vision, "image_size": 336}
    return config | {"dtype": "bfloat16"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is known before anything is downloaded."""
    folder, config = tmp_path_factory.mktemp("published"), published()
    names = [name for name, _ in glm_shapes(config)]
    assert len(names) == TENSORS
    write_json(folder / "config.json", config)
    (folder / INDEX).write_text(json.dumps({"weight_map": dict.fromkeys(names, "model-00001-of-00046.safetensors")}))
    return folder


@pytest.mark.parametrize("ranks", [2, 4])
def test_bytes_of_a_rank_are_those_of_its_parts(folder: Path, ranks: int) -> None:
    opened = open_settings(folder)
    found: Any = describe_division(str(folder), ranks)
    for rank in (0, ranks - 1):
        share, size = opened.share(rank, ranks), 0
        for name, shape in glm_shapes(published()):
            part = share.part(name, shape)
            size += 2 * math.prod(shape if part is None else part.shape(shape))
        assert found["ranks"][rank]["bytes"] == size
    assert found["bytes"] == 2 * sum(math.prod(shape) for _, shape in glm_shapes(published()))
    by_layers: Any = describe_division(str(folder), ranks, pipeline=True)
    stages = opened.stages([1] * ranks, opened.parameter_bytes(()))
    for rank, stage in zip(by_layers["ranks"], stages, strict=True):
        taken = [shape for name, shape in glm_shapes(published()) if stage.part(name, shape) is None]
        assert rank["bytes"] == 2 * sum(map(math.prod, taken))


@pytest.mark.parametrize(("ranks", "memory", "fits"), [(2, "64GB", True), (4, "32GB", True), (2, "32GB,64GB", False)])
def test_what_fits_is_told(folder: Path, ranks: int, memory: str, fits: bool) -> None:
    found = describe_division(str(folder), ranks, read_memory(memory, ranks), bits=4)
    assert found["fits"] is fits
    assert ("rank 0 needs" in str(found["advice"])) is not fits
    assert f"rank {ranks - 1}" in in_lines(found)


def test_what_fits_by_layers_alone_is_told(folder: Path) -> None:
    """Of two machines, one is too small for half of it."""
    memory = read_memory("96GB,32GB", 2)
    widths = describe_division(str(folder), 2, memory, bits=4)
    assert widths["fits"] is False
    assert "divided by layers it fits: --pipeline" in str(widths["advice"])
    found: Any = describe_division(str(folder), 2, memory, bits=4, pipeline=True)
    assert found["fits"] is True
    assert [rank["layers"] for rank in found["ranks"]] == ["35 of 46", "11 of 46"]
    norm = 2 * 4096  # which both have
    assert sum(rank["bytes"] for rank in found["ranks"]) == found["bytes"] + norm
    assert "11 of 46 layers" in str(in_lines(found)["rank 1"])
    small: Any = describe_division(str(folder), 3, read_memory("8GB", 3), bits=4, pipeline=True)
    assert small["fits"] is False
    assert "--pipeline" not in small["advice"]


def test_what_cannot_be_divided_is_told(folder: Path) -> None:
    with pytest.raises(InputError, match="expected 2 or 4 or 8 or 16"):
        describe_division(str(folder), 5)
    with pytest.raises(InputError, match="whole number from 2"):
        describe_division(str(folder), 1)
    with pytest.raises(UnsupportedModelError, match="not divided"):
        describe_division("emoji-siglip2", 2)
    with pytest.raises(InputError, match="expected sizes such as"):
        read_memory("64", 2)
    with pytest.raises(InputError, match="3 sizes, and there are 2"):
        read_memory("1GB,2GB,3GB", 2)
