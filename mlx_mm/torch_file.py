"""Reads `pytorch_model.bin` without torch, and without running what is in it.

Such a file is an uncompressed zip: `<prefix>/data.pkl` holds the names and shapes, `<prefix>/data/<key>` the numbers
(github.com/pytorch/pytorch, torch/serialization.py, `_save`). A pickle is a program for a small machine that may
call any function of Python. The machine here is our own: it knows the opcodes that torch writes, builds nothing but
numbers, texts, tuples, lists, dicts and tensors, and calls the two functions in `_reduce`. Opcodes as in the standard
library's `pickletools`. Every other file ends in a WeightsError.
"""

import io
import math
import os
import struct
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from mlx_mm.errors import WeightsError

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
ORDERED_DICT, REBUILD_TENSOR = "collections.OrderedDict", "torch._utils._rebuild_tensor_v2"
GLOBALS = {ORDERED_DICT, REBUILD_TENSOR, *(f"torch.{name}" for name in STORAGES)}
# A tensor takes about 150 bytes of pickle, 25 steps and 100 bytes of zip directory.
MAX_PICKLE, MAX_STEPS, MAX_DIRECTORY = 16 << 20, 1_000_000, 4 << 20
MAX_STACK = 10_000  # the pickler fills containers in batches of 1000
MAX_DIM = 2**31 - 1  # of an mlx array
ADVICE = "Use a revision or a copy of the checkpoint that has safetensors."


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
    try:
        archive = _Archive(path)
        data = archive.read("data.pkl", MAX_PICKLE)
        if archive.read("byteorder", 16, default=b"little") != b"little":
            _refuse(path, "its numbers are not little-endian")
        found = _Machine(path, archive, data).run()
    except OSError as error:
        raise WeightsError(f"{path} cannot be read ({error.strerror or error}). Download it again.") from error
    if type(found) is not dict:
        _refuse(path, f"it holds a {_kind(found)}, expected a state dict of names and tensors")
    for name, value in found.items():
        if type(value) is not TorchTensor:
            _refuse(path, f"{_short(name)} is a {_kind(value)}, expected a flat state dict of names and tensors")
    distinct = {tensor for tensor in found.values() if tensor.nbytes}
    if sum(tensor.nbytes for tensor in distinct) > 4 * path.stat().st_size:  # some share a storage
        _refuse(path, "its tensors overlap and are far larger than the file")
    return found


def _refuse(path: Path, reason: str) -> NoReturn:
    raise WeightsError(f"{path}: {reason}. {ADVICE}")


def _kind(value: object) -> str:
    return "tensor" if type(value) is TorchTensor else type(value).__name__.lstrip("_").lower()


def _short(text: str) -> str:
    return ascii(text[:100])[1:-1]


# --- the zip ------------------------------------------------------------------------------------------------------


class _BoundedFile(io.FileIO):
    """A file of which nobody can ask for more than MAX_DIRECTORY bytes at once, whatever a damaged zip claims."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:
            size = os.fstat(self.fileno()).st_size - self.tell()
        if size > MAX_DIRECTORY:
            raise zipfile.BadZipFile("its directory is too large")
        return super().read(size) or b""


class _Archive:
    """Names and places of the entries of a torch zip; nothing is unpacked."""

    def __init__(self, path: Path):
        self._path = path
        self._size = path.stat().st_size
        with path.open("rb") as f:
            start = f.read(16)
        try:
            with _BoundedFile(path) as file, zipfile.ZipFile(file) as archive:
                entries = archive.infolist()
        # What zipfile raises for damaged directories, depending on the Python.
        except (zipfile.BadZipFile, RuntimeError, ValueError, OverflowError, EOFError, struct.error) as error:
            if start.startswith(b"\x80"):
                _refuse(path, "an old-style pickle, as torch wrote before 1.6; expected its zip format")
            if start.startswith(b"version https:/"):
                raise WeightsError(f"{path} is a Git LFS pointer. Fetch the file itself: git lfs pull.") from None
            reason = f"no PyTorch checkpoint in zip format, or damaged or cut short ({error})"
            raise WeightsError(f"{path}: {reason}. Download it again. {ADVICE}") from error
        self._entries = {entry.filename: entry for entry in entries}
        if len(self._entries) != len(entries):
            _refuse(path, "a zip that holds a name twice")
        prefixes = [name.removesuffix("data.pkl") for name in self._entries if name.partition("/")[2] == "data.pkl"]
        if len(prefixes) != 1:
            _refuse(path, f"a zip with {len(prefixes)} data.pkl, expected one as torch.save writes it")
        self._prefix = prefixes[0]

    def locate(self, name: str) -> tuple[int, int] | None:
        """Offset and length of an entry's bytes, None without such an entry."""
        entry = self._entries.get(self._prefix + name)
        if entry is None:
            return None
        if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.compress_size != entry.file_size:
            _refuse(self._path, f"{_short(entry.filename)} is compressed or encrypted, torch stores it plainly")
        with self._path.open("rb") as f:
            f.seek(min(max(entry.header_offset, 0), self._size))
            header = f.read(30)  # zip specification (APPNOTE 6.3), 4.3.7: local file header
        if len(header) == 30 and header.startswith(b"PK\3\4"):
            name_length, extra_length = struct.unpack_from("<HH", header, 26)
            offset: int = entry.header_offset + 30 + name_length + extra_length
            if offset + entry.file_size <= self._size:
                return offset, entry.file_size
        raise WeightsError(f"{self._path}: {_short(entry.filename)} is damaged or cut short. Download it again.")

    def read(self, name: str, limit: int, default: bytes | None = None) -> bytes:
        place = self.locate(name)
        if place is None and default is not None:
            return default
        if place is None or place[1] > limit:
            _refuse(self._path, f"{name} is missing or larger than {limit} bytes")
        with self._path.open("rb") as f:
            f.seek(place[0])
            return f.read(place[1])


