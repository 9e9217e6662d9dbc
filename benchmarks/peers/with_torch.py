"""transformers on torch, float32 or in the type that the variant names."""

from __future__ import annotations

import functools
import json
import sys
from pathlib import Path

import numpy as np
from workers import Case, MissingError, Run, cpus

from peers.ours import patches, started


def prepare(kind: str, folder: Path, variant: str):
    """A function from cases of that kind to runs."""
    sys.modules["torchvision"] = None  # not needed, and in the way where it does not fit the torch
    source = folder / "source"
    if kind == "cold":
        return functools.partial(cold, source)
    try:
        import torch
        import transformers  # noqa: F401
    except ImportError as error:
        raise MissingError(f"{error.name} is not installed: pip install '.[reference]'") from error
    torch.set_num_threads(cpus())
    if kind == "audio":
        return functools.partial(hear, source)
    if kind == "patches":
        return functools.partial(see, source, variant)
    return functools.partial(encode, source, kind, variant)


@functools.cache
def forward(source: Path, variant: str):
    import encoders
    import torch

    if variant:
        return encoders.torch_forward(source, getattr(torch, variant))
    return encoders.torch_forward(source)


def encode(source: Path, kind: str, variant: str, case: Case) -> Run:
    """A batch through the tower."""
    import encoders

    config = json.loads((source / "config.json").read_text())
    values = encoders.make_batch(config, kind, case["batch"], case.get("tokens", 0))
    return functools.partial(forward(source, variant), kind, values)


def hear(source: Path, case: Case) -> Run:
    """Log-mel alone, the tower alone, or both."""
    import sounds
    import torch
    from transformers import ClapFeatureExtractor

    clips = sounds.sounds(case["batch"])
    extractor = ClapFeatureExtractor(**sounds.SETTINGS)

    def features() -> np.ndarray:
        return np.asarray(extractor(clips, sampling_rate=48000, return_tensors="np")["input_features"])

    if case["stage"] == "log-mel":
        return features
    model, ready = clap(source), torch.from_numpy(features())

    def vectors() -> np.ndarray:
        with torch.inference_mode():
            inputs = torch.from_numpy(features()) if case["stage"] == "whole" else ready
            return model.get_audio_features(input_features=inputs).pooler_output.numpy()

    return vectors


@functools.cache
def clap(source: Path):
    from transformers import ClapModel

    return ClapModel.from_pretrained(source).eval()


def see(source: Path, variant: str, case: Case) -> Run:
    """The vision tower alone, of a checkpoint whose names begin with it."""
    import torch
    from safetensors import safe_open
    from transformers import AutoConfig
    from transformers.models.glm4v.modeling_glm4v import Glm4vVisionModel

    config = AutoConfig.from_pretrained(source).vision_config
    config._attn_implementation = "sdpa"
    model = Glm4vVisionModel(config).eval()
    weights = {}
    for path in sorted(source.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118  # no dict
                if name.startswith("model.visual."):
                    weights[name.removeprefix("model.visual.")] = file.get_tensor(name).float()
    model.load_state_dict(weights)
    if variant:
        model = model.to(getattr(torch, variant))
    pixels, grid = map(torch.from_numpy, patches(case))

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(pixels, grid_thw=grid).pooler_output.numpy()

    return run


COLD = """
import sys
sys.modules["torchvision"] = None
import numpy as np
import torch
from transformers import AutoModel
model = AutoModel.from_pretrained(sys.argv[1], dtype=torch.float32).eval()
picture = np.random.default_rng(0).integers(0, 255, (224, 224, 3), dtype=np.uint8)
pixels = torch.from_numpy((picture.astype(np.float32) / 127.5 - 1).transpose(2, 0, 1)[None].copy())
with torch.inference_mode():
    np.save(sys.argv[2], model(pixel_values=pixels).pooler_output[0].numpy())
"""


def cold(source: Path, case: Case) -> Run:
    """A process of its own."""
    if case["model"] == "bundled":
        raise MissingError("it has no bundled checkpoint")
    return started(COLD, source, source.parent / "cold_torch.npy")
