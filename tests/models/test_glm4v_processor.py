"""Prompts, pictures and videos of GLM beside the numbers of the fact sheet, and what must be refused."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glm_side_files import REAL_IDS, special_ids, write_glm_side_files
from glm_tiny import glm_config
from PIL import ExifTags, Image
from tiny import golden, write_json

from mlx_mm.errors import ConfigError, InputError, MediaError
from mlx_mm.models.glm4v.config import ModelConfig
from mlx_mm.models.glm4v.pixels import sample_by_duration, sample_by_rate, slice_times, smart_resize, to_patches
from mlx_mm.models.glm4v.processor import Processor
from mlx_mm.processing.image import rescale_and_normalize

EXAMPLES = golden("glm46v_examples")
BUDGETS = EXAMPLES["meta"]["budgets"]
PICTURE = "<|begin_of_image|><|image|><|end_of_image|>"
FILM = "<|begin_of_video|><|video|><|end_of_video|>"


def real_config() -> dict[str, Any]:
    """config.json of the tiny model with the token ids of the real ones."""
    config = glm_config()
    names = {"image_token_id": "<|image|>", "video_token_id": "<|video|>"}
    config |= {key: REAL_IDS[token] for key, token in names.items()}
    config["text_config"] |= {"vocab_size": 151552, "pad_token_id": REAL_IDS["<|endoftext|>"]}
    return config


def make(folder: Path, config: dict[str, Any] | None = None, **text: Any) -> Processor:
    config = glm_config() if config is None else config
    config["text_config"] |= text
    write_glm_side_files(folder, config)
    return Processor.from_folder(folder, ModelConfig.from_dict(config))


@pytest.fixture
def processor(tmp_path: Path) -> Processor:
    return make(tmp_path)


@pytest.fixture
def real(tmp_path: Path) -> Processor:
    return make(tmp_path, real_config())


def picture(height: int = 90, width: int = 130, seed: int = 0) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


def clip(frames: int, height: int = 120, width: int = 200) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (frames, height, width, 3), np.uint8)


def edit(path: Path, **values: Any) -> None:
    write_json(path, json.loads(path.read_text("utf-8")) | values)


def runs(row: Any) -> list[list[int]]:
    """Pairs of value and count."""
    found: list[list[int]] = []
    for value in row:
        if found and found[-1][0] == value:
            found[-1][1] += 1
        else:
            found.append([int(value), 1])
    return found


# --- sizes


@pytest.mark.parametrize("case", EXAMPLES["smart_resize_images"], ids=lambda case: "x".join(map(str, case["hw"])))
def test_sizes_of_pictures(case: dict[str, Any], processor: Processor) -> None:
    for name, budget in (("checkpoint", "checkpoint_image"), ("class_default", "class_default_image")):
        least, most = BUDGETS[budget]
        size = {"shortest_edge": least, "longest_edge": most}
        if "error" in (expected := case.get(name, {})):
            with pytest.raises(InputError, match=expected["error"].rsplit(" ", 1)[-1]):
                smart_resize(2, *case["hw"], least, most)
        elif expected:
            assert list(smart_resize(2, *case["hw"], least, most)) == expected["resized"]
            patches = processor.get_number_of_image_patches(*case["hw"], {"size": size})
            assert patches == np.prod(expected["grid"]) == 4 * expected["tokens"]


@pytest.mark.parametrize("case", EXAMPLES["smart_resize_videos"], ids=lambda c: f"{c['frames']}-{c['hw'][0]}")
def test_sizes_of_videos(case: dict[str, Any], processor: Processor) -> None:
    for name, budget in (("class_default_video", "class_default_video"), ("image_budget_fallback", "checkpoint_image")):
        least, most = BUDGETS[budget]
        size = {"shortest_edge": least, "longest_edge": most}
        if "error" in case[name]:
            with pytest.raises(InputError, match="1 frame"):
                processor.get_num_of_video_patches(case["frames"], *case["hw"])
            continue
        assert list(smart_resize(case["frames"], *case["hw"], least, most)) == case[name]["resized"]
        patches = processor.get_num_of_video_patches(case["frames"], *case["hw"], {"size": size})
        assert patches == np.prod(case[name]["grid"]) == 4 * case[name]["tokens"]


def test_rounding_is_half_to_even() -> None:
    assert smart_resize(2, 70, 13999, 12544, 9633792) == (56, 14000)  # 2.5 blocks; 84 with halves rounded up


def test_the_file_of_pictures_serves_videos_too(tmp_path: Path, processor: Processor) -> None:
    assert processor.get_num_of_video_patches(60, 720, 1280) == 30 * 46 * 84
    (tmp_path / "video_preprocessor_config.json").unlink()
    without = Processor.from_folder(tmp_path, processor.config)
    assert without.get_num_of_video_patches(60, 720, 1280) == 30 * 20 * 38


def test_settings_nested_by_transformers_5(tmp_path: Path, processor: Processor) -> None:
    size = {"shortest_edge": 12544, "longest_edge": 100_000}
    pictures = json.loads((tmp_path / "preprocessor_config.json").read_text("utf-8")) | {"size": size}
    write_json(tmp_path / "processor_config.json", {"image_processor": pictures, "video_processor": pictures})
    nested = Processor.from_folder(tmp_path, processor.config)
    assert nested.settings.size == nested.video_settings.size == (12544, 100_000)


def test_limits_of_a_call(processor: Processor) -> None:
    large = picture(900, 1300)
    usual = processor.count_tokens(images=[large])["images"][0]
    few = processor.count_tokens(images=[large], max_pixels=200_000)["images"][0]
    assert 200 < few <= 200_000 / 784 < usual
    assert processor.images([large], max_pixels=200_000)["pixel_values"].shape[0] == 4 * few
    assert processor.count_tokens(images=[picture(50, 50)], min_pixels=200_000)["images"][0] >= 200_000 / 784
    assert processor.count_tokens(images=[large], max_pixels=1000)["images"] == [1]
    budget = {"shortest_edge": 2000, "longest_edge": 400_000}
    assert processor.count_tokens(images=[large], size=budget)["images"] == [few]
    film = clip(4, 300, 400)
    whole = processor.count_tokens(videos=[film], fps=2)["videos"][0]
    part = processor.count_tokens(videos=[film], fps=2, max_pixels=50_000)["videos"][0]
    assert part <= 2 * 50_000 / 784 < whole
    # The budget of the whole video stays what it is.
    assert processor.count_tokens(videos=[film], fps=2, max_pixels=10**8)["videos"] == [whole]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": {"longest_edge": 5}}, "shortest_edge"),
        ({"size": 448}, "max_pixels"),
        ({"size": {"height": 5, "width": 5}}, "shortest_edge"),
        ({"max_pixels": 0}, "at least 1"),
        ({"min_pixels": 9, "max_pixels": 5}, "a lower and a higher"),
        ({"patch_size": 16}, "expected 14"),
        ({"do_center_crop": True}, "no do_center_crop"),
        ({"do_resize": False}, "28 divides"),
    ],
)
def test_options_that_cannot_be(options: dict[str, Any], words: str, processor: Processor) -> None:
    with pytest.raises(InputError, match=words):
        processor.images([picture(50, 60)], **options)


def test_an_aspect_ratio_above_200(processor: Processor) -> None:
    with pytest.raises(InputError, match=r"28x5628.*201"):
        processor.images([Image.new("RGB", (5628, 28))])


# --- frames


@pytest.mark.parametrize("case", EXAMPLES["frame_sampling"], ids=lambda c: f"{c['total_frames']}-{c['fps']:g}")
def test_frames_and_their_labels(case: dict[str, Any]) -> None:
    arguments = case["total_frames"], case["fps"], case["duration"]
    chosen = {"glm46v": sample_by_duration(*arguments), "glm4v_41": sample_by_rate(*arguments, 2, 300)}
    for name, indices in chosen.items():
        expected = case[name]
        assert (len(indices), sum(indices)) == (expected["n"], expected["sum"])
        if "indices" in expected:
            assert indices == expected["indices"]
        else:
            joined = ",".join(map(str, indices)).encode()
            assert hashlib.sha256(joined).hexdigest() == expected["sha256_of_comma_joined"]
        times = slice_times(indices, case["fps"])
        labels = [f"{time:.1f} seconds" if name == "glm46v" else f"{int(time)}" for time in times]
        listed = expected["labels"]
        if isinstance(listed, dict):
            assert (labels[:4], labels[-2:], len(labels)) == (listed["first4"], listed["last2"], listed["n"])
        else:
            assert labels == listed


def test_the_cliff_after_30_seconds() -> None:
    assert (len(sample_by_duration(750, 25, 30.0)), len(sample_by_duration(751, 25, 30.04))) == (180, 60)


def test_a_flash_of_a_video_gives_its_first_frame() -> None:
    assert sample_by_duration(3, 30, 0.1) == [0, 0]


# --- pixels


def test_patches() -> None:
    case = EXAMPLES["patchify"]
    x, y = np.meshgrid(np.arange(84), np.arange(56))
    image = np.stack([(3 * x + y) % 256, (x + 2 * y) % 256, x * y % 256], -1).astype(np.uint8)
    mean, std = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
    pixels = rescale_and_normalize(image, rescale_factor=1 / 255, mean=mean, std=std)
    patches = to_patches(np.stack([pixels, pixels]), 14, 2)
    assert list(patches.shape) == case["shape"]
    for row, column, value in case["samples_row_col_value"]:
        assert patches[row, column] == pytest.approx(value, abs=2e-6)
    np.testing.assert_allclose(patches.sum(1, dtype=np.float64), case["row_sums"], atol=2e-3)
    raster = to_patches(np.stack([pixels, pixels]), 14, 1)  # the wrong order: row after row
    assert np.abs(raster.sum(1, dtype=np.float64) - case["row_sums"]).max() > 1


def test_several_pictures(processor: Processor) -> None:
    images = [picture(90, 130, 1), picture(200, 60, 2), picture(30, 30, 3)]
    batch = processor.images(images)
    assert batch["pixel_values"].dtype == np.float32
    assert batch["image_grid_thw"].dtype == np.int32
    assert batch["image_grid_thw"].tolist() == [[1, 6, 10], [1, 14, 4], [1, 6, 6]]
    assert batch["pixel_values"].shape == (int(batch["image_grid_thw"].prod(1).sum()), 1176)
    alone = [processor.images(image)["pixel_values"] for image in images]
    np.testing.assert_array_equal(batch["pixel_values"], np.concatenate(alone))


def test_transparency_lies_over_white_and_exif_turns(tmp_path: Path, processor: Processor) -> None:
    clear = Image.new("RGBA", (112, 112), (0, 0, 0, 0))
    white = processor.images(Image.new("RGB", (112, 112), "white"))
    np.testing.assert_array_equal(processor.images(clear)["pixel_values"], white["pixel_values"])
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    picture(60, 300).save(tmp_path / "a.jpg", exif=exif)
    assert processor.images(tmp_path / "a.jpg")["image_grid_thw"].tolist() == [[1, 22, 4]]
    cost = processor.count_tokens(images=tmp_path / "a.jpg")["images"]
    assert cost == [22]


def test_videos(processor: Processor) -> None:
    film = clip(5)
    batch = processor.videos([film], fps=1, do_sample_frames=False)
    assert batch["video_grid_thw"].tolist() == [[3, 8, 14]]
    assert batch["pixel_values_videos"].shape == (3 * 8 * 14, 1176)
    slices = batch["pixel_values_videos"].reshape(3, 8 * 14, 3, 2, 196)
    np.testing.assert_array_equal(slices[2, :, :, 0], slices[2, :, :, 1])  # the last frame is repeated
    assert np.abs(slices[1, :, :, 0] - slices[1, :, :, 1]).max() > 1
    frames = [Image.fromarray(frame) for frame in film]
    same = processor.videos([frames], do_sample_frames=False)
    np.testing.assert_array_equal(same["pixel_values_videos"], batch["pixel_values_videos"])
    # Each of the two frames of a pair is a picture of its own.
    size = {"shortest_edge": 112 * 112, "longest_edge": 9633792}
    first = processor.images(frames[0], size=size)
    assert first["image_grid_thw"].tolist() == [[1, 8, 14]]
    np.testing.assert_array_equal(first["pixel_values"].reshape(-1, 3, 2, 196)[:, :, 0], slices[0, :, :, 0])


def test_a_video_without_fps(processor: Processor) -> None:
    with pytest.raises(MediaError, match="Pass fps="):
        processor.videos([clip(4)])
    with pytest.raises(InputError, match="without videos"):
        processor(text="a", fps=2)
    with pytest.raises(InputError, match="1 frame"):
        processor.videos([clip(1)], do_sample_frames=False)


@pytest.mark.parametrize("broken", [b"\0\0\0\x18ftypmp42" + bytes(300), b"GIF89a", b""])
def test_a_corrupt_video(broken: bytes, processor: Processor) -> None:
    with pytest.raises(MediaError):
        processor.chat([{"role": "user", "content": [{"type": "video", "video": broken}]}])


# --- prompts


@pytest.mark.parametrize("case", EXAMPLES["processor_end_to_end"][:3], ids=lambda case: str(case["image_hw"]))
def test_a_picture_in_a_prompt(case: dict[str, Any], real: Processor) -> None:
    prompt = f"[gMASK]<sop><|user|>\n{PICTURE}What is this?<|assistant|>\n"
    batch = real(text=prompt, images=picture(*case["image_hw"]))
    assert batch["image_grid_thw"].tolist() == case["grid"]
    row = batch["input_ids"][0]
    assert runs(row[row >= 151329]) == case["special_ids_rle"]
    assert batch["mm_token_type_ids"][0].tolist() == (row == 151363).astype(int).tolist()
    assert all(batch[key].dtype == np.int32 for key in ("input_ids", "attention_mask", "mm_token_type_ids"))


def expanded(case: dict[str, Any]) -> str:
    text: str = case["expanded_text"]
    return text.replace("<|image|>*28", "<|image|>" * 28)


def test_a_video_in_a_prompt(real: Processor) -> None:
    case = EXAMPLES["processor_end_to_end"][3]
    prompt = f"[gMASK]<sop><|user|>\n{FILM}Describe<|assistant|>\n"
    batch = real(text=prompt, videos=[clip(7)], fps=2)
    assert batch["video_grid_thw"].tolist() == case["grid"]
    ids = batch["input_ids"][0]
    assert real.decode(ids, skip_special_tokens=False) == expanded(case)
    assert ids.tolist() == real.tokenizer.encode_prompt(expanded(case))
    types = batch["mm_token_type_ids"][0]
    assert (types == 2).sum() == 4 * 28
    assert not (types == 1).any()
    chatted = real.chat([{"role": "user", "content": "Describe"}], videos=[clip(7)], fps=2)
    assert all(np.array_equal(chatted[key], batch[key]) for key in batch)


@pytest.mark.parametrize(
    ("name", "theta", "label"),
    [
        ("Glm4vProcessor", 500000.0, "<|end_of_image|>1<"),
        ("Glm46VProcessor", 10000.0, "<|end_of_image|>1.0 seconds<"),
        (None, 500000.0, "<|end_of_image|>1.0 seconds<"),
        (None, 10000.0, "<|end_of_image|>1<"),
    ],
)
def test_the_style_of_labels(name: str | None, theta: float, label: str, tmp_path: Path) -> None:
    config = glm_config()
    config["text_config"]["rope_parameters"]["rope_theta"] = theta
    write_glm_side_files(tmp_path, config)
    for file in ("preprocessor_config.json", "video_preprocessor_config.json", "tokenizer_config.json"):
        edit(tmp_path / file, processor_class=name)
    edit(tmp_path / "video_preprocessor_config.json", video_processor_type=None)
    processor = Processor.from_folder(tmp_path, ModelConfig.from_dict(config))
    assert processor.frame_sampling.by_duration == ("seconds" in label)
    ids = processor(text=FILM, videos=[clip(7)], fps=2)["input_ids"][0]
    assert label in processor.decode(ids, skip_special_tokens=False)


@pytest.mark.parametrize(
    ("theirs", "theta"), [("Glm46VProcessor", 1e4), ("Glm46VMoEProcessor", 1e4), ("Glm46VMoEProcessor", 5e5)]
)
@pytest.mark.parametrize("name", ["Glm46VProcessor", "Glm4vProcessor", None])
def test_files_that_mlx_vlm_wrote(name: str | None, theirs: str, theta: float, tmp_path: Path) -> None:
    """Its converter names a class of its own in two files and leaves the rest: that counts, then the theta."""
    config = glm_config()
    config["text_config"]["rope_parameters"]["rope_theta"] = theta
    write_glm_side_files(tmp_path, config)
    for file in ("preprocessor_config.json", "video_preprocessor_config.json"):
        edit(tmp_path / file, processor_class=name)
    edit(tmp_path / "tokenizer_config.json", processor_class=theirs)
    write_json(tmp_path / "processor_config.json", {"processor_class": theirs})
    sampling = Processor.from_folder(tmp_path, ModelConfig.from_dict(config)).frame_sampling
    later = theirs == "Glm46VProcessor" or theta > 1e5 if name is None else name == "Glm46VProcessor"
    assert sampling.decimals == later


def test_pictures_and_videos_together(processor: Processor) -> None:
    batch = processor(text=f"{FILM}{PICTURE}x{FILM}", images=[picture()], videos=[clip(4), clip(2)], fps=2)
    kinds = [value for value, _ in runs(batch["mm_token_type_ids"][0]) if value]
    assert kinds == [2, 2, 1, 2]  # four frames are two slices, two are one
    for kind, key in ((1, "image_grid_thw"), (2, "video_grid_thw")):
        assert (batch["mm_token_type_ids"] == kind).sum() == batch[key].prod(1).sum() // 4


def test_several_prompts_are_padded_on_the_left(processor: Processor) -> None:
    images = [picture(90, 130, 1), picture(200, 60, 2), picture(30, 30, 3)]
    prompts = [f"{PICTURE}a{PICTURE}", "short", f"{PICTURE}b"]
    batch = processor(text=prompts, images=images)
    singles = [processor(text=prompts[0], images=images[:2]), processor.text("short")]
    singles.append(processor(text=prompts[2], images=images[2:]))
    pad = processor.tokenizer.pad_id
    for row, single in enumerate(singles):
        length = single["input_ids"].shape[1]
        for key in ("input_ids", "attention_mask", "mm_token_type_ids"):
            np.testing.assert_array_equal(batch[key][row, -length:], single[key][0])
            assert (batch[key][row, :-length] == (pad if key == "input_ids" else 0)).all()
    joined = processor.collate(singles)
    assert batch.keys() == joined.keys()
    for key in batch:
        np.testing.assert_array_equal(batch[key], joined[key])
    right = processor(text=prompts, images=images, padding_side="right")
    assert right["input_ids"][1, :5].tolist() == singles[1]["input_ids"][0].tolist()
    with pytest.raises(InputError, match="padding"):
        processor.text("a", padding="max_length")


@pytest.mark.parametrize(
    ("prompt", "images", "videos", "words"),
    [
        (PICTURE + PICTURE, 1, 0, r"2 placeholders <\|image\|> and 1 images"),
        (PICTURE, 2, 0, r"1 placeholders <\|image\|> and 2 images"),
        (PICTURE, 0, 0, r"1 placeholders <\|image\|> and 0 images"),
        ("no", 1, 0, "0 placeholders"),
        (FILM, 0, 0, r"1 placeholders <\|video\|> and 0 videos"),
        ("no", 0, 1, "1 videos"),
    ],
)
def test_placeholders_and_pictures_are_as_many(
    prompt: str, images: int, videos: int, words: str, processor: Processor
) -> None:
    with pytest.raises(InputError, match=words):
        processor(
            text=prompt,
            images=[picture()] * images or None,
            videos=[clip(2)] * videos or None,
            fps=2 if videos else None,
        )


def test_a_prompt_that_is_too_long_is_refused_before_pixels(tmp_path: Path) -> None:
    processor = make(tmp_path, max_position_embeddings=100)
    file = io.BytesIO()
    picture(400, 600).save(file, "PNG")
    damaged = file.getvalue()[:200]  # the header is whole, the pixels are not
    with pytest.raises(InputError, match=r"298 tokens, 294 of them for pictures; expected 1 to 100"):
        processor(text=f"{PICTURE}ab", images=[damaged])
    with pytest.raises(MediaError):
        processor(text=PICTURE, images=[damaged], max_pixels=40_000)
    with pytest.raises(InputError, match="0 tokens"):
        processor.text("")


def test_half_of_a_surrogate_pair(processor: Processor) -> None:
    with pytest.raises(InputError, match="surrogate"):
        processor.text("\ud83d")


def test_nothing_given(processor: Processor) -> None:
    with pytest.raises(InputError, match="expected one of them"):
        processor()
    with pytest.raises(InputError, match="max_pixels was given without images or videos"):
        processor(text="a", max_pixels=5)


# --- messages


@pytest.mark.parametrize("mark", ["<|image|>", "<|video|>", "<|begin_of_image|>", "<|end_of_video|>"])
@pytest.mark.parametrize("where", ["content", "part", "answer", "tool"])
def test_typed_placeholders(mark: str, where: str, processor: Processor) -> None:
    text = f"what does {mark} mean?"
    messages: dict[str, list[dict[str, Any]]] = {
        "content": [{"role": "user", "content": text}],
        "part": [{"role": "user", "content": [{"type": "text", "text": text}]}],
        "answer": [{"role": "assistant", "content": text}, {"role": "user", "content": "go on"}],
        "tool": [{"role": "user", "content": "x"}, {"role": "tool", "content": text}],
    }
    with pytest.raises(InputError, match=r"expected pictures as parts"):
        processor.chat(messages[where], images=[picture()])


def test_where_pictures_beside_a_chat_go(processor: Processor) -> None:
    first, second, third = (picture(60 + 30 * i, 100) for i in range(3))
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": [{"type": "image", "image": first}, {"type": "text", "text": "three"}]},
        {"role": "assistant", "content": "four"},
    ]
    before = json.dumps(messages, default=str)
    batch = processor.chat(messages, images=[second, third], add_generation_prompt=False)
    assert json.dumps(messages, default=str) == before
    text = processor.decode(batch["input_ids"][0], skip_special_tokens=False)
    counts = processor.count_tokens(images=[first, second, third])["images"]
    written = "".join(f"<|begin_of_image|>{'<|image|>' * count}<|end_of_image|>" for count in counts)
    assert f"<|user|>\n{written}three<|assistant|>" in text
    np.testing.assert_array_equal(batch["pixel_values"], processor.images([first, second, third])["pixel_values"])
    with pytest.raises(InputError, match="role user"):
        processor.chat([{"role": "system", "content": "x"}], images=[first])


def test_what_a_part_may_set(processor: Processor) -> None:
    large = picture(900, 1300)
    data = io.BytesIO()
    large.save(data, "PNG")
    uri = "data:image/png;base64," + base64.b64encode(data.getvalue()).decode()
    usual, few, low = (
        processor.chat([{"role": "user", "content": [part]}])["image_grid_thw"]
        for part in (
            {"type": "image_url", "image_url": {"url": uri, "detail": "high"}},
            {"type": "image", "image": large, "max_pixels": 100_000},
            {"type": "image_url", "image_url": {"url": uri, "detail": "low"}},
        )
    )
    assert few.prod() * 196 <= 100_000 < low.prod() * 196 <= 512 * 512 < usual.prod() * 196
    film = {"type": "video", "video": clip(4), "fps": 1.0}
    assert processor.chat([{"role": "user", "content": [film]}])["video_grid_thw"][0, 0] == 2
    for part in ({"type": "image", "image": large, "fps": 1}, {"type": "image", "image": large, "detail": "tiny"}):
        with pytest.raises(InputError, match=r"messages\[0\]\.content\[0\] has (fps|detail)"):
            processor.chat([{"role": "user", "content": [part]}])


@pytest.mark.parametrize("name", EXAMPLES["chat_rendering"]["cases"])
def test_the_template_of_these_tests_is_like_the_published_one(name: str, processor: Processor) -> None:
    assert processor.template is not None
    given = EXAMPLES["chat_rendering"]["messages"][name]
    options = {key: given[key] for key in ("tools", "add_generation_prompt", "enable_thinking") if key in given}
    prompt = processor.template.render(given["messages"], **options)
    if "tools" in given:
        preamble = prompt[prompt.index("<|system|>\n") + len("<|system|>\n") : prompt.index("<|user|>")]
        prompt = prompt.replace(preamble, "{TOOLS_PREAMBLE}")
    assert prompt == EXAMPLES["chat_rendering"]["cases"][name]


def test_thinking_and_tools(processor: Processor) -> None:
    ids = processor.chat([{"role": "user", "content": "Hi"}], enable_thinking=False)["input_ids"][0]
    expected = "[gMASK]<sop><|user|>\nHi/nothink<|assistant|>\n<think></think>\n"
    assert processor.decode(ids, skip_special_tokens=False) == expected
    assert processor.batch_decode([ids]) == ["\nHi/nothink\n<think></think>\n"]
    tools = [{"type": "function", "function": {"name": "crop", "parameters": {"type": "object"}}}]
    ids = processor.chat([{"role": "user", "content": "Hi"}], tools=tools)["input_ids"][0]
    assert '"name": "crop"' in processor.decode(ids)


# --- files


@pytest.mark.parametrize("name", ["tokenizer.json", "preprocessor_config.json"])
def test_files_that_are_missing_or_damaged(name: str, tmp_path: Path, processor: Processor) -> None:
    (tmp_path / name).write_text("{")
    with pytest.raises(ConfigError, match=name):
        Processor.from_folder(tmp_path, processor.config).text("a")
    (tmp_path / name).unlink()
    with pytest.raises(ConfigError, match=name):
        Processor.from_folder(tmp_path, processor.config)


def test_without_a_chat_template(tmp_path: Path, processor: Processor) -> None:
    (tmp_path / "chat_template.jinja").unlink()
    with pytest.raises(ConfigError, match="chat_template"):
        Processor.from_folder(tmp_path, processor.config).chat([{"role": "user", "content": "Hi"}])


@pytest.mark.parametrize(
    ("file", "values", "words"),
    [
        ("preprocessor_config.json", {"patch_size": 16}, "expected 14"),
        ("preprocessor_config.json", {"size": {"longest_edge": 5}}, "shortest_edge"),
        ("preprocessor_config.json", {"do_center_crop": True}, "do_center_crop"),
        ("video_preprocessor_config.json", {"gamma": 2}, "gamma"),
        ("video_preprocessor_config.json", {"fps": 0}, "above 0"),
        ("preprocessor_config.json", {"processor_class": "OtherProcessor"}, "OtherProcessor"),
    ],
)
def test_settings_that_cannot_be_honoured(
    file: str, values: dict[str, Any], words: str, tmp_path: Path, processor: Processor
) -> None:
    edit(tmp_path / file, **values)
    with pytest.raises(ConfigError, match=words):
        Processor.from_folder(tmp_path, processor.config)


def test_a_tokenizer_of_another_checkpoint(tmp_path: Path) -> None:
    config = glm_config()
    write_glm_side_files(tmp_path, config)
    config["image_token_id"] = special_ids(config)["<|end_of_box|>"]
    processor = Processor.from_folder(tmp_path, ModelConfig.from_dict(config))
    with pytest.raises(ConfigError, match=r"<\|image\|> into \[500\]"):
        processor.text("a")


@pytest.mark.parametrize("value", ["false", "true", 0, 1, []])
def test_switches_of_a_chat(value: Any, processor: Processor) -> None:
    """ "false" would be true, and change nothing."""
    said = [{"role": "user", "content": "x"}]
    with pytest.raises(InputError, match=r"^enable_thinking is .*; expected True or False\. Leave it out"):
        processor.chat(said, enable_thinking=value)
    with pytest.raises(InputError, match=r"^add_generation_prompt is .*; expected True or False\. Leave it out"):
        processor.chat(said, add_generation_prompt=value)
