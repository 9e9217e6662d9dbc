"""Where trials run: one folder for each, and what is right to begin with, made once."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import os
import shutil
import struct
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image
from recipes import RECIPES
from torch_writer import write_torch

from fuzz.outcome import unwatched

# One of each kind that the package tells apart
RECIPE_NAMES = (
    *("siglip2", "siglip", "metaclip_2", "clap", "clap-fused", "jina_clip", "glm46v", "glm4v_moe"),
    *("siglip2-classifier", "siglip2-text", "clap-audio", "clip-vision-projection"),
)
PICTURES = ("png", "jpeg", "gif", "webp", "tiff", "bmp", "ppm", "avif", "jpeg2000", "tga", "ico", "mpo", "dds")
SOUNDS = {
    **{"wav": ("WAV", "PCM_16"), "float.wav": ("WAV", "FLOAT"), "flac": ("FLAC", "PCM_16"), "ogg": ("OGG", "VORBIS")},
    **{"opus.ogg": ("OGG", "OPUS"), "mp3": ("MP3", "MPEG_LAYER_III"), "aiff": ("AIFF", "PCM_16")},
    **{"caf": ("CAF", "PCM_16"), "au": ("AU", "PCM_16"), "w64": ("W64", "PCM_16"), "ulaw.wav": ("WAV", "ULAW")},
}
VIDEOS = ("gif", "webp", "png")


class Seeds:
    """What is right to begin with, written to `folder` when it is first asked for; processes may share the folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def checkpoint(self, name: str) -> Path:
        """The folder of one of `CHECKPOINTS`."""
        return self._made(name, CHECKPOINTS[name])

    def media(self, group: str) -> dict[str, bytes]:
        """The files of "pictures", "sounds" or "videos" by name."""
        return _contents(self._made(group, MEDIA[group]))

    def _made(self, name: str, write: Callable[[Path], object]) -> Path:
        """Whoever is first wins: a folder appears complete, and another one's stays."""
        target = self.folder / name
        if not target.is_dir():
            new = self.folder / f"{name}.{os.getpid()}"
            with unwatched():
                write(new)
                try:
                    new.rename(target)
                except OSError:
                    remove(new)
        return target


def _write_converted(name: str, folder: Path) -> None:
    """As `convert` writes it: quantised, with its index, card and mark."""
    from mlx_mm import convert

    source = RECIPES[name].write(folder.with_name(f"{folder.name}.source"))
    convert(source, folder, bits=4, group_size=32)
    remove(source)


def _write_spiece(folder: Path) -> None:
    """A SentencePiece file in the place of tokenizer.json."""
    from sentencepiece import SentencePieceTrainer

    RECIPES["siglip"].write(folder)
    learnt = io.BytesIO()
    texts = ["a photo of a cat", "a cat and a dog", "the dog sees a photo"] * 20
    ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
    options: dict[str, Any] = {"vocab_size": 40, "hard_vocab_limit": False, "minloglevel": 2}
    SentencePieceTrainer.train(sentence_iterator=iter(texts), model_writer=learnt, **ids, **options)
    (folder / "tokenizer.json").unlink()
    (folder / "spiece.model").write_bytes(learnt.getvalue())
    names = {"pad_token": "</s>", "eos_token": "</s>", "tokenizer_class": "SiglipTokenizer"}
    (folder / "tokenizer_config.json").write_text(json.dumps(names))


def _write_torch(folder: Path) -> None:
    """The same tensors as PyTorch files keep them."""
    from safetensors.numpy import load_file

    RECIPES["siglip2-text"].write(folder)
    write_torch(folder / "pytorch_model.bin", load_file(folder / "model.safetensors"))
    (folder / "model.safetensors").unlink()


CHECKPOINTS: dict[str, Callable[[Path], object]] = {
    **{name: RECIPES[name].write for name in RECIPE_NAMES},
    "sharded": functools.partial(RECIPES["siglip"].write, shards=3),
    "siglip2-4bit": functools.partial(_write_converted, "siglip2"),
    "glm46v-4bit": functools.partial(_write_converted, "glm46v"),
    "spiece": _write_spiece,
    "torch": _write_torch,
}


def _pictures() -> dict[str, bytes]:
    """Every format that Pillow writes here, and variants that decoders treat apart."""
    random = np.random.default_rng(0)
    noise = Image.fromarray(random.integers(0, 256, (48, 64, 3), np.uint8))
    smooth = Image.fromarray(np.add.outer(np.arange(60), np.arange(44)).astype(np.uint8)).convert("RGB")
    found = {}
    for form in PICTURES:
        with contextlib.suppress(OSError, KeyError, ValueError):
            found[f"a.{form}"] = _saved(noise.resize((32, 32)) if form == "ico" else noise, form)
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a title"
    variants: dict[str, tuple[Image.Image, str, dict[str, Any]]] = {
        "palette.png": (smooth.quantize(16), "png", {}),
        "alpha.png": (noise.convert("RGBA"), "png", {}),
        "grey.png": (noise.convert("L"), "png", {"optimize": True}),
        "deep.png": (Image.fromarray(random.integers(0, 65536, (20, 30), np.uint16)), "png", {}),
        "bits.png": (noise.convert("1"), "png", {}),
        "turned.jpeg": (smooth, "jpeg", {"exif": exif, "progressive": True}),
        "cmyk.jpeg": (noise.convert("CMYK"), "jpeg", {}),
        "lzw.tiff": (noise, "tiff", {"compression": "tiff_lzw"}),
        "float.tiff": (Image.fromarray(random.random((20, 30)).astype(np.float32)), "tiff", {}),
        "pages.tiff": (smooth, "tiff", {"save_all": True, "append_images": [noise]}),
        "lossless.webp": (noise, "webp", {"lossless": True}),
    }
    for name, (image, form, options) in variants.items():
        with contextlib.suppress(OSError, KeyError, ValueError):
            found[name] = _saved(image, form, **options)
    return found | {
        "wide.png": plain_png(10_000, 8_000),
        "flat.png": plain_png(20_000, 1),
        "text.png": _png_with_text(),
    }


