"""The processor of MetaCLIP 2 and OpenAI CLIP beside transformers 5.23's own classes, bit for bit."""

import io
import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import golden, hashed
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import TemplateProcessing

from mlx_mm.models.metaclip_2.processor import Processor

pytestmark = pytest.mark.reference
pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

TOKENS = golden("metaclip2_tokenizer_cases")
SHAPES = [(37, 53), (224, 224), (300, 200), (427, 640), (500, 333), (1, 1), (701, 5), (3, 4)]
SIGLIP = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}


def config(family: str = "metaclip_2", *, vocabulary: int = 1000, eos: int | None = 2) -> Any:
    return SimpleNamespace(
        model_type=family,
        text_config=SimpleNamespace(max_position_embeddings=77, vocab_size=vocabulary, eos_token_id=eos),
        vision_config=SimpleNamespace(image_size=224, patch_size=16),
    )


def noise(shape: tuple[int, int], k: int = 0) -> Image.Image:
    return Image.fromarray(((hashed((*shape, 3), k) + 1) * 128).astype(np.uint8))


def pictures() -> list[Image.Image]:
    return [noise(shape, k) for k, shape in enumerate(SHAPES)]


def compare(
    folder: Path, images: list[Image.Image], extra: dict[str, Any], given: dict[str, Any] | None = None
) -> None:
    """`extra` goes into the file, `given` into the call."""
    given = given or {}
    reference = transformers.CLIPImageProcessorPil(**extra)
    reference.save_pretrained(folder)
    processor = Processor.from_folder(folder, config())
    # One by one: pictures that are not cropped have shapes of their own.
    for image in images:
        expected = reference(image, return_tensors="np", **given)["pixel_values"]
        got = processor.images([image], **given)["pixel_values"]
        np.testing.assert_array_equal(got, expected.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "extra",
    [
        {}, SIGLIP, {"do_normalize": False}, {"do_rescale": False}, {"resample": 2}, {"rescale_factor": 1 / 127},
        {"crop_size": 111}, {"crop_size": {"height": 300, "width": 97}}, {"do_center_crop": False},
    ],
    ids=str,
)  # fmt: skip
@pytest.mark.parametrize(
    "size", [{"shortest_edge": 224}, {"height": 224, "width": 224}, {"height": 96, "width": 131}, 75]
)
def test_pictures(size: dict[str, int] | int, extra: dict[str, Any], tmp_path: Path) -> None:
    extra = {"size": size, **extra}
    # 701x5 grows to 31405 rows; without the crop that is a lot of noise for nothing.
    images = [image for image in pictures() if extra.get("do_center_crop", True) or image.width != 5]
    compare(tmp_path, images, extra)


@pytest.mark.parametrize("shape", [(2, 3000), (3000, 2)])
def test_a_strip_is_cut_from_an_enormous_enlargement(shape: tuple[int, int], tmp_path: Path) -> None:
    compare(tmp_path, [noise(shape)], {})


def test_random_shapes(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for k in range(60):
        shape = tuple(int(side) for side in random.integers(1, 90, 2))
        crop = {"height": int(random.integers(1, 60)), "width": int(random.integers(1, 60))}
        extra = {"size": int(random.integers(1, 60)), "crop_size": crop, "resample": int(random.integers(0, 6))}
        compare(tmp_path, [noise(shape, k)], extra)
        # Not resized, so the crop can exceed the picture on one side, on both, or on none.
        compare(tmp_path, [noise(shape, k)], extra | {"do_resize": False})


@pytest.mark.parametrize(
    "given",
    [
        {"size": {"shortest_edge": 60}}, {"size": {"height": 60, "width": 33}}, {"size": 61}, {"crop_size": 40},
        {"crop_size": {"height": 9, "width": 500}}, {"do_center_crop": False}, {"do_resize": False}, {"resample": 0},
        {"do_rescale": False}, {"rescale_factor": 0.01}, {"do_normalize": False}, SIGLIP,
    ],
    ids=str,
)  # fmt: skip
def test_overrides_of_the_call(given: dict[str, Any], tmp_path: Path) -> None:
    for size in (70, {"height": 70, "width": 70}):
        compare(tmp_path, [noise((37, 53)), noise((90, 80))], {"size": size, "crop_size": 70}, given)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "CMYK", "YCbCr", "HSV", "P with transparency"])
def test_colour_modes(mode: str, tmp_path: Path) -> None:
    image = noise((37, 53)).convert("RGBA")
    image.putalpha(Image.fromarray(np.arange(37 * 53, dtype=np.uint16).astype(np.uint8).reshape(37, 53)))
    opaque = image.convert("RGB")
    if mode == "P with transparency":
        image = opaque.quantize(16)
        image.info["transparency"] = bytes(range(0, 256, 16))
    else:
        image = (image if mode in ("LA", "RGBA") else opaque).convert(mode)
    for size in ({"shortest_edge": 224}, {"height": 224, "width": 224}):
        compare(tmp_path, [image], {"size": size})


