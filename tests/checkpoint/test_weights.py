"""Reading and writing of weights. PyTorch's files are in test_torch_file.py."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file
from tiny import hashed, tiny_config, tiny_weights
from torch_writer import mapping, storage, tensor, write_torch, write_zip

from mlx_mm.checkpoint import reading, writing
from mlx_mm.checkpoint.matching import check_finite, check_match
from mlx_mm.checkpoint.reading import Checkpoint
from mlx_mm.checkpoint.torch_file import TorchTensor
from mlx_mm.checkpoint.writing import ShardWriter
from mlx_mm.errors import WeightsError


@pytest.mark.parametrize("shards", [1, 4])
def test_every_tensor_is_read(shards: int, tiny_checkpoint: Callable[..., Path]) -> None:
    checkpoint = Checkpoint(tiny_checkpoint("siglip", shards=shards))
    right = tiny_weights(tiny_config("siglip"))
    assert not checkpoint.is_mlx
    assert set(checkpoint.arrays) == set(right)
    assert all(np.array_equal(np.array(checkpoint.arrays[name]), right[name]) for name in right)


def test_blocks_join_to_the_tensor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1000)
    tables = {
        "a": hashed((3, 5), 1).astype(np.float32),  # so that `b` does not begin the file
        "b": hashed((37, 11), 2).astype(np.float16),
        "c": hashed((1, 900), 3).astype(np.float32),
        "d": hashed((7, 3, 4, 50), 4).astype(np.float32),
        "e": hashed((2000,), 5).astype(np.float32),
    }
    save_file(tables, tmp_path / "model.safetensors")
    checkpoint = Checkpoint(tmp_path)
    for name, table in tables.items():
        blocks = list(checkpoint.blocks(checkpoint.arrays[name]))
        assert np.array_equal(np.concatenate([np.array(block) for block in blocks]), table)
        assert len(blocks) == 1 or max(block.nbytes for block in blocks) <= max(1000, table[0].nbytes)
    changed = checkpoint.arrays["b"] * 2
    (whole,) = checkpoint.blocks(changed)
    assert np.array_equal(np.array(whole), tables["b"] * 2)


def test_bfloat16_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 100)
    table = mx.array(hashed((20, 10), 1).astype(np.float32)).astype(mx.bfloat16)
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"x": table})
    checkpoint = Checkpoint(tmp_path)
    joined = mx.concatenate(list(checkpoint.blocks(checkpoint.arrays["x"])))
    assert joined.dtype == mx.bfloat16
    assert mx.array_equal(joined, table).item()


def test_blocks_of_a_torch_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 1000)
    table = hashed((60, 40), 1).astype(np.float16)
    source = storage("HalfStorage", "0", 2400)
    items = {
        "whole": tensor(source, 0, (60, 40), (40, 1)),
        "tied": tensor(source, 0, (60, 40), (40, 1)),
        "part": tensor(source, 80, (50, 40), (40, 1)),
        "flipped": tensor(source, 0, (40, 60), (1, 40)),
    }
    write_zip(tmp_path / "pytorch_model.bin", mapping(items), {"0": table.tobytes()})
    checkpoint = Checkpoint(tmp_path)
    right = {"whole": table, "tied": table, "part": table[2:52], "flipped": table.T}
    assert checkpoint.arrays["whole"] is checkpoint.arrays["tied"]
    for name, value in right.items():
        blocks = list(checkpoint.blocks(checkpoint.arrays[name]))
        assert np.array_equal(np.concatenate([np.array(block) for block in blocks]), value), name
        assert max(block.nbytes for block in blocks) <= 1000 or name == "flipped"


def test_safetensors_go_before_torch(tmp_path: Path) -> None:
    write_torch(tmp_path / "pytorch_model.bin", {"x": np.zeros(3, np.float32)})
    assert list(Checkpoint(tmp_path).arrays) == ["x"]
    assert not Checkpoint(tmp_path).is_mlx
    assert Checkpoint(tmp_path).num_bytes == (tmp_path / "pytorch_model.bin").stat().st_size
    save_file({"y": np.zeros(4, np.float32)}, tmp_path / "model.safetensors")
    assert list(Checkpoint(tmp_path).arrays) == ["y"]


def test_a_torch_file_is_read_when_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`info` asks for sizes alone."""
    write_torch(tmp_path / "pytorch_model.bin", {"x": np.zeros(3, np.float32)})
    monkeypatch.setattr(TorchTensor, "numpy", lambda _self: pytest.fail("read"))
    assert Checkpoint(tmp_path).num_bytes > 0


def test_torch_shards(tmp_path: Path) -> None:
    index = tmp_path / "pytorch_model.bin.index.json"
    write_torch(tmp_path / "a.bin", {"x": np.zeros(3, np.float32)})
    write_torch(tmp_path / "b.bin", {"y": np.zeros(3, np.float32)})
    index.write_text(json.dumps({"weight_map": {"x": "a.bin", "y": "b.bin"}}))
    assert list(Checkpoint(tmp_path).arrays) == ["x", "y"]
    write_torch(tmp_path / "b.bin", {"x": np.zeros(3, np.float32)})
    with pytest.raises(WeightsError, match=r"b\.bin lacks the tensor y, which pytorch_model"):
        Checkpoint(tmp_path)
    for wrong, message in {"../a.bin": "same folder", "c.bin": "lacks c.bin, which pytorch_model"}.items():
        index.write_text(json.dumps({"weight_map": {"x": wrong}}))
        with pytest.raises(WeightsError, match=message):
            Checkpoint(tmp_path)


def test_no_weights_at_all(tmp_path: Path) -> None:
    (tmp_path / "training_args.bin").touch()
    with pytest.raises(WeightsError, match=r"no model\.safetensors, no pytorch_model\.bin"):
        Checkpoint(tmp_path)


