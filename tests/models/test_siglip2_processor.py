"""SigLIP's processor against numbers made by transformers' Pillow backend."""

import hashlib
import inspect
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import golden, hashed

from mlx_mm.errors import ConfigError, InputError, MediaError, ModalityError
from mlx_mm.models.siglip2.config import ModelConfig, NaflexVisionConfig, TextConfig, VisionConfig
from mlx_mm.models.siglip2.processor import Processor, target_size

SIZES = golden("siglip2_naflex_target_sizes")
IMAGES = golden("image_processing")
TOKENS = golden("siglip2_tokenizer_cases")
FIXRES_ROWS = [row for row in IMAGES["fixed_size"] if row["processor"].startswith("siglip2-")]

SETTINGS: dict[str, Any] = {
    "do_convert_rgb": None,
    "do_normalize": True,
    "do_rescale": True,
    "do_resize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
    "resample": 2,
    "rescale_factor": 1 / 255,
}
FIXRES = SETTINGS | {"image_processor_type": "SiglipImageProcessor", "size": {"height": 224, "width": 224}}
NAFLEX = SETTINGS | {"image_processor_type": "Siglip2ImageProcessorFast", "patch_size": 16, "max_num_patches": 256}


def config(family: str, towers: str = "text image", length: int = 64) -> Any:
    text = TextConfig(max_position_embeddings=length) if "text" in towers else None
    vision = NaflexVisionConfig() if family == "siglip2" else VisionConfig()
    return ModelConfig(text, vision if "image" in towers else None, labels=(), problem_type=None)


def folder_of(path: Path, image: dict[str, Any] | None = None, tokenizer: dict[str, Any] | None = None) -> Path:
    if image is not None:
        (path / "preprocessor_config.json").write_text(json.dumps(image))
    names = {"pad_token": "<pad>", "eos_token": "<eos>", "tokenizer_class": "GemmaTokenizer", "do_lower_case": True}
    (path / "tokenizer.json").write_text(json.dumps(TOKENS["tokenizer_json"]))
    (path / "tokenizer_config.json").write_text(json.dumps(names | (tokenizer or {})))
    return path


@pytest.fixture
def naflex(tmp_path: Path) -> Processor:
    return Processor.from_folder(folder_of(tmp_path, NAFLEX), config("siglip2"))


@pytest.fixture
def fixres(tmp_path: Path) -> Processor:
    return Processor.from_folder(folder_of(tmp_path, FIXRES), config("siglip"))


def drawn(name: str, height: int, width: int) -> np.ndarray:
    """The pictures of the golden file, by the formulas written in it."""
    if name == "noise":
        return np.floor((hashed((height, width, 3), 5000) + 1) * 128).astype(np.uint8)
    y, x, c = np.ogrid[:height, :width, :3]
    return np.floor(127.5 + 127.4 * np.sin(0.05 * x + 0.9 * c) * np.cos(0.04 * y + 0.3 * c)).astype(np.uint8)


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint((values.astype(np.float64) * 0.5 + 0.5) * 255).astype(np.uint8)


def digest(values: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()[:16]


# --- NaFlex sizes


def test_all_golden_sizes() -> None:
    assert len(SIZES["rows"]) == 240
    for patch, budget, height, width, *expected in SIZES["rows"]:
        rows, cols = target_size(height, width, patch, budget)
        assert [rows, cols, rows * cols // patch**2] == expected


@pytest.mark.parametrize("wrong", ["floor", "no enlarging", "below budget"])
def test_wrong_size_searches_miss_the_golden_sizes(wrong: str) -> None:
    def search(height: int, width: int, patch: int, budget: int) -> tuple[int, int]:
        low, high = 1e-6, 1.0 if wrong == "no enlarging" else 100.0
        rounded = math.floor if wrong == "floor" else math.ceil

        def tiles(side: int, scale: float) -> int:
            return max(1, rounded(side * scale / patch))

        while high - low >= 1e-5:
            scale = (low + high) / 2
            if tiles(height, scale) * tiles(width, scale) <= budget - (wrong == "below budget"):
                low = scale
            else:
                high = scale
        return tiles(height, low) * patch, tiles(width, low) * patch

    misses = sum(
        search(height, width, patch, budget) != (rows, cols)
        for patch, budget, height, width, rows, cols, _ in SIZES["rows"]
    )
    assert misses > 0


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20000, 2), (2, 20000), (999, 1000)])
@pytest.mark.parametrize("budget", [1, 7, 36, 256, 1024])
def test_the_budget_is_kept(height: int, width: int, budget: int) -> None:
    rows, cols = target_size(height, width, 16, budget)
    assert rows % 16 == cols % 16 == 0
    assert 16 * 16 <= rows * cols <= budget * 16 * 16