def _saved(image: Image.Image, form: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def plain_png(width: int, height: int) -> bytes:
    """A black picture of one bit a pixel, a thousandth of its size on the disk."""
    packer = zlib.compressobj(9)
    row = bytes(1 + (width + 7) // 8)
    data = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    return _png([(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)), (b"IDAT", data), (b"IEND", b"")])


def _png_with_text() -> bytes:
    pixels = zlib.compress((b"\0" + bytes(24)) * 8)
    text = b"Comment\0\0" + zlib.compress(bytes(3 << 20))
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    return _png([(b"IHDR", header), (b"zTXt", text), (b"IDAT", pixels), (b"IEND", b"")])


def _png(chunks: list[tuple[bytes, bytes]]) -> bytes:
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _sounds() -> dict[str, bytes]:
    import soundfile

    time = np.arange(4800) / 48000
    wave = np.stack([np.sin(2 * np.pi * 440 * time), np.sin(2 * np.pi * 660 * time)], axis=1) * 0.5
    found = {}
    for name, (form, subtype) in SOUNDS.items():
        file = io.BytesIO()
        with contextlib.suppress(soundfile.SoundFileError, ValueError):
            soundfile.write(file, wave, 48000, format=form, subtype=subtype)
            found[f"a.{name}"] = file.getvalue()
    return found


def _videos() -> dict[str, bytes]:
    random = np.random.default_rng(1)
    frames = [Image.fromarray(random.integers(0, 256, (32, 48, 3), np.uint8)) for _ in range(6)]
    found = {}
    for form in VIDEOS:
        file = io.BytesIO()
        frames[0].save(file, form, save_all=True, append_images=frames[1:], duration=100)
        found[f"a.{form}"] = file.getvalue()
    with contextlib.suppress(ImportError):
        found["a.mp4"] = _mp4(frames)
    return found


def _mp4(frames: list[Image.Image]) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height = frames[0].size
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_image(frame)))
        container.mux(stream.encode())
    return file.getvalue()


def _writing(make: Callable[[], dict[str, bytes]]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        folder.mkdir(parents=True)
        for name, data in make().items():
            (folder / name).write_bytes(data)

    return write


MEDIA = {"pictures": _writing(_pictures), "sounds": _writing(_sounds), "videos": _writing(_videos)}


class Place:
    """A folder in which one trial after the other runs, and the seeds.

    For each there is a new `folder`, called `in`, which is the current one; `home` and `tmp` lie beside it. What MLX
    compiles stays in the system's own place for such files, where it is found again.
    """

    def __init__(self, seeds: Seeds, root: Path) -> None:
        self.seeds, self.root = seeds, root
        self.folder = root / "in"
        (root / "tmp").mkdir(parents=True, exist_ok=True)
        (root / "home").mkdir(exist_ok=True)

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """In the new folder, with the variables that say where homes and caches are."""
        self.folder.mkdir()
        here, variables, temporary = os.getcwd(), dict(os.environ), tempfile.tempdir
        home = str(self.root / "home")
        os.environ |= {
            "HOME": home,
            "XDG_CACHE_HOME": home,
            "MLX_MM_CACHE": f"{home}/mlx_mm",
        }
        os.environ |= {"HF_HOME": f"{home}/hf", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
        tempfile.tempdir = str(self.root / "tmp")
        os.chdir(self.folder)
        try:
            yield
        finally:
            os.chdir(here)
            tempfile.tempdir = temporary
            os.environ.clear()
            os.environ |= variables
            remove(self.folder)

    def media(self, group: str, random: Random) -> tuple[str, bytes]:
        """The name and the bytes of a picture, sound or video."""
        files = self.seeds.media(group)
        name = random.choice(sorted(files))
        return name, files[name]

    def checkpoint(self, name: str, folder: str = "model") -> Path:
        """A copy whose files may be replaced, never changed in place: they are links."""
        target = self.folder / folder
        target.mkdir()
        for path in self.seeds.checkpoint(name).iterdir():
            os.link(path, target / path.name)
        return target

    def loaded(self, name: str) -> tuple[Any, Any]:
        """A seed's model and processor, loaded once for each process."""
        return _loaded(self.seeds.checkpoint(name))


def replace(path: Path, data: bytes) -> Path:
    """Give a file other contents, and leave the one that it was linked to."""
    path.unlink(missing_ok=True)
    path.write_bytes(data)
    return path


def remove(folder: Path) -> None:
    """Also what nobody may read."""
    shutil.rmtree(folder, onerror=lambda *_: None)
    if folder.exists():
        for parent, folders, _ in os.walk(folder):
            for name in folders:
                os.chmod(os.path.join(parent, name), 0o700)
        shutil.rmtree(folder)


@functools.cache
def _contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@functools.cache
def _loaded(folder: Path) -> tuple[Any, Any]:
    from mlx_mm import load

    with unwatched():
        return load(folder)
