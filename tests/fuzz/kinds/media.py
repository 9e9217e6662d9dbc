"""Pictures, sounds and videos: their files, and what else people pass in their place."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzz.kinds.spoiling import huge
from fuzz.kinds.using import PIXELS, WAVE, answered, finite, undisturbed, vectors
from fuzz.mutation import FRACTIONS, odd_text, spoil_bytes, spoil_png
from fuzz.outcome import BadOutputError, Trial
from fuzz.place import Place

ENDINGS = (
    ".png",
    ".jpg",
    ".gif",
    ".webp",
    ".tif",
    ".wav",
    ".mp3",
    ".flac",
    ".raw",
    ".mp4",
    ".txt",
    "",
    ".PNG",
    ".eps",
    ".svg",
)
SIGHT = ("siglip2", "siglip2", "siglip", "metaclip_2", "jina_clip")
NAN = float("nan")
LABELS = ["cat", "dog"]


def _spoiled(random: Random, place: Place, group: str) -> tuple[str, bytes]:
    """A name and bytes that are mostly wrong in some place; now and then right, or another kind of file."""
    name, data = place.media(group, random)
    other = place.media(random.choice(("pictures", "sounds", "videos", group)), random)[1]
    if data[:4] == b"\x89PNG" and random.random() < 0.5:
        return name, spoil_png(random, data)
    if random.random() < 0.04:
        data = random.choice(
            (b"", b"\0" * 500, b"<html><body>no</body></html>", b"<svg xmlns='http://www.w3.org/2000/svg'/>", other)
        )
        return name, data
    return name, spoil_bytes(random, data, other)


def _source(random: Random, place: Place, name: str, data: bytes) -> Any:
    """The bytes in one of the forms that are taken: most often a file."""
    roll = random.random()
    if roll < 0.6:
        ending = Path(name).suffix if roll < 0.45 else random.choice(ENDINGS)
        path = place.folder / (random.choice(("a", "a b", "ñ猫", "-x", "a%20b", "x" * 200)) + ending)
        path.write_bytes(data)
        return random.choice((path, str(path), path.name))
    if roll < 0.75:
        return data
    if roll < 0.85:
        return io.BytesIO(data)
    if roll < 0.9:
        return bytearray(data) if roll < 0.88 else memoryview(data)
    text = base64.b64encode(data).decode()
    return f"data:image/png;base64,{text}" if roll < 0.97 else f"data:image/png;base64,{text[:-3]}"


def _odd_path(random: Random, place: Place) -> Any:
    """A name behind which there is no file to be read."""
    folder = place.folder / "folder.wav"
    folder.mkdir()
    names = (
        "/dev/zero",
        "/dev/null",
        "/dev/full",
        "/proc/self/mem",
        "/proc/self/environ",
        "x" * 300 + ".png",
        "a\0.png",
        "",
    )
    vast = huge(place.folder / random.choice(("huge.png", "huge.wav", "huge.mp4", "huge.raw")))
    return random.choice((*names, vast, vast, ".", str(folder), folder, "missing.png", "\udcff.png", odd_text(random)))


# --- pictures -----------------------------------------------------------------------------------------------------


def picture(random: Random, place: Place) -> Trial:
    """Encoded, counted or asked about; sometimes arrays and Pillow's images instead of files."""
    roll = random.random()
    if roll < 0.8:
        source = _source(random, place, *_spoiled(random, place, "pictures"))
    elif roll < 0.84:
        source = _odd_path(random, place)
    elif roll < 0.9:
        source = _lazy(*_spoiled(random, place, "pictures"))
    else:
        source = _odd_image(random)
    model = place.loaded(random.choice(SIGHT))
    how = random.random()

    def trial() -> None:
        import mlx_mm

        if how < 0.7:
            vectors(mlx_mm.encode_image(*model, source))
        elif how < 0.8:
            failed: list[int] = []
            found = mlx_mm.encode_image(*model, [source, PIXELS, source], on_error=lambda i, _: failed.append(i))
            vectors(found, 3 - len(failed))
            undisturbed(found[int(0 not in failed)], mlx_mm.encode_image(*model, PIXELS))
        elif how < 0.9:
            finite("scores", mlx_mm.classify(*model, source, LABELS))
        else:
            answered(
                mlx_mm.generate(*place.loaded("glm46v"), "What?", images=[source], max_tokens=1, max_pixels=40_000)
            )

    return trial


def _lazy(name: str, data: bytes) -> Any:
    """Opened by Pillow and not yet decoded, where it opens."""
    try:
        return Image.open(io.BytesIO(data))
    except Exception:
        return data


def _odd_image(random: Random) -> Any:
    """Arrays and images of unusual shapes, types and modes."""
    shapes = (
        (0, 0, 3),
        (1, 1, 3),
        (5, 5),
        (5, 5, 1),
        (5, 5, 4),
        (3, 5, 5),
        (1, 5, 5, 3),
        (5,),
        (),
        (1, 9000, 3),
        (9000, 1, 3),
        (5, 5, 2),
    )
    kinds = (
        np.uint8,
        np.int32,
        np.int64,
        np.float16,
        np.float32,
        np.float64,
        np.uint16,
        np.bool_,
        np.complex64,
        object,
        "S3",
        "datetime64[s]",
    )
    with np.errstate(all="ignore"):
        if random.random() < 0.6:
            fill = (
                random.choice((0, 1, 200, *FRACTIONS))
                if (kind := random.choice(kinds)) in (np.float32, np.float64, np.float16)
                else 1
            )
            return np.full(random.choice(shapes), fill).astype(kind)
    modes = (
        "1",
        "L",
        "P",
        "RGB",
        "RGBA",
        "CMYK",
        "YCbCr",
        "LAB",
        "HSV",
        "I",
        "F",
        "LA",
        "PA",
        "RGBa",
        "La",
        "RGBX",
        "I;16",
        "I;16B",
    )
    image = Image.new(random.choice(modes), random.choice(((0, 0), (1, 1), (0, 9), (7, 5), (3000, 1))))
    if random.random() < 0.2:
        image.close()
    return image


