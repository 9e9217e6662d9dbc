"""Which files hold the weights of a folder, and headers and indexes that are damaged, odd or hostile."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from safetensors.numpy import save_file
from torch_writer import write_torch

from mlx_mm.checkpoint import reading, shards
from mlx_mm.errors import WeightsError

X = np.arange(3, dtype=np.float32)


def write_raw(path: Path, header: Any, data: bytes = b"") -> None:
    """A safetensors file with any header: a value, or its bytes."""
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(raw).to_bytes(8, "little") + raw + data)


def write_index(folder: Path, weight_map: Any, name: str = shards.INDEX) -> Path:
    (folder / name).write_text(json.dumps({"weight_map": weight_map}))
    return folder / name


def numbers(folder: Path, name: str = "x") -> list[float]:
    return [float(value) for value in np.array(reading.Checkpoint(folder).arrays[name])]


# --- which files ----------------------------------------------------------------------------------------------------


def test_the_single_file_goes_before_an_old_index(tmp_path: Path) -> None:
    """As in transformers: the shards of an earlier version do not count any more."""
    save_file({"x": X}, tmp_path / "model-00001-of-00001.safetensors")
    write_index(tmp_path, {"x": "model-00001-of-00001.safetensors"})
    assert numbers(tmp_path) == [0, 1, 2]
    save_file({"x": X + 5}, tmp_path / "model.safetensors")
    assert numbers(tmp_path) == [5, 6, 7]
    (tmp_path / shards.INDEX).write_text("{")
    assert numbers(tmp_path) == [5, 6, 7]


def test_the_single_torch_file_goes_before_an_old_index(tmp_path: Path) -> None:
    write_torch(tmp_path / "a.bin", {"x": X})
    write_index(tmp_path, {"x": "a.bin"}, shards.TORCH_INDEX)
    assert numbers(tmp_path) == [0, 1, 2]
    write_torch(tmp_path / "pytorch_model.bin", {"x": X + 5})
    assert numbers(tmp_path) == [5, 6, 7]
    save_file({"x": X + 9}, tmp_path / "s.safetensors")
    write_index(tmp_path, {"x": "s.safetensors"})
    assert numbers(tmp_path) == [9, 10, 11]


@pytest.mark.parametrize(("owner", "right"), [("a", [0, 1, 2]), ("b", [5, 6, 7])])
@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_the_index_decides_where_a_tensor_stands_twice(kind: str, owner: str, right: list[int], tmp_path: Path) -> None:
    save: Callable[..., Any] = (
        (lambda t, p: save_file(t, p)) if kind == "safetensors" else lambda t, p: write_torch(p, t)
    )
    save({"x": X, "y": X}, tmp_path / f"a.{kind}")
    save({"x": X + 5, "z": X}, tmp_path / f"b.{kind}")
    index = shards.INDEX if kind == "safetensors" else shards.TORCH_INDEX
    owners = {"x": f"{owner}.{kind}", "y": f"a.{kind}", "z": f"b.{kind}"}
    write_index(tmp_path, owners, index)
    assert numbers(tmp_path) == right
    assert sorted(reading.Checkpoint(tmp_path).arrays) == ["x", "y", "z"]
    write_index(tmp_path, {"y": f"a.{kind}", "z": f"b.{kind}"}, index)
    with pytest.raises(WeightsError, match="tensor x in more than one file"):
        reading.Checkpoint(tmp_path)


def test_a_tensor_that_its_shard_lacks(tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "a.safetensors")
    write_index(tmp_path, {"x": "a.safetensors", "y": "a.safetensors"})
    with pytest.raises(WeightsError, match=r"a\.safetensors lacks the tensor y, which model\.safetensors\.index\.json"):
        reading.Checkpoint(tmp_path)


def test_links_into_a_cache_are_followed(tmp_path: Path) -> None:
    """As in a snapshot of huggingface_hub's cache."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    save_file({"x": X}, tmp_path / "blobs" / "1")
    (tmp_path / "snapshot" / "model.safetensors").symlink_to(Path("..") / "blobs" / "1")
    assert numbers(tmp_path / "snapshot") == [0, 1, 2]


