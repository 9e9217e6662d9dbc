"""What each mode, number of bits, group size and method of rounding costs the bundled trained models.

    python benchmarks/quantisation.py [emoji-siglip2 sounds-clap emoji-glm4v] [--set evaluation] [--png docs]

A Markdown table for each model: MB of tensors; of each kind of input 1 - cosine, mean and worst, or the divergence;
how often the model is right; and the seconds of CPU time that converting took. Measured on the half of the bundled
probes that nothing is rounded with. Right is of emoji-siglip2 the share of names in four languages that find their
picture among all 565 of --set (written by training/evaluation_set.py), without it among the bundled pictures; of
sounds-clap the share of sounds, two of each of 65 kinds and none of training, nearest to their English name; of
emoji-glm4v the questions of the demonstration. --png: a folder for a picture of each model's table.
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

import mlx_mm
from mlx_mm.cli.curves import draw
from mlx_mm.quantize.cost import Cost

ROOT = Path(__file__).parents[1]
BUNDLED = ROOT / "mlx_mm" / "bundled"
MODELS = ("emoji-siglip2", "sounds-clap", "emoji-glm4v")
BITS = (2, 3, 4, 5, 6, 8)
METHODS = ("plain", "search", "best")
LANGUAGES = ("en", "de", "ar", "zh")
EACH = 2  # sounds of a kind
Way = dict  # arguments of convert


def ways(few: bool) -> list[tuple[str, str, Way]]:
    """Bits and group, method, arguments."""
    rows: list[tuple[str, str, Way]] = []
    for bits in (8, 4, 3) if few else BITS:
        rows += [(f"{bits}", method, {"bits": bits, "method": method}) for method in METHODS]
    for size in (32,) if few else (32, 128):
        for bits in (4,) if few else (3, 4):
            for method in ("plain", "best"):
                rows.append((f"{bits}, group {size}", method, {"bits": bits, "group_size": size, "method": method}))
    for mode, bits in (("mxfp4", 4), ("nvfp4", 4), ("mxfp8", 8)):
        rows.append((mode, "", {"mode": mode, "bits": bits}))
    for recipe in ("mixed-4-6", "mixed-4-8"):
        rows.append((recipe, "best", {"recipe": recipe}))
    return rows


def targets(size4: int, size32: int, kind: str) -> list[tuple[str, str, Way]]:
    """The same for targets: sizes of uniform 4 bit in groups of 64 and of 32, and a quality."""
    quality = {"target_kl": 0.01} if kind == "generator" else {"target_cosine": 0.999}
    [(name, value)] = quality.items()
    rows = []
    for method in ("search", "best"):
        rows.append(("dealt, size of 4", method, {"target_size": size4, "method": method}))
    rows.append(("dealt, size of 4, group 32", "best", {"target_size": size32}))
    rows.append((f"dealt, {name.removeprefix('target_')} {value}", "best", quality))
    return rows


def pictures_right(folder: Path | None) -> Callable:
    """Share of names that find their picture."""
    if folder is None:
        files = sorted((BUNDLED / "pictures").glob("*.png"))
        names, gallery = {"en": [file.stem.replace("_", " ") for file in files]}, list(files)
    else:
        content = json.loads((folder / "names.json").read_text())
        hidden = content["held_out"]
        names = {lang: content["names"][lang] for lang in LANGUAGES if lang in content["names"]}
        gallery = [folder / "noto" / f"{number:03}.png" for number in range(len(content["english"]))]

    def right(model, processor) -> float:
        images = mlx_mm.encode_image(model, processor, gallery)
        shares = []
        for lang, words in names.items():
            scores = mlx_mm.encode_text(model, processor, words, batch_size=64) @ images.T
            lowered = np.array([word.lower() for word in words])
            same = lowered[:, None] == lowered[None]
            best = np.where(same, scores, -np.inf).max(axis=1)
            hits = best >= scores.max(axis=1)
            seen = np.ones(len(words), bool)
            if folder is not None:
                seen[hidden[lang]] = False
            shares.append(hits[seen].mean())
        return float(np.mean(shares))

    return right


def sounds_right() -> Callable:
    """Share of sounds nearest to their name."""
    sys.path.insert(0, str(ROOT / "training"))
    from clap_clips import held_out_single
    from clap_signals import RATE
    from clap_texts import NAMES, PHRASES

    truth = np.repeat(np.arange(len(NAMES)), EACH)
    waves = [(held_out_single(sound, place % EACH), RATE) for place, sound in enumerate(truth)]
    labels = [phrases["en"][0] for phrases in PHRASES]

    def right(model, processor) -> float:
        sounds = mlx_mm.encode_audio(model, processor, waves)
        template = model.prompt_template
        texts = mlx_mm.encode_text(model, processor, [template.format(label) for label in labels])
        return float(((sounds @ texts.T).argmax(axis=1) == truth).mean())

    return right


def answers_right() -> Callable:
    """Share of the demonstration's questions."""
    questions = json.loads((BUNDLED / "demo.json").read_text("utf-8"))["questions"]

    def right(model, processor) -> float:
        hits = []
        for one in questions:
            answer = mlx_mm.generate(
                model,
                processor,
                one["question"],
                images=[BUNDLED / "pictures" / one["picture"]],
                max_tokens=40,
                temperature=0.0,
                enable_thinking=False,
            )
            hits.append(one["expected"].lower() in answer.text.lower())
        return float(np.mean(hits))

    return right


