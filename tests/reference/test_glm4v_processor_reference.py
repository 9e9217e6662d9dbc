"""Pictures of GLM beside transformers 5.23's own class, bit for bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glm_side_files import write_glm_side_files
from glm_tiny import glm_config
from PIL import Image

from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.pixels import smart_resize
from mlx_mm.models.glm4v.processor import Processor

pytestmark = pytest.mark.reference
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

SHAPES = [(37, 53), (1, 1), (14, 300), (224, 224), (480, 640), (600, 401), (27, 28), (333, 1000), (701, 5), (90, 1500)]
BUDGETS = [(12544, 9633792), (12544, 11760000), (3136, 200_000), (500_000, 800_000), (1, 1568)]


def picture(shape: tuple[int, ...], seed: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8))


@pytest.fixture
def processor(tmp_path: Path) -> Processor:
    config = glm_config()
    write_glm_side_files(tmp_path, config)
    return Processor.from_folder(tmp_path, ModelConfig.from_dict(config))


def compare(processor: Processor, images: list[Image.Image], **options: Any) -> None:
    reference = transformers.Glm46VImageProcessorPil(size={"shortest_edge": 12544, "longest_edge": 9633792})
    expected = reference(images, return_tensors="np", **options)
    got = processor.images(images, **options)
    assert got.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(got[key], value)
    assert got["pixel_values"].dtype == expected["pixel_values"].dtype


@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_pictures(budget: tuple[int, int], processor: Processor) -> None:
    images = [picture((*shape, 3), seed) for seed, shape in enumerate(SHAPES)]
    compare(processor, images, size={"shortest_edge": budget[0], "longest_edge": budget[1]})


@pytest.mark.parametrize(
    "options",
    [
        {}, {"do_normalize": False}, {"do_rescale": False}, {"resample": 2}, {"rescale_factor": 1 / 127},
        {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.3, 0.4]},
    ],
    ids=str,
)  # fmt: skip
def test_settings(options: dict[str, Any], processor: Processor) -> None:
    compare(processor, [picture((90, 130, 3), 1), picture((401, 300, 3), 2)], **options)


def test_modes(processor: Processor) -> None:
    compare(processor, [picture((90, 130, 4), 1), picture((90, 130), 2), picture((120, 60, 3), 3).convert("P")])


def test_without_resizing(processor: Processor) -> None:
    compare(processor, [picture((56, 84, 3), 1), picture((112, 28, 3), 2)], do_resize=False)


def test_random_sizes(processor: Processor) -> None:
    from transformers.models.glm46v.image_processing_pil_glm46v import smart_resize as reference

    random = np.random.default_rng(0)
    for _ in range(5000):
        frames = int(random.integers(2, 700))
        height, width = (int(2 ** random.uniform(0, 13)) for _ in range(2))
        least = int(2 ** random.uniform(10, 15))
        most = least + int(2 ** random.uniform(10, 26))
        try:
            expected = reference(frames, height, width, min_pixels=least, max_pixels=most)
        except ValueError:
            continue
        assert smart_resize(frames, height, width, least, most) == expected


def test_patches_by_size(processor: Processor) -> None:
    reference = transformers.Glm46VImageProcessorPil(size={"shortest_edge": 12544, "longest_edge": 9633792})
    for height, width in SHAPES:
        assert processor.get_number_of_image_patches(height, width) == reference.get_number_of_image_patches(
            height, width
        )