# --- sounds -------------------------------------------------------------------------------------------------------


def sound(random: Random, place: Place) -> Trial:
    """Encoded by CLAP; sometimes samples instead of files."""
    roll = random.random()
    if roll < 0.82:
        source = _source(random, place, *_spoiled(random, place, "sounds"))
    elif roll < 0.86:
        source = _odd_path(random, place)
    else:
        source = _odd_samples(random)
    model = place.loaded(random.choice(("clap", "clap", "clap-fused", "clap-audio")))
    how = random.random()
    truncation = random.choice(("windows", "windows", "fusion", "rand_trunc"))

    def trial() -> None:
        import mlx_mm

        if how < 0.8:
            vectors(mlx_mm.encode_audio(*model, source, truncation=truncation))
            return
        failed: list[int] = []
        found = mlx_mm.encode_audio(*model, [(WAVE, 48000), source], on_error=lambda i, _: failed.append(i))
        vectors(found, 2 - len(failed))
        undisturbed(found[0], mlx_mm.encode_audio(*model, (WAVE, 48000)))

    return trial


def _odd_samples(random: Random) -> Any:
    """Samples with rates, shapes and numbers that are unusual or wrong."""
    shape = random.choice(
        ((0,), (1,), (100,), (4800,), (2, 4800), (4800, 2), (40, 40), (4800, 1), (1, 1, 480), (), (33, 480))
    )
    kind = random.choice(
        (np.float32, np.float64, np.float16, np.int16, np.int32, np.uint8, np.int64, np.bool_, np.complex64, object)
    )
    value = random.choice((0, 0.3, 1, 3e37, 3e38, 1e-40, 32000, -5, *FRACTIONS))
    with np.errstate(all="ignore"):
        samples = np.full(shape, value, np.float64).astype(kind)
    rate = random.choice(
        (
            48000,
            44100,
            16000,
            1,
            0,
            -1,
            7.5,
            10**9,
            10**400,
            float("nan"),
            float("inf"),
            None,
            "48000",
            True,
            np.int16(8000),
        )
    )
    rate = 48000 if random.random() < 0.5 else rate
    forms = (
        (samples, rate),
        (samples, rate),
        (samples.tolist(), rate),
        samples,
        (samples,),
        (rate, samples),
        (samples, rate, 1),
        [samples, rate],
    )
    return random.choice(forms)


# --- videos -------------------------------------------------------------------------------------------------------


def video(random: Random, place: Place) -> Trial:
    """Prepared for GLM, and in a part of the trials asked about."""
    roll = random.random()
    if roll < 0.78:
        source = _source(random, place, *_spoiled(random, place, "videos"))
    elif roll < 0.82:
        source = _odd_path(random, place)
    elif roll < 0.9:
        source = _odd_frames(random)
    else:
        folder = place.folder / "frames"
        folder.mkdir()
        for i in range(random.randrange(4)):
            name, data = (
                _spoiled(random, place, "pictures") if random.random() < 0.5 else place.media("pictures", random)
            )
            (folder / f"{i}{Path(name).suffix}").write_bytes(data)
        if random.random() < 0.1:
            os.mkfifo(folder / "9.png")
        source = folder
    usual = None if roll < 0.82 else 2
    fps = usual if random.random() < 0.7 else random.choice((2, 0, -1, 0.001, 10**400, 1e308, NAN, True, "2", 5e-324))
    how = random.random()
    model, processor = place.loaded("glm46v")

    def trial() -> None:
        import mlx_mm

        if how < 0.6:
            message = {
                "role": "user",
                "content": [{"type": "video", "video": source}, {"type": "text", "text": "What?"}],
            }
            batch = processor.chat([message], fps=fps, max_pixels=40_000)
            finite("pixels", batch["pixel_values_videos"].astype(np.float64).ravel()[:5000].tolist())
        elif how < 0.7:
            if not all(count > 0 for count in processor.count_tokens(videos=[source])["videos"]):
                raise BadOutputError("a video of no tokens")
        else:
            answered(
                mlx_mm.generate(model, processor, "What?", videos=[source], fps=fps, max_tokens=1, max_pixels=40_000)
            )

    return trial


def _odd_frames(random: Random) -> Any:
    """Frames as arrays and lists."""
    shapes = (
        (0, 9, 9, 3),
        (1, 1, 1, 3),
        (2, 30, 30, 3),
        (2, 30, 30),
        (2, 3, 30, 30),
        (2, 0, 5, 3),
        (30, 30, 3),
        (3, 1, 900, 3),
    )
    kind = random.choice((np.uint8, np.float32, np.float64, np.int64, np.bool_, object))
    with np.errstate(all="ignore"):
        array = np.full(random.choice(shapes), random.choice((0, 1, 2, *FRACTIONS)), np.float64).astype(kind)
    small, large = Image.new("RGB", (30, 30)), Image.new("RGB", (40, 30))
    return random.choice(
        (array, array, list(array), [small, large], [], [None], [small, "missing.png"], (small,), [[small]], [b""])
    )
