"""Every family in every mode and number of bits: it loads and takes all its inputs, with the kernels and without."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from comparing import LONG
from recipes import RECIPES
from test_contract import Checkpoint, observe, whole_batch

import mlx_mm
from mlx_mm.backend import device
from mlx_mm.backend.native import library, signatures
from mlx_mm.quantize.scheme import MODES

BOUND = 1e-4  # of the largest number, in sums of another order
ROUNDED_INPUTS = 0.1  # of what it is without rounding inputs to 8 bits, relative
JOINT = [name for name, recipe in RECIPES.items() if "-" not in name or recipe.kind == "classifier"]
SCHEMES = [(mode, bits) for mode, (several, _) in MODES.items() for bits in several]
SHORT = {("siglip2", "affine", 3), ("clap", "affine", 5), ("siglip2", "mxfp8", 8), ("clap", "nvfp4", 4)}

Tiny = Callable[..., Path]
Set = pytest.MonkeyPatch


@pytest.mark.parametrize(
    ("name", "mode", "bits"),
    [
        pytest.param(name, mode, bits, marks=() if (name, mode, bits) in SHORT else LONG)
        for name in JOINT
        for mode, bits in SCHEMES
    ],
)
def test_with_kernels_and_without(name: str, mode: str, bits: int, tmp_path: Path, monkeypatch: Set) -> None:
    """Layers are stored as asked; both paths give the same but for the order of sums, and rounded inputs change less
    than a tenth."""
    checkpoint = Checkpoint(RECIPES[name], tmp_path)
    group_size = 32 if mode == "affine" else None  # not every width of a tiny model is divisible by more
    out = tmp_path / "out"
    report = mlx_mm.convert(checkpoint.source, out, bits=bits, mode=mode, group_size=group_size, recipe="all")
    quantised = [choice for choice in report.choices if choice.scheme is not None]
    assert {(choice.scheme.mode, choice.scheme.bits) for choice in quantised if choice.scheme} == {(mode, bits)}
    assert len(quantised) > len(report.choices) / 2
    model, processor = mlx_mm.load(out)
    batch = whole_batch(checkpoint, processor)
    rounded = observe(model, batch)
    monkeypatch.setattr(library, "inputs_of", lambda _usual: signatures.INPUTS_EXACT)
    kernels = observe(*(mlx_mm.load(out)[0], batch))
    monkeypatch.setattr(device, "has_kernels", lambda: False)
    pure = observe(mlx_mm.load(out)[0], batch)
    source = observe(checkpoint.model, whole_batch(checkpoint))
    assert kernels.keys() == pure.keys() == source.keys()
    assert len(pure) >= 1
    for key, numbers in ((key, numbers) for key, numbers in pure.items() if numbers.dtype.kind == "f"):
        scale = np.abs(numbers).max()
        assert np.abs(kernels[key] - numbers).max() <= BOUND * scale, key
        assert np.linalg.norm(rounded[key] - numbers) <= ROUNDED_INPUTS * np.linalg.norm(numbers), key
        assert not np.array_equal(numbers, source[key]), key  # it is another model indeed
