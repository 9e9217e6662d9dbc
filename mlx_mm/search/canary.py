"""A picture, a text and a tone of ours, by whose vectors a model is known again: damage that no digest sees."""

import io

import numpy as np

from mlx_mm.checkpoint.hub import BUNDLED
from mlx_mm.embed import encode_audio, encode_image, encode_text
from mlx_mm.errors import DamagedError
from mlx_mm.models.contracts import Modality, Model, Processor
from mlx_mm.processing.vectors import Vectors

LEAST_COSINE = 0.999  # of a canary to itself: other processors and kernels stay far above it
PICTURE = BUNDLED / "pictures" / "cat.png"
TEXT = "a photo of a cat"
RATE, PITCH = 48_000, 440.0  # of one second of sound, in Hz
HEARD: tuple[Modality, ...] = ("text", "image", "audio")  # the order of canaries in a store


def canary(model: Model, processor: Processor, modality: Modality, patches: int | None) -> Vectors:
    """The unit vector (D,) of one of them."""
    if modality == "text":
        return encode_text(model, processor, TEXT)
    if modality == "audio":
        tone = np.sin(2 * np.pi * PITCH * np.arange(RATE) / RATE).astype(np.float32)
        return encode_audio(model, processor, (tone, RATE))
    return encode_image(model, processor, io.BytesIO(PICTURE.read_bytes()), max_num_patches=patches, fast_decode=True)


def check_canary(name: str, modality: Modality, stored: Vectors, now: Vectors) -> None:
    """Raise DamagedError where a model gives another vector than it did."""
    cosine = float(stored @ now) if stored.shape == now.shape and np.isfinite(now).all() else float("nan")
    if not cosine >= LEAST_COSINE:
        raise DamagedError(
            f"{name} gives another vector of the {modality} that is kept to know it by (cosine {cosine:.4f}); expected "
            f"at least {LEAST_COSINE}. Its weights, or what computes with them, are damaged: download it again, or try "
            "MLX_MM_CPU=exact."
        )
