"""Give every picture of a folder the tags that fit it.

python examples/tag_photos.py --tags cat,pizza,guitar
python examples/tag_photos.py --folder ~/Pictures --tags beach,snow,birthday --model google/siglip2-base-patch16-naflex
"""

import argparse
from pathlib import Path

import mlx_mm

PICTURES = Path(mlx_mm.__file__).parent / "bundled" / "pictures"

parser = argparse.ArgumentParser(description="Tag pictures.")
parser.add_argument("--folder", type=Path, default=PICTURES)
parser.add_argument("--tags", default="cat,dog,apple,pizza,car,guitar,umbrella,heart", help="comma-separated")
parser.add_argument("--sure", type=float, default=0.5, help="lowest score of a further tag")
parser.add_argument("--model", default="emoji-siglip2")
args = parser.parse_args()

model, processor = mlx_mm.load(args.model)
files = sorted(path for path in args.folder.rglob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))
results = mlx_mm.classify(model, processor, files, args.tags.split(","))

for file, (best, *others) in zip(files, results, strict=True):
    # Each score is a probability of its own, so a picture can have several tags, or one that hardly fits.
    tags = [best, *(tag for tag in others if tag[1] >= args.sure)]
    print(f"{file.name:28} {', '.join(f'{name} {score:.2f}' for name, score in tags)}")
