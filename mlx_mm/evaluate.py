"""How close the vectors of a converted checkpoint are to those of its source."""

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from mlx_mm.checkpoint import hub
from mlx_mm.embed import encode_audio, encode_image, encode_text
from mlx_mm.load import load
from mlx_mm.models.contracts import Modality

Vectors: TypeAlias = dict[Modality, npt.NDArray[np.float32]]  # unit vectors (N, D) of each kind of input


def cosines_between(ours: Vectors, theirs: Vectors) -> dict[str, tuple[float, float]]:
    """Mean and lowest cosine per modality."""
    result: dict[str, tuple[float, float]] = {}
    for kind, vectors in ours.items():
        cosines = (vectors * theirs[kind]).sum(axis=-1)
        result[kind] = float(cosines.mean()), float(cosines.min())
    return result


def vectors_of(folder: Path) -> Vectors:
    """Of the bundled pictures, their names and some synthetic sounds, as far as the checkpoint takes them."""
    model, processor = load(folder)
    pictures = sorted((hub.BUNDLED / "pictures").glob("*.png"))
    names = [path.stem.replace("_", " ") for path in pictures]
    encode: dict[Modality, Callable[[], np.ndarray]] = {
        "text": lambda: encode_text(model, processor, names),
        "image": lambda: encode_image(model, processor, pictures),
        "audio": lambda: encode_audio(model, processor, synthetic_sounds()),
    }
    return {kind: encode[kind]() for kind in model.modalities}


def synthetic_sounds() -> list[tuple[np.ndarray, int]]:
    """(samples, sampling_rate) of eight kinds of sound, 5 s each: tones, chords, sweeps, noises, beats."""
    rate = 48000
    time = np.arange(5 * rate) / rate
    noise = np.random.RandomState(0).standard_normal(len(time))  # frozen, unlike NumPy's default generator
    beats = np.exp(-20 * (time % 0.5))
    sounds = [
        np.sin(2 * np.pi * 440 * time),
        sum(np.sin(2 * np.pi * f * time) for f in (262, 330, 392)) / 3,
        np.sin(2 * np.pi * (200 + 400 * time) * time),
        np.sin(2 * np.pi * 900 * time + 8 * np.sin(2 * np.pi * 6 * time)),
        noise / 4,
        np.cumsum(noise) / np.abs(np.cumsum(noise)).max(),
        beats * noise / 4,
        beats * np.sin(2 * np.pi * 80 * time),
    ]
    return [((0.5 * sound).astype(np.float32), rate) for sound in sounds]
