"""Tensors made of blocks: alike to the whole, and never whole while they are converted."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from comparing import LONG, close
from jina_tiny import jina_weights, tiny_jina_config, write_jina_side_files
from safetensors.numpy import load_file
from tiny import write_checkpoint

import mlx_mm
from mlx_mm.checkpoint.rows import Rows
from mlx_mm.models.jina_clip import weights as jina

TABLE = "text_model.embeddings.token_embedding.weight"


def test_rows_are_the_tensor() -> None:
    whole = mx.arange(42, dtype=mx.float32).reshape(7, 3, 2)
    rows = Rows((whole[:3], whole[3:4], whole[4:]))
    assert (rows.shape, rows.ndim, rows.size, rows.dtype) == ((7, 3, 2), 3, 42, mx.float32)
    assert mx.array_equal(rows.join(), whole)
    assert not mx.array_equal(Rows(rows.blocks[::-1]).join(), whole)


@pytest.mark.parametrize("bits", [None, 4])
def test_blocks_convert_to_the_same_bytes(
    bits: int | None, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_checkpoint("jina_clip")
    mlx_mm.convert(source, tmp_path / "whole", bits=bits)
    monkeypatch.setattr(jina, "BLOCK_ROWS", 16)
    mlx_mm.convert(source, tmp_path / "blocks", bits=bits)
    whole, blocks = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "blocks"))
    assert whole.keys() == blocks.keys()
    assert all(np.array_equal(whole[name], blocks[name]) for name in whole)
    loaded = mlx_mm.load(source)[0].text_model.embeddings.token_embedding.weight
    if bits is None:
        assert close(loaded, whole[TABLE], 1e-7)  # the products of `load` go through another BLAS


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_sums_are_no_wider_than_their_source(dtype: str | None, tmp_path: Path) -> None:
    """Adapters are merged in float32; the file is as wide as the source unless asked otherwise."""
    config = tiny_jina_config()
    half = {name: weight.astype(np.float16) for name, weight in jina_weights(config).items()}
    source = write_checkpoint(tmp_path / "half", config, half, side_files=write_jina_side_files)
    mlx_mm.convert(source, tmp_path / "out", bits=None, dtype=dtype)
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert {weight.dtype for weight in written.values()} == {np.dtype(dtype or np.float16)}
    right = np.array(mlx_mm.load(source)[0].text_model.embeddings.token_embedding.weight)
    assert right.dtype == np.float32
    assert not np.array_equal(right, right.astype(np.float16))
    assert np.array_equal(written[TABLE], right.astype(written[TABLE].dtype))


@LONG[0]
@LONG[1]
def test_a_table_is_never_whole(tmp_path: Path) -> None:
    """26 MB in float16 would be 51 MB in float32, and twice that beside the sum."""
    config = tiny_jina_config()
    config["text_config"]["hf_model_config_kwargs"]["vocab_size"] = 200_000
    half = {name: weight.astype(np.float16) for name, weight in jina_weights(config).items()}
    source = write_checkpoint(tmp_path / "large", config, half, side_files=write_jina_side_files)
    code = (
        "import sys, resource, mlx_mm, mlx.core as mx\n"
        "from mlx_mm.models.jina_clip import weights as jina\n"
        "jina.BLOCK_ROWS = int(sys.argv[3])\n"
        "mlx_mm.convert(sys.argv[1], sys.argv[2], bits=None, check=False)\n"
        "print(mx.get_peak_memory())"
    )
    peaks = []
    for rows in (8192, 200_000):
        command = [sys.executable, "-c", code, str(source), str(tmp_path / f"out-{rows}"), str(rows)]
        peaks.append(int(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
    assert peaks[0] < 40e6
    assert peaks[1] > 80e6  # the measure would have shown it