def test_mlx_mark_is_read(tmp_path: Path) -> None:
    mx.save_safetensors(str(tmp_path / "model.safetensors"), {"x": mx.zeros((2,))}, metadata={"format": "mlx"})
    assert Checkpoint(tmp_path).is_mlx


def test_unreadable_dtype_is_named(tmp_path: Path) -> None:
    save_file({"x": np.zeros(4, np.float64)}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"x as F64"):
        Checkpoint(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    write_torch(tmp_path / "pytorch_model.bin", {"x": np.zeros(4, np.float64)})
    with pytest.raises(WeightsError, match=r"x as F64"):
        Checkpoint(tmp_path)


# --- strict match -----------------------------------------------------------------------------------------------


def test_match_passes_silently() -> None:
    check_match({"a": (2, 3), "b": (1,)}, {"b": mx.zeros((1,)), "a": mx.zeros((2, 3))}, Path("x"))


def test_one_error_names_all_three_kinds() -> None:
    found = {"b": mx.zeros((3, 2)), "c": mx.zeros((1,))}
    with pytest.raises(WeightsError) as caught:
        check_match({"a": (2,), "b": (2, 3)}, found, Path("folder"))
    text = str(caught.value)
    for word in ("folder", "1 missing: a", "1 unexpected: c", "1 misshapen: b", "(3, 2)", "(2, 3)"):
        assert word in text


def test_first_ten_of_many() -> None:
    expected = {f"tensor.{i:03}": (1,) for i in range(250)}
    with pytest.raises(WeightsError) as caught:
        check_match(expected, {f"other.{i:03}": mx.zeros((1,)) for i in range(77)}, Path("folder"))
    text = str(caught.value)
    assert "250 missing" in text
    assert "77 unexpected" in text
    assert text.count("tensor.") == text.count("other.") == 10
    assert "tensor.009" in text
    assert "tensor.010" not in text


# --- finite -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite(dtype: mx.Dtype, value: float) -> None:
    array = mx.zeros((100, 7)).at[31, 5].add(value).astype(dtype)
    with pytest.raises(WeightsError, match=r"the\.name"):
        check_finite("the.name", array, Path("folder"))


def test_large_numbers_and_integers_are_finite() -> None:
    assert check_finite("x", mx.full((1000,), 3e38), Path("folder")) == np.float32(3e38)
    assert check_finite("x", mx.full((1000,), -65504.0, mx.float16), Path("folder")) == 65504
    assert check_finite("x", mx.array([0xFFFFFFFF], mx.uint32), Path("folder")) == 0


@pytest.mark.parametrize("dtype", [mx.float16, mx.bfloat16, mx.float32])
@pytest.mark.parametrize("place", [0, 1 << 16, 70_000, 99_999])
def test_largest_magnitude(dtype: mx.Dtype, place: int) -> None:
    """Wherever it stands, whatever its sign, and however the rows of an array lie in memory."""
    rows = mx.zeros((100_000,)).at[place].add(-3.0).astype(dtype).reshape(100, 1000)
    for array in (rows, rows.T, rows[:, ::-1], rows[place // 1000 :, place % 1000 :]):
        assert check_finite("x", array, Path("folder")) == 3


# --- writing ----------------------------------------------------------------------------------------------------


ARRAYS = {
    "a.weight": mx.array(hashed((7, 5), 1).astype(np.float32)),
    "a.bias": mx.array(hashed((7,), 2).astype(np.float32)).astype(mx.float16),
    "b": mx.array(hashed((3, 3), 3).astype(np.float32)).astype(mx.bfloat16),
    "c.weight": mx.arange(24, dtype=mx.uint32).reshape(4, 6),
    "d": mx.array(hashed((4, 3), 4).astype(np.float32)).T,  # not contiguous
    "empty": mx.zeros((0, 4)),
}


def write(folder: Path) -> int:
    with ShardWriter(folder, {name: (array.dtype, array.shape) for name, array in ARRAYS.items()}) as writer:
        for name, array in ARRAYS.items():
            blocks = [array[:2], array[2:]] if name == "a.weight" else [array]
            writer.write(name, blocks)
        return writer.finish()


def check_files(folder: Path) -> list[str]:
    """The names of the shards, after every tensor was found where the index says."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())
    assert set(index["weight_map"]) == set(ARRAYS)
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in ARRAYS.values())
    for name, file in index["weight_map"].items():
        assert mx.array_equal(mx.load(str(folder / file))[name], ARRAYS[name]).item()
        with safe_open(folder / file, framework="numpy") as f:
            assert f.metadata() == {"format": "mlx"}
            assert name in f.keys()  # noqa: SIM118
    return sorted(set(index["weight_map"].values()))


def test_one_file(tmp_path: Path) -> None:
    assert write(tmp_path) == sum(array.nbytes for array in ARRAYS.values())
    assert check_files(tmp_path) == ["model.safetensors"]
    checkpoint = Checkpoint(tmp_path)
    assert checkpoint.is_mlx
    assert {name: array.dtype for name, array in checkpoint.arrays.items()} == {
        name: array.dtype for name, array in ARRAYS.items()
    }


def test_shards_fill_up_to_the_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_SHARD_BYTES", 160)
    write(tmp_path)
    shards = check_files(tmp_path)
    assert shards == [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
    assert len(shards) > 1
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == shards
    for shard in shards:
        arrays = mx.load(str(tmp_path / shard))
        assert sum(array.nbytes for array in arrays.values()) <= 160
    assert set(Checkpoint(tmp_path).arrays) == set(ARRAYS)


def test_tensor_above_the_limit_gets_its_own_shard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writing, "MAX_SHARD_BYTES", 100)
    write(tmp_path)
    check_files(tmp_path)
