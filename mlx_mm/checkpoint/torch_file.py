"""Reads `pytorch_model.bin` without torch, and without running what is in it.

Such a file is an uncompressed zip: `<prefix>/data.pkl` holds the names and shapes, `<prefix>/data/<key>` the numbers
(github.com/pytorch/pytorch, torch/serialization.py, `_save`). A pickle is a program that may call any function of
Python. Here Python's own unpickler runs it, cut down to the opcodes that torch writes and to two functions of ours.
Every other file ends in a WeightsError.
"""

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np

from mlx_mm.errors import WeightsError
from mlx_mm.processing.files import open_regular

# torch's storage class -> dtype as safetensors calls it, dtype to map it with. NumPy has no bfloat16.
STORAGES = {
    "DoubleStorage": ("F64", "<f8"),
    "FloatStorage": ("F32", "<f4"),
    "HalfStorage": ("F16", "<f2"),
    "BFloat16Storage": ("BF16", "<u2"),
    "LongStorage": ("I64", "<i8"),
    "IntStorage": ("I32", "<i4"),
    "ShortStorage": ("I16", "<i2"),
    "CharStorage": ("I8", "i1"),
    "ByteStorage": ("U8", "u1"),
    "BoolStorage": ("BOOL", "?"),
}
# By their names in the standard library's `pickletools`. Of these REDUCE and BINPERSID alone call anything.
NAMES = """PROTO FRAME STOP NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE SHORT_BINUNICODE
    MARK EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS
    BINPUT LONG_BINPUT MEMOIZE BINGET LONG_BINGET GLOBAL STACK_GLOBAL REDUCE BUILD BINPERSID"""
OPCODES = [getattr(pickle, name)[0] for name in NAMES.split()]
# A tensor takes about 150 bytes of pickle, 25 steps and 100 bytes of zip directory.
MAX_PICKLE, MAX_STEPS, MAX_DIRECTORY = 16 << 20, 1_000_000, 4 << 20
MAX_STACK = 10_000  # the pickler fills containers in batches of 1000
MAX_DIM = 2**31 - 1  # of an mlx array


@dataclass(frozen=True)
class TorchTensor:
    """Where one tensor lies. offset: of its first element, in bytes; strides: in elements; dtype: safetensors' name."""

    file: Path
    offset: int
    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    stored_as: str  # NumPy's dtype of the elements

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * np.dtype(self.stored_as).itemsize

    @property
    def is_contiguous(self) -> bool:
        """The rows lie one behind the other in the file."""
        due = [math.prod(self.shape[axis + 1 :]) for axis in range(len(self.shape))]
        rows = zip(self.shape, self.strides, due, strict=True)
        return 0 in self.shape or all(size == 1 or stride == needed for size, stride, needed in rows)

    def numpy(self) -> np.ndarray:
        """The tensor, mapped from the file while the array lives; bfloat16 comes as its bits in uint16."""
        dtype = np.dtype(self.stored_as)
        if 0 in self.shape:
            return np.empty(self.shape, dtype)
        span = 1 + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        raw = np.memmap(self.file, np.uint8, "r", self.offset, (span * dtype.itemsize,))
        strides = tuple(stride * dtype.itemsize for stride in self.strides)
        # The constructor checks once more that no element lies outside.
        return np.require(np.ndarray(self.shape, dtype, raw, 0, strides), requirements="A")


def read_torch_file(path: Path) -> dict[str, TorchTensor]:
    """The tensors of a PyTorch checkpoint by name, still in the file. Raises WeightsError for every other file."""
    advice = "Download it again, or use a revision or a copy of the checkpoint that has safetensors."
    try:
        return _read(path)
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}). {advice}") from error
    except ValueError as error:  # what is found below
        raise WeightsError(f"{path} is no state dict as torch.save writes it: {error}. {advice}") from error
    except Exception as error:  # pickle and zipfile document no full list
        raise WeightsError(f"{path} is no file of torch.save, damaged or cut short ({error!r}). {advice}") from error