# --- pixels


@pytest.mark.parametrize("row", FIXRES_ROWS, ids=lambda row: f"{row['processor']}-{row['image']}-{row['hw']}")
def test_fixres_golden_pixels(row: dict[str, Any], fixres: Processor) -> None:
    side = row["pil_float"]["shape"][-1]
    image = drawn(row["image"], *row["hw"])
    got = fixres.images([image], size={"height": side, "width": side})["pixel_values"]
    assert got.shape == (1, side, side, 3)
    assert got.dtype == np.float32
    values = as_bytes(got[0])
    assert digest(values) == row["pil_uint8_sha256_16"]
    assert values.sum((0, 1)).tolist() == row["pil_uint8_sum_per_channel"]
    assert values[0, 0].tolist() == row["pil_uint8_pixels"]["0,0"]
    assert values[-1, -1].tolist() == row["pil_uint8_pixels"]["-1,-1"]
    # The golden floats are channels first.
    np.testing.assert_array_equal(got[0, 0, :3, 0], np.float32(row["pil_float"]["first3"]))
    assert got.sum(dtype=np.float64) == pytest.approx(row["pil_float"]["sum"], rel=1e-6, abs=1e-2)
    assert np.abs(got).sum(dtype=np.float64) == pytest.approx(row["pil_float"]["abs_sum"], rel=1e-6)
    if row["hw"] != [side, side]:
        wrong = fixres.images([image], size={"height": side, "width": side}, resample=3)["pixel_values"]
        assert digest(as_bytes(wrong[0])) != row["pil_uint8_sha256_16"]


@pytest.mark.parametrize(
    "row", IMAGES["naflex"], ids=lambda row: f"{row['image']}-{row['hw']}-{row['max_num_patches']}"
)
def test_naflex_golden_pixels(row: dict[str, Any], naflex: Processor) -> None:
    image = drawn(row["image"], *row["hw"])
    got = naflex.images([image], max_num_patches=row["max_num_patches"])
    assert got["spatial_shapes"].tolist() == [row["spatial_shape"]]
    assert got["pixel_values"].shape == (1, row["n_patches"], 768)
    values = as_bytes(got["pixel_values"][0])
    assert digest(values) == row["pil_uint8_sha256_16"]
    assert values.sum() == row["pil_uint8_sum"]
    assert values[0, :6].tolist() == row["pil_patch0_first6"]
    assert values[-1, :6].tolist() == row["pil_patch_last_first6"]
    assert got["pixel_values"].sum(dtype=np.float64) == pytest.approx(row["pil_float_sum"], rel=1e-6, abs=1e-2)
    by_channel = values.reshape(-1, 16, 16, 3).transpose(0, 3, 1, 2)
    assert digest(by_channel) != row["pil_uint8_sha256_16"]


# --- batches


def test_naflex_pads_to_the_largest_item(naflex: Processor) -> None:
    images = [drawn("smooth", *size) for size in ((240, 320), (100, 100), (300, 40), (1, 1))]
    batch = naflex.images(images)
    assert {key: value.dtype for key, value in batch.items()} == {
        "pixel_values": np.float32,
        "pixel_attention_mask": np.int32,
        "spatial_shapes": np.int32,
    }
    counts = batch["spatial_shapes"].prod(1)
    assert batch["pixel_values"].shape == (4, counts.max(), 768)
    assert batch["pixel_attention_mask"].shape == (4, counts.max())
    for index, (image, count) in enumerate(zip(images, counts, strict=True)):
        single = naflex.images([image])
        assert single["pixel_values"].shape[1] == single["pixel_attention_mask"].sum() == count
        np.testing.assert_array_equal(batch["pixel_values"][index, :count], single["pixel_values"][0])
        assert (batch["pixel_values"][index, count:] == 0).all()
        assert batch["pixel_attention_mask"][index].tolist() == [1] * count + [0] * (counts.max() - count)
    small = naflex.images(images, max_num_patches=36)
    assert small["pixel_values"].shape[1] <= 36


