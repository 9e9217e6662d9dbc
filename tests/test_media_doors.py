"""Pictures and sounds as programs hand them to the public functions: open files, pipes, one object in many places."""

from __future__ import annotations

import io
import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from tiny import hashed, tiny_config, tiny_weights, write_checkpoint

from mlx_mm import classify, encode_audio, encode_image, generate, load
from mlx_mm.errors import InputError, MediaError

RATE = 48_000


def picture(k: int, height: int = 40, width: int = 50) -> Image.Image:
    return Image.fromarray((np.abs(hashed((height, width, 3), k)) * 255).astype(np.uint8))


def encoded(image: Image.Image, format: str = "PNG") -> bytes:
    file = io.BytesIO()
    image.save(file, format)
    return file.getvalue()


def sound(k: int, seconds: float = 0.5) -> bytes:
    file = io.BytesIO()
    samples = 0.3 * hashed((int(seconds * RATE),), k)
    soundfile.write(file, samples, RATE, format="WAV", subtype="FLOAT")
    return file.getvalue()


class Stream(io.RawIOBase):
    """What cannot be seeked."""

    def __init__(self, data: bytes):
        self._file = io.BytesIO(data)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._file.readinto(buffer)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    config = tiny_config("siglip2")
    config["text_config"] |= {"max_position_embeddings": 64}
    return load(write_checkpoint(tmp_path_factory.mktemp("siglip"), config, tiny_weights(config)))


@pytest.fixture(scope="module")
def clap(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Any]:
    from clap_tiny import clap_weights, tiny_clap_config, write_clap_side_files

    config = tiny_clap_config(False)
    folder = tmp_path_factory.mktemp("clap")
    return load(write_checkpoint(folder, config, clap_weights(config), side_files=write_clap_side_files))


GIVE: list[Callable[[bytes], Any]] = [io.BytesIO, Stream, lambda data: io.BufferedReader(Stream(data))]


@pytest.mark.parametrize("give", GIVE, ids=["BytesIO", "stream", "buffered"])
def test_open_files_are_pictures_and_sounds(
    give: Callable[[bytes], Any], siglip: tuple[Any, Any], clap: tuple[Any, Any]
) -> None:
    model, processor = siglip
    one, two = (encoded(picture(k)) for k in (1, 2))
    right = encode_image(model, processor, [one, two])
    np.testing.assert_array_equal(encode_image(model, processor, give(one)), encode_image(model, processor, one))
    np.testing.assert_array_equal(encode_image(model, processor, [give(one), give(two)]), right)
    twice = give(one)
    np.testing.assert_array_equal(encode_image(model, processor, [twice, give(two), twice])[[0, 1]], right)
    assert classify(model, processor, give(one), ["cat", "dog"]) == classify(model, processor, one, ["cat", "dog"])
    model, processor = clap
    hum = sound(3, 11)
    for truncation in ("windows", "rand_trunc"):
        right = encode_audio(model, processor, hum, truncation=truncation)
        np.testing.assert_array_equal(encode_audio(model, processor, give(hum), truncation=truncation), right)
        twice = give(hum)
        np.testing.assert_array_equal(encode_audio(model, processor, [twice, twice], truncation=truncation)[1], right)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP", "AVIF", "TIFF", "GIF"])
def test_one_lazily_opened_image_in_many_places(format: str, siglip: tuple[Any, Any], tmp_path: Path) -> None:
    model, processor = siglip
    path = tmp_path / "a"
    path.write_bytes(encoded(picture(4, 300, 300), format))
    right = encode_image(model, processor, path)
    for _ in range(2):
        with Image.open(path) as image:
            found = encode_image(model, processor, [image] * 8)
        np.testing.assert_allclose(found, np.stack([right] * 8), atol=1e-6)
        with Image.open(path) as image, ThreadPoolExecutor(4) as pool:
            for vector in pool.map(lambda _, kept=image: encode_image(model, processor, [kept, kept])[1], range(4)):
                np.testing.assert_allclose(vector, right, atol=1e-6)


