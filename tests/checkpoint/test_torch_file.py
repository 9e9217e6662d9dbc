"""PyTorch's files: what is read, and that nothing in one is ever run. The files are written here, without torch."""

from __future__ import annotations

import json
import pickle
import struct
import tracemalloc
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from comparing import LONG
from tiny import hashed, tiny_config, tiny_weights
from torch_writer import ORDERED, mapping, number, numbers, storage, tensor, text, write_torch, write_zip

import mlx_mm
from mlx_mm.checkpoint import reading, torch_file
from mlx_mm.checkpoint.torch_file import read_torch_file
from mlx_mm.errors import MlxMmError, WeightsError


def refused(path: Path) -> str:
    """The message, after the file was refused without much memory."""
    tracemalloc.start()
    try:
        with pytest.raises(WeightsError) as caught:
            read_torch_file(path)
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()
    assert path.name in str(caught.value)
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- what is read -------------------------------------------------------------------------------------------------


def test_every_dtype_and_rank(tmp_path: Path) -> None:
    tables = {
        np.dtype(kind).name: (hashed((3, 4), i) * 9).astype(kind)
        for i, (dtype, kind) in enumerate(torch_file.STORAGES.values())
        if dtype != "BF16"
    }
    tables |= {
        "scalar": np.array(7, np.int64),
        "empty": np.zeros((0, 4), np.float32),
        "five": np.zeros((1, 2, 1, 3, 2)),
    }
    found = read_torch_file(write_torch(tmp_path / "x.bin", tables))
    assert list(found) == list(tables)
    for name, table in tables.items():
        array = found[name].numpy()
        assert array.dtype == table.dtype
        assert array.shape == found[name].shape == table.shape
        assert np.array_equal(array, table)
        assert found[name].is_contiguous
        assert found[name].nbytes == table.nbytes


def test_views_of_one_storage(tmp_path: Path) -> None:
    table = np.arange(24, dtype=np.float32)
    source = storage("FloatStorage", "7", 24)
    items = {
        "whole": tensor(source, 0, (24,), (1,)),
        "part": tensor(source, 5, (2, 3), (3, 1)),
        "transposed": tensor(source, 0, (6, 4), (1, 6)),
        "steps": tensor(source, 1, (4, 2), (6, 2)),
        "channels last": tensor(source, 0, (1, 3, 2, 4), (24, 1, 12, 3)),
        "last": tensor(source, 23, (1, 1), (99, 99)),
        "end": tensor(source, 24, (0,), (1,)),
    }
    found = read_torch_file(write_zip(tmp_path / "x.bin", mapping(items), {"7": table.tobytes()}))
    right = {
        "whole": table,
        "part": table[5:11].reshape(2, 3),
        "transposed": table.reshape(4, 6).T,
        "steps": table.reshape(4, 6)[:, 1:5:2],
        "channels last": table.reshape(1, 2, 4, 3).transpose(0, 3, 1, 2),
        "last": table[23:].reshape(1, 1),
        "end": table[24:],
    }
    for name, value in right.items():
        assert np.array_equal(found[name].numpy(), value), name
        assert found[name].is_contiguous == (name not in ("transposed", "steps", "channels last")), name


def test_the_bytes_of_bfloat16(tmp_path: Path) -> None:
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)
    path = write_zip(
        tmp_path / "pytorch_model.bin",
        mapping({"x": tensor(storage("BFloat16Storage", "0", 3), 0, (3,), (1,))}),
        {"0": bits.tobytes()},
    )
    assert np.array_equal(read_torch_file(path)["x"].numpy(), bits)
    array = reading.Checkpoint(tmp_path).arrays["x"]
    assert array.dtype == mx.bfloat16
    assert array.astype(mx.float32).tolist() == [1, -2, float("inf")]


def test_older_and_newer_pickles(tmp_path: Path) -> None:
    """Protocol 4 with its frames and memo, any prefix, no byteorder, metadata of every plain type."""
    source = b"(\x8c\x07storage\x8c\x05torch\x8c\x0cFloatStorage\x93\x8c\x010\x94\x8c\x03cpuK\x02tQ"
    make = b"\x8c\x0ctorch._utils\x8c\x12_rebuild_tensor_v2\x93(" + source + b"K\x00K\x02\x85K\x01\x85\x89}tR"
    plain = b"](NG" + struct.pack(">d", 1.5) + b"\x88" + number(-(2**40)) + b"M\x00\x01e" + b"Ka\x85\x86"
    program = b"\x80\x04\x95" + bytes(8) + b"}(\x8c\x01x" + make + b"u}" + text("_metadata") + b"]" + plain + b"\x86sb."
    with zipfile.ZipFile(tmp_path / "x.bin", "w") as archive:
        archive.writestr("a name/data.pkl", program)
        archive.writestr("a name/data/0", np.array([3, 4], np.float32).tobytes())
        archive.writestr("a name/deep/data.pkl", b"nobody reads this")
    found = read_torch_file(tmp_path / "x.bin")
    assert found["x"].numpy().tolist() == [3, 4]