def cells(cost: Cost) -> list[str]:
    """Mean and worst of each kind."""
    found = []
    for one in cost.vectors.values():
        found += [f"{1 - one.mean:.2g}", f"{1 - one.lowest:.2g}"]
    for token in cost.tokens.values():
        found += [f"{token.mean:.2g}", f"{token.highest:.2g}"]
    return found


def table(name: str, right: Callable, png: Path | None, out: Path, *, few: bool) -> None:
    """Print one, row by row, and draw it."""
    model, processor = mlx_mm.load(name)
    kinds = ["text", *[kind for kind in ("image", "audio") if kind in model.modalities]]
    what = "KL" if model.kind == "generator" else "1 - cos"
    heads = [f"{kind}: {what}, mean | worst" for kind in kinds]
    print(f"\n{name}\n\n| bits | method | MB |", " | ".join(heads), "| right | CPU s |")
    print("|---" * (5 + 2 * len(kinds)) + "|")
    print("| 16 | | |", " | ".join(["0"] * 2 * len(kinds)), f"| {right(model, processor):.1%} | |", flush=True)
    points: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, int] = {}

    def row(bits: str, method: str, way: Way) -> None:
        start = time.process_time()
        report = mlx_mm.convert(name, out, overwrite=True, check="target_cosine" in way or "target_kl" in way, **way)
        seconds = time.process_time() - start
        cost = report.cost or mlx_mm.compare(name, out)
        again = right(*mlx_mm.load(out))
        sizes[f"{bits} {method}"] = report.bytes
        megabytes, loss = report.bytes / 1e6, float(np.mean(list(cost.losses().values())))
        if bits.isdigit():
            points.setdefault(method, []).append((megabytes, loss))
        elif bits.startswith("dealt") and method == "best":
            points.setdefault("dealt", []).append((megabytes, loss))
        print(
            f"| {bits} | {method} | {megabytes:.2f} |",
            " | ".join(cells(cost)),
            f"| {again:.1%} | {seconds:.1f} |",
            flush=True,
        )

    for one in ways(few):
        row(*one)
    for one in targets(sizes["4 best"], sizes["4, group 32 best"], model.kind):
        row(*one)
    if png is not None:
        lines = {
            method: sorted(line) for method, line in points.items() if method in ("plain", "search", "best", "dealt")
        }
        draw(png / f"quantisation-{name}.png", f"{name}: {what} over size, 2 to 8 bits", lines, {})


def main() -> None:
    """Print all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    parser.add_argument("--set", type=Path, help="folder of training/evaluation_set.py")
    parser.add_argument("--png", type=Path, help="folder for pictures of the tables")
    parser.add_argument("--few", action="store_true", help="3, 4 and 8 bits, and fewer groups and methods")
    args = parser.parse_args()
    makers: dict[str, Callable] = {
        "emoji-siglip2": lambda: pictures_right(args.set),
        "sounds-clap": sounds_right,
        "emoji-glm4v": answers_right,
    }
    with tempfile.TemporaryDirectory() as folder:
        for name in args.models:
            table(name, makers[name](), args.png, Path(folder) / "out", few=args.few)


if __name__ == "__main__":
    main()