def test_collate_equals_one_call(naflex: Processor, fixres: Processor) -> None:
    images = [drawn("smooth", *size) for size in ((240, 320), (100, 100), (300, 40))]
    texts = ["a cat", "hello dog", ""]
    for processor in (naflex, fixres):
        whole = processor(text=texts, images=images)
        parts = processor.collate(
            [processor(text=texts[:1], images=images[:1]), processor(text=texts[1:], images=images[1:])]
        )
        assert list(whole) == list(parts)
        for key, value in whole.items():
            np.testing.assert_array_equal(parts[key], value)
            assert parts[key].dtype == value.dtype


def test_collate_refuses_what_does_not_fit(naflex: Processor, fixres: Processor) -> None:
    image = drawn("smooth", 32, 32)
    for processor, items in (
        (naflex, [naflex.images([image]), naflex.images([image], patch_size=8)]),
        (fixres, [fixres.images([image]), fixres.images([image], size=32)]),
        (naflex, [naflex.text(["a"]), naflex.text(["a"], max_length=5)]),
        (naflex, [naflex.text(["a"]), naflex.images([image])]),
        (naflex, []),
    ):
        with pytest.raises(InputError, match="expected"):
            processor.collate(items)


def test_text_comes_first_and_keys_are_the_models_arguments(naflex: Processor) -> None:
    batch = naflex(text=["a cat"], images=[drawn("smooth", 20, 20)])
    assert list(batch) == ["input_ids", "pixel_values", "pixel_attention_mask", "spatial_shapes"]
    with pytest.raises(InputError, match="Neither"):
        naflex()


def test_a_single_item_is_a_batch_of_one(naflex: Processor, tmp_path: Path) -> None:
    image = Image.fromarray(drawn("smooth", 20, 20))
    image.save(tmp_path / "a.png")
    expected = naflex.images([image])["pixel_values"]
    sources = (image, np.asarray(image), tmp_path / "a.png", str(tmp_path / "a.png"), (tmp_path / "a.png").read_bytes())
    for source in sources:
        np.testing.assert_array_equal(naflex.images(source)["pixel_values"], expected)
    assert naflex.text("a cat")["input_ids"].shape == (1, 64)


# --- text


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_text_is_lower_cased_and_padded_to_64_in_both_variants(family: str, tmp_path: Path) -> None:
    processor = Processor.from_folder(folder_of(tmp_path), config(family))
    got = processor.text(["A CAT", ""])["input_ids"]
    assert got.dtype == np.int32
    assert got.tolist() == [[261, 320, 1] + [0] * 61, [1] + [0] * 63]
    for case in TOKENS["cases"]:
        for lower, key in ((True, "siglip2_lowercasing_len12"), (False, "gemma_no_lowercase_len12")):
            got = processor.text([case["text"]], max_length=12, do_lower_case=lower)["input_ids"]
            assert got.tolist() == [case[key]]


def test_length_is_the_models(tmp_path: Path) -> None:
    processor = Processor.from_folder(folder_of(tmp_path), config("siglip2", length=16))
    assert processor.text(["hello " * 100_000])["input_ids"].shape == (1, 16)
    for length in (0, -1, 17):
        with pytest.raises(InputError, match=f"{length}; expected a whole number from 1 to 16"):
            processor.text(["a cat"], max_length=length)


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_texts_that_are_too_long_are_reported_or_refused(family: str, tmp_path: Path) -> None:
    """Their own tokens, here two for each word and its space, and the end token count; the padding does not."""
    processor = Processor.from_folder(folder_of(tmp_path), config(family))
    cut: list[int] = []
    processor.text(["hello " * 31, "hello " * 32, "hello " * 900], on_cut=cut.append)
    assert cut == [65, 1801]
    fits = processor.text("hello " * 31, truncation=False)["input_ids"]
    assert fits.tolist() == processor.text("hello " * 31)["input_ids"].tolist()
    for call in (processor.text, lambda text, **options: processor(text=text, **options)):
        with pytest.raises(InputError, match="65 tokens and truncation is False; expected at most 64"):
            call("hello " * 32, truncation=False)
        assert call("hello " * 32, truncation=True)["input_ids"].shape == (1, 64)


