"""OpenVINO: float32, or weights of 8 bits ("8bit") by NNCF."""

from __future__ import annotations

import functools
from pathlib import Path

from workers import Case, MissingError, Run, cpus

from peers.exported import exported, pixels_of


def prepare(kind: str, folder: Path, variant: str):
    """A function from cases of that kind to runs."""
    if kind != "image":
        raise MissingError("only vision towers are exported")
    try:
        import openvino
    except ImportError as error:
        raise MissingError("openvino is not installed") from error
    core = openvino.Core()
    model = core.read_model(exported(folder))
    if variant == "8bit":
        try:
            import nncf
        except ImportError as error:
            raise MissingError("nncf is not installed") from error
        model = nncf.compress_weights(model, mode=nncf.CompressWeightsMode.INT8_ASYM)
    # Without the hint it computes in bfloat16 where the processor can
    settings = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": cpus()}
    return functools.partial(encode, core.compile_model(model, "CPU", settings), folder)


def encode(compiled, folder: Path, case: Case) -> Run:
    """A batch through the tower."""
    pixels = pixels_of(folder, case["batch"])
    return lambda: compiled({"pixels": pixels})[0].copy()
