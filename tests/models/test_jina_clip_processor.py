"""The processor of Jina CLIP v2 against golden numbers and against its recipe, written again in plain Pillow."""

from __future__ import annotations

import base64
import io
import json
import socket
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from comparing import LONG
from jina_tiny import JINA_TOKENIZER_CONFIG, QUERY, jina_config, jina_preprocessor_config, write_jina_side_files
from PIL import Image
from tiny import golden, hashed

from mlx_mm.errors import ConfigError, InputError, MediaError, ModalityError
from mlx_mm.models.jina_clip.config import ModelConfig
from mlx_mm.models.jina_clip.processor import Processor

CASES = golden("jina_clip_v2_preprocess")["cases"]
XLM = golden("metaclip2_tokenizer_cases")

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


def config_dict(size: int = 512, length: int = 8194, **text: Any) -> dict[str, Any]:
    """config.json with the published limits; `text` are further keys of its text section."""
    sizes = {
        "vocab_size": 60, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
        "num_attention_heads": 4, "max_position_embeddings": length,
    }  # fmt: skip
    values = jina_config(sizes, {"image_size": size, "width": 64, "layers": 2, "head_width": 16})
    section = values["text_config"]
    section["default_instruction_task"] = text.pop("default_instruction_task", None)
    section["hf_model_config_kwargs"] |= text
    return values


def processor_of(folder: Path, size: int = 512, length: int = 8194, **text: Any) -> Processor:
    """From files like the published ones."""
    values = config_dict(size, length, **text)
    write_jina_side_files(folder, values)
    return Processor.from_folder(folder, ModelConfig.from_dict(values))


def image_file(folder: Path, published_size: int = 512, **changes: Any) -> None:
    """The published preprocessor_config.json with changes."""
    (folder / "preprocessor_config.json").write_text(json.dumps(jina_preprocessor_config(published_size) | changes))