def test_a_checkpoint_can_switch_lower_casing_off(tmp_path: Path) -> None:
    processor = Processor.from_folder(folder_of(tmp_path, tokenizer={"do_lower_case": False}), config("siglip2"))
    upper = processor.text(["A CAT"])["input_ids"]
    assert (upper != processor.text(["A CAT"], do_lower_case=True)["input_ids"]).any()


def test_siglip_1_text_is_canonicalised(tmp_path: Path) -> None:
    """Its own end token pads too, and punctuation and extra spaces go (transformers' SiglipTokenizer)."""
    names = {"tokenizer_class": "SiglipTokenizer", "pad_token": "<eos>"}
    first = Processor.from_folder(folder_of(tmp_path, tokenizer=names), config("siglip"))
    got = first.text([" A  Cat,\n (dog)! ", "a cat dog"], max_length=12)["input_ids"]
    assert got[0].tolist() == got[1].tolist()
    assert got[0, -8:].tolist() == [1] * 8
    assert (
        first.text(["A cat."], do_lower_case=False)["input_ids"].tolist()
        == first.text(["A cat"], do_lower_case=False)["input_ids"].tolist()
    )
    second = Processor.from_folder(folder_of(tmp_path), config("siglip"))
    assert second.text(["cat."])["input_ids"].tolist() != second.text(["cat"])["input_ids"].tolist()


@pytest.mark.parametrize("texts", [[], ["a", None], ["a", 3], None, 3])
def test_bad_texts(naflex: Processor, texts: Any) -> None:
    with pytest.raises(InputError, match="expected"):
        naflex.text(texts)
    with pytest.raises(InputError, match="no tasks"):
        naflex.text(["a cat"], task="retrieval.query")


# --- settings


def test_overrides_act(naflex: Processor, fixres: Processor) -> None:
    image = drawn("smooth", 40, 60)
    for processor in (naflex, fixres):
        base = processor.images([image])["pixel_values"]
        overrides: list[dict[str, Any]] = [
            {"resample": 0}, {"do_rescale": False}, {"rescale_factor": 1 / 127}, {"do_normalize": False},
            {"image_mean": [0.1, 0.5, 0.5]}, {"image_std": 0.25},
        ]  # fmt: skip
        for override in overrides:
            assert not np.array_equal(processor.images([image], **override)["pixel_values"], base), override
            via_call = processor(images=[image], **override)["pixel_values"]
            np.testing.assert_array_equal(via_call, processor.images([image], **override)["pixel_values"])
        np.testing.assert_array_equal(processor.images([image])["pixel_values"], base)
    assert naflex.images([image], patch_size=8)["pixel_values"].shape[-1] == 192
    assert naflex.images([image], max_num_patches=36)["pixel_values"].shape[1] <= 36
    assert fixres.images([image], size={"height": 32, "width": 48})["pixel_values"].shape == (1, 32, 48, 3)
    assert fixres.images([image], size=32)["pixel_values"].shape == (1, 32, 32, 3)
    plain = fixres.images([image], size={"height": 40, "width": 60}, do_rescale=False, do_normalize=False)
    np.testing.assert_array_equal(plain["pixel_values"][0], image)
    with pytest.raises(MediaError, match="do_convert_rgb"):
        naflex.images([Image.new("L", (9, 9))], do_convert_rgb=False)


def test_every_override_of_images_is_one_of_call() -> None:
    images = inspect.signature(Processor.images).parameters
    text = inspect.signature(Processor.text).parameters
    call = inspect.signature(Processor.__call__).parameters
    wanted = [name for name, p in [*text.items(), *images.items()] if p.kind is inspect.Parameter.KEYWORD_ONLY]
    wanted = [name for name in wanted if name not in ("task", "on_cut")]  # of `encode_text` alone
    assert sorted(wanted) == sorted(set(call) - {"self", "text", "images", "options"})
    assert call["options"].annotation == images["options"].annotation


