"""Keep an index of a folder of pictures, and search it.

python examples/index_photos.py ~/Pictures "a dog in the snow" --index photos.mmindex
"""

import argparse
import tempfile
from pathlib import Path

import mlx_mm

PICTURES = Path(mlx_mm.__file__).parent / "bundled" / "pictures"

parser = argparse.ArgumentParser(description="Index a folder and search it by words.")
parser.add_argument("folder", nargs="?", type=Path, default=PICTURES)
parser.add_argument("words", nargs="*", default=["guitare", "piano"], help="what to look for, one or more")
parser.add_argument("--model", help="of a new index", default="emoji-siglip2")
parser.add_argument("--index", type=Path, help="where it stays (default: nowhere)")
args = parser.parse_args()

with tempfile.TemporaryDirectory() as folder, mlx_mm.Index(args.index or f"{folder}/a.mmindex", args.model) as index:
    report = index.refresh(args.folder)  # the second time it takes no time
    print(f"{report.files} files, {report.new} new, {len(report.failed)} that cannot be read")
    for words in args.words:
        found = [f"  {hit.score:.3f}  {Path(hit.path).name}" for hit in index.search(words, top=3)]
        print("\n".join([words, *(found or ["  nothing fits"])]))
