"""What a refresh of an index costs: the first, one with nothing to do, and after changes, moves and copies.

    python benchmarks/index_refresh.py [--files 100000] [--stub] [--place FOLDER] [--json FILE]

Small numbered pictures are written, 1,000 a folder, and indexed with the bundled model, or with --stub with vectors
that are drawn from the pixels at once, so that everything else is measured. Then: nothing to do, twice; every hundredth
file changed; 1,000 files moved; the whole folder renamed and given anew; the whole folder copied. Of each the seconds
of CPU and of the clock, how many pictures the model was given, which is compared with what is due, and the peak of
memory of the process so far. Exit status 1 where a number is not as it should be.
"""

import argparse
import json
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np

import mlx_mm
from mlx_mm import batches

A_FOLDER = 1_000
SIDE = 32
LONG_AGO = 1_600_000_000
MOVED = 1_000
IDLE_CPU = 3.0  # seconds that a refresh of 100,000 files with nothing to do may take
MIB = 1 << 20


def png(seed: int) -> bytes:
    """A picture of soft colours that no other seed has."""
    random = np.random.default_rng(seed)
    small = random.integers(0, 256, (4, 4, 3), np.uint8)
    pixels = np.kron(small, np.ones((SIDE // 4, SIDE // 4, 1), np.uint8))
    pixels[0, :2].flat[:] = np.frombuffer(struct.pack("<q", seed)[:6], np.uint8)
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", SIDE, SIDE, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 1)) + chunk(b"IEND", b"")


def path_of(root: Path, number: int) -> Path:
    return root / f"{number // A_FOLDER:03}" / f"{number:06}.png"


def write(root: Path, number: int, seed: int) -> None:
    path = path_of(root, number)
    path.write_bytes(png(seed))
    os.utime(path, (LONG_AGO + seed, LONG_AGO + seed))


class Given:
    """Counts what the model is given. stub: vectors come at once, and the model is not asked."""

    def __init__(self, stub: bool):
        self.count = 0
        self.stub = stub
        self.run: Callable = batches.run_row_by_row
        batches.run_row_by_row = self

    def __call__(self, function: Callable, batch: dict, weights: object) -> mx.array:
        values = batch["pixel_values"]
        self.count += len(values)
        if not self.stub:
            return self.run(function, batch, weights)
        flat = np.array(values).reshape(len(values), -1)[:, :128]
        return mx.array(flat + 1e-3)

    def taken(self) -> int:
        count, self.count = self.count, 0
        return count


def peak() -> float:
    """MiB."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most / MIB if sys.platform == "darwin" else most / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--stub", action="store_true")
    parser.add_argument("--place", type=Path)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=args.place) as name:
        rows, wrong = measure(Path(name), args.files, Given(args.stub))
    print(f"\nload {os.getloadavg()[0]:.1f} on {os.cpu_count()} CPUs; peak {peak():.0f} MiB")
    for line in wrong:
        print(f"wrong: {line}")
    if args.json:
        args.json.write_text(json.dumps({"files": args.files, "stub": args.stub, "rows": rows, "peak_mib": peak()}))
    return bool(wrong)


def measure(place: Path, files: int, given: Given) -> tuple[list[dict], list[str]]:
    photos, rows, wrong = place / "photos", [], []
    for folder in range(-(-files // A_FOLDER)):
        (photos / f"{folder:03}").mkdir(parents=True)
    for number in range(files):
        write(photos, number, number)
    index = mlx_mm.Index(place / "x.mmindex")
    print(
        f"{files:,} files written; peak {peak():.0f} MiB\n\n{'':24}{'CPU s':>9}{'clock s':>9}{'encoded':>9}{'MiB':>7}"
    )

    def run(what: str, due: int, *folders: Path, most: float | None = None) -> None:
        cpu, clock = time.process_time(), time.monotonic()
        report = index.refresh(list(folders))
        spent = (time.process_time() - cpu, time.monotonic() - clock)
        encoded = given.taken()
        print(f"{what:24}{spent[0]:9.2f}{spent[1]:9.2f}{encoded:9,}{peak():7.0f}", flush=True)
        rows.append({"what": what, "cpu": spent[0], "clock": spent[1], "encoded": encoded, "mib": peak()})
        if encoded != due or report.encoded != due or report.failed:
            wrong.append(f"{what}: {encoded:,} encoded, {due:,} expected; {report}")
        if most is not None and spent[0] > most * max(files / 100_000, 0.1):
            wrong.append(f"{what}: {spent[0]:.2f} s of CPU")

    run("first", files, photos)
    run("nothing to do", 0, most=IDLE_CPU)
    run("nothing to do, again", 0, most=IDLE_CPU)
    for number in range(0, files, 100):
        write(photos, number, files + number)
    run("1 % changed", len(range(0, files, 100)))
    (photos / "moved").mkdir()
    for number in range(1, min(files, MOVED + 1)):
        os.rename(path_of(photos, number), photos / "moved" / f"{number}.png")
    run("1,000 moved", 0)
    os.rename(photos, place / "pictures")
    run("root renamed", 0, place / "pictures")
    shutil.copytree(place / "pictures", place / "copy", copy_function=shutil.copy)
    run("cp -r", 0, place / "copy")
    run("nothing to do, twice", 0, most=2 * IDLE_CPU)
    index.close()
    return rows, wrong


if __name__ == "__main__":
    sys.exit(main())