def test_options_of_images_without_images(naflex: Processor) -> None:
    with pytest.raises(InputError, match="max_num_patches was given without images"):
        naflex(text=["a cat"], max_num_patches=4)
    assert list(naflex(text=["a cat"], max_num_patches=None)) == ["input_ids"]
    with pytest.raises(InputError, match=r"do_rezise is .*this model has no do_rezise"):
        naflex(images=[drawn("smooth", 20, 20)], do_rezise=True)


def test_without_resizing_the_picture_must_fit(naflex: Processor, fixres: Processor) -> None:
    image = drawn("smooth", 32, 48)
    got = naflex.images([image], do_resize=False)
    assert got["spatial_shapes"].tolist() == [[2, 3]]
    np.testing.assert_array_equal(as_bytes(got["pixel_values"][0, 1]).reshape(16, 16, 3), image[:16, 16:32])
    fitting = fixres.images([image], do_resize=False, size={"height": 32, "width": 48})
    np.testing.assert_array_equal(as_bytes(fitting["pixel_values"][0]), image)
    with pytest.raises(InputError, match="33x48 pixels; expected multiples of 16 and at most 256"):
        naflex.images([drawn("smooth", 33, 48)], do_resize=False)
    with pytest.raises(InputError, match="at most 5 patches"):
        naflex.images([image], do_resize=False, max_num_patches=5)
    with pytest.raises(InputError, match="8x8 pixels"):
        naflex.images([drawn("smooth", 8, 8)], do_resize=False)
    with pytest.raises(InputError, match="32x48 pixels; expected 224x224"):
        fixres.images([image], do_resize=False)


@pytest.mark.parametrize(
    ("family", "override"),
    [
        ("siglip", {"patch_size": 16}),
        ("siglip", {"max_num_patches": 256}),
        ("siglip2", {"size": 224}),
        ("siglip", {"size": 0}),
        ("siglip", {"size": {"shortest_edge": 224}}),
        ("siglip", {"size": {"height": 224, "width": 2.5}}),
        ("siglip", {"size": True}),
        ("siglip2", {"patch_size": 0}),
        ("siglip2", {"max_num_patches": -1}),
        ("siglip2", {"max_num_patches": 2.5}),
        ("siglip2", {"max_num_patches": "256"}),
        ("siglip2", {"resample": 6}),
        ("siglip2", {"resample": "bilinear"}),
        ("siglip2", {"rescale_factor": float("nan")}),
        ("siglip2", {"image_mean": [0.5, 0.5]}),
        ("siglip2", {"image_std": [0.5, 0, 0.5]}),
        ("siglip2", {"do_resize": 1}),
    ],
)
def test_settings_that_cannot_act(
    family: str, override: dict[str, Any], naflex: Processor, fixres: Processor, tmp_path: Path
) -> None:
    processor = naflex if family == "siglip2" else fixres
    with pytest.raises(InputError, match=f"{next(iter(override))} is .*[.] "):
        processor.images([drawn("smooth", 20, 20)], **override)
    if isinstance(next(iter(override.values())), float):
        return
    folder_of(tmp_path, SETTINGS | override)
    with pytest.raises(ConfigError, match=f"{next(iter(override))}(:| is) "):
        Processor.from_folder(tmp_path, config(family))


# --- files


@pytest.mark.parametrize("family", ["siglip", "siglip2"])
def test_both_generations_of_files(family: str, tmp_path: Path) -> None:
    image = drawn("smooth", 40, 60)
    settings = (FIXRES if family == "siglip" else NAFLEX) | {"resample": 0}
    four = Processor.from_folder(folder_of(tmp_path, settings), config(family)).images([image])
    assert settings["resample"] == 0
    # 5.x: nested, and the older file beside it is not read at all.
    nested = {"processor_class": "SiglipProcessor", "image_processor": settings}
    (tmp_path / "processor_config.json").write_text(json.dumps(nested))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    five = Processor.from_folder(tmp_path, config(family)).images([image])
    np.testing.assert_array_equal(five["pixel_values"], four["pixel_values"])
    # A 4.x processor_config.json says nothing about pictures.
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "SiglipProcessor"}))
    other = Processor.from_folder(tmp_path, config(family)).images([image])
    assert not np.array_equal(other["pixel_values"], four["pixel_values"])


