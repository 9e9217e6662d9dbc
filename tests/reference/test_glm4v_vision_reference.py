"""The vision tower beside transformers' `Glm4vVisionModel`, with random weights."""

from __future__ import annotations

import math
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from beside import difference, randomise, torch
from glm_tiny import glm_pixels

from mlx_mm.backend import blas
from mlx_mm.models.glm4v.config import ModelConfig, VisionConfig
from mlx_mm.models.glm4v.positions import rope_index
from mlx_mm.models.glm4v.vision import VisionTower

transformers = pytest.importorskip("transformers")
from transformers.models.glm4v.configuration_glm4v import Glm4vConfig, Glm4vVisionConfig  # noqa: E402
from transformers.models.glm4v.modeling_glm4v import Glm4vModel, Glm4vVisionModel  # noqa: E402

SIZES = {"depth": 3, "hidden_size": 96, "num_heads": 4, "out_hidden_size": 160, "intermediate_size": 192}
GRIDS = {
    "table": [[1, 8, 8]],
    "small": [[1, 2, 2]],
    "wide": [[1, 2, 30]],
    "larger than the table": [[1, 26, 18]],
    "one of each": [[1, 4, 6], [1, 8, 8], [1, 12, 2], [1, 12, 2], [1, 10, 14], [1, 2, 4]],
    "video": [[1, 6, 10]] * 7,
}


@pytest.fixture(scope="module", autouse=True)
def arithmetic_of_load() -> None:
    blas.use_fast_blas()


def pair(**changes: Any) -> tuple[Any, VisionTower]:
    """Their tower, and ours with its weights."""
    theirs = randomise(Glm4vVisionModel(Glm4vVisionConfig(**SIZES, image_size=112, **changes)))
    section = theirs.config.to_dict()
    ours = VisionTower(VisionConfig.from_dict(section))
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    last = {name: np.moveaxis(value, 1, -1) if value.ndim > 2 else value for name, value in weights.items()}
    ours.load_weights([(name, mx.array(value)) for name, value in last.items()], strict=True)
    return theirs, ours


@pytest.mark.parametrize("name", GRIDS)
def test_features(name: str) -> None:
    theirs, ours = pair()
    grids = GRIDS[name]
    pixels = glm_pixels(sum(math.prod(grid) for grid in grids))
    with torch.no_grad():
        right = theirs(torch.from_numpy(pixels), torch.tensor(grids), output_hidden_states=True)
    got = ours(mx.array(pixels), grids, output_hidden_states=True)
    for key in ("last_hidden_state", "pooler_output"):
        scale = float(getattr(right, key).abs().max())
        assert difference(getattr(got, key), getattr(right, key)) <= 1e-5 * scale, key
    assert got.hidden_states is not None
    # transformers has last_hidden_state in the place of the last block's
    for mine, one in zip(got.hidden_states[:-1], right.hidden_states[:-1], strict=True):
        assert difference(mine, one) <= 1e-5 * float(one.abs().max())


def test_a_video_is_one_grid_for_us() -> None:
    theirs, ours = pair()
    pixels = glm_pixels(5 * 8 * 4)
    with torch.no_grad():
        right = theirs(torch.from_numpy(pixels), torch.tensor([[1, 8, 4]] * 5)).pooler_output
    assert difference(ours(mx.array(pixels), [[5, 8, 4]]).pooler_output, right) <= 1e-5 * float(right.abs().max())


def test_real_width() -> None:
    """One block of the published width."""
    real = {"depth": 1, "hidden_size": 1536, "num_heads": 12, "out_hidden_size": 4096, "intermediate_size": 13696}
    theirs = randomise(Glm4vVisionModel(Glm4vVisionConfig(**real)))
    ours = VisionTower(VisionConfig.from_dict(theirs.config.to_dict()))
    weights = {name: value.numpy() for name, value in theirs.state_dict().items()}
    last = {name: np.moveaxis(value, 1, -1) if value.ndim > 2 else value for name, value in weights.items()}
    ours.load_weights([(name, mx.array(value)) for name, value in last.items()], strict=True)
    grids = [[1, 14, 10], [1, 4, 6]]
    pixels = glm_pixels(164)
    with torch.no_grad():
        right = theirs(torch.from_numpy(pixels), torch.tensor(grids)).pooler_output
    assert difference(ours(mx.array(pixels), grids).pooler_output, right) <= 1e-5 * float(right.abs().max())


@pytest.mark.parametrize("seed", range(5))
def test_positions_of_random_prompts(seed: int) -> None:
    """Rows with pictures and videos between texts, padded on both sides by chance."""
    draw = np.random.RandomState(seed)
    rows, images, videos = [], [], []
    for _ in range(3):
        types: list[int] = []
        for kind in draw.randint(1, 3, draw.randint(0, 4)):
            t, h, w = 1 if kind == 1 else draw.randint(1, 4), *(2 * draw.randint(1, 6, 2))
            (images if kind == 1 else videos).append([int(t), int(h), int(w)])
            types += [0] * draw.randint(1, 5)
            for _ in range(t):
                types += [0, *[int(kind)] * (h * w // 4), 0]
        rows.append(types + [0] * draw.randint(1, 6))
    length = max(map(len, rows)) + 3
    before = [int(draw.randint(0, length - len(row) + 1)) for row in rows]
    pads = [(count, length - len(row) - count) for count, row in zip(before, rows, strict=True)]
    kinds = np.array([[0] * a + row + [0] * b for (a, b), row in zip(pads, rows, strict=True)])
    mask = np.array([[0] * a + [1] * len(row) + [0] * b for (a, b), row in zip(pads, rows, strict=True)])
    theirs = Glm4vModel.__new__(Glm4vModel)
    torch.nn.Module.__init__(theirs)
    theirs.config = Glm4vConfig()
    grids = [torch.tensor(grid) if grid else None for grid in (images, videos)]
    ids, kinds_t, mask_t = (torch.from_numpy(a) for a in (kinds, kinds, mask))
    right, deltas = theirs.get_rope_index(ids, kinds_t, *grids, attention_mask=mask_t)
    layout = rope_index(kinds.tolist(), images or None, videos or None, mask.tolist())
    assert np.array(layout.positions).transpose(2, 0, 1).tolist() == right.tolist()
    assert layout.deltas == deltas[:, 0].tolist()


@pytest.mark.parametrize("style", ["old", "new"])
def test_config_as_transformers_saves_it(style: str) -> None:
    """Both styles of rotary keys, through transformers' own reading and writing."""
    section = {"rope_type": "default", "mrope_section": [8, 12, 12]}
    flat = {"rope_theta": 500000.0, "partial_rotary_factor": 0.5}
    keys = {"rope_scaling": section, **flat} if style == "old" else {"rope_parameters": {**section, **flat}}
    text = {"hidden_size": 4096, "num_attention_heads": 32, "num_key_value_heads": 2, **keys}
    config = ModelConfig.from_dict(Glm4vConfig(text_config=text, vision_config={"out_hidden_size": 4096}).to_dict())
    assert config.rope.rope_theta == 500000.0
    assert config.rope.partial_rotary_factor == 0.5
    assert config.rope.mrope_section == (8, 12, 12)
    assert config.vision_config.rope_theta == 10000.0