# --- files that are none --------------------------------------------------------------------------------------------


def folder_at(path: Path) -> None:
    path.mkdir()


def pipe_at(path: Path) -> None:
    os.mkfifo(path)


def device_at(path: Path) -> None:
    path.symlink_to("/dev/zero")


def loop_at(path: Path) -> None:
    path.symlink_to(path.name)


def nothing_at(path: Path) -> None:
    path.symlink_to("missing")


@pytest.mark.parametrize("make", [folder_at, pipe_at, device_at, loop_at, nothing_at])
@pytest.mark.parametrize(
    "name", [shards.SINGLE, shards.INDEX, shards.TORCH_SINGLE, shards.TORCH_INDEX, "a.safetensors"]
)
def test_only_regular_files_are_opened(make: Callable[[Path], None], name: str, tmp_path: Path) -> None:
    """A pipe would wait for ever, a device has no end."""
    make(tmp_path / name)
    if name == "a.safetensors":
        write_index(tmp_path, {"x": name})
    with pytest.raises(WeightsError, match=name):
        reading.Checkpoint(tmp_path)


# --- indexes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content",
    [
        "[1]",
        "{}",
        "null",
        "[" * 5000,
        '{"weight_map": ' + "[" * 100 + "]" * 100 + "}",
        '{"weight_map": {}}',
        '{"weight_map": ["a.safetensors"]}',
        '{"weight_map": "a.safetensors"}',
        '{"weight_map": {"x": 5}}',
        '{"weight_map": {"x": null}}',
        '{"weight_map": {"x": ["a.safetensors"]}}',
        '{"weight_map": {"x": ""}}',
        '{"weight_map": {"x": "."}}',
        '{"weight_map": {"x": ".."}}',
        '{"weight_map": {"x": "../a.safetensors"}}',
        '{"weight_map": {"x": "/etc/passwd"}}',
        '{"weight_map": {"x": "b\\u0000"}}',
        '{"weight_map": {"x": "\\ud800"}}',
        '{"weight_map": {"x": "' + "a" * 300 + '"}}',
        '{"weight_map": {"x": "missing.safetensors"}}',
        "\udc80",
    ],
)
def test_what_is_no_index(content: str, tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "a.safetensors")
    (tmp_path / shards.INDEX).write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(WeightsError, match=r"model\.safetensors\.index\.json"):
        reading.Checkpoint(tmp_path)


def test_an_index_with_a_byte_order_mark(tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "a.safetensors")
    index = write_index(tmp_path, {"x": "a.safetensors"})
    index.write_bytes(b"\xef\xbb\xbf" + index.read_bytes())
    assert numbers(tmp_path) == [0, 1, 2]


# --- headers --------------------------------------------------------------------------------------------------------

F32 = {"dtype": "F32", "shape": [3], "data_offsets": [0, 12]}


@pytest.mark.parametrize(
    "header",
    [
        {"x": F32 | {"shape": [-3]}},
        {"x": F32 | {"shape": [2**63, 2**63]}},
        {"x": F32 | {"shape": [2**40]}},
        {"x": F32 | {"shape": [4]}},
        {"x": F32 | {"shape": None}},
        {"x": F32 | {"shape": ["3"]}},
        {"x": F32 | {"data_offsets": [12, 0]}},
        {"x": F32 | {"data_offsets": [4, 16]}},
        {"x": F32 | {"data_offsets": [-12, 0]}},
        {"x": F32 | {"data_offsets": [2**64, 2**64 + 12]}},
        {"x": F32 | {"data_offsets": [0]}},
        {"x": F32 | {"dtype": "F33"}},
        {"x": F32 | {"dtype": None}},
        {"x": F32, "y": F32},
        {"x": F32, "__metadata__": []},
        {"x": [1, 2, 3]},
        {"x": None},
        [],
        b"",
        b"{",
        b'{"x": ' * 3000,
        b"\xff\xfe",
    ],
)
def test_what_is_no_header(header: Any, tmp_path: Path) -> None:
    write_raw(tmp_path / "model.safetensors", header, b"\0" * 12)
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged.*Download it again"):
        reading.Checkpoint(tmp_path)


