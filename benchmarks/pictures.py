"""Photos per second from JPEG files to vectors: decoded to the last bit, and with fast_decode.

    python benchmarks/pictures.py [--count 200] [--runs 5] [--models bundled vit vit-8bit] [--vit FOLDER]

Photos of 12 megapixels are drawn into a temporary folder, 16 different ones. Models: the bundled one, and a SigLIP
ViT-B/16 with random weights (written by transformers; --vit takes a folder in its place) in float32 and converted to
8 bit. Both ways take turns in one process. "Busy" is the share of the machine's CPUs that the process used: what is
missing of 1 is waiting.
"""

import argparse
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import turns
from encoders import write_checkpoint
from PIL import Image, ImageDraw

import mlx_mm

WIDTH, HEIGHT = 4032, 3024
DIFFERENT = 16
MODELS = ("bundled", "vit", "vit-8bit")


def draw(seed: int) -> Image.Image:
    """Soft colours, detail of every size, grain and hard edges; encoded it takes as much as a phone's photo."""
    random = np.random.default_rng(seed)
    pixels = np.full((HEIGHT, WIDTH, 3), 128, np.float32)
    for octave in range(1, 9):
        coarse = random.normal(0, 60 * 0.65**octave, (3 * 2**octave, 4 * 2**octave, 3)).astype(np.float32)
        for channel in range(3):
            layer = Image.fromarray(np.ascontiguousarray(coarse[..., channel]))
            pixels[..., channel] += np.asarray(layer.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))
    pixels += random.normal(0, 5, (HEIGHT, WIDTH, 1)).astype(np.float32)
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    brush = ImageDraw.Draw(image)
    for _ in range(12):
        left, top, size = random.integers(0, WIDTH), random.integers(0, HEIGHT), random.integers(100, 900)
        shape = brush.ellipse if random.random() < 0.5 else brush.rectangle
        shape([left, top, left + size, top + size * 3 // 4], tuple(random.integers(0, 256, 3).tolist()))
    return image


def write_photos(folder: Path, count: int) -> list[Path]:
    paths = [folder / f"{number:04}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        if number < DIFFERENT:
            draw(number).save(path, quality=90)
        else:
            shutil.copyfile(paths[number % DIFFERENT], path)
    return paths


def timed(run: Callable[[], np.ndarray]) -> tuple[float, float, np.ndarray]:
    """Seconds, those of all processors, what came of it."""
    wall, processor = time.perf_counter(), time.process_time()
    result = run()
    return time.perf_counter() - wall, time.process_time() - processor, result


def compare(name: str, folder: str, paths: list[Path], runs: int) -> None:
    """Print a table of both ways, and how far their vectors lie apart."""
    model, processor = mlx_mm.load(folder)

    def encode(fast: bool) -> np.ndarray:
        return mlx_mm.encode_image(model, processor, paths, fast_decode=fast)

    def prepare(fast: bool) -> np.ndarray:
        return np.concatenate(
            [processor.images([path], fast_decode=fast)["pixel_values"] for path in paths[:DIFFERENT]]
        )

    wall: dict[bool, list[float]] = {False: [], True: []}
    busy: dict[bool, list[float]] = {False: [], True: []}
    alone: dict[bool, list[float]] = {False: [], True: []}
    vectors = {}
    for fast in (False, True):
        mlx_mm.encode_image(model, processor, paths[:DIFFERENT], fast_decode=fast)
    for _ in range(runs):
        for fast in (False, True):
            seconds, processors, vectors[fast] = timed(lambda fast=fast: encode(fast))
            wall[fast].append(seconds)
            busy[fast].append(processors / seconds / turns.cpus())
            alone[fast].append(1e3 * timed(lambda fast=fast: prepare(fast))[1] / len(paths[:DIFFERENT]))
    print(f"| {name}, {len(paths)} photos | photos/s (range) | busy | decoding and resizing alone, ms of a CPU each |")
    print("|---|---|---|---|")
    for fast in (False, True):
        rates = sorted(len(paths) / seconds for seconds in wall[fast])
        spread = f"{statistics.median(rates):.2f} ({rates[0]:.2f} - {rates[-1]:.2f})"
        shares = f"{statistics.median(busy[fast]):.2f}"
        print(f"| {'fast_decode' if fast else 'exact'} | {spread} | {shares} | {statistics.median(alone[fast]):.1f} |")
    ratios = sorted(exact / fast for exact, fast in zip(wall[False], wall[True], strict=True))
    print(f"\nfast_decode {statistics.median(ratios):.2f} times as fast ({ratios[0]:.2f} - {ratios[-1]:.2f}); ", end="")
    print(f"1 - cosine at most {1 - (vectors[False] * vectors[True]).sum(axis=1).min():.1e}\n", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=200, help="photos (default: 200)")
    parser.add_argument("--runs", type=int, default=5, help="timed runs of each way (default: 5)")
    parser.add_argument("--models", nargs="+", default=MODELS, choices=MODELS)
    parser.add_argument("--vit", type=Path, help="a folder that `load` takes (default: a random ViT-B/16)")
    arguments = parser.parse_args()
    turns.describe_machine()
    with tempfile.TemporaryDirectory() as temporary:
        photos, vit = Path(temporary) / "photos", Path(temporary) / "vit"
        photos.mkdir()
        vit.mkdir()
        paths = write_photos(photos, arguments.count)
        print(f"Photos: {WIDTH} x {HEIGHT}, {paths[0].stat().st_size / 1e6:.1f} MB each\n")
        folders = {"bundled": "emoji-siglip2", "vit": str(arguments.vit or vit), "vit-8bit": str(vit / "8bit")}
        if {"vit", "vit-8bit"} & set(arguments.models) and arguments.vit is None:
            write_checkpoint(vit)
        if "vit-8bit" in arguments.models:
            mlx_mm.convert(folders["vit"], folders["vit-8bit"], bits=8, check=False)
        for name in arguments.models:
            compare(name, folders[name], paths, arguments.runs)
    print(f"Load at the end: {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
