"""What other programs make of a checkpoint in fewer bits, each in its own process: `python rounded.py PEER WORK BITS`.

WORK holds `source`, and of encoders `inputs.npz` (KIND/NAME: what is measured). The vectors go to `vectors.npz`, files
to `out`; a line of JSON says their size in bytes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]
GROUP = 64  # weights that share a scale, where there are groups


def taken(work: Path) -> dict[str, Arrays]:
    """The inputs by kind."""
    found: dict[str, Arrays] = {}
    with np.load(work / "inputs.npz") as arrays:
        for key in arrays.files:
            kind, _, name = key.partition("/")
            found.setdefault(kind, {})[name] = arrays[key]
    return found


def size(folder: Path, *patterns: str) -> int:
    return sum(file.stat().st_size for pattern in patterns for file in folder.rglob(pattern))


def exported(work: Path) -> dict[str, Path]:
    """Each tower as ONNX in float32, for the batch that is measured."""
    import torch
    from transformers import AutoModel

    model = AutoModel.from_pretrained(work / "source", attn_implementation="eager", dtype=torch.float32)
    model = model.eval().requires_grad_(False)
    paths = {}
    for kind, arrays in taken(work).items():
        paths[kind] = work / f"{kind}.onnx"
        if paths[kind].exists():
            continue

        class Tower(torch.nn.Module):
            def __init__(self, names: tuple[str, ...], features: str):
                super().__init__()
                self.model, self.names, self.features = model, names, features

            def forward(self, *values):
                result = getattr(self.model, self.features)(**dict(zip(self.names, values, strict=True)))
                return getattr(result, "pooler_output", result)

        values = tuple(torch.from_numpy(value) for value in arrays.values())
        with torch.inference_mode():
            torch.onnx.export(
                Tower(tuple(arrays), f"get_{kind}_features").eval(),
                values,
                paths[kind],
                input_names=list(arrays),
                output_names=["vectors"],
                opset_version=17,
                dynamo=False,  # the other exporter needs onnxscript
            )
    return paths


def onnxruntime(work: Path, bits: str) -> int:
    """Products and token tables in 8 bits by column, inputs of products as they come; "float" for neither."""
    import onnxruntime
    from onnxruntime.quantization import QuantType, quantize_dynamic

    out, vectors = work / "out", {}
    for kind, path in exported(work).items():
        if bits != "float":
            small = out / path.name
            operators = ["MatMul", "Gemm", "Gather"]
            quantize_dynamic(path, small, op_types_to_quantize=operators, per_channel=True, weight_type=QuantType.QInt8)
            path = small
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        names = {each.name for each in session.get_inputs()}
        arrays = {name: value for name, value in taken(work)[kind].items() if name in names}
        vectors[kind] = session.run(None, arrays)[0]
    np.savez(work / "vectors.npz", **vectors)
    return size(work if bits == "float" else out, "*.onnx")


def openvino(work: Path, bits: str) -> int:
    """Weights in 8 or 4 bits by NNCF, which leaves tables and last layers in 8 unless told "all"."""
    import nncf
    import openvino

    modes, out, vectors = nncf.CompressWeightsMode, work / "out", {}
    core = openvino.Core()
    for kind, path in exported(work).items():
        settings = {"mode": modes.INT8_ASYM}
        if bits != "8":
            settings = {"mode": modes.INT4_ASYM, "group_size": GROUP, "ratio": 1.0, "all_layers": "all" in bits}
        model = nncf.compress_weights(core.read_model(path), **settings)
        openvino.save_model(model, out / f"{kind}.xml")
        compiled = core.compile_model(out / f"{kind}.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        vectors[kind] = compiled(_named(taken(work)[kind], model))[0]
    np.savez(work / "vectors.npz", **vectors)
    return size(out, "*.bin")


def _named(arrays: Arrays, model) -> Arrays:
    """Those that are still inputs once the model is exported."""
    names = {name for each in model.inputs for name in each.names}
    return {name: value for name, value in arrays.items() if name in names}


def mlx_embeddings(work: Path, bits: str) -> int:
    """Its converter, which leaves vision towers as they are; "4 all": those as well."""
    import mlx.core as mx
    from mlx_embeddings.convert import convert
    from mlx_embeddings.utils import load_model

    number, _, everything = bits.partition(" ")
    out = work / "out" / (work / "source").resolve().name  # its `load` takes sizes from the name
    settings = {"quantize": True, "q_bits": int(number), "skip_vision": not everything} if bits != "float" else {}
    convert(str((work / "source").resolve()), str(out), **settings)
    config = json.loads((out / "config.json").read_text())
    config["vision_config"].pop("skip_vision", None)  # which its own `load` refuses in a SigLIP
    (out / "config.json").write_text(json.dumps(config))
    model = load_model(out, path_to_repo=out.name)
    vectors = {}
    for kind, arrays in taken(work).items():
        found = getattr(model, f"get_{kind}_features")(**{name: mx.array(value) for name, value in arrays.items()})
        vectors[kind] = np.array(found.astype(mx.float32))
    np.savez(work / "vectors.npz", **vectors)
    return size(out, "*.safetensors")


def mlx_vlm(work: Path, bits: str) -> int:
    """Its converter; what it wrote is run by the one who asked."""
    from mlx_vlm.convert import convert

    (work / "out").rmdir()
    convert(str(work / "source"), str(work / "out"), quantize=True, q_bits=int(bits))
    return size(work / "out", "*.safetensors")


PEERS = {function.__name__: function for function in (onnxruntime, openvino, mlx_embeddings, mlx_vlm)}

if __name__ == "__main__":
    sys.modules["torchvision"] = None  # not needed, and in the way where it does not fit the torch
    sys.path.pop(0)  # this folder, whose files are named like packages
    print(json.dumps({"bytes": PEERS[sys.argv[1]](Path(sys.argv[2]), sys.argv[3])}))
