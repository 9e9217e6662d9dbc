"""Whether scales of a layer's input channels, folded into what comes before it, lose less: AWQ, arXiv 2306.00978.

    python benchmarks/scaling.py FOLDER --bits 4 3 --methods search best

FOLDER as in benchmarks/methods.py. A float copy of each model is scaled so that it computes the same: channel j of a
layer's inputs is divided by s_j = m_j^a in the norm or product before it, m_j the mean size of the channel's inputs,
and the layer's weight multiplied by it; a, of 0 to 1 in steps of a tenth, is what errs least for the inputs of rounding
(equation 5). Then both are converted. Norms before products, values before the product behind the attention, and
products with nothing or a ReLU between, or a gate, allow that; GELU does not, nor a norm whose output is added later.
"""

from __future__ import annotations

import argparse
import re
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from methods import MODELS, held_out, losses
from mlx.utils import tree_map_with_path
from rounding import TEST, sentences, vectors, write_checkpoint

import mlx_mm
from mlx_mm.backend.watching import Watched
from mlx_mm.evaluate.outputs import answers, prompts, results
from mlx_mm.probes import bundled_probes, fitting, prepared, run
from mlx_mm.quantize.inputs import inputs_of, shrunk_squares
from mlx_mm.quantize.methods import METHODS
from mlx_mm.quantize.scheme import QuantConfig