def test_missing_settings_are_the_class_defaults(tmp_path: Path) -> None:
    image = drawn("smooth", 40, 60)
    naflex = Processor.from_folder(folder_of(tmp_path), config("siglip2"))
    fixres = Processor.from_folder(tmp_path, config("siglip"))
    got = [naflex.images([image])["pixel_values"], fixres.images([image])["pixel_values"]]
    folder_of(tmp_path, NAFLEX)
    expected = Processor.from_folder(tmp_path, config("siglip2"))
    np.testing.assert_array_equal(got[0], expected.images([image])["pixel_values"])
    folder_of(tmp_path, FIXRES | {"resample": 3})
    expected = Processor.from_folder(tmp_path, config("siglip"))
    np.testing.assert_array_equal(got[1], expected.images([image])["pixel_values"])


@pytest.mark.parametrize(
    "extra",
    [
        {"do_center_crop": True}, {"do_center_crop": True, "crop_size": {"height": 9, "width": 9}},
        {"crop_size": 9, "do_center_crop": True}, {"do_pad": True}, {"do_reduce_labels": True}, {"anything": 1},
    ],
)  # fmt: skip
def test_unknown_settings_are_refused(extra: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected only settings"):
        Processor.from_folder(folder_of(tmp_path, NAFLEX | extra), config("siglip2"))


def test_harmless_settings_are_ignored(tmp_path: Path) -> None:
    harmless = {
        "processor_class": "SiglipProcessor", "return_tensors": None, "data_format": "channels_first", "device": None,
        "input_data_format": None, "_valid_processor_keys": ["images"], "do_center_crop": None, "do_pad": False,
        "crop_size": {"height": 9, "width": 9}, "disable_grouping": None, "default_to_square": True, "pad_size": None,
    }  # fmt: skip
    Processor.from_folder(folder_of(tmp_path, FIXRES | harmless), config("siglip"))


@pytest.mark.parametrize("name", ["processor_config.json", "preprocessor_config.json"])
def test_damaged_settings(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        Processor.from_folder(tmp_path, config("siglip2"))


def test_modalities(tmp_path: Path) -> None:
    image = drawn("smooth", 20, 20)
    without_files = Processor.from_folder(tmp_path, config("siglip2"))
    assert without_files.modalities == ("image",)
    with pytest.raises(ModalityError, match=r"no tokenizer file.*takes image"):
        without_files.text(["a cat"])
    folder_of(tmp_path, NAFLEX)
    assert Processor.from_folder(tmp_path, config("siglip2")).modalities == ("text", "image")
    vision = Processor.from_folder(tmp_path, config("siglip2", "image"))
    assert vision.modalities == ("image",)
    with pytest.raises(ModalityError, match="no text tower; it takes image"):
        vision.text(["a cat"])
    text = Processor.from_folder(tmp_path, config("siglip2", "text"))
    assert text.modalities == ("text",)
    with pytest.raises(ModalityError, match="no vision tower; it takes text"):
        text.images([image])
    (tmp_path / "tokenizer.json").rename(tmp_path / "vocab.json")
    with pytest.raises(ConfigError, match=r"only vocab\.json"):
        Processor.from_folder(tmp_path, config("siglip2"))


@pytest.mark.parametrize("images", [[], None, 3, ["missing.png"], [b""], [None]])
def test_bad_images(naflex: Processor, images: Any) -> None:
    with pytest.raises((InputError, MediaError), match="expected"):
        naflex.images(images)


@pytest.mark.parametrize(("height", "width"), [(1, 1), (20000, 2), (2, 20000)])
def test_extreme_shapes(height: int, width: int, naflex: Processor, fixres: Processor) -> None:
    image = np.zeros((height, width, 3), np.uint8)
    got = naflex.images([image])
    assert tuple(got["spatial_shapes"][0] * 16) == target_size(height, width, 16, 256)
    assert (got["pixel_values"] == -1).all()
    assert fixres.images([image])["pixel_values"].shape == (1, 224, 224, 3)


def test_a_monstrous_budget_is_refused(naflex: Processor) -> None:
    with pytest.raises(InputError, match="fewer patches"):
        naflex.images([drawn("smooth", 400, 400)], max_num_patches=10**9)
