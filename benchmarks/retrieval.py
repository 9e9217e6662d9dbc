"""What numbers of bits cost retrieval: how often the first find is the right one, R@1, before and after converting.

    python benchmarks/retrieval.py --set evaluation [--models emoji-siglip2 sounds-clap all-MiniLM-L6-v2]

emoji-siglip2 finds the picture of a name, in four languages, among the 565 of --set (training/evaluation_set.py);
sounds-clap the English name of a sound among 65, of sounds that training never drew; all-MiniLM-L6-v2 (see
benchmarks/rounding.py) the second sentence of a docstring by its first, among 1,200; how often the nearest other
sentence stays the same goes to stderr. Nothing of it is rounded with: that takes the package's own items. A difference
has the standard error of paired finds beside it.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from rounding import nearest, second_sentences, vectors, write_checkpoint

import mlx_mm

ROOT = Path(__file__).parents[1]
MINILM = "all-MiniLM-L6-v2"
LANGUAGES = ("en", "de", "ar", "zh")
EACH = 6  # sounds of a kind
PAIRS = 1200  # of sentences
Finds = Callable[[Path], np.ndarray]  # a checkpoint -> of each query whether its first find is right
WAYS: dict[str, dict] = {
    "8": {"bits": 8},
    "6": {"bits": 6},
    "5": {"bits": 5},
    "mixed-4-8": {"recipe": "mixed-4-8"},
    "mixed-4-6": {"recipe": "mixed-4-6"},
    "4, group 32": {"bits": 4, "group_size": 32},
    "4": {"bits": 4},
    "4, plain": {"bits": 4, "method": "plain"},
}


def pictures(folder: Path) -> Finds:
    """Of names that training left out as well as of others."""
    content = json.loads((folder / "names.json").read_text())
    gallery = [folder / "noto" / f"{number:03}.png" for number in range(len(content["english"]))]

    def finds(checkpoint: Path) -> np.ndarray:
        model, processor = mlx_mm.load(checkpoint)
        images = mlx_mm.encode_image(model, processor, gallery)
        found = []
        for language in LANGUAGES:
            words = content["names"][language]
            scores = mlx_mm.encode_text(model, processor, words, batch_size=64) @ images.T
            lowered = np.array([word.lower() for word in words])
            mine = np.where(lowered[:, None] == lowered[None], scores, -np.inf).max(axis=1)
            found.append(mine >= scores.max(axis=1))
        return np.concatenate(found)

    return finds


def sounds() -> Finds:
    """Of each kind EACH."""
    sys.path.insert(0, str(ROOT / "training"))
    from clap_clips import held_out_single
    from clap_signals import RATE
    from clap_texts import NAMES, PHRASES

    truth = np.repeat(np.arange(len(NAMES)), EACH)
    waves = [(held_out_single(sound, place % EACH), RATE) for place, sound in enumerate(truth)]
    labels = [phrases["en"][0] for phrases in PHRASES]

    def finds(checkpoint: Path) -> np.ndarray:
        model, processor = mlx_mm.load(checkpoint)
        texts = mlx_mm.encode_text(model, processor, [model.prompt_template.format(label) for label in labels])
        return (mlx_mm.encode_audio(model, processor, waves) @ texts.T).argmax(axis=1) == truth

    return finds


def sentences() -> Finds:
    """Of each docstring the first and the second."""
    firsts, seconds = zip(*second_sentences()[:PAIRS], strict=True)
    neighbours: list[np.ndarray] = []  # of the source, which is asked first

    def finds(checkpoint: Path) -> np.ndarray:
        ours, theirs = vectors(checkpoint, list(firsts)), vectors(checkpoint, list(seconds))
        neighbours.append(nearest(np.concatenate([ours, theirs])))
        print(f"nearest the same: {100 * (neighbours[0] == neighbours[-1]).mean():.1f} %", file=sys.stderr, flush=True)
        return (ours @ theirs.T).argmax(axis=1) == np.arange(len(firsts))

    return finds


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--set", type=Path, required=True, help="folder of training/evaluation_set.py")
    parser.add_argument("--models", nargs="+", default=["emoji-siglip2", "sounds-clap", MINILM])
    parser.add_argument("--ways", nargs="+", default=list(WAYS), help="of: " + "; ".join(WAYS))
    args = parser.parse_args()
    makers: dict[str, Callable[[], Finds]] = {
        "emoji-siglip2": lambda: pictures(args.set),
        "sounds-clap": sounds,
        MINILM: sentences,
    }
    print("| model | bits | MB | R@1, % | change, points | lost, won | CPU s |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            source = Path(name)
            if name == MINILM:
                source = Path(folder) / name
                write_checkpoint(source)
            finds = makers[name]()
            before = finds(source)
            print(f"| {name} | 16 | | {100 * before.mean():.1f} (of {len(before)}) | | | |", flush=True)
            for bits, way in [(bits, WAYS[bits]) for bits in args.ways]:
                start = time.process_time()
                report = mlx_mm.convert(source, Path(folder) / "out", overwrite=True, check=False, **way)
                seconds = time.process_time() - start
                after = finds(Path(folder) / "out")
                change = 100 * (after.astype(float) - before)
                error = change.std() / np.sqrt(len(change))
                print(
                    f"| {name} | {bits} | {report.bytes / 1e6:.2f} | {100 * after.mean():.1f} "
                    f"| {change.mean():+.1f} ± {error:.1f} | {(before & ~after).sum()}, {(after & ~before).sum()} "
                    f"| {seconds:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
