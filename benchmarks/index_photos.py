"""Photos per second into an index, beside what limits it: decoding alone, the model alone, and one photo after another.

    python benchmarks/index_photos.py [--count 200] [--model NAME] [--place FOLDER]

Photos of 12 megapixels are drawn, 16 different ones, each copy with bytes of its own. Then, each in a process of its
own: a refresh of a new index (thumbnails, hashes, dates and all); the same files decoded as a refresh does and nothing
more; the model alone on what was prepared; and the way of rclip 3: Pillow decodes each photo wholly, resizes it, the
model encodes it, one after the other (here with our model, so that only the way differs).
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from pictures import DIFFERENT, draw
from PIL import Image

import mlx_mm
from mlx_mm.models.contracts import ImageProcessor
from mlx_mm.processing.glance import Glance
from mlx_mm.processing.read_ahead import read_ahead
from mlx_mm.processing.sources import Source

WAYS = ("refresh", "decoding", "model", "one by one")
RATIO = 3.0  # of a refresh to one after the other, at least


def photos_in(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.jpg"))


def write_photos(folder: Path, count: int) -> None:
    """Copies differ in a comment."""
    encoded = []
    for seed in range(min(DIFFERENT, count)):
        path = folder / "new.jpg"
        draw(seed).save(path, quality=90)
        encoded.append(path.read_bytes())
        path.unlink()
    for number in range(count):
        data = encoded[number % len(encoded)]
        text = f"{number:08}".encode()
        path = folder / f"{number:04}.jpg"
        path.write_bytes(data[:2] + b"\xff\xfe" + (len(text) + 2).to_bytes(2, "big") + text + data[2:])
        os.utime(path, (1_600_000_000 + number,) * 2)


def source(path: Path) -> Source:
    return Source(path.name, lambda: path.open("rb"), glance=Glance())


def refresh(folder: Path, model: str) -> Callable[[], int]:
    index = mlx_mm.Index(folder / "x.mmindex", model)
    return lambda: index.refresh(folder).encoded


def decoding(folder: Path, model: str) -> Callable[[], int]:
    processor, paths = mlx_mm.load(model)[1], photos_in(folder)
    assert isinstance(processor, ImageProcessor)
    make = lambda index: iter([processor.images([source(paths[index])], fast_decode=True)])  # noqa: E731
    return lambda: sum(1 for _ in read_ahead(len(paths), make, inputs_ahead=32))


def model_alone(folder: Path, model: str) -> Callable[[], int]:
    loaded, paths = mlx_mm.load(model), photos_in(folder)
    small = []
    for path in paths[:DIFFERENT]:
        with Image.open(path) as image:
            image.draft("RGB", (448, 448))
            small.append(np.asarray(image.resize((256, 192))))
    images = [small[number % len(small)] for number in range(len(paths))]
    return lambda: len(mlx_mm.encode_image(*loaded, images))


def one_by_one(folder: Path, model: str) -> Callable[[], int]:
    loaded, paths = mlx_mm.load(model), photos_in(folder)

    def run() -> int:
        for path in paths:
            with Image.open(path) as image:
                mlx_mm.encode_image(*loaded, image.convert("RGB"))
        return len(paths)

    return run


def serve(way: str, folder: Path, model: str) -> None:
    """One way, in this process: files, seconds of CPU and of the clock."""
    prepare = {"refresh": refresh, "decoding": decoding, "model": model_alone, "one by one": one_by_one}[way]
    run = prepare(folder, model)
    cpu, clock = time.process_time(), time.monotonic()
    count = run()
    print(count, time.process_time() - cpu, time.monotonic() - clock)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--model", default="emoji-siglip2")
    parser.add_argument("--place", type=Path)
    parser.add_argument("--serve", choices=WAYS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve, args.place, args.model)
        return 0
    with tempfile.TemporaryDirectory(dir=args.place) as name:
        write_photos(Path(name), args.count)
        found = {way: measure(way, name, args) for way in WAYS}
    print(f"{'':12}{'files/s':>9}{'CPU ms a file':>15}{'clock ms a file':>17}")
    for way, (count, cpu, clock) in found.items():
        print(f"{way:12}{count / clock:9.2f}{1000 * cpu / count:15.1f}{1000 * clock / count:17.1f}")
    ratios = [found["one by one"][kind] / found["refresh"][kind] for kind in (1, 2)]
    print(f"\nrefresh to one by one: {ratios[1]:.1f} times by the clock, {ratios[0]:.1f} in CPU;", end=" ")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs")
    return ratios[1] < RATIO


def measure(way: str, folder: str, args: argparse.Namespace) -> tuple[int, float, float]:
    command = [sys.executable, __file__, "--serve", way, "--place", folder, "--model", args.model]
    out = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True).stdout
    count, cpu, clock = out.split()
    return int(count), float(cpu), float(clock)


if __name__ == "__main__":
    sys.exit(main())
