"""The processor of MetaCLIP 2 and OpenAI CLIP against numbers made by transformers' Pillow backend."""

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tokenizers
from PIL import Image
from tiny import golden, hashed
from tokenizers import models, normalizers, pre_tokenizers, processors

from mlx_mm.errors import ConfigError, InputError, MediaError, ModalityError
from mlx_mm.models.metaclip_2.processor import Processor

ROWS = [row for row in golden("image_processing")["fixed_size"] if row["processor"].startswith("clip-")]
XLM = golden("metaclip2_tokenizer_cases")
SIGLIP = golden("siglip2_tokenizer_cases")

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
SETTINGS: dict[str, Any] = {
    "image_processor_type": "CLIPImageProcessor",
    "do_center_crop": True,
    "do_convert_rgb": True,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": list(MEAN),
    "image_std": list(STD),
    "resample": 3,
    "rescale_factor": 1 / 255,
}
CROP = SETTINGS | {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}}
SQUASH = CROP | {"size": {"height": 224, "width": 224}}
# The pixels themselves, as floats.
RAW: dict[str, Any] = {"do_rescale": False, "do_normalize": False}

XLM_NAMES = {
    "tokenizer_class": "XLMRobertaTokenizer", "model_max_length": 1000000000000000019884624838656,
    "bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "pad_token": "<pad>",
    "unk_token": "<unk>", "mask_token": {"content": "<mask>", "lstrip": True},
}  # fmt: skip
# SigLIP's own end token pads too; the golden vocabulary calls it <eos>.
MT5_NAMES = {"tokenizer_class": "SiglipTokenizer", "eos_token": "<eos>", "pad_token": "<eos>", "model_max_length": 64}
CLIP_NAMES = {
    "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, "model_max_length": 77,
    "bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>",
}  # fmt: skip


def clip_vocabulary() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Bytes, bytes that end a word, three merges, and the two special tokens last, in CLIP's order."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o")]
    names = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    return {name: n for n, name in enumerate([*names, "<|startoftext|>", "<|endoftext|>"])}, merges


def clip_tokenizer() -> dict[str, Any]:
    vocab, merges = clip_vocabulary()
    model = models.BPE(vocab, merges, end_of_word_suffix="</w>", unk_token="<|endoftext|>")
    made = tokenizers.Tokenizer(model)
    spaces = normalizers.Replace(tokenizers.Regex(r"\s+"), " ")
    made.normalizer = normalizers.Sequence([normalizers.NFC(), spaces, normalizers.Lowercase()])
    words = tokenizers.Regex(r"'s|'t|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+")
    split = pre_tokenizers.Split(words, "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    start, end = "<|startoftext|>", "<|endoftext|>"
    made.post_processor = processors.RobertaProcessing((end, vocab[end]), (start, vocab[start]), False, False)
    made.add_special_tokens([start, end])
    values: dict[str, Any] = json.loads(made.to_str())
    return values


CLIP_TOKENIZER = clip_tokenizer()
CLIP_VOCAB = CLIP_TOKENIZER["model"]["vocab"]
CLIP_END = CLIP_VOCAB["<|endoftext|>"]


def config(
    family: str = "metaclip_2",
    towers: str = "text image",
    *,
    length: int = 77,
    vocabulary: int = 25,
    eos: int | None = 2,
) -> Any:
    text = SimpleNamespace(max_position_embeddings=length, vocab_size=vocabulary, eos_token_id=eos)
    return SimpleNamespace(
        model_type=family,
        text_config=text if "text" in towers else None,
        vision_config=SimpleNamespace(image_size=224, patch_size=16) if "image" in towers else None,
    )


def folder_of(
    path: Path,
    image: dict[str, Any] | None = None,
    tokenizer: dict[str, Any] | None = None,
    names: dict[str, Any] | None = None,
) -> Path:
    if image is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(image))
    (path / "tokenizer.json").write_text(json.dumps(tokenizer or XLM["tokenizer_json"]))
    (path / "tokenizer_config.json").write_text(json.dumps(names or XLM_NAMES))
    return path


