"""The bundled trained models in fewer bits, by this package and by what else a user might take.

    python benchmarks/quantisation_peers.py [emoji-siglip2 sounds-clap emoji-glm4v] [--engines PYTHON]
        [--embeddings PYTHON] [--vlm PYTHON]

The options name interpreters that have onnxruntime, onnx, openvino, nncf, torch and transformers; mlx-embeddings; and
mlx-vlm. Measured on the half of the bundled probes that nothing is rounded with: 1 - cosine of an encoder's vectors
to those of the source in float32, of a generator the divergence along the source's answers. Peers know no SigLIP 2
with free sizes, so pictures of emoji-siglip2 are those that fill its grid, and they get the same weights as a SigLIP.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np

import mlx_mm
from mlx_mm.load import open_checkpoint
from mlx_mm.probes import bundled_probes, fitting, prepared, run

WORKER = Path(__file__).parent / "peers" / "rounded.py"
MODELS = ("emoji-siglip2", "sounds-clap", "emoji-glm4v")
METHODS = ("plain", "search", "best")
ENGINES = (("onnxruntime", "float"), ("onnxruntime", "8"), ("openvino", "8"), ("openvino", "4"))
ENGINES += (("openvino", "4 all"),)
PEERS = {
    "emoji-siglip2": (*ENGINES, *(("mlx_embeddings", bits) for bits in ("float", "8", "8 all", "4", "4 all"))),
    "sounds-clap": ENGINES,
    "emoji-glm4v": (("mlx_vlm", "8"), ("mlx_vlm", "4")),
}
INPUTS = ("input_ids", "attention_mask", "pixel_values", "input_features")  # that peers take
Vectors = dict[str, np.ndarray]


def probes(name: str) -> dict[str, list]:
    """The batches of the bundled probes to measure with."""
    opened = open_checkpoint(name)
    used = fitting(bundled_probes(), opened).halves()[1]
    batches = prepared(used, opened.load_lazily(), opened.processor())
    return {kind: [full_grid(batch) for batch in some] for kind, some in batches.items()}


def full_grid(batch: dict) -> dict:
    """Of pictures of free sizes those without padding."""
    if "pixel_attention_mask" not in batch:
        return batch
    kept = batch["pixel_attention_mask"].all(axis=1)
    kept &= batch["spatial_shapes"][:, 0] == batch["spatial_shapes"][:, 1]
    return {key: value[kept] for key, value in batch.items()}


def vectors(folder: str | Path, batches: dict[str, list]) -> Vectors:
    model, _ = mlx_mm.load(folder, dtype="float32")
    return {kind: np.concatenate([np.array(run(model, kind, b)) for b in some]) for kind, some in batches.items()}


def lost(ours: np.ndarray, theirs: np.ndarray) -> tuple[float, float]:
    """1 - cosine: mean and worst."""
    a, b = (
        rows.astype(np.float64) / np.linalg.norm(rows.astype(np.float64), axis=1)[:, None] for rows in (ours, theirs)
    )
    away = 1 - (a * b).sum(axis=1)
    return float(away.mean()), float(away.max())


def write_source(name: str, work: Path) -> None:
    """The checkpoint as peers read it."""
    folder = open_checkpoint(name).folder
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "siglip2":
        shutil.copytree(folder, work / "source")
        return
    vision = config["vision_config"]
    patch = vision["patch_size"]
    side = patch * round(vision.pop("num_patches") ** 0.5)
    config |= {"model_type": "siglip", "architectures": ["SiglipModel"], "torch_dtype": "float16"}
    vision |= {"model_type": "siglip_vision_model", "image_size": side}
    config["text_config"]["model_type"] = "siglip_text_model"
    for section in (config["text_config"], vision):
        for key in ("hidden_act", "attention_dropout", "pad_token_id", "bos_token_id", "eos_token_id"):
            section.pop(key, None)  # their usual values, and Google's files do not name them
    new = work / f"{name}-patch{patch}-{side}"
    new.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(folder / file, new / file)
    weights = dict(mx.load(str(folder / "model.safetensors")).items())
    patches = "vision_model.embeddings.patch_embedding.weight"
    weights[patches] = weights[patches].reshape(-1, patch, patch, 3).transpose(0, 3, 1, 2)
    mx.save_safetensors(str(new / "model.safetensors"), weights, metadata={"format": "pt"})
    (new / "config.json").write_text(json.dumps(config))
    (work / "source").symlink_to(new.name)


def write_inputs(measured: dict[str, list], work: Path) -> None:
    """One batch of each kind."""
    arrays = {}
    for kind, batches in measured.items():
        for name in INPUTS:
            if name in batches[0]:
                values = squares(np.concatenate([each[name] for each in batches]))
                arrays[f"{kind}/{name}"] = values.astype(np.int64 if values.dtype.kind == "i" else np.float32)
    np.savez(work / "inputs.npz", **arrays)


def squares(values: np.ndarray) -> np.ndarray:
    """Patches (B, N, 3 P^2) of square pictures as pixels (B, 3, H, W); all else as it is."""
    if values.ndim != 3:
        return values
    count, side = round(values.shape[1] ** 0.5), round((values.shape[2] // 3) ** 0.5)
    grid = values.reshape(-1, count, count, side, side, 3).transpose(0, 5, 1, 3, 2, 4)
    return np.ascontiguousarray(grid.reshape(-1, 3, count * side, count * side))


def peer(python: str, program: str, bits: str, work: Path) -> int:
    """Bytes of what a peer made. Raises RuntimeError with its last line where it could not."""
    shutil.rmtree(work / "out", ignore_errors=True)
    (work / "out").mkdir()
    command = [python, str(WORKER), program, str(work), bits]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it was ended"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])["bytes"]


def ours(name: str, out: Path, recipes: tuple[str, ...] = ()) -> Iterator[tuple[str, str, int]]:
    """Each way to round at 8 and 4 bits, and recipes with the best: what it is, its bits, and bytes."""
    ways: list[tuple[str, int, str | None]] = [(method, bits, None) for bits in (8, 4) for method in METHODS]
    for method, bits, recipe in [*ways, *(("best", 4, recipe) for recipe in recipes)]:
        report = mlx_mm.convert(name, out, bits=bits, method=method, recipe=recipe, overwrite=True, check=False)
        yield f"mlx_mm, {method}", recipe or str(bits), report.bytes


def encoder(name: str, pythons: dict[str, str], work: Path) -> None:
    measured = probes(name)
    write_source(name, work)
    write_inputs(measured, work)
    before = vectors(name, measured)
    kinds = list(before)
    counts = ", ".join(f"{len(rows)} of {kind}" for kind, rows in before.items())
    print(f"\n{name} ({counts})\n\n| by | bits | MB |", " | ".join(f"{kind}: mean | worst" for kind in kinds), "|")
    print("|---" * (3 + 2 * len(kinds)) + "|", flush=True)

    def row(by: str, bits: str, size: int, after: Vectors) -> None:
        cells = [f"{value:.2g}" for kind in kinds for value in lost(after[kind], before[kind])]
        print(f"| {by} | {bits} | {size / 1e6:.2f} |", " | ".join(cells), "|", flush=True)

    for by, bits, size in ours(name, work / "ours", ("mixed-4-8",)):
        row(by, bits, size, vectors(work / "ours", measured))
    for program, bits in PEERS[name]:
        try:
            size = peer(pythons[program], program, bits, work)
            with np.load(work / "vectors.npz") as after:
                row(program, bits, size, dict(after))
        except RuntimeError as error:
            print(f"| {program} | {bits} | left out: {error} |", flush=True)


def generator(name: str, pythons: dict[str, str], work: Path) -> None:
    shutil.copytree(open_checkpoint(name).folder, work / "source")
    print(f"\n{name}\n\n| by | bits | MB | inputs | distributions | KL, mean | highest | same first choice |")
    print("|---" * 8 + "|", flush=True)

    def rows(by: str, bits: str, size: int, folder: Path) -> None:
        for kind, cost in mlx_mm.compare(work / "source", folder).tokens.items():
            values = dataclasses.astuple(cost)
            print(f"| {by} | {bits} | {size / 1e6:.2f} | {kind} |", "{} | {:.2g} | {:.2g} | {:.1%} |".format(*values))

    for by, bits, size in ours(name, work / "ours"):
        rows(by, bits, size, work / "ours")
    for program, bits in PEERS[name]:
        try:
            rows(program, bits, peer(pythons[program], program, bits, work), work / "out")
        except (RuntimeError, mlx_mm.MlxMmError) as error:
            print(f"| {program} | {bits} | left out: {error} |", flush=True)


def main() -> None:
    """Print a table for each model."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(MODELS), metavar="MODEL")
    for option in ("engines", "embeddings", "vlm"):
        parser.add_argument(f"--{option}", default=sys.executable, metavar="PYTHON")
    args = parser.parse_args()
    pythons = {"onnxruntime": args.engines, "openvino": args.engines}
    pythons |= {"mlx_embeddings": args.embeddings, "mlx_vlm": args.vlm}
    for name in args.models:
        with tempfile.TemporaryDirectory() as work:
            measure = generator if open_checkpoint(name).kind == "generator" else encoder
            measure(name, pythons, Path(work))


if __name__ == "__main__":
    main()