def _read(path: Path) -> dict[str, TorchTensor]:
    open_regular(path).close()  # nothing that would wait, or never end
    entries = _entries(path)
    if "byteorder" in entries and _bytes(path, *entries["byteorder"]) != b"little":
        raise ValueError("its numbers are not little-endian")
    tensors = _Unpickler(path, entries, _bytes(path, *entries["data.pkl"])).load()
    if type(tensors) is not _Dict:
        raise ValueError(f"it holds a {_kind(tensors)}")
    for name, tensor in tensors.items():
        if type(tensor) is not TorchTensor:
            raise ValueError(f"{_short(name)} is a {_kind(tensor)}")
    if sum(tensor.nbytes for tensor in set(tensors.values())) > 4 * path.stat().st_size:  # some share a storage
        raise ValueError("its tensors overlap and are far larger than the file")
    return dict(tensors)


def _bytes(path: Path, offset: int, size: int) -> bytes:
    if size > MAX_PICKLE:
        raise ValueError(f"its data.pkl has more than {MAX_PICKLE} bytes")
    return np.fromfile(path, np.uint8, size, offset=offset).tobytes()


def _kind(value: object) -> str:
    return "tensor" if type(value) is TorchTensor else type(value).__name__.lstrip("_").lower()


def _short(text: str) -> str:
    return ascii(text[:100])[1:-1]