# --- attacks ------------------------------------------------------------------------------------------------------


GOOD = tensor(storage("FloatStorage", "0", 4), 0, (4,), (1,))


class Evil:
    """Pickles to a call of `function`."""

    def __init__(self, function: Any, *arguments: Any):
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def mark(path: str) -> None:
    Path(path).touch()


def python_pickle(value: Any, protocol: int) -> bytes:
    return pickle.dumps({"x": value}, protocol)


GLOBALS = {
    "os.system": b"cos\nsystem\n",
    "posix.system": b"cposix\nsystem\n",
    "builtins.eval": b"c__builtin__\neval\n",
    "getattr": b"cbuiltins\ngetattr\n",
    "torch.load": b"ctorch\nload\n",
    "torch.storage._load_from_bytes": b"ctorch.storage\n_load_from_bytes\n",
    "dotted": b"ccollections\nOrderedDict.__reduce__.__globals__\n",
    "dotted module": b"ctorch._utils._rebuild_tensor_v2\n__globals__\n",
    "split elsewhere": b"ctorch\n_utils._rebuild_tensor_v2\n",
    "stack global": text("os") + text("system") + b"\x93",
    "stack global of no text": b"K\x01K\x02\x93",
    "copyreg": b"ccopyreg\n_reconstructor\n",
    "functools.partial": b"cfunctools\npartial\n",
    "_codecs.encode": b"c_codecs\nencode\n",
    "parameter": b"ctorch._utils\n_rebuild_parameter\n",
    "quantised": b"ctorch._utils\n_rebuild_qtensor\n",
    "other storage": b"ctorch\nComplexFloatStorage\n",
    "no text": b"c\xff\xfe\n\x00\n",
    "very long": b"c" + b"a" * 5000 + b"\nb\n",
}