@pytest.fixture
def crop(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    return Processor.from_folder(folder_of(tmp_path_factory.mktemp("crop"), CROP), config())


@pytest.fixture
def squash(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    return Processor.from_folder(folder_of(tmp_path_factory.mktemp("squash"), SQUASH), config())


@pytest.fixture
def mt5(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = folder_of(tmp_path_factory.mktemp("mt5"), SQUASH, SIGLIP["tokenizer_json"], MT5_NAMES)
    return Processor.from_folder(folder, config(vocabulary=400, eos=1))


@pytest.fixture
def clip(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    folder = folder_of(tmp_path_factory.mktemp("clip"), CROP, CLIP_TOKENIZER, CLIP_NAMES)
    return Processor.from_folder(folder, config("clip", vocabulary=len(CLIP_VOCAB), eos=CLIP_END))


def drawn(name: str, height: int, width: int) -> np.ndarray:
    """The pictures of the golden file, by the formulas written in it."""
    if name == "noise":
        return np.floor((hashed((height, width, 3), 5000) + 1) * 128).astype(np.uint8)
    y, x, c = np.ogrid[:height, :width, :3]
    return np.floor(127.5 + 127.4 * np.sin(0.05 * x + 0.9 * c) * np.cos(0.04 * y + 0.3 * c)).astype(np.uint8)


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint((values.astype(np.float64) * STD + MEAN) * 255).astype(np.uint8)


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


# --- pixels


def size_of(row: dict[str, Any]) -> tuple[dict[str, int], int]:
    side = row["pil_float"]["shape"][-1]
    return ({"shortest_edge": side} if "shortest_edge" in row["processor"] else {"height": side, "width": side}), side


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row['processor']}-{row['image']}-{row['hw']}")
def test_golden_pixels(row: dict[str, Any], tmp_path: Path) -> None:
    size, side = size_of(row)
    settings = SETTINGS | {"size": size, "crop_size": {"height": side, "width": side}}
    processor = Processor.from_folder(folder_of(tmp_path, settings), config())
    image = drawn(row["image"], *row["hw"])
    got = processor.images([image])["pixel_values"]
    assert got.shape == (1, side, side, 3)
    assert got.dtype == np.float32
    values = as_bytes(got[0])
    assert digest(values) == row["pil_uint8_sha256_16"]
    assert values.sum((0, 1)).tolist() == row["pil_uint8_sum_per_channel"]
    for name, place in {"0,0": 0, "mid": side // 2, "-1,-1": -1}.items():
        assert values[place, place].tolist() == row["pil_uint8_pixels"][name]
    # The golden floats are channels first.
    np.testing.assert_array_equal(got[0, 0, :3, 0], np.float32(row["pil_float"]["first3"]))
    assert got.sum(dtype=np.float64) == pytest.approx(row["pil_float"]["sum"], rel=1e-6, abs=1e-2)
    assert np.abs(got).sum(dtype=np.float64) == pytest.approx(row["pil_float"]["abs_sum"], rel=1e-6)
    # SigLIP's mean and deviation.
    wrong = processor.images([image], image_mean=0.5, image_std=0.5)["pixel_values"]
    assert abs(np.abs(wrong).sum(dtype=np.float64) / row["pil_float"]["abs_sum"] - 1) > 0.1


def by_hand(row: dict[str, Any], wrong: str = "") -> np.ndarray:
    image = Image.fromarray(drawn(row["image"], *row["hw"]))
    size, side = size_of(row)
    width = height = side
    if ("shortest_edge" in size) != (wrong == "other geometry"):
        rounded: Callable[[float], int] = round if wrong == "rounded" else int
        short = min(image.size)
        width, height = (side if edge == short else rounded(side * edge / short) for edge in image.size)
    image = image.resize(
        (width, height), Image.Resampling.BILINEAR if wrong == "bilinear" else Image.Resampling.BICUBIC
    )
    top, left = (0, 0) if wrong == "corner" else ((height - side) // 2, (width - side) // 2)
    return np.asarray(image)[top : top + side, left : left + side]


@pytest.mark.parametrize(
    ("wrong", "hits"),
    # Where the picture is square already, or its long side comes out whole, or nothing is cut, a mistake is unseen.
    [("", 24), ("rounded", 20), ("bilinear", 4), ("corner", 18), ("other geometry", 6)],
)
def test_wrong_geometries_miss_the_golden_pixels(wrong: str, hits: int) -> None:
    assert len(ROWS) == 24
    assert sum(digest(by_hand(row, wrong)) == row["pil_uint8_sha256_16"] for row in ROWS) == hits


@pytest.mark.parametrize(
    ("shape", "expected"),
    [((480, 640), (224, 298)), ((500, 333), (336, 224)), ((427, 640), (224, 335)), ((9, 9), (224, 224))],
)
def test_the_long_side_is_truncated(crop: Processor, shape: tuple[int, int], expected: tuple[int, int]) -> None:
    got = crop.images([drawn("smooth", *shape)], do_center_crop=False)["pixel_values"]
    assert got.shape == (1, *expected, 3)
    if shape == (427, 640):
        assert round(224 * 640 / 427) != expected[1]


@pytest.mark.parametrize(("height", "width"), [(9, 12), (10, 11), (6, 8), (6, 13)])
def test_the_crop_begins_at_the_lower_half(crop: Processor, height: int, width: int) -> None:
    image = drawn("noise", height, width)
    got = crop.images([image], do_resize=False, crop_size={"height": 6, "width": 8}, **RAW)["pixel_values"]
    top, left = (height - 6) // 2, (width - 8) // 2
    np.testing.assert_array_equal(got[0], image[top : top + 6, left : left + 8])
    top, left = -(-(height - 6) // 2), -(-(width - 8) // 2)
    odd = (height - 6) % 2 or (width - 8) % 2
    assert np.array_equal(got[0], image[top : top + 6, left : left + 8]) == (not odd)


@pytest.mark.parametrize(("height", "width"), [(3, 5), (4, 4), (1, 1), (3, 11), (9, 5)])
def test_what_the_crop_exceeds_is_black(crop: Processor, height: int, width: int) -> None:
    """transformers' rule: the odd row or column is before the picture, and black comes before normalising."""
    image = drawn("noise", height, width) | 1
    expected = np.zeros((6, 8, 3), np.uint8)
    top, left = -(-max(6 - height, 0) // 2), -(-max(8 - width, 0) // 2)
    part = image[max(height - 6, 0) // 2 :, max(width - 8, 0) // 2 :][:6, :8]
    expected[top : top + part.shape[0], left : left + part.shape[1]] = part
    options: dict[str, Any] = {"do_resize": False, "crop_size": {"height": 6, "width": 8}}
    np.testing.assert_array_equal(crop.images([image], **options, **RAW)["pixel_values"][0], expected)
    normalised = crop.images([image], **options)["pixel_values"]
    np.testing.assert_array_equal(as_bytes(normalised[0]), expected)


def test_squash_and_whole_number_sizes(crop: Processor, squash: Processor) -> None:
    image = drawn("smooth", 60, 90)
    np.testing.assert_array_equal(
        crop.images([image], size={"height": 224, "width": 224})["pixel_values"], squash.images([image])["pixel_values"]
    )
    for processor in (crop, squash):
        wide = processor.images([image], size=30, do_center_crop=False)["pixel_values"]
        assert wide.shape == (1, 30, 45, 3)
        named = processor.images([image], size={"shortest_edge": 30}, do_center_crop=False)["pixel_values"]
        np.testing.assert_array_equal(named, wide)
    odd = crop.images([image], size={"height": 20, "width": 31}, do_center_crop=False)["pixel_values"]
    assert odd.shape == (1, 20, 31, 3)
    assert not np.array_equal(crop.images([image])["pixel_values"], squash.images([image])["pixel_values"])


@pytest.mark.parametrize("shape", [(1, 1), (2, 600), (600, 2)])
def test_extreme_shapes(crop: Processor, squash: Processor, shape: tuple[int, int]) -> None:
    black = np.float32((np.float32(0) - np.float32(MEAN)) / np.float32(STD))
    for processor in (crop, squash):
        got = processor.images([np.zeros((*shape, 3), np.uint8)])["pixel_values"]
        assert got.shape == (1, 224, 224, 3)
        assert (got == black).all()


def test_monstrous_sizes_are_refused(crop: Processor, squash: Processor) -> None:
    strip = np.zeros((2, 20_000, 3), np.uint8)
    with pytest.raises(MediaError, match=r"2x20000 pixels is too long: .* 224x2240000; expected at most"):
        crop.images([strip])
    assert squash.images([strip])["pixel_values"].shape == (1, 224, 224, 3)
    for processor in (crop, squash):
        for side in (10_000, 100_000):
            with pytest.raises(InputError, match="expected"):
                processor.images([drawn("smooth", 9, 9)], crop_size=side)


# --- colours


def palette_with_a_hole() -> Image.Image:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([9, 9, 9, 200, 0, 0])
    image.info["transparency"] = 1
    return image


@pytest.mark.parametrize(
    "image",
    [Image.new("RGBA", (20, 20), (200, 0, 0, 0)), Image.new("LA", (20, 20), (7, 0)), palette_with_a_hole()],
    ids=lambda image: image.mode,
)
def test_transparency_is_laid_over_white(crop: Processor, image: Image.Image) -> None:
    assert (crop.images([image], **RAW)["pixel_values"] == 255).all()
    assert not (np.asarray(image.convert("RGB")) == 255).all()
    assert (as_bytes(crop.images([image])["pixel_values"][0]) == 255).all()


@pytest.mark.parametrize("mode", ["L", "1", "P", "CMYK"])
def test_other_modes_are_converted_by_pillow(crop: Processor, mode: str) -> None:
    image = Image.fromarray(drawn("smooth", 30, 40)).convert(mode)
    expected = crop.images([image.convert("RGB")])["pixel_values"]
    np.testing.assert_array_equal(crop.images([image])["pixel_values"], expected)
    with pytest.raises(MediaError, match="do_convert_rgb"):
        crop.images([image], do_convert_rgb=False)
    crop.images([image.convert("RGB")], do_convert_rgb=False)


# --- settings


def test_overrides_act(crop: Processor, squash: Processor) -> None:
    image = drawn("smooth", 250, 300)
    overrides: list[dict[str, Any]] = [
        {"resample": 2}, {"do_rescale": False}, {"rescale_factor": 1 / 127}, {"do_normalize": False},
        {"image_mean": [0.1, 0.5, 0.5]}, {"image_std": 0.25}, {"size": 240}, {"size": {"height": 240, "width": 230}},
        {"do_resize": False}, {"crop_size": 112}, {"crop_size": {"height": 112, "width": 48}},
    ]  # fmt: skip
    for processor in (crop, squash):
        base = processor.images([image])["pixel_values"]
        for override in overrides:
            got = processor.images([image], **override)["pixel_values"]
            assert not np.array_equal(got, base), override
            np.testing.assert_array_equal(processor(images=[image], **override)["pixel_values"], got)
        np.testing.assert_array_equal(processor.images([image])["pixel_values"], base)
        assert processor.images([image], crop_size=112)["pixel_values"].shape == (1, 112, 112, 3)
        assert processor.images([image], crop_size={"height": 112, "width": 48})["pixel_values"].shape[1:3] == (112, 48)
        plain = processor.images([image], do_resize=False, do_center_crop=False, **RAW)["pixel_values"]
        np.testing.assert_array_equal(plain[0], image)
    assert crop.images([image], do_center_crop=False)["pixel_values"].shape == (1, 224, 268, 3)


def test_pictures_of_one_batch_have_one_shape(crop: Processor, squash: Processor) -> None:
    images = [drawn("smooth", *shape) for shape in ((40, 60), (60, 40), (9, 9))]
    for processor in (crop, squash):
        got = processor.images(images)["pixel_values"]
        for image, row in zip(images, got, strict=True):
            np.testing.assert_array_equal(processor.images([image])["pixel_values"][0], row)
    assert squash.images(images, do_center_crop=False)["pixel_values"].shape == (3, 224, 224, 3)
    with pytest.raises(InputError, match=r"shapes.*expected"):
        crop.images(images, do_center_crop=False)


@pytest.mark.parametrize("name", ["max_num_patches", "patch_size", "do_centre_crop", "do_pad", "input_data_format"])
def test_unknown_overrides_are_named(crop: Processor, name: str) -> None:
    image = drawn("smooth", 20, 20)
    with pytest.raises(InputError, match=name):
        crop.images([image], **{name: 1})
    with pytest.raises(InputError, match=name):
        crop(text=["a cat"], images=[image], **{name: 1})
    # Also where no picture is given: it may be a slip in an option of the text.
    with pytest.raises(InputError, match=name):
        crop(text=["a cat"], **{name: 1})


@pytest.mark.parametrize(
    "override",
    [
        {"size": 0}, {"size": True}, {"size": 2.5}, {"size": "224"}, {"size": {}}, {"size": {"height": 224}},
        {"size": {"shortest_edge": 0}}, {"size": {"shortest_edge": True}}, {"size": {"longest_edge": 224}},
        {"size": {"shortest_edge": 224, "longest_edge": 300}}, {"size": {"height": 224, "width": -1}},
        {"crop_size": 0}, {"crop_size": True}, {"crop_size": 2.5}, {"crop_size": {"height": 224}},
        {"crop_size": {"shortest_edge": 224}}, {"crop_size": {"height": 224, "width": 0}},
        {"resample": 6}, {"resample": "bicubic"}, {"rescale_factor": float("nan")}, {"rescale_factor": "1/255"},
        {"image_mean": [0.5, 0.5]}, {"image_std": [0.5, 0, 0.5]}, {"image_std": float("inf")},
        {"do_resize": 1}, {"do_center_crop": 1}, {"do_convert_rgb": "yes"}, {"do_rescale": 0}, {"do_normalize": "no"},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_act(crop: Processor, override: dict[str, Any], tmp_path: Path) -> None:
    key = next(iter(override))
    with pytest.raises(InputError, match=f"{key} is .*expected .*[.] "):
        crop.images([drawn("smooth", 20, 20)], **override)
    folder_of(tmp_path, CROP | override)
    with pytest.raises(ConfigError, match=f"{key} is .*expected .*[.] "):
        Processor.from_folder(tmp_path, config())


# --- files


@pytest.mark.parametrize(
    "settings", [CROP, SQUASH, CROP | {"size": 60, "crop_size": 50}], ids=["crop", "squash", "old"]
)
def test_both_generations_of_files(settings: dict[str, Any], tmp_path: Path) -> None:
    image = drawn("smooth", 70, 100)
    settings = settings | {"resample": 0}
    four = Processor.from_folder(folder_of(tmp_path, settings), config()).images([image])
    # 5.x: nested, and the older file beside it is not read at all.
    nested = {"processor_class": "CLIPProcessor", "image_processor": settings}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    five = Processor.from_folder(tmp_path, config()).images([image])
    np.testing.assert_array_equal(five["pixel_values"], four["pixel_values"])
    # A 4.x processor_config.json says nothing about pictures.
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "CLIPProcessor"}))
    other = Processor.from_folder(tmp_path, config()).images([image])
    assert not np.array_equal(other["pixel_values"], four["pixel_values"])


@pytest.mark.parametrize("left", [None, {}, {"image_processor_type": "CLIPImageProcessor"}, dict.fromkeys(SETTINGS)])
def test_missing_settings_are_the_class_defaults(left: dict[str, Any] | None, tmp_path: Path) -> None:
    image = drawn("smooth", 70, 100)
    got = Processor.from_folder(folder_of(tmp_path, left), config()).images([image])["pixel_values"]
    expected = Processor.from_folder(folder_of(tmp_path, CROP), config()).images([image])["pixel_values"]
    np.testing.assert_array_equal(got, expected)


def test_unknown_settings_are_refused(tmp_path: Path) -> None:
    for extra in ({"do_pad": True}, {"max_num_patches": 256}, {"anything": 1}):
        with pytest.raises(ConfigError, match=f"{next(iter(extra))}.*expected only settings"):
            Processor.from_folder(folder_of(tmp_path, CROP | extra), config())
    harmless = {
        "processor_class": "CLIPProcessor", "feature_extractor_type": "CLIPFeatureExtractor", "return_tensors": None,
        "data_format": "channels_first", "device": None, "input_data_format": None, "do_pad": False, "pad_size": None,
        "default_to_square": False, "_valid_processor_keys": ["images"], "disable_grouping": None,
    }  # fmt: skip
    Processor.from_folder(folder_of(tmp_path, CROP | harmless), config())


@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
def test_damaged_settings(name: str, tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        Processor.from_folder(tmp_path, config())


def test_modalities(tmp_path: Path) -> None:
    image = drawn("smooth", 20, 20)
    without_files = Processor.from_folder(tmp_path, config())
    assert without_files.modalities == ("image",)
    with pytest.raises(ModalityError, match=r"no tokenizer file.*takes image"):
        without_files.text(["a cat"])
    folder_of(tmp_path, CROP)
    assert Processor.from_folder(tmp_path, config()).modalities == ("text", "image")
    vision = Processor.from_folder(tmp_path, config(towers="image"))
    assert vision.modalities == ("image",)
    assert vision.images([image])["pixel_values"].shape == (1, 224, 224, 3)
    with pytest.raises(ModalityError, match="no text tower; it takes image"):
        vision.text(["a cat"])
    text = Processor.from_folder(tmp_path, config(towers="text"))
    assert text.modalities == ("text",)
    assert text.text(["a cat"])["input_ids"].tolist() == [[0, 4, 5, 2]]
    with pytest.raises(ModalityError, match="no vision tower; it takes text"):
        text.images([image])
    (tmp_path / "tokenizer.json").rename(tmp_path / "spiece.model")
    with pytest.raises(ConfigError, match=r"spiece\.model cannot be"):
        read(tmp_path, config())
    for name in ("sentencepiece.bpe.model", "vocab.json"):
        other = tmp_path / name[:5]
        other.mkdir()
        (other / name).touch()
        with pytest.raises(ConfigError, match=f"only {re.escape(name)}; expected tokenizer.json"):
            Processor.from_folder(other, config())


def test_pictures_need_no_tokenizer(tmp_path: Path) -> None:
    """A large vocabulary takes seconds to read."""
    folder_of(tmp_path, CROP)
    (tmp_path / "tokenizer.json").write_text("{")
    processor = Processor.from_folder(tmp_path, config())
    image = drawn("smooth", 20, 20)
    assert processor.collate([processor.images([image])] * 2)["pixel_values"].shape[0] == 2
    (tmp_path / "tokenizer_config.json").write_text("{")
    assert Processor.from_folder(tmp_path, config(towers="image")).modalities == ("image",)


@pytest.mark.parametrize("images", [[], None, 3, ["missing.png"], [b""], [None]])
def test_bad_images(crop: Processor, images: Any) -> None:
    with pytest.raises((InputError, MediaError), match="expected"):
        crop.images(images)


# --- text: XLM-R


def rows_of(batch: dict[str, np.ndarray]) -> list[list[int]]:
    """The ids that the mask shows; the mask is ones, then zeros."""
    assert list(batch) == ["input_ids", "attention_mask"]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == np.int32
    assert ids.shape == mask.shape
    lengths = mask.sum(1)
    np.testing.assert_array_equal(mask, np.arange(mask.shape[1]) < lengths[:, None])
    return [row[:length].tolist() for row, length in zip(ids, lengths, strict=True)]


@pytest.mark.parametrize("case", XLM["cases"], ids=lambda case: repr(case["text"][:20]))
def test_golden_texts(crop: Processor, case: dict[str, Any]) -> None:
    free = crop.text([case["text"]])
    assert free["input_ids"].tolist() == [case["ids_unpadded"]]
    assert rows_of(free) == [case["ids_unpadded"]]
    fixed = crop.text([case["text"]], max_length=12, padding="max_length")
    assert fixed["input_ids"].tolist() == [case["ids_len12_truncated"]]
    assert rows_of(fixed) == [
        [*case["ids_unpadded"][:11], 2] if len(case["ids_unpadded"]) > 12 else case["ids_unpadded"]
    ]


def test_padding_is_to_the_longest_of_the_call(crop: Processor) -> None:
    texts = [case["text"] for case in XLM["cases"]]
    batch = crop.text(texts)
    assert batch["input_ids"].shape == (8, 17)
    assert rows_of(batch) == [case["ids_unpadded"] for case in XLM["cases"]]
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()
    for padding in ("longest", True):
        np.testing.assert_array_equal(crop.text(texts, padding=padding)["input_ids"], batch["input_ids"])
    full = crop.text(texts, padding="max_length")
    assert full["input_ids"].shape == (8, 77)
    assert rows_of(full) == rows_of(batch)
    np.testing.assert_array_equal(crop(text=texts, padding="max_length")["input_ids"], full["input_ids"])
    # A maximum is no reason to pad.
    assert crop.text(["a cat"], max_length=12)["input_ids"].shape == (1, 4)
    for wrong in (False, "do_not_pad", "Longest", None, 12):
        with pytest.raises(InputError, match=r"padding is .*expected"):
            crop.text(texts, padding=wrong)


def test_long_texts_are_cut_before_the_end_token(crop: Processor, tmp_path: Path) -> None:
    for count in (74, 75, 76, 10_000):
        got = crop.text(["cat " * count])["input_ids"][0].tolist()
        assert got == [0] + [5] * min(count, 75) + [2]
    assert crop.text(["a cat"], max_length=3)["input_ids"].tolist() == [[0, 4, 2]]
    assert crop.text(["a cat"], max_length=2)["input_ids"].tolist() == [[0, 2]]
    short = Processor.from_folder(folder_of(tmp_path), config(length=5))
    assert short.text(["cat " * 9])["input_ids"].tolist() == [[0, 5, 5, 5, 2]]
    assert short.text(["a"], padding="max_length")["input_ids"].tolist() == [[0, 4, 2, 1, 1]]


def test_texts_that_may_not_be_cut(crop: Processor) -> None:
    fitting = ["cat " * 75, "a cat"]
    whole = crop.text(fitting, truncation=False)
    np.testing.assert_array_equal(whole["input_ids"], crop.text(fitting)["input_ids"])
    for texts, options in ((["a", "cat " * 76], {}), (["a cat"], {"max_length": 3})):
        length = options.get("max_length", 77)
        with pytest.raises(InputError, match=rf"{length + 1} tokens.*expected at most {length}"):
            crop.text(texts, truncation=False, **options)
    with pytest.raises(InputError, match="tokens"):
        crop(text="cat " * 76, truncation=False)


def test_texts_that_are_cut_are_reported(crop: Processor) -> None:
    """With their begin and end token."""
    cut: list[int] = []
    crop.text(["cat " * 75, "cat " * 76, "cat " * 900], on_cut=cut.append)
    assert cut == [78, 902]
    crop.text(["a cat", "a"], max_length=3, on_cut=cut.append)
    assert cut[2:] == [4]


@pytest.mark.parametrize("length", [0, -1, 78, 1000, 2.5, "12"])
def test_the_length_is_one_the_model_has(crop: Processor, length: int) -> None:
    with pytest.raises(InputError, match=f"{length!r}; expected .*77"):
        crop.text(["a cat"], max_length=length)


def test_the_case_is_kept_unless_the_call_says_otherwise(crop: Processor) -> None:
    upper, lower = (crop.text([text])["input_ids"].tolist() for text in ("CAT", "cat"))
    assert upper == [[0, 7, 21, 22, 23, 2]] != lower
    assert crop.text(["CAT"], do_lower_case=True)["input_ids"].tolist() == lower


def test_padding_and_cutting_of_the_file_are_dropped(tmp_path: Path) -> None:
    own = {
        "padding": {
            "strategy": {"Fixed": 30}, "direction": "Left", "pad_to_multiple_of": None, "pad_id": 3, "pad_type_id": 0,
            "pad_token": "<unk>",
        },
        "truncation": {"direction": "Left", "max_length": 3, "strategy": "LongestFirst", "stride": 0},
    }  # fmt: skip
    processor = Processor.from_folder(folder_of(tmp_path, tokenizer=XLM["tokenizer_json"] | own), config())
    assert rows_of(processor.text(["a photo of a cat", "a"])) == [[0, 4, 8, 9, 4, 5, 2], [0, 4, 2]]


def test_collate_equals_one_call(crop: Processor, mt5: Processor, clip: Processor) -> None:
    texts = ["a cat", "", "a photo of a cat a photo of a dog"]
    images = [drawn("smooth", *size) for size in ((24, 32), (10, 10), (30, 4))]
    for processor in (crop, mt5, clip):
        whole = processor(text=texts, images=images)
        assert list(whole) == ["input_ids", "attention_mask", "pixel_values"]
        parts = [processor(text=text, images=image) for text, image in zip(texts, images, strict=True)]
        assert len({part["input_ids"].shape for part in parts}) == 3
        for items in (
            parts,
            [processor(text=texts[:1], images=images[:1]), processor(text=texts[1:], images=images[1:])],
        ):
            joined = processor.collate(items)
            assert list(joined) == list(whole)
            for key, value in whole.items():
                np.testing.assert_array_equal(joined[key], value)
                assert joined[key].dtype == value.dtype
        # Zero is a word's or the start token's id, never the padding's.
        assert (whole["input_ids"][1, 2:] != 0).all()


def test_collate_refuses_what_does_not_fit(crop: Processor) -> None:
    image = drawn("smooth", 20, 20)
    for items in (
        [crop.images([image]), crop.images([image], crop_size=64)],
        [crop.text(["a"]), crop.images([image])],
        [],
    ):
        with pytest.raises(InputError, match="expected"):
            crop.collate(items)


def test_a_single_item_is_a_batch_of_one(crop: Processor) -> None:
    image = drawn("smooth", 20, 20)
    assert crop.text("a cat")["input_ids"].tolist() == [[0, 4, 5, 2]]
    np.testing.assert_array_equal(crop.images(image)["pixel_values"], crop.images([image])["pixel_values"])
    with pytest.raises(InputError, match="Neither"):
        crop()


@pytest.mark.parametrize("texts", [[], ["a", None], ["a", 3], None, 3, [b"a"], ["a \ud83d"]])
def test_bad_texts(crop: Processor, mt5: Processor, texts: Any) -> None:
    for processor in (crop, mt5):
        with pytest.raises(InputError, match="expected"):
            processor.text(texts)
        with pytest.raises(InputError, match="no tasks"):
            processor.text(["a cat"], task="retrieval.query")


# --- text: SigLIP's tokenizer class (mT5)


def test_mt5_text_is_canonicalised(mt5: Processor) -> None:
    batch = mt5.text([" A  Cat,\n", "a\ncat", "(hello) dog!", ""])
    rows = rows_of(batch)
    assert rows[:2] == [[261, 320, 1]] * 2
    assert rows[3] == [1]
    assert rows[2] == rows_of(mt5.text(["hello dog"]))[0]
    # The padding is the end token: only the lengths tell them apart.
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 1).all()
    assert batch["attention_mask"].tolist() != (batch["input_ids"] != 1).astype(int).tolist()
    kept = mt5.text(["A cat."], do_lower_case=False)["input_ids"].tolist()
    assert kept == mt5.text(["A cat"], do_lower_case=False)["input_ids"].tolist() != [[261, 320, 1]]


def test_mt5_cases_are_the_golden_ones(mt5: Processor) -> None:
    """Of texts without punctuation and stray blanks SigLIP 2's ids are SigLIP 1's."""
    plain = [case for case in SIGLIP["cases"] if case["text"].replace(" ", "").isalpha()]
    plain = [case for case in plain if " ".join(case["text"].split()) == case["text"]]
    assert len(plain) > 2
    for case in plain:
        batch = mt5.text([case["text"]], max_length=12, padding="max_length")
        expected = case["siglip2_lowercasing_len12"]
        used = expected.index(1) + 1
        assert batch["input_ids"].tolist() == [expected[:used] + [1] * (12 - used)]
        assert batch["attention_mask"].sum() == used


def test_mt5_length_is_the_models_not_the_files(mt5: Processor) -> None:
    """The file says 64, but the position table has 77 rows and the authors trained on them."""
    long = mt5.text(["hello " * 200])
    assert long["input_ids"].shape == (1, 77)
    assert long["input_ids"][0, -1] == 1
    assert (long["input_ids"][0, :-1] != 1).all()
    assert long["attention_mask"].all()


def test_a_checkpoint_can_switch_lower_casing_off(tmp_path: Path) -> None:
    names = MT5_NAMES | {"do_lower_case": False}
    folder_of(tmp_path, None, SIGLIP["tokenizer_json"], names)
    processor = Processor.from_folder(tmp_path, config(vocabulary=400, eos=1))
    upper = processor.text(["A CAT"])["input_ids"].tolist()
    assert upper != processor.text(["A CAT"], do_lower_case=True)["input_ids"].tolist() == [[261, 320, 1]]


# --- text: OpenAI CLIP


def test_clip_text(clip: Processor) -> None:
    start, letter, cat = (CLIP_VOCAB[name] for name in ("<|startoftext|>", "a</w>", "cat</w>"))
    dog = [CLIP_VOCAB[name] for name in ("do", "g</w>")]
    batch = clip.text(["A  CAT", "", "a cat dog"])
    rows = [[start, letter, cat, CLIP_END], [start, CLIP_END], [start, letter, cat, *dog, CLIP_END]]
    assert rows_of(batch) == rows
    # The end token pads, and the mask hides it.
    assert (batch["input_ids"][batch["attention_mask"] == 0] == CLIP_END).all()
    assert clip.text(["cat " * 100])["input_ids"].tolist() == [[start] + [cat] * 75 + [CLIP_END]]
    assert clip.text(["a cat"], max_length=3)["input_ids"].tolist() == [[start, letter, CLIP_END]]
    assert rows_of(clip.text(["A CAT"], do_lower_case=False)) != rows[:1]
    inside = clip.text(["a <|endoftext|> cat"])
    assert rows_of(inside) == [[start, letter, CLIP_END, cat, CLIP_END]]


def test_clips_legacy_end_token_is_not_compared(tmp_path: Path) -> None:
    folder_of(tmp_path, CROP, CLIP_TOKENIZER, CLIP_NAMES)
    processor = Processor.from_folder(tmp_path, config("clip", vocabulary=len(CLIP_VOCAB), eos=None))
    assert processor.text(["a"])["input_ids"][0, -1] == CLIP_END


# --- tokenizers that are not the model's


def read(folder: Path, settings: Any) -> None:
    """Files of a large vocabulary may be looked at only when the first text comes."""
    Processor.from_folder(folder, settings).text(["a cat"])


@pytest.mark.parametrize("eos", [0, 1, 3, CLIP_END])
def test_the_end_token_is_the_models(eos: int, tmp_path: Path) -> None:
    """The model pools at the end token, so another id would be silently wrong."""
    size = len(CLIP_VOCAB)
    folder_of(tmp_path)
    with pytest.raises(ConfigError, match=rf"the id 2\b.*eos_token_id {eos}\b.*expected"):
        read(tmp_path, config(vocabulary=size, eos=eos))
    read(tmp_path, config(vocabulary=size))
    folder_of(tmp_path, None, CLIP_TOKENIZER, CLIP_NAMES)
    for family in ("metaclip_2", "clip"):
        with pytest.raises(ConfigError, match=rf"the id {CLIP_END}\b.*eos_token_id 2\b.*expected"):
            read(tmp_path, config(family, vocabulary=size))


def test_the_vocabulary_fits_the_models(tmp_path: Path) -> None:
    folder_of(tmp_path)
    with pytest.raises(ConfigError, match=r"25 entries.*24 rows.*Use"):
        read(tmp_path, config(vocabulary=24))
    # Rows beyond the vocabulary are common: tables are filled up to a round number.
    read(tmp_path, config(vocabulary=32))
    # A token that a file adds is harmless until a text uses it.
    added = XLM["tokenizer_json"]["added_tokens"]
    extra = {"added_tokens": [*added, added[0] | {"id": 25, "content": "<extra>"}]}
    processor = Processor.from_folder(folder_of(tmp_path, tokenizer=XLM["tokenizer_json"] | extra), config())
    assert processor.text(["a cat"])["input_ids"].tolist() == [[0, 4, 5, 2]]
    with pytest.raises(ConfigError, match=r"the id 25.*25 rows"):
        processor.text(["a <extra>"])


@pytest.mark.parametrize("family", ["metaclip_2", "clip"])
def test_start_and_end_are_around_the_text(family: str, tmp_path: Path) -> None:
    source, names, eos = (
        (XLM["tokenizer_json"], XLM_NAMES, 2) if family == "metaclip_2" else (CLIP_TOKENIZER, CLIP_NAMES, CLIP_END)
    )
    settings = config(family, vocabulary=len(CLIP_VOCAB), eos=eos)
    folder_of(tmp_path, None, source, names)
    read(tmp_path, settings)
    template = processors.TemplateProcessing(
        single=["$A", names["eos_token"]], special_tokens=[(names["eos_token"], eos)]
    )
    made = tokenizers.Tokenizer.from_str(json.dumps(source))
    made.post_processor = template
    for changed in (source | {"post_processor": None}, json.loads(made.to_str())):
        folder_of(tmp_path, None, changed, names)
        with pytest.raises(ConfigError, match=r"empty text.*expected"):
            read(tmp_path, settings)


def test_missing_or_damaged_tokenizer_files(tmp_path: Path) -> None:
    folder_of(tmp_path, None, None, {key: value for key, value in XLM_NAMES.items() if key != "pad_token"})
    with pytest.raises(ConfigError, match="pad_token"):
        read(tmp_path, config())
    # transformers 4.x writes the names there too.
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"pad_token": {"content": "<pad>"}}))
    read(tmp_path, config())
    folder_of(tmp_path, None, None, XLM_NAMES | {"eos_token": "<end>"})
    (tmp_path / "special_tokens_map.json").unlink()
    with pytest.raises(ConfigError, match="<end>"):
        read(tmp_path, config())
    folder_of(tmp_path, None, None, {key: value for key, value in XLM_NAMES.items() if key != "bos_token"})
    with pytest.raises(ConfigError, match="bos_token"):
        read(tmp_path, config())
    folder_of(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ConfigError, match=r"tokenizer\.json"):
        read(tmp_path, config())