class _BoundedFile(io.FileIO):
    """A file of which nobody gets more than MAX_DIRECTORY bytes at once, whatever a damaged zip claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        raw = super().read(MAX_DIRECTORY + 1 if size is None or size < 0 else min(size, MAX_DIRECTORY + 1)) or b""
        if len(raw) > MAX_DIRECTORY:
            raise ValueError("the directory of the zip is too large")
        return raw


def _entries(path: Path) -> dict[str, tuple[int, int]]:
    """Offset and length of data.pkl and of what it may name. All lie inside the file; nothing is unpacked."""
    places, end = {}, path.stat().st_size
    with _BoundedFile(path) as file:
        start = file.read(16)
        if start.startswith((b"\x80", b"version https:/")):
            old = start.startswith(b"\x80")
            raise ValueError("a pickle of torch before 1.6" if old else "a Git LFS pointer, for git lfs pull to fetch")
        listed = zipfile.ZipFile(file).infolist()
        infos = {info.filename: info for info in listed}
        if len(infos) != len(listed):
            raise ValueError("a zip that holds a name twice")
        prefixes = [name.removesuffix("data.pkl") for name in infos if name.partition("/")[2] == "data.pkl"]
        if len(prefixes) != 1:
            raise ValueError(f"a zip with {len(prefixes)} data.pkl")
        for full, info in infos.items():
            name = full.removeprefix(prefixes[0])
            if name == full or not (name in ("data.pkl", "byteorder") or name.startswith("data/")):
                continue
            if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1 or info.compress_size != info.file_size:
                raise ValueError(f"{_short(name)} is compressed or encrypted")
            file.seek(max(info.header_offset, 0))
            header = file.read(30).ljust(30)  # zip specification (APPNOTE 6.3), 4.3.7: local file header
            offset = info.header_offset + 30 + sum(struct.unpack_from("<HH", header, 26))
            if not header.startswith(b"PK\3\4") or info.header_offset < 0 or offset + info.file_size > end:
                raise ValueError(f"{_short(name)} is damaged or cut short")
            places[name] = offset, info.file_size
    return places


class _Dict(dict[str, Any]):
    """dict and OrderedDict of the pickle. Its keys are texts: the hash of a deep tuple would end Python."""

    def __setitem__(self, key: Any, value: Any) -> None:
        if type(key) is not str or key in self:
            raise ValueError(f"a dict has a {_kind(key)} as its key or a name twice")
        key.encode()  # a ValueError for half a surrogate pair, which pickle lets pass and nobody could print
        super().__setitem__(key, value)


class _Storage(NamedTuple):
    dtype: str
    stored_as: str
    offset: int
    size: int  # in elements


def _limited(step: Callable[[Any], None]) -> Callable[[Any], None]:
    """The function of an opcode, with an end to steps and objects."""

    def run(machine: "_Unpickler") -> None:
        step(machine)
        machine.steps += 1
        if machine.steps > MAX_STEPS or len(machine.stack) + len(machine.metastack) > MAX_STACK:
            raise ValueError("a pickle of too many steps, or objects at once")

    return run


def _reduce(machine: "_Unpickler") -> None:
    arguments = machine.stack.pop()
    if type(arguments) is not tuple:  # a text would be taken apart, character by character
        raise ValueError("a call without a tuple of arguments")
    machine.stack[-1] = machine.stack[-1](*arguments)


def _build(machine: "_Unpickler") -> None:
    """Leaves out the attributes of a dict, torch's `_metadata`. Python's BUILD would set those of any object."""
    if type(machine.stack.pop()) is not _Dict or type(machine.stack[-1]) is not _Dict:
        raise ValueError("attributes for what is no OrderedDict")


class _Unpickler(pickle._Unpickler):
    """Python's unpickler that is not in C (Lib/pickle.py): `dispatch` has a function for each opcode, or a KeyError.

    Its objects are None, bool, int, float, str, tuple, list, _Dict, _Storage, TorchTensor and two functions. Nothing
    walks, hashes, compares or prints nested ones, so depth and cycles do no harm. `dispatch` is undocumented; in a
    Python without it `find_class`, which is documented, would still let nothing of others be called.
    """

    dispatch: ClassVar = {code: _limited(pickle._Unpickler.dispatch[code]) for code in OPCODES} | {
        pickle.EMPTY_DICT[0]: _limited(lambda machine: machine.append(_Dict())),
        pickle.REDUCE[0]: _limited(_reduce),
        pickle.BUILD[0]: _limited(_build),
    }
    stack: list[Any]
    metastack: list[list[Any]]  # the stacks below each MARK

    def __init__(self, path: Path, entries: dict[str, tuple[int, int]], program: bytes):
        super().__init__(io.BytesIO(program))
        self._path, self._entries, self.steps = path, entries, 0
        self._storages: dict[str, _Storage] = {}

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return lambda: _Dict()  # refuses arguments, whose keys nobody would check
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return self._tensor
        if module == "torch" and name in STORAGES:
            return name
        raise ValueError(f"it asks for {_short(module)}.{_short(name)}, of which nothing was run")

    def persistent_load(self, pid: Any) -> _Storage:
        match pid:
            case ("storage", str(kind), str(key), str(), int(size)) if kind in STORAGES:
                dtype, stored_as = STORAGES[kind]
                offset, length = self._entries.get(f"data/{key}", (0, None))
                storage = _Storage(dtype, stored_as, offset, size)
                if length == size * np.dtype(stored_as).itemsize and self._storages.setdefault(key, storage) == storage:
                    return storage
        raise ValueError("one of its storages is missing, of another size or described in two ways")

    def _tensor(self, storage: Any, first: Any, shape: Any, strides: Any, _: Any, hooks: Any, more: Any = None) -> Any:
        """`_rebuild_tensor_v2`: first and strides in elements; more: metadata. requires_grad says nothing here."""
        if type(storage) is not _Storage or type(shape) is not tuple or type(strides) is not tuple:
            raise ValueError("a tensor that is not described by a storage and sizes")
        if type(hooks) is not _Dict or hooks or more:  # such as a negated view
            raise ValueError("a tensor with hooks or metadata")
        if len(shape) > 32 or any(type(x) is not int or not 0 <= x < 2**62 for x in (first, *shape, *strides)):
            raise ValueError("a tensor with sizes or strides that no tensor has")
        last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        outside = first > storage.size if 0 in shape else last >= storage.size
        # More elements than the storage has would be repeats, which a small file could make endless.
        if outside or math.prod(shape) > storage.size or math.prod(n or 1 for n in shape if 0 in shape) > MAX_DIM:
            raise ValueError(f"a tensor of shape {shape} reaches outside its storage")
        offset = storage.offset + first * np.dtype(storage.stored_as).itemsize
        return TorchTensor(self._path, offset, storage.dtype, shape, strides, storage.stored_as)