@pytest.mark.parametrize("case", GLOBALS)
def test_other_globals_are_refused(case: str, tmp_path: Path) -> None:
    program = mapping({"x": GLOBALS[case] + b"(" + text(f"touch {tmp_path / 'hacked'}") + b"tR"})
    message = refused(write_zip(tmp_path / "x.bin", program, {}))
    name = GLOBALS[case][1:-1].replace(b"\n", b".").decode("latin-1")
    assert name in message or case.startswith(("no ", "very", "stack"))
    assert "os.system" in message or case != "stack global"
    assert "safetensors" in message
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize("protocol", range(6))
def test_a_pickle_of_python_runs_nothing(protocol: int, tmp_path: Path) -> None:
    program = python_pickle(Evil(mark, str(tmp_path / "hacked")), protocol)
    refused(write_zip(tmp_path / "x.bin", program, {}))
    assert not (tmp_path / "hacked").exists()
    pickle.loads(program)
    assert (tmp_path / "hacked").exists()  # so the pickle was one that would


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
FLOATS = storage("FloatStorage", "0", 4)
PROGRAMS = {
    "EXT1": mapping({"x": b"\x82\x01"}),
    "EXT4": mapping({"x": b"\x84\x01\x00\x00\x00"}),
    "INST": mapping({"x": b"(ios\nsystem\n"}),
    "OBJ": mapping({"x": b"(ccollections\nOrderedDict\no"}),
    "NEWOBJ": mapping({"x": b"ccollections\nOrderedDict\n)\x81"}),
    "PERSID": mapping({"x": b"P0\n"}),
    "NEXT_BUFFER": mapping({"x": b"\x97"}),
    "call of a storage": mapping({"x": b"ctorch\nFloatStorage\n)R"}),
    "call of a dict": mapping({"x": b"})R"}),
    "call of a text": mapping({"x": text("os.system") + b")R"}),
    "arguments are a list": mapping({"x": b"ccollections\nOrderedDict\n]R"}),
    "arguments are a text": mapping({"x": b"ccollections\nOrderedDict\n" + text("x" * 4_000_000) + b"R"}),
    "OrderedDict with arguments": mapping({"x": b"ccollections\nOrderedDict\n]\x85R"}),
    "attributes of a function": mapping({"x": TENSOR + b"}b"}),
    "attributes of a tensor": mapping({"x": GOOD + b"}b"}),
    "attributes that tensors have": mapping({"x": GOOD + b"}" + text("shape") + b"K\x09s" + b"b"}),
    "attributes are no dict": mapping({"x": b"}(K\x01K\x02tb"}),
    "item of a function": mapping({"x": TENSOR + text("__globals__") + b"Ns"}),
    "item of a tuple": mapping({"x": b")Na"}),
    "odd items": mapping({"x": b"}(" + text("a") + b"u"}),
    "key is a tuple": mapping({"x": b"}(" + b")" * 2 + b"u"}),
    "key twice": mapping({"x": GOOD}).replace(b"u}", text("x") + GOOD + b"u}", 1),
    "persistent id is a text": mapping({"x": text("storage") + b"Q"}),
    "persistent id of four": mapping({"x": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") * 2 + b"tQ"}),
    "persistent id of another word": mapping({"x": FLOATS.replace(b"storage", b"modules")}),
    "persistent id without class": mapping({"x": b"(" + text("storage") * 4 + b"K\x04tQ"}),
    "persistent id with a function": mapping({"x": FLOATS.replace(b"ctorch\nFloatStorage\n", TENSOR)}),
    "key is a number": mapping(
        {"x": b"(" + text("storage") + b"ctorch\nFloatStorage\nK\x00" + text("cpu") + b"K\x04tQ"}
    ),
    "key leaves the folder": mapping({"x": storage("FloatStorage", "../data.pkl", 4)}),
    "count is a text": mapping({"x": b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") * 3 + b"tQ"}),
    "count is negative": mapping({"x": tensor(storage("FloatStorage", "0", -4), 0, (), ())}),
    "count is too large": mapping({"x": tensor(storage("FloatStorage", "0", 5), 0, (5,), (1,))}),
    "count is too small": mapping({"x": tensor(storage("FloatStorage", "0", 3), 0, (3,), (1,))}),
    "other class of the same bytes": mapping({"x": GOOD, "y": tensor(storage("IntStorage", "0", 4), 0, (4,), (1,))}),
    "no such storage": mapping({"x": tensor(storage("FloatStorage", "1", 4), 0, (4,), (1,))}),
    "offset": mapping({"x": tensor(FLOATS, 1, (4,), (1,))}),
    "offset of nothing": mapping({"x": tensor(FLOATS, 5, (0,), (1,))}),
    "negative offset": mapping({"x": tensor(FLOATS, -1, (2,), (1,))}),
    "stride": mapping({"x": tensor(FLOATS, 0, (2, 2), (3, 1))}),
    "negative stride": mapping({"x": tensor(FLOATS, 3, (4,), (-1,))}),
    "stride 0": mapping({"x": tensor(FLOATS, 0, (2**40,), (0,))}),
    "overflow": mapping({"x": tensor(FLOATS, 0, (2**62 - 1, 4), (2**61, 1))}),
    "huge and empty": mapping({"x": tensor(FLOATS, 0, (0, 2**40, 2**40), (1, 1, 1))}),
    "many axes": mapping({"x": tensor(FLOATS, 0, (1,) * 100, (1,) * 100)}),
    "strides missing": mapping({"x": tensor(FLOATS, 0, (4,), ())}),
    "shape is a list": mapping({"x": TENSOR + b"(" + FLOATS + b"K\x00]" + numbers((1,)) + b"\x89" + ORDERED + b"tR"}),
    "shape holds a bool": mapping({"x": TENSOR + b"(" + FLOATS + b"K\x00\x88\x85K\x01\x85\x89" + ORDERED + b"tR"}),
    "hooks": mapping({"x": tensor(FLOATS, 0, (4,), (1,), b"}" + text("a") + b"Ns")}),
    "metadata": mapping({"x": tensor(FLOATS, 0, (4,), (1,), more=b"}" + text("neg") + b"\x88s")}),
    "long number": mapping({"x": b"\x8a\xff" + b"\x7f" * 255}),
    "LONG4": mapping({"x": b"\x8b\xff\xff\xff\x7f"}),
    "BINBYTES8": mapping({"x": b"\x8e" + b"\xff" * 7 + b"\x7f"}),
    "BINUNICODE": mapping({"x": b"X\xff\xff\xff\xff"}),
    "FRAME": b"\x80\x04\x95" + b"\xff" * 7,
    "not UTF-8": mapping({"x": b"X\x01\x00\x00\x00\xff"}),
    "LONG_BINPUT": mapping({"x": b"Nr\xff\xff\xff\x7f"}),
    "BINGET of nothing": mapping({"x": b"h\x63"}),
    "half a surrogate pair": mapping({"x": GOOD}).replace(text("x"), b"X\x03\x00\x00\x00\xed\xa0\x80"),
    "no mark": b"\x80\x02t.",
    "empty stack": b"\x80\x020.",
    "nothing": b"",
    "only STOP": b".",
    "no STOP": b"\x80\x02}",
    "many marks": b"(" * 1_000_000,
    "many dicts": b"}" * 1_000_000,
    "many memos": b"}\x94(1" * 1_000_000,
    "deep tuples": b"\x80\x02)" + b"\x85" * 200_000 + b".",
    "a deep key": b"\x80\x02})" + b"\x85" * 200_000 + b"Ns.",
    "doubling": b"\x80\x02}" + text("x") + b"]" + b"q\x00h\x00\x86" * 10_000 + b"s.",
    "a list of itself": mapping({"x": b"]q\x09h\x09a"}),
    "a dict of itself": b"\x80\x02}q\x00" + text("x") + b"h\x00s.",
    "endless steps": b"\x80\x02" + b"}q\x00b" * 400_000,
    "state_dict": mapping({"state_dict": b"}" + text("x") + GOOD + b"s"}),
    "a number": mapping({"x": GOOD, "epoch": b"K\x05"}),
    "no tensor": b"\x80\x02K\x05.",
    "a tensor alone": b"\x80\x02" + GOOD + b".",
    "a list": b"\x80\x02]" + GOOD + b"a.",
}


@pytest.mark.parametrize("case", PROGRAMS)
def test_other_programs_are_refused(case: str, tmp_path: Path) -> None:
    message = refused(write_zip(tmp_path / "x.bin", PROGRAMS[case], {"0": bytes(16)}))
    for word in (
        "state_dict is a dict" if case == "state_dict" else "",
        "epoch is a int" if case == "a number" else "",
    ):
        assert word in message


def test_the_good_one_is_read(tmp_path: Path) -> None:
    """What most of the programs above change."""
    found = read_torch_file(write_zip(tmp_path / "x.bin", mapping({"x": GOOD}), {"0": bytes(16)}))
    assert found["x"].numpy().tolist() == [0] * 4


def test_a_small_file_does_not_grow(tmp_path: Path) -> None:
    source = storage("FloatStorage", "0", 10_000)
    items = {str(i): tensor(source, i, (9_000,), (1,)) for i in range(100)}
    assert "overlap" in refused(write_zip(tmp_path / "x.bin", mapping(items), {"0": bytes(40_000)}))


def test_a_large_pickle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "x.bin", mapping({"x": GOOD}), {"0": bytes(16)})
    monkeypatch.setattr(torch_file, "MAX_PICKLE", 100)
    assert "data.pkl" in refused(path)


def test_a_large_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "x.bin", mapping({"x": GOOD}), {str(i): bytes(16) for i in range(50)})
    assert read_torch_file(path)
    monkeypatch.setattr(torch_file, "MAX_DIRECTORY", 1000)
    assert "directory" in refused(path)


# --- the zip ------------------------------------------------------------------------------------------------------


def entries(path: Path, pairs: list[tuple[str, bytes]], compression: int = zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, raw in pairs:
            archive.writestr(name, raw)
    return path


PAIRS = [("m/data.pkl", mapping({"x": GOOD})), ("m/data/0", bytes(16)), ("m/byteorder", b"little")]


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_other_zips(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    assert read_torch_file(entries(path, PAIRS))
    assert "compressed" in refused(entries(path, PAIRS, zipfile.ZIP_DEFLATED))
    assert "little-endian" in refused(entries(path, [*PAIRS[:2], ("m/byteorder", b"big")]))
    assert "twice" in refused(entries(path, [*PAIRS, PAIRS[1]]))
    assert "2 data.pkl" in refused(entries(path, [*PAIRS, ("n/data.pkl", b"")]))
    assert "0 data.pkl" in refused(entries(path, [("data.pkl", PAIRS[0][1])]))
    assert "0 data.pkl" in refused(entries(path, []))
    assert "missing" in refused(entries(path, PAIRS[:1]))
    encrypted = bytearray(entries(path, PAIRS).read_bytes())
    encrypted[encrypted.index(b"PK\1\2") + 8] |= 1
    path.write_bytes(encrypted)
    assert "encrypted" in refused(path)


def test_an_entry_before_the_file(tmp_path: Path) -> None:
    """The directory is said to begin later than it does, so zipfile moves the entries to the front."""
    raw = bytearray(entries(tmp_path / "x.bin", PAIRS).read_bytes())
    at = raw.index(b"PK\5\6") + 16
    struct.pack_into("<I", raw, at, struct.unpack_from("<I", raw, at)[0] + 20)
    (tmp_path / "x.bin").write_bytes(raw)
    assert "damaged" in refused(tmp_path / "x.bin")


def test_other_files(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    for raw, word in {
        pickle.dumps(0x1950A86A20F9469CFC6C, 2): "before 1.6",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n": "git lfs pull",
        b"": "damaged",
        b"<html>": "damaged",
        b"PK\x05\x06" + bytes(18): "0 data.pkl",
        b"PK\x03\x04" * 999: "damaged",
    }.items():
        path.write_bytes(raw)
        assert word in refused(path)
    path.unlink()
    refused(path)
    path.mkdir()
    refused(path)


def small_file(path: Path) -> bytes:
    tables = {"a.weight": hashed((3, 4), 1).astype(np.float32), "b": np.arange(5), "c": np.array(2.0, np.float16)}
    return write_torch(path, tables).read_bytes()


def test_cut_anywhere(tmp_path: Path) -> None:
    whole = small_file(tmp_path / "x.bin")
    for length in range(0, len(whole), 3):
        (tmp_path / "x.bin").write_bytes(whole[:length])
        with pytest.raises(WeightsError):
            read_torch_file(tmp_path / "x.bin")


@pytest.mark.parametrize("flip", [pytest.param(0x01, marks=LONG), pytest.param(0x80, marks=LONG), 0xFF])
def test_any_byte_changed(flip: int, tmp_path: Path) -> None:
    """Either it is refused, or numbers come out: never another error."""
    whole = small_file(tmp_path / "pytorch_model.bin")
    read = 0
    for at in range(len(whole)):
        changed = bytearray(whole)
        changed[at] ^= flip
        (tmp_path / "pytorch_model.bin").write_bytes(changed)
        try:
            arrays = reading.Checkpoint(tmp_path).arrays
        except MlxMmError:
            continue
        mx.eval(list(arrays.values()))
        read += 1
    assert 0 < read < len(whole)


# --- checkpoints --------------------------------------------------------------------------------------------------


def as_torch(folder: Path, shards: int = 1) -> Path:
    """Rewrite the weights of a tiny checkpoint as PyTorch's files."""
    tables = tiny_weights(tiny_config("siglip"))
    for file in folder.glob("model*.safetensors*"):
        file.unlink()
    if shards == 1:
        write_torch(folder / "pytorch_model.bin", tables)
        return folder
    names = sorted(tables)
    index = {}
    for i in range(shards):
        file = f"pytorch_model-{i + 1:05}-of-{shards:05}.bin"
        write_torch(folder / file, {name: tables[name] for name in names[i::shards]})
        index |= dict.fromkeys(names[i::shards], file)
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    return folder


@pytest.mark.parametrize("shards", [1, 3])
def test_vectors_are_those_of_safetensors(shards: int, tiny_checkpoint: Callable[..., Path]) -> None:
    texts = ["a cat", "two dogs"]
    right = mlx_mm.encode_text(*mlx_mm.load(tiny_checkpoint("siglip", name="right")), texts)
    ours = mlx_mm.encode_text(*mlx_mm.load(as_torch(tiny_checkpoint("siglip"), shards)), texts)
    assert np.array_equal(ours, right)


@pytest.mark.parametrize("bits", [4, None])
def test_conversion_is_that_of_safetensors(
    bits: int | None, tiny_checkpoint: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "BLOCK_BYTES", 5000)
    mlx_mm.convert(tiny_checkpoint("siglip", name="right"), tmp_path / "a", bits=bits)
    report = mlx_mm.convert(as_torch(tiny_checkpoint("siglip")), tmp_path / "b", bits=bits)
    assert report.source_bytes == (tmp_path / "tiny-siglip" / "pytorch_model.bin").stat().st_size
    files = {path.name for path in (tmp_path / "a").iterdir()}
    assert files == {path.name for path in (tmp_path / "b").iterdir()}
    for name in files - {"README.md", "conversion.json"}:  # which have names, and how long it took
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_conversion_refuses_a_pickle(tiny_checkpoint: Callable[..., Path], tmp_path: Path) -> None:
    folder = as_torch(tiny_checkpoint("siglip"))
    write_zip(folder / "pytorch_model.bin", python_pickle(Evil(mark, str(tmp_path / "hacked")), 2), {})
    for call in (lambda: mlx_mm.convert(folder, tmp_path / "out"), lambda: mlx_mm.load(folder)):
        with pytest.raises(WeightsError, match="mark"):
            call()
    assert not (tmp_path / "hacked").exists()
    assert not (tmp_path / "out").exists()
