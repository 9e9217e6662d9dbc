"""ONNX Runtime: float32, or 8-bit weights with inputs that are quantised as they come ("int8")."""

from __future__ import annotations

import functools
from pathlib import Path

from workers import Case, MissingError, Run, cpus

from peers.exported import exported, pixels_of
from peers.ours import started


def prepare(kind: str, folder: Path, variant: str):
    """A function from cases of that kind to runs."""
    if kind not in ("image", "cold"):
        raise MissingError("only vision towers are exported")
    try:
        import onnxruntime
    except ImportError as error:
        raise MissingError("onnxruntime is not installed") from error
    path = exported(folder)
    if variant == "int8":
        path = quantised(path)
    if kind == "cold":
        return functools.partial(cold, path)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = cpus()
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return functools.partial(encode, session, folder)


def quantised(path: Path) -> Path:
    """Of every product, by column; no calibration is needed."""
    out = path.with_name("model.int8.onnx")
    if not out.exists():
        from onnxruntime.quantization import QuantType, quantize_dynamic

        part = out.with_suffix(".part")
        quantize_dynamic(
            path, part, op_types_to_quantize=["MatMul", "Gemm"], per_channel=True, weight_type=QuantType.QInt8
        )
        part.rename(out)
    return out


def encode(session, folder: Path, case: Case) -> Run:
    """A batch through the tower."""
    pixels = pixels_of(folder, case["batch"])
    return lambda: session.run(None, {"pixels": pixels})[0]


COLD = """
import sys
import numpy as np
import onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
pixels = (picture.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None].copy()
np.save(sys.argv[2], session.run(None, {"pixels": pixels})[0][0])
"""


def cold(path: Path, case: Case) -> Run:
    """A process of its own."""
    if case["model"] == "bundled":
        raise MissingError("it has no bundled checkpoint")
    return started(COLD, path, path.with_name("cold_onnxruntime.npy"))
