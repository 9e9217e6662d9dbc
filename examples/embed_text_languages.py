"""Say one thing in several languages: how close are the vectors, and is the same picture found?

python examples/embed_text_languages.py cat Katze gato кот 猫 고양이
"""

import argparse
from pathlib import Path

import mlx_mm

PICTURES = Path(mlx_mm.__file__).parent / "bundled" / "pictures"

parser = argparse.ArgumentParser(description="Compare a word in several languages.")
parser.add_argument("words", nargs="*", default=["cat", "Katze", "gato", "кіт", "猫", "고양이"])
parser.add_argument("--folder", type=Path, default=PICTURES)
parser.add_argument("--model", default="emoji-siglip2")
args = parser.parse_args()

model, processor = mlx_mm.load(args.model)
files = sorted(args.folder.glob("*.png"))
images = mlx_mm.encode_image(model, processor, files)
words = mlx_mm.encode_text(model, processor, args.words)

print(f"cosine to {args.words[0]!r}, and the picture that fits best")
for word, embedding in zip(args.words, words, strict=True):
    best = files[(images @ embedding).argmax()]
    print(f"{embedding @ words[0]:6.3f}  {best.stem:20} {word}")