# --- the pickle ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Global:
    name: str


@dataclass(frozen=True)
class _Storage:
    kind: str  # a key of STORAGES
    key: str
    count: int


class _Machine:
    """Runs one pickle. Its objects: None, bool, int, float, str, tuple, list, dict, _Global, _Storage, TorchTensor.

    Nothing walks, hashes, compares or prints nested objects, so depth and cycles do no harm; each step allocates no
    more than its own bytes.
    """

    def __init__(self, path: Path, archive: _Archive, data: bytes):
        self._path, self._archive, self._data = path, archive, data
        self._at = 0
        self._stack: list[Any] = []
        self._marks: list[list[Any]] = []  # the stacks below each MARK
        self._memo: dict[int, Any] = {}
        self._storages: dict[str, tuple[_Storage, int]] = {}  # with the offset in the file

    def run(self) -> Any:
        steps = 0
        while (opcode := self._take(1)) != b".":
            step = _STEPS.get(opcode)
            if step is None:
                _refuse(self._path, f"its pickle uses the opcode {opcode!r}, which torch does not write")
            step(self)
            steps += 1
            if steps > MAX_STEPS or len(self._stack) + len(self._marks) > MAX_STACK:
                self._damaged("too many steps, or objects at once")
        return self._pop()

    def _damaged(self, reason: str) -> NoReturn:
        _refuse(self._path, f"its pickle is no state dict of torch, or damaged ({reason} before byte {self._at})")

    def _take(self, count: int) -> bytes:
        if count > len(self._data) - self._at:
            self._damaged("it ends early")
        self._at += count
        return self._data[self._at - count : self._at]

    def _unpack(self, form: str) -> Any:
        return struct.unpack(form, self._take(struct.calcsize(form)))[0]

    def _line(self) -> str:
        line, newline, _ = self._data[self._at : self._at + 1000].partition(b"\n")
        if not newline:
            self._damaged("a line without an end")
        self._at += len(line) + 1
        return line.decode("utf-8", "backslashreplace")

    def _top(self) -> Any:
        if not self._stack:
            self._damaged("nothing on the stack")
        return self._stack[-1]

    def _pop(self) -> Any:
        self._top()
        return self._stack.pop()

    def _pop_mark(self) -> list[Any]:
        if not self._marks:
            self._damaged("no mark")
        items, self._stack = self._stack, self._marks.pop()
        return items

    def _mark(self) -> None:
        self._marks.append(self._stack)
        self._stack = []

    def _push_long(self) -> None:
        raw = self._take(self._take(1)[0])
        if len(raw) > 8:
            self._damaged("a number of more than 64 bits")
        self._stack.append(int.from_bytes(raw, "little", signed=True))

    def _push_text(self, length_form: str) -> None:
        raw = self._take(self._unpack(length_form))
        try:
            self._stack.append(raw.decode("utf-8"))
        except UnicodeDecodeError:
            self._damaged("a text that is not UTF-8")

    def _tuple(self, count: int | None = None) -> None:
        """A tuple of the topmost objects, or of those above the mark."""
        items = self._pop_mark() if count is None else [self._pop() for _ in range(count)][::-1]
        self._stack.append(tuple(items))

    def _put(self, index: int) -> None:
        self._memo[index] = self._top()

    def _get(self, index: int) -> None:
        if index not in self._memo:
            self._damaged("an object that was never stored")
        self._stack.append(self._memo[index])

    def _extend(self, items: list[Any]) -> None:
        if type(self._top()) is not list:
            self._damaged("items for what is no list")
        self._top().extend(items)

    def _set_items(self, items: list[Any]) -> None:
        target = self._top()
        if type(target) is not dict or len(items) % 2:
            self._damaged("items for what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) is not str or key in target:
                _refuse(self._path, f"a dict has a {_kind(key)} as its key or a name twice, expected names")
            target[key] = value

    def _push_global(self, module: Any, name: Any) -> None:
        if type(module) is not str or type(name) is not str:
            self._damaged("a global without a name")
        full = f"{module}.{name}"
        if full not in GLOBALS or module not in ("torch", "torch._utils", "collections"):
            _refuse(self._path, f"its pickle asks for {_short(full)}, expected tensors only; nothing of it was run")
        self._stack.append(_Global(full))

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if type(function) is not _Global or type(arguments) is not tuple:
            self._damaged("a call of what is no function")
        if function.name == ORDERED_DICT and not arguments:
            self._stack.append({})
        elif function.name == REBUILD_TENSOR and len(arguments) in (6, 7):
            self._stack.append(self._tensor(*arguments))
        else:
            self._damaged(f"{function.name} with {len(arguments)} arguments")

    def _build(self) -> None:
        """The attributes of a dict, which are torch's `_metadata` of versions: left out."""
        if type(self._pop()) is not dict or type(self._top()) is not dict:
            self._damaged("attributes for what is no OrderedDict")

    def _persistent(self) -> None:
        match self._pop():
            case ("storage", _Global(name), str(key), str(), int(count)) if name.endswith("Storage"):
                storage = _Storage(name.removeprefix("torch."), key, count)
            case _:
                self._damaged("a persistent id that names no storage")
        if key not in self._storages:
            place = self._archive.locate(f"data/{key}")
            size = count * np.dtype(STORAGES[storage.kind][1]).itemsize
            if place is None or place[1] != size:
                _refuse(self._path, f"storage {_short(key)} is missing or has another size than {size} bytes")
            self._storages[key] = storage, place[0]
        if self._storages[key][0] != storage:
            _refuse(self._path, f"storage {_short(key)} is described in two ways")
        self._stack.append(storage)

    def _tensor(
        self, storage: Any, first: Any, shape: Any, strides: Any, _: Any, hooks: Any, metadata: Any = None
    ) -> TorchTensor:
        """`_rebuild_tensor_v2`: first and strides in elements. requires_grad says nothing here."""
        if type(storage) is not _Storage or not all(map(_is_sizes, (shape, strides, (first,)))):
            self._damaged("a tensor that is not described by a storage and sizes")
        if type(hooks) is not dict or hooks or metadata or len(shape) != len(strides):  # such as a negated view
            self._damaged("a tensor with hooks, metadata or a wrong number of strides")
        whole, mapped = STORAGES[storage.kind]
        last = first + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        outside = first > storage.count if 0 in shape else last >= storage.count
        # More elements than the storage has would be repeats, which a small file could make endless.
        if outside or math.prod(shape) > storage.count or math.prod(n or 1 for n in shape if 0 in shape) > MAX_DIM:
            _refuse(self._path, f"a tensor of shape {shape} reaches outside storage {_short(storage.key)}")
        start = self._storages[storage.key][1]
        return TorchTensor(self._path, start + first * np.dtype(mapped).itemsize, whole, shape, strides, mapped)


def _is_sizes(value: object) -> bool:
    return type(value) is tuple and len(value) <= 32 and all(type(x) is int and 0 <= x < 2**62 for x in value)


_STEPS: dict[bytes, Callable[[_Machine], None]] = {
    b"\x80": lambda m: m._unpack("B"),  # the protocol
    b"\x95": lambda m: m._unpack("<Q"),  # a frame, for buffering only
    b"N": lambda m: m._stack.append(None),
    b"\x88": lambda m: m._stack.append(True),
    b"\x89": lambda m: m._stack.append(False),
    b"K": lambda m: m._stack.append(m._unpack("B")),
    b"M": lambda m: m._stack.append(m._unpack("<H")),
    b"J": lambda m: m._stack.append(m._unpack("<i")),
    b"\x8a": _Machine._push_long,
    b"G": lambda m: m._stack.append(m._unpack(">d")),
    b"X": lambda m: m._push_text("<I"),
    b"\x8c": lambda m: m._push_text("B"),
    b"(": _Machine._mark,
    b")": lambda m: m._stack.append(()),
    b"t": _Machine._tuple,
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"]": lambda m: m._stack.append([]),
    b"a": lambda m: m._extend([m._pop()]),
    b"e": lambda m: m._extend(m._pop_mark()),
    b"}": lambda m: m._stack.append({}),
    b"s": lambda m: m._set_items([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m._set_items(m._pop_mark()),
    b"q": lambda m: m._put(m._unpack("B")),
    b"r": lambda m: m._put(m._unpack("<I")),
    b"\x94": lambda m: m._put(len(m._memo)),
    b"h": lambda m: m._get(m._unpack("B")),
    b"j": lambda m: m._get(m._unpack("<I")),
    b"c": lambda m: m._push_global(m._line(), m._line()),
    b"\x93": lambda m: m._push_global(*reversed((m._pop(), m._pop()))),
    b"R": _Machine._reduce,
    b"b": _Machine._build,
    b"Q": _Machine._persistent,
}
