"""Find the pictures of a folder that fit some words.

python examples/search_photos.py "a red apple" гитара 猫
python examples/search_photos.py --folder ~/Pictures --model google/siglip2-base-patch16-naflex "a dog in the snow"
"""

import argparse
from pathlib import Path

import mlx_mm

PICTURES = Path(mlx_mm.__file__).parent / "bundled" / "pictures"

parser = argparse.ArgumentParser(description="Search pictures by words.")
parser.add_argument("words", nargs="*", default=["cat", "guitare", "车"], help="what to look for, one or more")
parser.add_argument("--folder", type=Path, default=PICTURES)
parser.add_argument("--model", default="emoji-siglip2")
args = parser.parse_args()

model, processor = mlx_mm.load(args.model)
files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
images = mlx_mm.encode_image(model, processor, files)  # (files, D): keep these, and each search takes milliseconds
queries = mlx_mm.encode_text(model, processor, args.words)  # (words, D)

for words, cosines in zip(args.words, queries @ images.T, strict=True):
    print(words)
    for i in (-cosines).argsort()[:3]:
        print(f"  {cosines[i]:.3f}  {files[i].name}")