@pytest.fixture
def processor(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    return processor_of(tmp_path_factory.mktemp("jina"))


@pytest.fixture
def small(tmp_path_factory: pytest.TempPathFactory) -> Processor:
    return processor_of(tmp_path_factory.mktemp("small"), 30)


def ramp(width: int, height: int) -> np.ndarray:
    """The picture of the golden file."""
    y, x = np.mgrid[:height, :width]
    return np.stack([x * 255 // (width - 1), y * 255 // (height - 1), (7 * x + 13 * y) % 256], -1).astype(np.uint8)


def noise(height: int, width: int, k: int = 0) -> np.ndarray:
    return np.floor((hashed((height, width, 3), k) + 1) * 128).astype(np.uint8)


def as_bytes(values: np.ndarray) -> np.ndarray:
    return np.rint((values.astype(np.float64) * STD + MEAN) * 255).astype(np.uint8)


# --- pixels


def by_hand(
    image: Image.Image, size: int, wrong: str = "", interpolation: str = "bicubic"
) -> tuple[np.ndarray, tuple[int, int], tuple[int, int]]:
    """The values of the published recipe or of a `wrong` one, the (width, height) resized to, the (left, top) cut."""
    short = min(image.size)
    whole = round if wrong == "rounded side" else int
    width, height = (size if edge == short else whole(size * edge / short) for edge in image.size)
    if wrong == "squash":
        width = height = size
    kernel = Image.Resampling[(wrong if wrong in ("bilinear", "nearest") else interpolation).upper()]
    resized = image if image.size == (width, height) else image.resize((width, height), kernel)
    corner = {"floored": lambda d: d // 2, "half up": lambda d: (d + 1) // 2, "corner": lambda d: 0}
    left, top = (corner.get(wrong, lambda d: round(d / 2))(edge - size) for edge in (width, height))
    pixels = np.asarray(resized.convert("RGB"))[top : top + size, left : left + size]
    mean, std = ((0.5,) * 3, (0.5,) * 3) if wrong == "SigLIP" else (STD, MEAN) if wrong == "swapped" else (MEAN, STD)
    values = (pixels.astype(np.float32) / np.float32(255) - np.float32(mean)) / np.float32(std)
    return values, (width, height), (left, top)


def agrees(values: np.ndarray, case: dict[str, Any]) -> bool:
    """All the numbers of a golden case, to the last digit that it has."""
    places = {"px_0_0": (0, 0), "px_511_511": (511, 511), "px_y100_x300": (100, 300)}
    near = [np.abs(values[place] - case[name]).max() <= 5.1e-5 for name, place in places.items()]
    return all(near) and bool(np.abs(values.mean((0, 1), dtype=np.float64) - case["channel_mean"]).max() <= 5.1e-6)


@pytest.mark.parametrize("case", CASES, ids=lambda case: "x".join(map(str, case["size_wh"])))
def test_golden_pixels(case: dict[str, Any], processor: Processor) -> None:
    image = ramp(*case["size_wh"])
    got = processor.images([image])["pixel_values"]
    assert got.shape == (1, 512, 512, 3)
    assert got.dtype == np.float32
    assert agrees(got[0], case)
    expected, resized, corner = by_hand(Image.fromarray(image), 512)
    assert list(resized) == case["resized_wh"]
    assert list(corner) == case["crop_left_top"]
    np.testing.assert_array_equal(got[0], expected)


@LONG[0]
@LONG[1]
@pytest.mark.parametrize(
    ("wrong", "hits"),
    # A mistake is unseen where nothing is resized, nothing is cut, or a side comes out whole. That halves are rounded
    # to even and not cut shows in none of these cases: see the next test.
    [
        ("", 8), ("floored", 8), ("half up", 4), ("corner", 2), ("rounded side", 4), ("squash", 1),
        ("bilinear", 2), ("nearest", 2), ("SigLIP", 0), ("swapped", 0),
    ],
)  # fmt: skip
def test_wrong_recipes_miss_the_golden_pixels(wrong: str, hits: int) -> None:
    assert len(CASES) == 8
    found = sum(agrees(by_hand(Image.fromarray(ramp(*case["size_wh"])), 512, wrong)[0], case) for case in CASES)
    assert found == hits


@pytest.mark.parametrize(("long", "offset"), [(30, 0), (31, 0), (32, 1), (33, 2), (34, 2), (35, 2), (36, 3), (37, 4)])
def test_half_a_pixel_goes_to_the_even_side(small: Processor, long: int, offset: int) -> None:
    for image, upright in ((noise(30, long), False), (noise(long, 30), True)):
        got = as_bytes(small.images([image])["pixel_values"][0])
        part = slice(offset, offset + 30)
        np.testing.assert_array_equal(got, image[part] if upright else image[:, part])
        floored = slice((long - 30) // 2, (long - 30) // 2 + 30)
        assert np.array_equal(got, image[floored] if upright else image[:, floored]) == (long not in (33, 37))
        raised = slice((long - 29) // 2, (long - 29) // 2 + 30)
        assert np.array_equal(got, image[raised] if upright else image[:, raised]) == (long not in (31, 35))


def test_any_size_is_the_recipe_to_the_last_bit(small: Processor) -> None:
    generator = np.random.default_rng(0)
    floored = rounded = 0
    for k in range(60):
        height, width = generator.integers(1, 120, 2).tolist()
        size = [30, 17, 64][k % 3]
        interpolation = ["bicubic", "bilinear"][k % 2]
        image = Image.fromarray(noise(height, width, k))
        got = small.images([image], size=size, interpolation=interpolation)["pixel_values"]
        assert got.shape == (1, size, size, 3)
        np.testing.assert_array_equal(got[0], by_hand(image, size, interpolation=interpolation)[0])
        floored += not np.array_equal(got[0], by_hand(image, size, "floored", interpolation)[0])
        rounded += not np.array_equal(got[0], by_hand(image, size, "rounded side", interpolation)[0])
    # The draws do tell the recipes apart.
    assert floored > 5
    assert rounded > 10


def test_every_byte_is_divided_in_float32(small: Processor) -> None:
    image = np.zeros((30, 30, 3), np.uint8)
    image.reshape(-1, 3)[:256] = np.arange(256)[:, None]
    got = small.images([image])["pixel_values"][0].reshape(-1, 3)[:256]
    expected = np.arange(256, dtype=np.float32)[:, None] / np.float32(255)
    np.testing.assert_array_equal(got, (expected - np.float32(MEAN)) / np.float32(STD))


def test_squash(processor: Processor, tmp_path: Path) -> None:
    image = ramp(701, 500)
    got = processor.images([image], resize_mode="squash")["pixel_values"]
    np.testing.assert_array_equal(got[0], by_hand(Image.fromarray(image), 512, "squash")[0])
    assert not np.array_equal(got, processor.images([image])["pixel_values"])
    from_file = processor_of(tmp_path)
    image_file(tmp_path, resize_mode="squash")
    from_file = Processor.from_folder(tmp_path, from_file.config)
    np.testing.assert_array_equal(from_file.images([image])["pixel_values"], got)
    # Too long to be brought to its shorter side, but not to be squeezed.
    assert from_file.images([np.zeros((1, 5000, 3), np.uint8)])["pixel_values"].shape == (1, 512, 512, 3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 300), (300, 1), (2, 3)])
def test_extreme_shapes(processor: Processor, shape: tuple[int, int]) -> None:
    black = np.float32((np.float32(0) - np.float32(MEAN)) / np.float32(STD))
    got = processor.images([np.zeros((*shape, 3), np.uint8)])["pixel_values"]
    assert got.shape == (1, 512, 512, 3)
    assert (got == black).all()


@pytest.mark.parametrize("shape", [(1, 5000), (5000, 1)])
def test_monstrous_shapes_are_refused(processor: Processor, shape: tuple[int, int]) -> None:
    sides = " x ".join(str(512 * side) for side in shape).replace(" ", "")
    with pytest.raises(MediaError, match=f"too long: with 512 on the shorter side it has {sides}; expected at most"):
        processor.images([np.zeros((*shape, 3), np.uint8)])
    with pytest.raises(InputError, match="Resizing to 20000x20000"):  # this time not for the picture's sake
        processor.images([np.zeros((9, 9, 3), np.uint8)], size=20_000)


# --- colours and sources


def test_colours_come_before_resizing(small: Processor) -> None:
    """Pillow resizes palettes by taking the nearest pixel."""
    image = Image.fromarray(noise(50, 70)).quantize(64)
    assert image.mode == "P"
    got = small.images([image])["pixel_values"][0]
    np.testing.assert_array_equal(got, by_hand(image.convert("RGB"), 30)[0])
    assert not np.array_equal(got, by_hand(image, 30)[0])


def test_transparency_is_laid_over_white(small: Processor) -> None:
    """A difference from the published code, which shows the hidden colours."""
    image = Image.new("RGBA", (40, 30), (200, 0, 0, 0))
    assert (as_bytes(small.images([image])["pixel_values"][0]) == 255).all()
    assert not (as_bytes(by_hand(image, 30)[0]) == 255).all()


def test_encoded_pictures_are_turned_upright(small: Processor) -> None:
    """Another one: the published code ignores the tag."""
    stored, data, exif = Image.fromarray(noise(40, 60)), io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    stored.save(data, "PNG", exif=exif)
    got = small.images([data.getvalue()])["pixel_values"][0]
    np.testing.assert_array_equal(got, by_hand(stored.transpose(Image.Transpose.ROTATE_270), 30)[0])
    assert not np.array_equal(got, by_hand(stored, 30)[0])


def test_every_source(small: Processor, tmp_path: Path) -> None:
    array, data = noise(40, 60), io.BytesIO()
    image = Image.fromarray(array)
    image.save(data, "PNG")
    path = tmp_path / "picture.png"
    path.write_bytes(data.getvalue())
    uri = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    expected = by_hand(image, 30)[0]
    sources: list[Any] = [array, image, path, str(path), data.getvalue(), uri]
    for row in small.images(sources)["pixel_values"]:
        np.testing.assert_array_equal(row, expected)
    for source in sources:
        assert small.images(source)["pixel_values"].shape == (1, 30, 30, 3)


def test_an_unreachable_url(small: Processor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "*")
    with socket.socket() as bound:  # bound and never listening, so that nobody answers
        bound.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{bound.getsockname()[1]}/cat.png"
        with pytest.raises(MediaError, match=f"{url} cannot be downloaded .*expected an image"):
            small.images([url])


@pytest.mark.parametrize("images", [[], None, 3, ["missing.png"], [b""], [None], "data:image/png;base64,"])
def test_bad_images(small: Processor, images: Any) -> None:
    with pytest.raises((InputError, MediaError), match="expected"):
        small.images(images)


# --- settings


def test_overrides_act(small: Processor, tmp_path: Path) -> None:
    image = noise(50, 70)
    base = small.images([image])["pixel_values"]
    overrides: list[dict[str, Any]] = [
        {"resize_mode": "squash"}, {"interpolation": "bilinear"}, {"mean": [0.1, 0.5, 0.5]}, {"mean": 0.5},
        {"std": 0.25}, {"std": (1, 1, 2)},
    ]  # fmt: skip
    config = processor_of(tmp_path, 30).config
    for override in overrides:
        got = small.images([image], **override)["pixel_values"]
        assert not np.array_equal(got, base), override
        np.testing.assert_array_equal(small(images=[image], **override)["pixel_values"], got)
        image_file(tmp_path, 30, **override)
        np.testing.assert_array_equal(Processor.from_folder(tmp_path, config).images([image])["pixel_values"], got)
    assert small.images([image], size=24)["pixel_values"].shape == (1, 24, 24, 3)
    # None is as good as left out, and nothing was changed for good.
    none = dict.fromkeys(("size", "resize_mode", "interpolation", "mean", "std"))
    np.testing.assert_array_equal(small.images([image], **none)["pixel_values"], base)
    raw = small.images([noise(30, 30)], mean=0, std=1)["pixel_values"][0]
    np.testing.assert_array_equal(raw, noise(30, 30).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    "override",
    [
        {"size": 0}, {"size": True}, {"size": 30.0}, {"size": "30"}, {"size": [30, 30]},
        {"size": {"height": 30, "width": 30}}, {"size": {"shortest_edge": 30}},
        {"resize_mode": "longest"}, {"resize_mode": "Shortest"}, {"resize_mode": 1}, {"resize_mode": ["squash"]},
        {"interpolation": "nearest"}, {"interpolation": "random"}, {"interpolation": 3}, {"interpolation": ["bicubic"]},
        {"mean": [0.5, 0.5]}, {"mean": "0.5"}, {"mean": float("nan")}, {"std": 0}, {"std": [0.5, 0, 0.5]},
        {"std": float("inf")},
    ],
    ids=str,
)  # fmt: skip
def test_settings_that_cannot_act(small: Processor, override: dict[str, Any], tmp_path: Path) -> None:
    key = next(iter(override))
    with pytest.raises(InputError, match=f"^{key} is .*expected .*[.] "):
        small.images([noise(20, 20)], **override)
    config = processor_of(tmp_path, 30).config
    image_file(tmp_path, 30, **override)
    with pytest.raises(ConfigError, match=f"{key} is .*expected .*[.] "):  # or the file is not JSON, for NaN
        Processor.from_folder(tmp_path, config)


def test_longest_is_named_as_not_supported(small: Processor) -> None:
    with pytest.raises(InputError, match=r"resize_mode is 'longest'; .*\"longest\" is not supported"):
        small.images([noise(20, 20)], resize_mode="longest")


@pytest.mark.parametrize("name", ["fill_color", "image_mean", "do_resize", "crop_size", "max_num_patches", "siez"])
def test_unknown_options_are_named(small: Processor, name: str) -> None:
    image = noise(20, 20)
    for call in (lambda **given: small.images([image], **given), lambda **given: small(images=[image], **given)):
        with pytest.raises(InputError, match=f"^{name} is 1, but this model has no {name}; it has size, resize_mode"):
            call(**{name: 1})
    with pytest.raises(InputError, match=f"^{name} was given without images"):
        small(text=["a cat"], **{name: 1})


# --- files


@pytest.mark.parametrize("left", [None, {}, dict.fromkeys(jina_preprocessor_config(512))])
def test_missing_settings_are_the_published_ones(left: dict[str, Any] | None, tmp_path: Path) -> None:
    for size in (30, 41):
        image = noise(50, 71)
        config = processor_of(tmp_path, size).config
        published = Processor.from_folder(tmp_path, config).images([image])["pixel_values"]
        assert published.shape == (1, size, size, 3)
        path = tmp_path / "preprocessor_config.json"
        path.unlink() if left is None else path.write_text(json.dumps(left))
        got = Processor.from_folder(tmp_path, config).images([image])["pixel_values"]
        np.testing.assert_array_equal(got, published)
        np.testing.assert_array_equal(got[0], by_hand(Image.fromarray(image), size)[0])


def test_the_size_is_the_models(tmp_path: Path) -> None:
    config = processor_of(tmp_path, 30).config
    image_file(tmp_path, 31)
    with pytest.raises(ConfigError, match=r"says size 31; expected 30\b.*Use"):
        Processor.from_folder(tmp_path, config)


def test_settings_that_change_nothing_are_taken(tmp_path: Path) -> None:
    config, image = processor_of(tmp_path, 30).config, noise(50, 70)
    base = Processor.from_folder(tmp_path, config).images([image])["pixel_values"]
    image_file(tmp_path, 30, fill_color=255, processor_class=None, _valid_processor_keys=["size"])
    np.testing.assert_array_equal(Processor.from_folder(tmp_path, config).images([image])["pixel_values"], base)
    for extra in ({"do_pad": True}, {"image_mean": [0.5] * 3}, {"resample": 3}, {"rescale_factor": 1}, {"other": 1}):
        image_file(tmp_path, 30, **extra)
        with pytest.raises(ConfigError, match=f"{next(iter(extra))}.*expected only settings"):
            Processor.from_folder(tmp_path, config)
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(ConfigError, match=r"preprocessor_config\.json cannot be read"):
        Processor.from_folder(tmp_path, config)


def test_modalities(tmp_path: Path, processor: Processor) -> None:
    assert processor.modalities == ("text", "image")
    without = Processor.from_folder(tmp_path, processor.config)
    assert without.modalities == ("image",)
    assert without.images([noise(20, 20)])["pixel_values"].shape == (1, 512, 512, 3)
    with pytest.raises(ModalityError, match=r"no tokenizer file.*takes image"):
        without.text(["a cat"])


def test_pictures_need_no_tokenizer(tmp_path: Path) -> None:
    """A large vocabulary takes seconds to read."""
    config = processor_of(tmp_path, 30).config
    (tmp_path / "tokenizer.json").write_text("{")
    processor = Processor.from_folder(tmp_path, config)
    batch = processor.images([noise(20, 20)])
    assert processor.collate([batch, batch])["pixel_values"].shape == (2, 30, 30, 3)
    with pytest.raises(ConfigError, match=r"tokenizer\.json cannot be read"):
        processor.text(["a cat"])


# --- text


def ids_of(batch: dict[str, np.ndarray]) -> list[list[int]]:
    """The ids; the mask hides the padding's and no others."""
    assert list(batch) == ["input_ids", "attention_mask"]
    ids, mask = batch["input_ids"], batch["attention_mask"]
    assert ids.dtype == mask.dtype == np.int32
    np.testing.assert_array_equal(mask, ids != 1)
    return ids.tolist()


@pytest.mark.parametrize("case", XLM["cases"], ids=lambda case: repr(case["text"][:20]))
def test_golden_texts(processor: Processor, case: dict[str, Any]) -> None:
    assert ids_of(processor.text([case["text"]])) == [case["ids_unpadded"]]
    fixed = processor.text([case["text"]], max_length=12, padding="max_length")
    assert ids_of(fixed) == [case["ids_len12_truncated"]]


def test_an_empty_text_and_a_single_one(processor: Processor) -> None:
    assert ids_of(processor.text("")) == ids_of(processor.text([""])) == [[0, 2]]
    assert ids_of(processor.text("a cat")) == [[0, 4, 5, 2]]
    assert ids_of(processor.text(["a cat", ""])) == [[0, 4, 5, 2], [0, 2, 1, 1]]


def test_the_files_own_padding_and_cutting_are_dropped(processor: Processor) -> None:
    """The file cuts at 77 tokens and pads to 77, which would be the answer of the bare library."""
    filed = json.loads((processor.tokenizer.path).read_text())  # type: ignore[union-attr]
    assert filed["truncation"]["max_length"] == filed["padding"]["strategy"]["Fixed"] == 77
    assert ids_of(processor.text(["a cat " * 49])) == [[0, *[4, 5] * 49, 2]]
    assert ids_of(processor.text(["a"])) == [[0, 4, 2]]


def test_the_usual_limit_is_512(processor: Processor) -> None:
    tokens: list[int] = []
    long = "a cat " * 400
    assert ids_of(processor.text(["a cat " * 255], on_cut=tokens.append)) == [[0, *[4, 5] * 255, 2]]
    assert tokens == []
    cut = processor.text(["a cat", long], on_cut=tokens.append)
    assert tokens == [802]
    assert cut["input_ids"].shape == (2, 512)
    assert ids_of(cut)[1] == [0, *[4, 5] * 255, 2]
    # The model's own limit is higher.
    assert ids_of(processor.text([long], max_length=8194)) == [[0, *[4, 5] * 400, 2]]
    ids = processor.text(["a " * 9000], max_length=8194)["input_ids"]
    assert ids.shape == (1, 8194)
    assert ids[0, -2:].tolist() == [4, 2]
    assert processor.text(["a"], padding="max_length")["input_ids"].shape == (1, 512)


def test_a_model_with_fewer_positions_cuts_there(tmp_path: Path) -> None:
    processor = processor_of(tmp_path, length=64)
    tokens: list[int] = []
    assert ids_of(processor.text(["a " * 100], on_cut=tokens.append)) == [[0, *[4] * 62, 2]]
    assert tokens == [102]
    assert processor.text(["a"], padding="max_length")["input_ids"].shape == (1, 64)
    with pytest.raises(InputError, match=r"max_length is 65; expected a whole number from 1 to 64"):
        processor.text(["a"], max_length=65)


def test_cutting(processor: Processor) -> None:
    assert ids_of(processor.text(["a cat a dog"], max_length=4)) == [[0, 4, 5, 2]]
    with pytest.raises(InputError, match=r"has 6 tokens and truncation is False; expected at most 5"):
        processor.text(["a", "a cat a dog"], max_length=5, truncation=False)
    with pytest.raises(InputError, match=r"has 514 tokens .*at most 512"):
        processor.text(["a " * 512], truncation=False)
    assert processor.text(["a " * 510], truncation=False)["input_ids"].shape == (1, 512)


@pytest.mark.parametrize("length", [0, -1, 8195, True, 2.0, "12"])
def test_lengths_that_the_model_lacks(processor: Processor, length: Any) -> None:
    with pytest.raises(InputError, match=f"max_length is {length!r}; expected a whole number from 1 to 8194"):
        processor.text(["a cat"], max_length=length)


def test_padding(processor: Processor) -> None:
    texts = [case["text"] for case in XLM["cases"]]
    batch = processor.text(texts)
    assert [[n for n in row if n != 1] for row in ids_of(batch)] == [case["ids_unpadded"] for case in XLM["cases"]]
    assert batch["input_ids"].shape == (8, max(len(case["ids_unpadded"]) for case in XLM["cases"]))
    np.testing.assert_array_equal(processor.text(texts, padding=True)["input_ids"], batch["input_ids"])
    full = processor.text(texts, padding="max_length", max_length=40)
    assert full["input_ids"].shape == (8, 40)
    np.testing.assert_array_equal(full["input_ids"][:, : batch["input_ids"].shape[1]], batch["input_ids"])
    assert (full["input_ids"][:, batch["input_ids"].shape[1] :] == 1).all()
    ids_of(full)
    for wrong in (False, "do_not_pad", "Longest", None, 12):
        with pytest.raises(InputError, match=r"padding is .*expected"):
            processor.text(texts, padding=wrong)  # type: ignore[arg-type]


def test_a_typed_pad_is_hidden(processor: Processor) -> None:
    batch = processor.text(["a <pad> cat", "a photo of a cat"])
    row = ids_of(batch)[0]
    place = row.index(1)
    assert 0 < place < row.index(2)  # inside the text
    assert batch["attention_mask"][0].tolist() == [int(n != 1) for n in row]
    assert row[place + 1] != 1 == batch["attention_mask"][0, place + 1]
    # Joined to a longer text it is still hidden.
    joined = processor.collate([processor.text(["a <pad> cat"]), processor.text(["a photo of a cat"])])
    np.testing.assert_array_equal(joined["attention_mask"], batch["attention_mask"])


def test_a_task_is_a_sentence_before_the_text(processor: Processor) -> None:
    task = "retrieval.query"
    for text in ("a cat", "", " the dog"):
        with_task = ids_of(processor.text([text], task=task))
        assert with_task == ids_of(processor.text([QUERY + text]))
        assert with_task != ids_of(processor.text([text]))
        assert ids_of(processor(text=text, task=task)) == with_task
    assert ids_of(processor.text("a cat", task=task)) == ids_of(processor.text([QUERY + "a cat"]))
    # The sentence counts as part of the text.
    prefix = len(ids_of(processor.text([QUERY]))[0])
    tokens: list[int] = []
    cut = processor.text(["a " * 510], task=task, on_cut=tokens.append)
    assert cut["input_ids"].shape == (1, 512)
    assert len(tokens) == 1
    assert tokens[0] >= 510 + prefix - 1


def test_the_default_task_is_the_files(tmp_path: Path) -> None:
    tasks = {"retrieval.query": "the photo of ", "other": "the dog "}
    processor = processor_of(tmp_path, task_instructions=tasks, default_instruction_task="other")
    plain = [ids_of(processor.text(["a cat"], task=task)) for task in (None, "other", "retrieval.query")]
    assert plain == [[[0, 17, 6, 4, 5, 2]], [[0, 17, 6, 4, 5, 2]], [[0, 17, 8, 9, 4, 5, 2]]]
    with pytest.raises(InputError, match=r"expected one of 'retrieval.query', 'other'\. .*the default, 'other'"):
        processor.text(["a cat"], task="retrieval.passage")


@pytest.mark.parametrize("task", ["retrieval.passage", "", "Retrieval.Query", 3, ["retrieval.query"]])
def test_unknown_tasks(processor: Processor, task: Any) -> None:
    for call in (processor.text, lambda texts, task: processor(text=texts, task=task)):
        with pytest.raises(InputError, match=r"^task is .*expected one of 'retrieval.query'\. .*None.* no instruction"):
            call(["a cat"], task=task)


def test_a_model_without_tasks(tmp_path: Path) -> None:
    processor = processor_of(tmp_path, task_instructions=None)
    assert ids_of(processor.text(["a cat"])) == [[0, 4, 5, 2]]
    with pytest.raises(InputError, match=r"expected none, as config\.json names no tasks"):
        processor.text(["a cat"], task="retrieval.query")


@pytest.mark.parametrize("texts", [[], ["a", None], ["a", 3], None, 3, [b"a"], ["a \ud83d"]])
@pytest.mark.parametrize("task", [None, "retrieval.query"])
def test_bad_texts(processor: Processor, texts: Any, task: str | None) -> None:
    with pytest.raises(InputError, match="expected"):
        processor.text(texts, task=task)


# --- several kinds, several calls


def test_one_call_for_both(small: Processor) -> None:
    batch = small(text=["a cat", "dog"], images=noise(40, 60), max_length=3)
    assert list(batch) == ["input_ids", "attention_mask", "pixel_values"]
    assert batch["input_ids"].shape == (2, 3)
    assert small(text="a", max_length=12, padding="max_length")["input_ids"].shape == (1, 12)
    with pytest.raises(InputError, match="4 tokens and truncation is False"):
        small(text="a cat", max_length=3, truncation=False)
    assert list(small(text="a")) == ["input_ids", "attention_mask"]
    assert list(small(images=noise(40, 60))) == ["pixel_values"]
    with pytest.raises(InputError, match="Neither text nor images"):
        small()
    for given in ({"task": "retrieval.query"}, {"max_length": 12}):
        with pytest.raises(InputError, match=f"{next(iter(given))} was given without text"):
            small(images=noise(40, 60), **given)  # type: ignore[arg-type]


def test_collate_equals_one_call(small: Processor) -> None:
    texts = ["a cat", "", "a photo of a cat a photo of a dog"]
    images = [noise(*size) for size in ((24, 32), (10, 10), (30, 4))]
    whole = small(text=texts, images=images)
    parts = [small(text=text, images=image) for text, image in zip(texts, images, strict=True)]
    pair = [small(text=texts[:1], images=images[:1]), small(text=texts[1:], images=images[1:])]
    for items in (parts, pair):
        joined = small.collate(items)
        assert list(joined) == list(whole)
        for key, value in whole.items():
            np.testing.assert_array_equal(joined[key], value)
            assert joined[key].dtype == value.dtype
    for wrong in ([small.images(images), small.images(images, size=24)], [small.text("a"), small.images(images)], []):
        with pytest.raises(InputError, match="expected"):
            small.collate(wrong)


# --- tokenizers that are not the model's


def read(folder: Path, **text: Any) -> None:
    """The files of a vocabulary are looked at only when the first text comes."""
    Processor.from_folder(folder, ModelConfig.from_dict(config_dict(**text))).text(["a cat"])


def test_the_padding_is_the_models(tmp_path: Path) -> None:
    """The model hides padding by its id, so another one would be silently wrong."""
    write_jina_side_files(tmp_path, config_dict())
    read(tmp_path)
    with pytest.raises(ConfigError, match=r"tokenizer\.json pads with 1; expected 3\b.*Use"):
        read(tmp_path, pad_token_id=3)
    changed = JINA_TOKENIZER_CONFIG | {"pad_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(changed))
    with pytest.raises(ConfigError, match=r"pads with 3; expected 1\b"):
        read(tmp_path)


def test_the_vocabulary_fits_the_model(tmp_path: Path) -> None:
    write_jina_side_files(tmp_path, config_dict())
    with pytest.raises(ConfigError, match=r"25 entries.*24 rows.*Use"):
        read(tmp_path, vocab_size=24)
    read(tmp_path, vocab_size=25)


def test_start_and_end_are_around_the_text(tmp_path: Path) -> None:
    write_jina_side_files(tmp_path, config_dict())
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"post_processor": None}))
    with pytest.raises(ConfigError, match=r"empty text.*expected \[0, 2\]"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["pad_token", "eos_token", "bos_token"])
def test_missing_token_names(name: str, tmp_path: Path) -> None:
    write_jina_side_files(tmp_path, config_dict())
    left = {key: value for key, value in JINA_TOKENIZER_CONFIG.items() if key != name}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(left))
    with pytest.raises(ConfigError, match=name):
        read(tmp_path)
