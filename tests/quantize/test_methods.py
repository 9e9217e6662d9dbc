"""The default method of `convert` on the trained models of the package, tried on what it was not fitted to."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from comparing import LONG

from mlx_mm import convert, load
from mlx_mm.evaluate.outputs import prompts, results
from mlx_mm.probes import bundled_probes, fitting
from mlx_mm.quantize.cost import divergence


def lost(kind: str, got: np.ndarray, given: np.ndarray) -> float:
    """Of the median item: the mean of 50 texts of sounds-clap hangs on one of them."""
    if kind == "generator":
        return float(np.median(divergence(got, given)[0]))
    a, b = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (got, given))
    return float(np.median(1 - (a * b).sum(axis=1)))


@pytest.mark.parametrize(
    "name", ["emoji-siglip2", pytest.param("sounds-clap", marks=LONG), pytest.param("emoji-glm4v", marks=LONG)]
)
def test_best_loses_less_than_plain_rounding(name: str, tmp_path: Path) -> None:
    model, processor = load(name)
    task = prompts(fitting(bundled_probes(), model).halves()[1], model, processor)
    given = results(model, task, lambda _modality: None)
    found = {}
    for way in ("plain", "best"):
        convert(name, tmp_path / way, method=way, check=False)
        got = results(load(tmp_path / way)[0], task, lambda _modality: None)
        found[way] = {kind: lost(model.kind, got[kind], given[kind]) for kind in given}
    assert all(0 < found["best"][kind] < 0.8 * loss for kind, loss in found["plain"].items()), found
