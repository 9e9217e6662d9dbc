"""The processor beside transformers 5.23's own classes, bit for bit."""

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import golden, hashed

from mlx_mm.models.siglip2.config import ModelConfig
from mlx_mm.models.siglip2.processor import FixResSettings, Processor, target_size
from mlx_mm.processing.text import canonicalize

pytestmark = pytest.mark.reference
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = golden("siglip2_tokenizer_cases")
SHAPES = [(37, 53), (224, 224), (300, 200), (480, 640), (1, 1), (2, 3000), (701, 5), (1080, 1920)]
MEANS = {"image_mean": [0.48145466, 0.4578275, 0.40821073], "image_std": [0.26862954, 0.26130258, 0.27577711]}


def config(family: str) -> ModelConfig:
    return ModelConfig.from_dict({"model_type": family, "text_config": {}, "vision_config": {}})


def pictures() -> list[Image.Image]:
    return [Image.fromarray(((hashed((*shape, 3), n) + 1) * 128).astype(np.uint8)) for n, shape in enumerate(SHAPES)]


@pytest.mark.parametrize("extra", [{}, MEANS, {"do_normalize": False}, {"do_rescale": False}, {"resample": 3}])
@pytest.mark.parametrize("budget", [64, 256, 1024])
def test_naflex_pictures(budget: int, extra: dict[str, Any], tmp_path: Path) -> None:
    reference = transformers.Siglip2ImageProcessorPil(max_num_patches=budget, **extra)
    reference.save_pretrained(tmp_path)
    images = pictures()
    expected = reference(images, return_tensors="np")
    got = Processor.from_folder(tmp_path, config("siglip2")).images(images)
    longest = got["pixel_values"].shape[1]
    assert longest == expected["pixel_attention_mask"].sum(1).max()
    np.testing.assert_array_equal(got["spatial_shapes"], expected["spatial_shapes"])
    np.testing.assert_array_equal(got["pixel_attention_mask"], expected["pixel_attention_mask"][:, :longest])
    np.testing.assert_array_equal(got["pixel_values"], expected["pixel_values"][:, :longest])


@pytest.mark.parametrize("extra", [{}, MEANS, {"do_normalize": False}, {"do_rescale": False}, {"resample": 2}])
@pytest.mark.parametrize("size", [{"height": 224, "width": 224}, {"height": 96, "width": 130}])
def test_fixres_pictures(size: dict[str, int], extra: dict[str, Any], tmp_path: Path) -> None:
    reference = transformers.SiglipImageProcessorPil(size=size, **extra)
    reference.save_pretrained(tmp_path)
    images = pictures()
    expected = reference(images, return_tensors="np")["pixel_values"]
    got = Processor.from_folder(tmp_path, config("siglip")).images(images)["pixel_values"]
    np.testing.assert_array_equal(got, expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_colour_modes(mode: str) -> None:
    image = pictures()[0].convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(37 * 53, dtype=np.uint16).astype(np.uint8).reshape(37, 53)))
    image = image.convert("RGB").convert(mode) if mode in ("HSV", "YCbCr", "CMYK", "P") else image.convert(mode)
    reference = transformers.SiglipImageProcessorPil(do_convert_rgb=True)
    expected = reference(image, return_tensors="np")["pixel_values"]
    got = Processor(config("siglip"), None, _settings(reference))
    np.testing.assert_array_equal(got.images([image])["pixel_values"], expected.transpose(0, 2, 3, 1))


def _settings(reference: Any) -> FixResSettings:
    names = ("do_resize", "resample", "do_rescale", "rescale_factor", "do_normalize", "do_convert_rgb")
    return FixResSettings(
        **{name: getattr(reference, name) for name in names},
        image_mean=(0.5, 0.5, 0.5),
        image_std=(0.5, 0.5, 0.5),
        size=(224, 224),
    )


def test_random_target_sizes() -> None:
    from transformers.models.siglip2.image_processing_pil_siglip2 import get_image_size_for_max_num_patches

    random = np.random.default_rng(0)
    for _ in range(5000):
        height, width = (int(side) for side in np.exp(random.uniform(0, 10, 2)))
        patch, budget = int(random.integers(1, 40)), int(random.integers(1, 2000))
        expected = get_image_size_for_max_num_patches(height, width, patch, budget)
        assert target_size(height, width, patch, budget) == expected, (height, width, patch, budget)


@pytest.mark.parametrize("kind", ["Siglip2Tokenizer", "GemmaTokenizer"])
def test_tokenizers(kind: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENS["tokenizer_json"]))
    names = {"tokenizer_class": "GemmaTokenizer", "padding_side": "right", "pad_token": "<pad>", "eos_token": "<eos>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names | {"model_input_names": ["input_ids"]}))
    reference = getattr(transformers, kind).from_pretrained(tmp_path)
    words = ["A", "Cat", "DOG", "hello", "é🙂", "ΟΔΟΣ", "\n", " ", "<eos>", "<EOS>", ".", "İ", "ß", "東京"]
    random = np.random.default_rng(0)
    texts = ["", *(" ".join(random.choice(words, random.integers(1, 40))) for _ in range(200))]
    expected = reference(texts, padding="max_length", truncation=True, max_length=64)["input_ids"]
    # Where a typed <eos> ends the text transformers adds a second one; we never do.
    kept = [n for n, row in enumerate(expected) if not any(a == b == 1 for a, b in itertools.pairwise(row))]
    texts, expected = [texts[n] for n in kept], [expected[n] for n in kept]
    assert len(texts) > 150
    reference.save_pretrained(tmp_path / "saved")
    for folder in (tmp_path, tmp_path / "saved"):
        processor = Processor.from_folder(folder, config("siglip2"))
        ids = processor.text(texts, do_lower_case=kind == "Siglip2Tokenizer")["input_ids"]
        assert ids.tolist() == expected


def test_siglip_1_canonicalisation() -> None:
    siglip = pytest.importorskip("transformers.models.siglip.tokenization_siglip").SiglipTokenizer
    for text in ("A Cat!", "it's state-of-the-art...", "  two \n\t spaces ", "a_b {c}", "ΟΔΟΣ", "¿qué? «sí»", ""):
        for lower in (True, False):
            reference = siglip.__new__(siglip)
            reference.do_lower_case = lower
            assert canonicalize(text, lower) == siglip.canonicalize_text(reference, text)
