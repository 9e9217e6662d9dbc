"""What each method of rounding costs the bundled models, on items that nothing was rounded with.

    python benchmarks/methods.py FOLDER --bits 4 3 --methods plain search best

FOLDER has a folder named after each model with texts.txt (a text a line), chats.jsonl ({"text", "images"}), pictures
and sounds; all of it is measured with. Rounding sees the package's own items alone.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import numpy as np

import mlx_mm
from mlx_mm.evaluate.outputs import answers, prompts, results
from mlx_mm.probes import Chat, Probes
from mlx_mm.quantize.cost import divergence

MODELS = ("emoji-siglip2", "sounds-clap", "emoji-glm4v")


def held_out(folder: Path) -> Probes:
    """Everything in a folder."""
    texts, chats = folder / "texts.txt", folder / "chats.jsonl"
    lines = [json.loads(line) for line in chats.read_text("utf-8").splitlines()] if chats.exists() else []
    return Probes(
        folder.name,
        tuple(texts.read_text("utf-8").splitlines()) if texts.exists() else (),
        tuple(sorted(folder.glob("*.png"))),
        tuple(sorted(folder.glob("*.flac"))),
        tuple(Chat(line["text"], tuple(folder / name for name in line["images"])) for line in lines),
    )


def losses(kind: str, got: np.ndarray, given: np.ndarray) -> np.ndarray:
    """Of each item: 1 - cosine of vectors, or the divergence of distributions in nats."""
    if kind == "generator":
        return divergence(got, given)[0]
    a, b = (rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True) for rows in (got, given))
    return 1 - (a * b).sum(axis=1)


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=list(MODELS))
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--methods", nargs="+", default=["plain", "search", "best"])
    args = parser.parse_args()
    print("| model | bits | method | inputs | loss, mean | worst | CPU s |\n|---|---|---|---|---|---|---|")
    for name in args.models:
        model, processor = mlx_mm.load(name)
        task = (answers if model.kind == "generator" else prompts)(held_out(args.folder / name), model, processor)
        given = results(model, task, lambda _modality: None)
        for bits in args.bits:
            for method in args.methods:
                with tempfile.TemporaryDirectory() as out:
                    start = time.process_time()
                    mlx_mm.convert(name, Path(out) / "new", bits=bits, method=method, check=False)
                    seconds = time.process_time() - start
                    got = results(mlx_mm.load(Path(out) / "new")[0], task, lambda _modality: None)
                for kind in got:
                    lost = losses(model.kind, got[kind], given[kind])
                    row = f"{kind} ({len(lost)}) | {lost.mean():.5f} | {lost.max():.4f} | {seconds:.1f}"
                    print(f"| {name} | {bits} | {method} | {row} |", flush=True)


if __name__ == "__main__":
    main()
