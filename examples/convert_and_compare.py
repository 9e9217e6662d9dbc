"""Convert a checkpoint to 8 and to 4 bit, and see what the smaller files cost.

python examples/convert_and_compare.py
python examples/convert_and_compare.py google/siglip2-base-patch16-naflex
"""

import argparse
import tempfile
from pathlib import Path

import mlx_mm

PICTURES = sorted((Path(mlx_mm.__file__).parent / "bundled" / "pictures").glob("*.png"))

parser = argparse.ArgumentParser(description="Compare a converted checkpoint with its source.")
parser.add_argument("source", nargs="?", default="emoji-siglip2", help="folder, bundled name or hub id")
args = parser.parse_args()

loaded = mlx_mm.load(args.source)
originals = mlx_mm.encode_image(*loaded, PICTURES), mlx_mm.encode_text(*loaded, [path.stem for path in PICTURES])

with tempfile.TemporaryDirectory() as folder:
    for bits in (8, 4):
        report = mlx_mm.convert(args.source, Path(folder) / f"{bits}bit", bits=bits)
        loaded = mlx_mm.load(report.out)
        embeddings = mlx_mm.encode_image(*loaded, PICTURES), mlx_mm.encode_text(*loaded, [p.stem for p in PICTURES])
        # Unit vectors: the sum of the products is the cosine, and 1 would mean that nothing changed.
        image, text = ((new * old).sum(axis=1).mean() for new, old in zip(embeddings, originals, strict=True))
        print(f"{bits} bit: {report.source_bytes / 1e6:.1f} -> {report.bytes / 1e6:.1f} MB, ", end="")
        print(f"mean cosine of pictures {image:.4f}, of texts {text:.4f}")