# --- text


def check_texts(processor: Processor, reference: Any, texts: list[str]) -> None:
    """With both paddings, over lengths that cut and that do not; in one call, since the mask depends on it."""
    for length in (2, 3, 12, 77):
        for padding in ("longest", "max_length"):
            expected = reference(texts, padding=padding, truncation=True, max_length=length)
            got = processor.text(texts, max_length=length, padding=padding)
            assert got["input_ids"].tolist() == expected["input_ids"]
            assert got["attention_mask"].tolist() == expected["attention_mask"]
    short = [text for text in texts if len(reference(text)["input_ids"]) <= 77]
    assert 0 < len(short) < len(texts)
    assert processor.text(short, truncation=False)["input_ids"].tolist() == reference(short, padding=True)["input_ids"]


def sentences(words: list[str], separator: str = " ") -> list[str]:
    random = np.random.default_rng(0)
    return ["", *(separator.join(random.choice(words, random.integers(1, 60))) for _ in range(200))]


def write_names(folder: Path, kind: str, names: dict[str, str]) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind, **names}))


def test_xlm_roberta(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(json.dumps(TOKENS["tokenizer_json"]))
    names = {"bos_token": "<s>", "cls_token": "<s>", "eos_token": "</s>", "sep_token": "</s>"}
    names |= {"pad_token": "<pad>", "unk_token": "<unk>", "mask_token": "<mask>"}
    write_names(tmp_path, "XLMRobertaTokenizer", names)
    texts = sentences(
        ["a", "cat", "CAT", "photos", "é🙂", "\n", "  ", ".", "İ", "東京", "<mask>", "</s>", "<S>", "</S>"]
    )
    by_class = transformers.XLMRobertaTokenizer.from_pretrained(tmp_path)
    by_class.save_pretrained(tmp_path / "saved")
    by_file = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tmp_path / "tokenizer.json"), **names)
    for reference, folder in itertools.product((by_class, by_file), (tmp_path, tmp_path / "saved")):
        check_texts(Processor.from_folder(folder, config(vocabulary=25)), reference, texts)


@pytest.mark.parametrize("family", ["clip", "metaclip_2"])
def test_clip(family: str, tmp_path: Path) -> None:
    letters = sorted(ByteLevel.alphabet())
    merges = [("c", "a"), ("ca", "t</w>"), ("d", "o"), ("'", "s</w>")]
    pieces = [*letters, *(letter + "</w>" for letter in letters), *map("".join, merges)]
    vocab = {piece: n for n, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    reference = transformers.CLIPTokenizer(vocab=vocab, merges=merges)
    reference.save_pretrained(tmp_path)
    words = [
        "A",
        "Cat",
        "DOGs",
        "it's",
        "é🙂",
        "ΟΔΟΣ",
        "\n",
        "  ",
        "...",
        "İ",
        "42nd",
        "東京",
        "e\u0301",
        "<|endoftext|>",
    ]
    for separator in (" ", ""):
        for eos in (vocab["<|endoftext|>"], None):
            processor = Processor.from_folder(tmp_path, config(family, vocabulary=len(vocab), eos=eos))
            check_texts(processor, reference, sentences(words, separator))


@pytest.mark.parametrize("form", ["spiece.model", "tokenizer.json", "tokenizer.json with an end token"])
def test_siglip(form: str, tmp_path: Path) -> None:
    """The mT5 variant, from a SentencePiece file as its hub folder has, or from a tokenizer.json made of it."""
    sentencepiece = pytest.importorskip("sentencepiece")
    pytest.importorskip("google.protobuf")
    from transformers.convert_slow_tokenizer import SpmConverter

    words = ["a", "cat", "dogs", "photo", "of", "the", "hello", "world", "pictures", "red", "birds", "is", "state"]
    learnt = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences(words)), model_writer=learnt, vocab_size=200, hard_vocab_limit=False,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece="<pad>", minloglevel=2,
    )  # fmt: skip
    (tmp_path / "spiece.model").write_bytes(learnt.getvalue())
    reference = transformers.SiglipTokenizer(str(tmp_path / "spiece.model"), model_max_length=77)
    assert reference.pad_token_id == reference.eos_token_id == 1
    made = SpmConverter(reference).converted()
    if form.endswith("end token"):
        made.post_processor = TemplateProcessing(single=["$A", "</s>"], special_tokens=[("</s>", 1)])
    if form != "spiece.model":
        made.save(str(tmp_path / "tokenizer.json"))
    write_names(tmp_path, "SiglipTokenizer", {"eos_token": "</s>", "pad_token": "</s>", "unk_token": "<unk>"})
    processor = Processor.from_folder(tmp_path, config(vocabulary=made.get_vocab_size(), eos=1))
    words += ["A", "Cat!", "(DOG)", "state-of-the-art", "it's", "\n", "  ", "...", "zebra", "É", "①", "ΟΔΟΣ", "東京"]
    check_texts(processor, reference, sentences(words))
