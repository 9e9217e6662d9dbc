"""Files that torch itself writes, read without torch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from torch_writer import write_torch

from mlx_mm.checkpoint.reading import Checkpoint
from mlx_mm.checkpoint.torch_file import read_torch_file
from mlx_mm.errors import WeightsError

torch = pytest.importorskip("torch")


def as_numpy(tensor: Any) -> np.ndarray:
    return tensor.view(torch.uint16).numpy() if tensor.dtype == torch.bfloat16 else tensor.numpy()


def tensors() -> dict[str, Any]:
    base = torch.arange(120.0)
    cube = base.reshape(2, 3, 4, 5)
    return {
        "contiguous": cube.clone(),
        "shared": base,
        "offset": base[7:19],
        "transposed": base.reshape(12, 10).T,
        "steps": cube[:, 1:, ::2, 1:4],
        "permuted": cube.permute(3, 0, 2, 1),
        "channels last": cube.clone().to(memory_format=torch.channels_last),
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 4),
        "empty inside": torch.zeros(3, 0, 2),
        "expanded row": torch.arange(9).expand((1, -1)),
        "half": base.half(),
        "bfloat16": base.bfloat16().reshape(8, 15),
        "bfloat16 scalar": torch.tensor(3.0, dtype=torch.bfloat16),
        "double": base.double(),
        "int64": torch.arange(-5, 5),
        "int32": torch.arange(5, dtype=torch.int32),
        "int16": torch.arange(5, dtype=torch.int16),
        "int8": torch.arange(-3, 3, dtype=torch.int8),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([[True, False], [False, False]]),
    }


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_kind_of_tensor(protocol: int, tmp_path: Path) -> None:
    right = tensors()
    torch.save(right, tmp_path / "pytorch_model.bin", pickle_protocol=protocol)
    found = read_torch_file(tmp_path / "pytorch_model.bin")
    assert list(found) == list(right)
    for name, tensor in right.items():
        array = found[name].numpy()
        assert array.dtype == as_numpy(tensor).dtype, name
        assert array.shape == tuple(tensor.shape), name
        assert np.array_equal(array, as_numpy(tensor)), name
        assert found[name].is_contiguous == tensor.is_contiguous(), name
    del right["double"]
    torch.save(right, tmp_path / "pytorch_model.bin", pickle_protocol=protocol)
    arrays = Checkpoint(tmp_path).arrays
    for name, tensor in right.items():
        ours = arrays[name].view(mx.uint16) if tensor.dtype == torch.bfloat16 else arrays[name]
        assert np.array_equal(np.array(ours), as_numpy(tensor)), name
        assert np.array(ours).dtype == as_numpy(tensor).dtype, name
        assert arrays[name].shape == tuple(tensor.shape), name


def test_the_state_dict_of_a_module(tmp_path: Path) -> None:
    layers = [torch.nn.Linear(5, 7), torch.nn.BatchNorm1d(7), torch.nn.Conv1d(7, 3, 2), torch.nn.Embedding(9, 4)]
    model = torch.nn.Sequential(*layers)
    model.add_module("tied", torch.nn.Linear(4, 9))
    model.tied.weight = model[3].weight
    torch.save(model.state_dict(), tmp_path / "x.bin")
    found = read_torch_file(tmp_path / "x.bin")
    right = model.state_dict()
    assert list(found) == list(right)
    assert found["tied.weight"] == found["3.weight"]
    for name, tensor in right.items():
        assert np.array_equal(found[name].numpy(), tensor.numpy())


REFUSED = {
    "parameters": (lambda: {"x": torch.nn.Parameter(torch.ones(2))}, "_rebuild_parameter"),
    "float8": (lambda: {"x": torch.ones(2).to(torch.float8_e4m3fn)}, "_rebuild_tensor_v3"),
    "complex": (lambda: {"x": torch.ones(2, dtype=torch.complex64)}, "torch.ComplexFloatStorage"),
    "sparse": (lambda: {"x": torch.eye(3).to_sparse()}, "_rebuild_sparse_tensor"),
    "negated": (lambda: {"x": torch._neg_view(torch.ones(3))}, "metadata"),
    "expanded": (lambda: {"x": torch.ones(1).expand(1000)}, "outside"),
    "a module": (lambda: torch.nn.Linear(2, 2), "torch.nn.modules.linear.Linear"),
    "a training checkpoint": (lambda: {"state_dict": {"x": torch.ones(2)}, "epoch": 3}, "state_dict is a dict"),
    "a tensor": (lambda: torch.ones(2), "tensor"),
    "a list": (lambda: [torch.ones(2)], "list"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_state_dict(case: str, tmp_path: Path) -> None:
    make, word = REFUSED[case]
    torch.save(make(), tmp_path / "x.bin")
    with pytest.raises(WeightsError, match=word):
        read_torch_file(tmp_path / "x.bin")


def test_the_format_before_1_6(tmp_path: Path) -> None:
    torch.save({"x": torch.ones(2)}, tmp_path / "x.bin", _use_new_zipfile_serialization=False)
    with pytest.raises(WeightsError, match=r"before 1\.6"):
        read_torch_file(tmp_path / "x.bin")


def test_torchscript(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "x.bin")
    with pytest.raises(WeightsError, match="__torch__"):
        read_torch_file(tmp_path / "x.bin")


def test_our_writer_is_one_that_torch_reads(tmp_path: Path) -> None:
    tables = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.arange(3), "c": np.array(1.5, np.float16)}
    found = torch.load(write_torch(tmp_path / "x.bin", tables), weights_only=True)
    assert {name: tensor.tolist() for name, tensor in found.items()} == {k: v.tolist() for k, v in tables.items()}