@pytest.mark.parametrize("length", [2**63, 2**64 - 1, 10**8 + 1, 10**8, 100, 0])
def test_a_length_that_the_file_has_not(length: int, tmp_path: Path) -> None:
    save_file({"x": X}, tmp_path / "model.safetensors")
    raw = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(length.to_bytes(8, "little") + raw[8:])
    with pytest.raises(WeightsError, match=r"model\.safetensors is damaged"):
        reading.Checkpoint(tmp_path)


@pytest.mark.parametrize(
    ("dtype", "size", "advice"),
    [
        ("F64", 8, "Save the model in float32"),
        ("F8_E4M3", 1, "unquantised"),
        ("F8_E5M2", 1, "unquantised"),
        ("C64", 8, "not complex"),
    ],
)
def test_numbers_that_mlx_lacks(dtype: str, size: int, advice: str, tmp_path: Path) -> None:
    entry = {"dtype": dtype, "shape": [3], "data_offsets": [0, 3 * size]}
    write_raw(tmp_path / "model.safetensors", {"some.weight": entry}, b"\0" * 3 * size)
    with pytest.raises(WeightsError, match=rf"stores some\.weight as {dtype}; expected one of .*F32\. .*{advice}"):
        reading.Checkpoint(tmp_path)


def test_torch_numbers_that_mlx_lacks(tmp_path: Path) -> None:
    write_torch(tmp_path / "pytorch_model.bin", {"w": X.astype(np.float64)})
    with pytest.raises(WeightsError, match=r"stores w as F64; .*Save the model in float32"):
        reading.Checkpoint(tmp_path)


def test_tensors_without_numbers(tmp_path: Path) -> None:
    save_file({"x": np.zeros((0, 3), np.float32), "y": X}, tmp_path / "model.safetensors")
    assert reading.Checkpoint(tmp_path).arrays["x"].shape == (0, 3)


def test_limits(tmp_path: Path) -> None:
    """What is packed into words may be up to 16 times as many."""
    save_file({"x": np.zeros((4, 5), np.uint32), "y": np.zeros(100, np.float32)}, tmp_path / "model.safetensors")
    assert shards.read_weight_files(tmp_path).limits() == (2, 320)
    assert shards.has_weights(tmp_path)
    assert not shards.has_weights(tmp_path / "..")


def test_the_same_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 64)
    a = np.arange(64, dtype=np.float32).reshape(16, 4)
    b, c = a.copy(), a.copy()
    c[-1, -1] += 1
    save_file(
        {"a": a, "b": b, "c": c, "half": a.astype(np.float16), "cut": a[1:].copy()}, tmp_path / "model.safetensors"
    )
    checkpoint = reading.Checkpoint(tmp_path)
    assert checkpoint.same("a", "a")
    assert checkpoint.same("a", "b")
    assert not any(checkpoint.same("a", name) for name in ("c", "half", "cut"))
    assert mx.array_equal(checkpoint.arrays["a"], mx.array(a))


@pytest.mark.parametrize("name", [shards.SINGLE, shards.TORCH_SINGLE])
def test_a_file_that_may_not_be_read_is_not_called_damaged(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_args: Any, **_options: Any) -> int:
        raise PermissionError(13, "Permission denied")

    (tmp_path / name).touch()
    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(WeightsError, match=rf"{name} cannot be read \(Permission denied\)"):
        shards.read_weight_files(tmp_path)
