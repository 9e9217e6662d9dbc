"""Find pictures that look alike: the same photo in two sizes, or ten shots of one sunset.

python examples/similar_photos.py
python examples/similar_photos.py ~/Pictures --model google/siglip2-base-patch16-naflex
"""

import argparse
from pathlib import Path

import numpy as np

import mlx_mm

PICTURES = Path(mlx_mm.__file__).parent / "bundled" / "pictures"

parser = argparse.ArgumentParser(description="List the most similar pairs of pictures.")
parser.add_argument("folder", type=Path, nargs="?", default=PICTURES)
parser.add_argument("--pairs", type=int, default=10, help="how many to list")
parser.add_argument("--model", default="emoji-siglip2")
args = parser.parse_args()

model, processor = mlx_mm.load(args.model)
files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
embeddings = mlx_mm.encode_image(model, processor, files)

first, second = np.triu_indices(len(files), k=1)  # every pair once
cosines = (embeddings @ embeddings.T)[first, second]
for pair in (-cosines).argsort()[: args.pairs]:
    print(f"{cosines[pair]:.3f}  {files[first[pair]].name}  {files[second[pair]].name}")