MINILM = "all-MiniLM-L6-v2"
POWERS = np.linspace(0, 1, 11)
# What comes before, and the layers that nothing but it feeds; {} is what the first has in common with them.
BEFORE = (
    (r"(.*\.)layer_norm1", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    (r"(.*\.)layer_norm2", ("mlp.fc1",)),
    (r"(.*head\.)layernorm", ("mlp.fc1",)),
    (r"(text_model\.)final_layer_norm", ("head",)),
    (r"(.*downsample\.)norm", ("reduction",)),
    (r"(.*attn\.|.*attention\.)v_proj", ("out_proj", "o_proj")),
    (r"(.*projection\.)linear1", ("linear2",)),
    (r"(.*language_model.*\.)input_layernorm", ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj")),
    (r"(.*language_model.*\.)post_attention_layernorm", ("mlp.gate_up_proj",)),
    (r"(.*language_model.*mlp\.)gate_up_proj", ("down_proj",)),
)
NORM_TEXT = re.compile(r"text_model\.encoder\.layers\.\d+\.layer_norm\d")  # of CLAP behind the sum, and added later


def feeds(names: set[str], *, post_norm: bool) -> Iterator[tuple[str, list[str]]]:
    """Each path that can be scaled, and the layers behind it."""
    paths = {name.removesuffix(".weight") for name in names}
    for path in sorted(paths):
        for pattern, behind in BEFORE:
            match = re.fullmatch(pattern, path)
            layers = [match[1] + layer for layer in behind if match[1] + layer in paths] if match else []
            if layers and not (post_norm and NORM_TEXT.fullmatch(path)):
                yield path, layers


def seen(folder: Path) -> dict[str, np.ndarray]:
    """What each layer gets, (rows, in), of the inputs that rounding takes."""
    model, processor = mlx_mm.load(folder)
    rows: dict[str, list[np.ndarray]] = {}

    def look(path: str, layer, x, _chosen):
        numbers = np.array(x if isinstance(x, np.ndarray) else x.astype(mx.float32))
        rows.setdefault(path, []).append(numbers.reshape(-1, numbers.shape[-1]))
        return layer

    def stand_in(path: str, layer):
        return Watched(layer, partial(look, path)) if isinstance(layer, nn.Linear) else layer

    batches = prepared(fitting(bundled_probes(), model).halves()[0], model, processor)
    model.update_modules(tree_map_with_path(stand_in, model.leaf_modules(), is_leaf=nn.Module.is_module))
    for modality, some in batches.items():
        for batch in some:
            mx.eval(run(model, modality, batch))
    return {path: np.concatenate(some)[:8192] for path, some in rows.items()}


def best_scales(weight: np.ndarray, x: np.ndarray, method: str, scheme: QuantConfig, repeats: int) -> np.ndarray:
    """s of the power that errs least; of channels that `repeats` heads share the mean's. (in / repeats,)."""
    sizes = np.abs(x).mean(axis=0).astype(np.float64)
    if repeats > 1:
        sizes = sizes.reshape(-1, repeats, HEAD).mean(axis=1).ravel()
    sizes = np.maximum(sizes, sizes.max() * 1e-4)
    squares, least, found = shrunk_squares(x), np.inf, np.ones_like(sizes)
    for power in POWERS:
        scales = sizes**power
        scales /= np.sqrt(scales.max() * scales.min())
        wide = spread(scales, repeats).astype(np.float32)
        inputs = inputs_of(x / wide, scheme.group_size)
        parts = METHODS[method].rounder(scheme, mx.float16, inputs)(mx.array(weight * wide))
        floats = [part.astype(mx.float32) for part in parts[1:]]
        got = np.array(mx.dequantize(parts[0], *floats, scheme.group_size, scheme.bits)) / wide
        error = got - weight
        loss = float(((error @ squares) * error).sum())
        if loss < least * 0.999:
            least, found = loss, scales
    return found


HEAD = 32  # of emoji-glm4v, whose heads share keys and values


def spread(scales: np.ndarray, repeats: int) -> np.ndarray:
    """(C,) -> (C · repeats,), each head's as often as heads share it."""
    return scales if repeats == 1 else np.repeat(scales.reshape(-1, HEAD), repeats, axis=0).ravel()


def scale(source: Path, out: Path, bits: int, method: str) -> int:
    """Write the scaled copy; how many layers have scales."""
    mlx_mm.convert(source, out, bits=None, check=False, overwrite=True)
    weights = {}
    for file in out.glob("*.safetensors"):
        weights |= {name: np.array(array.astype(mx.float32)) for name, array in mx.load(str(file)).items()}
    rows, scaled = seen(out), 0
    matrices = {name for name in weights if name.endswith(".weight")}
    post_norm = "clap" in (out / "config.json").read_text()
    for before, layers in feeds(matrices, post_norm=post_norm):
        layers = [layer for layer in layers if layer in rows]
        if not layers:
            continue
        weight = np.concatenate([weights[f"{layer}.weight"] for layer in layers])
        own = weights[f"{before}.weight"]
        first = len(own) // 2 if before.endswith("gate_up_proj") else 0
        repeats = weight.shape[1] // (len(own) - first)
        scheme = QuantConfig(bits, 64 if weight.shape[1] % 64 == 0 else 32)
        scales = best_scales(weight, rows[layers[0]], method, scheme, repeats)
        scaled += not np.allclose(scales, scales[0])
        for name in (f"{before}.weight", f"{before}.bias"):
            if name in weights:
                weights[name][first:] /= scales.reshape(-1, *[1] * (weights[name].ndim - 1)).astype(np.float32)
        for layer in layers:
            weights[f"{layer}.weight"] *= spread(scales, repeats).astype(np.float32)
    for file in out.glob("*.safetensors*"):
        file.unlink()
    arrays = {name: mx.array(array) for name, array in weights.items()}
    mx.save_safetensors(str(out / "model.safetensors"), arrays, metadata={"format": "mlx"})
    return scaled


def measured(name: str, source: Path, folder: Path):
    """checkpoint -> of each kind of input the losses of its items."""
    if name == MINILM:
        test = sentences()[:TEST]
        given = vectors(source, test)
        return lambda checkpoint: {"text": 1 - (vectors(checkpoint, test) * given).sum(axis=1)}
    model, processor = mlx_mm.load(source)
    task = (answers if model.kind == "generator" else prompts)(held_out(folder / name), model, processor)
    given = results(model, task, lambda _modality: None)

    def lost(checkpoint: Path):
        got = results(mlx_mm.load(checkpoint)[0], task, lambda _modality: None)
        return {kind: losses(model.kind, got[kind], given[kind]) for kind in got}

    return lost


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", nargs="+", default=[*MODELS, MINILM])
    parser.add_argument("--bits", type=int, nargs="+", default=[4, 3])
    parser.add_argument("--methods", nargs="+", default=["search", "best"])
    args = parser.parse_args()
    print("| model, inputs | bits | method | loss | scaled | ratio | layers |\n|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        new = Path(temporary)
        for name in args.models:
            source = Path(name)
            if name == MINILM:
                source = new / name
                write_checkpoint(source)
            lost = measured(name, source, args.folder)
            for bits in args.bits:
                for method in args.methods:
                    count = scale(source, new / "scaled", bits, method)
                    same = lost(new / "scaled")
                    assert all(loss.mean() < 1e-3 for loss in same.values()), {k: v.mean() for k, v in same.items()}
                    found = []
                    for each in (source, new / "scaled"):
                        mlx_mm.convert(each, new / "out", bits=bits, method=method, check=False, overwrite=True)
                        found.append(lost(new / "out"))
                    for kind, loss in found[0].items():
                        without, with_scales = loss.mean(), found[1][kind].mean()
                        print(
                            f"| {name}, {kind} ({len(loss)}) | {bits} | {method} | {without:.5f} | {with_scales:.5f} "
                            f"| {with_scales / without:.2f} | {count} |",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
