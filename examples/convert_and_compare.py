"""Convert a checkpoint to 8 and to 4 bit, and see what the smaller files cost.

python examples/convert_and_compare.py
python examples/convert_and_compare.py google/siglip2-base-patch16-naflex
"""

import argparse
import tempfile
from pathlib import Path

import mlx_mm

parser = argparse.ArgumentParser(description="Compare a converted checkpoint with its source.")
parser.add_argument("source", nargs="?", default="emoji-siglip2", help="folder, bundled name or hub id")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder:
    for bits in (8, 4):
        report = mlx_mm.convert(args.source, Path(folder) / f"{bits}bit", bits=bits)
        print(f"{bits} bit: {report.source_bytes / 1e6:.1f} -> {report.bytes / 1e6:.1f} MB", end="")
        if report.cost:  # None where the source lacks files that inputs are prepared with
            for kind, vectors in report.cost.vectors.items():
                # 1 would mean that nothing changed.
                print(f", cosine of {kind} vectors {vectors.mean:.4f}, at the lowest {vectors.lowest:.4f}", end="")
        print()
