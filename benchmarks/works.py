"""What `compare.py` times: for each work a checkpoint, its cases, what a run computes, and the engines that can."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import checkpoints
from workers import Case

FLOATS = ("mlx_mm", "mlx_mm 8 bit", "mlx_mm 4 bit", "mlx_mm pure", "torch")
OTHERS = ("onnxruntime", "onnxruntime int8", "openvino", "openvino 8-bit weights")
Count = Callable[[Case], float]


@dataclass(frozen=True)
class Work:
    """kind: how the engines run it. unit: of what a run does `units`. base: the engine that the others' ratios are to.

    operations, memory: of a run, operations of products and bytes of weights that are read; 0 where the limit is not
    known. unlike: results may differ from those of the base (other random weights). most: the largest case that an
    engine takes part in, where the whole would take too long, by the key of the case.
    """

    about: str
    kind: str
    write: Callable[[Path], None]
    cases: tuple[Case, ...]
    engines: tuple[str, ...]
    unit: str
    units: Count = lambda case: case.get("batch", 1)
    base: str = "torch"
    operations: Count = lambda case: 0
    memory: Count = lambda case: 0
    unlike: tuple[str, ...] = ()
    most: tuple[tuple[str, str, int], ...] = ()
    turns: int = 5

    def takes(self, engine: str, case: Case) -> bool:
        """Whether an engine is asked for a case."""
        return all(name != engine or case.get(key, 0) <= most for name, key, most in self.most)


def encoder(layers: int, width: int, inner: int, tokens: int, matrices: int = 2) -> float:
    """Operations of one item: products with weights, of which an MLP has `matrices`, and attention."""
    weights = 4 * width * width + matrices * width * inner
    return 2.0 * layers * tokens * weights + 4.0 * layers * tokens * tokens * width


def vit(case: Case) -> float:
    """ViT-B/16 at 224 pixels: patches, layers, and the keys and values of its pooling head."""
    return case["batch"] * (2.0 * 196 * 768 * 768 + encoder(12, 768, 3072, 196) + 4.0 * 196 * 768 * 768)


# Of one layer of GLM-4.6V-Flash: queries and output, keys and values, the three matrices of the MLP
GLM_LAYER = 2 * 4096 * 4096 + 2 * 256 * 4096 + 3 * 4096 * 13696
# Of GLM-4.6V: queries and output, keys and values, and of the experts the eight chosen ones, the shared one, the router
MOE_LAYER = 2 * 4096 * 12288 + 2 * 1024 * 4096 + 9 * 3 * 4096 * 1408 + 128 * 4096
GLM_LAYERS, MOE_LAYERS, VISION_LAYERS = 2, 1, 24
FOUR_BITS = 4.5 / 8  # bytes of a weight with its group's scale and bias, in MLX's layout (64) as in llama.cpp's (32)
DECODED = 4  # tokens in a run


def language(parameters: int, layers: int, heads: int) -> Count:
    """Operations of reading a prompt, or of DECODED tokens, through all layers."""

    def count(case: Case) -> float:
        tokens = case["tokens"] if case["stage"] == "prefill" else DECODED
        attention = 2.0 * case["tokens"] * (case["tokens"] if case["stage"] == "prefill" else 2 * DECODED)
        return layers * (2.0 * tokens * parameters + attention * heads * 128)

    return count


def decoding(parameters: int, layers: int) -> Count:
    """Bytes of weights that DECODED tokens read."""
    return lambda case: DECODED * layers * parameters * FOUR_BITS if case["stage"] == "decode" else 0


def steps(layers: int) -> Count:
    """Layers in a run, for each token where it decodes: the times are per layer."""
    return lambda case: layers * (DECODED if case["stage"] == "decode" else 1)


STAGES = ({"stage": "decode", "tokens": 280}, {"stage": "prefill", "tokens": 277}, {"stage": "prefill", "tokens": 2048})

WORKS = {
    "vit": Work(
        "SigLIP ViT-B/16, pictures of 224 × 224 to pooled vectors",
        "image",
        checkpoints.write_vit,
        ({"batch": 1}, {"batch": 8}),
        (*FLOATS, *OTHERS),
        "picture",
        operations=vit,
    ),
    "jina-image": Work(
        "Jina CLIP v2, pictures of 512 × 512",
        "image",
        partial(checkpoints.write_jina, text_layers=1, vision_layers=24),
        ({"batch": 1}, {"batch": 2}),
        ("mlx_mm", "mlx_mm 8 bit", "mlx_mm pure", "torch"),
        "picture",
        operations=lambda case: case["batch"] * encoder(24, 1024, 2730, 1297, 3),
        most=(("mlx_mm pure", "batch", 1),),
    ),
    "jina-text": Work(
        "Jina CLIP v2, one text",
        "text",
        partial(checkpoints.write_jina, text_layers=24, vision_layers=1),
        tuple({"batch": 1, "tokens": tokens} for tokens in (32, 512, 2048)),
        FLOATS,
        "text",
        operations=lambda case: case["batch"] * encoder(24, 1024, 4096, case["tokens"]),
        most=(("mlx_mm pure", "tokens", 512),),
    ),
    "jina-text-8192": Work(
        "Jina CLIP v2, one text of 8,192 tokens",
        "text",
        partial(checkpoints.write_jina, text_layers=24, vision_layers=1),
        ({"batch": 1, "tokens": 8192},),
        ("mlx_mm", "mlx_mm 8 bit", "torch"),
        "text",
        operations=lambda case: case["batch"] * encoder(24, 1024, 4096, case["tokens"]),
        turns=1,
    ),
    "metaclip-huge-4bit": Work(
        "MetaCLIP 2 huge, pictures of 224 × 224",
        "image",
        checkpoints.write_metaclip_huge,
        ({"batch": 1}, {"batch": 4}),
        ("mlx_mm", "mlx_mm 4 bit", "mlx_mm pure 4 bit", "torch"),
        "picture",
        operations=lambda case: case["batch"] * encoder(32, 1280, 5120, 257),
    ),
    "glm-layer": Work(
        f"a layer of GLM-4.6V-Flash in 4 bit ({GLM_LAYERS} of its 40, without the vocabulary)",
        "language",
        lambda folder: checkpoints.write_glm(folder, checkpoints.glm_config(layers=GLM_LAYERS, depth=1)),
        STAGES,
        ("mlx_mm 4 bit", "mlx_mm pure 4 bit", "llama.cpp Q4_0"),
        "layer",
        units=steps(GLM_LAYERS),
        base="llama.cpp Q4_0",
        operations=language(GLM_LAYER, GLM_LAYERS, 32),
        memory=decoding(GLM_LAYER, GLM_LAYERS),
        unlike=("llama.cpp Q4_0",),
        most=(("mlx_mm pure 4 bit", "tokens", 280),),
    ),
    "moe-layer": Work(
        f"a layer of GLM-4.6V with its 128 experts, in 4 bit ({MOE_LAYERS} of its 46, without the vocabulary)",
        "language",
        lambda folder: checkpoints.write_glm(folder, checkpoints.glm_config(layers=MOE_LAYERS, depth=1, experts=128)),
        STAGES[:2],
        ("mlx_mm 4 bit", "mlx_mm pure 4 bit"),
        "layer",
        units=steps(MOE_LAYERS),
        base="mlx_mm pure 4 bit",
        operations=language(MOE_LAYER, MOE_LAYERS, 96),
        memory=decoding(MOE_LAYER, MOE_LAYERS),
    ),
    "glm-vision": Work(
        "the vision tower of GLM-4.6V-Flash (bfloat16 in the file), a picture of 448 × 448",
        "patches",
        lambda folder: checkpoints.write_glm(folder, checkpoints.glm_config(layers=1, depth=VISION_LAYERS)),
        ({"side": 448},),
        ("mlx_mm", "mlx_mm pure", "torch"),
        "picture",
        operations=lambda case: encoder(VISION_LAYERS, 1536, 4096, (case["side"] // 14) ** 2, 3),
    ),
    "clap": Work(
        "CLAP (HTSAT), sounds of 10 s",
        "audio",
        checkpoints.write_clap,
        tuple({"stage": stage, "batch": batch} for stage in ("log-mel", "tower", "whole") for batch in (1, 8)),
        FLOATS,
        "sound",
    ),
    "cold": Work(
        "whole processes, from their start to the vector of one picture",
        "cold",
        checkpoints.write_vit,
        ({"model": "bundled"}, {"model": "vit"}),
        ("mlx_mm", "mlx_mm 8 bit", "mlx_mm pure", "torch", "onnxruntime"),
        "start",
        units=lambda case: 1,
    ),
}