def bad_files(folder: Path) -> list[Any]:
    (folder / "page.png").write_bytes(b"<!DOCTYPE html><html>")
    (folder / "cut.gif").write_bytes(encoded(picture(5), "GIF")[:300])
    found: list[Any] = ["x" * 300 + ".png", f"{folder}/page.png", f"{folder}/cut.gif", "a\0b", b"", io.StringIO("x")]
    found += ["http://[::1", "data:image/png;base64,@", f"{folder}"]
    if sys.platform == "linux":
        found += ["/proc/self/mem", "/dev/zero"]
    return found


def test_what_cannot_be_read_is_one_failed_item(siglip: tuple[Any, Any], clap: tuple[Any, Any], tmp_path: Path) -> None:
    bad = bad_files(tmp_path)
    for (model, processor), encode, good in (
        (siglip, encode_image, encoded(picture(6))),
        (clap, encode_audio, sound(6)),
    ):
        failed: dict[int, MediaError] = {}
        vectors = encode(model, processor, [good, *bad, good], on_error=failed.__setitem__)  # type: ignore[operator]
        assert list(failed) == list(range(1, len(bad) + 1))
        assert len(vectors) == 2
        np.testing.assert_array_equal(vectors[0], vectors[1])
        for item in bad:
            with pytest.raises(MediaError, match=r"expected .*\. |; expected a sound file\."):
                encode(model, processor, item)  # type: ignore[operator]


def test_floats_in_the_range_of_integers_are_a_failed_item(clap: tuple[Any, Any]) -> None:
    model, processor = clap
    samples = np.float32(0.3) * hashed((RATE,), 9).astype(np.float32)
    for scale in (32768, 3e37):
        with pytest.raises(MediaError, match="full scale at ±1"):
            encode_audio(model, processor, (samples * np.float32(scale), RATE))


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_are_read(siglip: tuple[Any, Any], clap: tuple[Any, Any], tmp_path: Path) -> None:
    for (model, processor), encode, data in (
        (siglip, encode_image, encoded(picture(7))),
        (clap, encode_audio, sound(7, 12)),
    ):
        path = tmp_path / f"{encode.__name__}.pipe"
        os.mkfifo(path)
        thread = threading.Thread(target=path.write_bytes, args=(data,))
        thread.start()
        found = encode(model, processor, path)  # type: ignore[operator]
        thread.join(10)
        np.testing.assert_array_equal(found, encode(model, processor, data))  # type: ignore[operator]


def test_open_files_in_a_chat(tiny_checkpoint: Callable[..., Path]) -> None:
    model, processor = load(tiny_checkpoint("glm46v"))
    data = encoded(picture(8, 56, 84))
    question = [{"role": "user", "content": "What?"}]

    right = processor.chat(question, images=[data])
    for give in GIVE:
        parts = [{"type": "image", "image": give(data)}, {"type": "text", "text": "What?"}]
        found = [processor.chat([{"role": "user", "content": parts}])]
        found += [processor.chat(question, images=images) for images in (give(data), [give(data)])]
        for batch in found:
            assert batch.keys() == right.keys()
            assert all((batch[key] == right[key]).all() for key in right)
    twice = Stream(data)
    both, right = (processor.chat(question, images=images) for images in ([twice, twice], [data, data]))
    np.testing.assert_array_equal(both["pixel_values"], right["pixel_values"])
    answers = [generate(model, processor, "What?", images=[one], max_tokens=2).raw for one in (data, Stream(data))]
    assert answers[0] == answers[1]
    for size, shown in (((10_000, 1), "1x10000"), ((1, 10_000), "10000x1")):
        with pytest.raises(InputError, match=rf"picture of {shown} is too long for this model.* 10000\.0; expected at"):
            generate(model, processor, "What?", images=[Image.new("RGB", size)])
