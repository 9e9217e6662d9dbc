"""The table through which a loaded library calls functions of others, found by the ELF-64 specification.

Entries of lazily bound functions stay writable after loading. Nothing here changes a page's protection or an entry.
"""

from __future__ import annotations

import bisect
import ctypes
import mmap
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass

# machine -> (e_machine, relocation type JUMP_SLOT)
MACHINES = {"x86_64": (62, 7), "aarch64": (183, 1026)}
PT_LOAD, PT_DYNAMIC = 1, 2
DT_PLTRELSZ, DT_STRTAB, DT_SYMTAB, DT_PLTREL, DT_JMPREL = 2, 5, 6, 20, 23
DT_RELA = 7


class TableError(Exception):
    """Why the entries of a library cannot be used."""


@dataclass(frozen=True)
class MemoryRange:
    """A line of /proc/self/maps: addresses, permissions such as "rw-p", and where in the file it begins."""

    start: int
    end: int
    perms: str
    offset: int


def find_library(name: str) -> tuple[str, list[MemoryRange]]:
    """The path of the loaded library of that name and its ranges of memory, in order of address."""
    found: dict[str, list[MemoryRange]] = {}
    with open("/proc/self/maps", encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            fields = line.rstrip("\n").split(maxsplit=5)
            if len(fields) == 6 and os.path.basename(fields[5]) == name:
                start, end = (int(part, 16) for part in fields[0].split("-"))
                found.setdefault(fields[5], []).append(MemoryRange(start, end, fields[1], int(fields[2], 16)))
    if len(found) != 1:
        raise TableError(f"{len(found)} files named {name} are loaded, expected one")
    return next(iter(found.items()))


def find_slots(
    path: str, mappings: list[MemoryRange], functions: Sequence[str], machine: int, jump_slot: int
) -> dict[str, int]:
    """The addresses of the entries through which the library at `path` calls `functions`, each checked."""
    library = os.path.basename(path)
    base = mappings[0].start
    if mappings[0].offset != 0:
        raise TableError(f"the start of {library} is not mapped")
    try:
        offsets = jump_slots(path, functions, machine, jump_slot)
    except (OSError, ValueError, struct.error, LookupError, StopIteration) as error:
        raise TableError(f"{library} cannot be read as expected: {error!r}") from None
    missing = [name for name in functions if name not in offsets]
    if missing:
        raise TableError(f"{library} has no lazily bound entry for {', '.join(missing)}")
    slots = {name: base + offsets[name] for name in functions}
    bound = addresses(ctypes.CDLL(path, mode=os.RTLD_NOLOAD), functions)
    for name, slot in slots.items():
        page = _mapping_at(mappings, slot)
        if slot % 8 or page is None or not page.perms.startswith("rw"):
            raise TableError(f"the table entry for {name} is not writable")
        value = pointer(slot).value or 0
        stub = _mapping_at(mappings, value)
        # Not yet called: it points into the library itself. Called: at the one that the library names.
        if value != bound[name] and (stub is None or "x" not in stub.perms):
            raise TableError(f"another library already provides {name}")
    return slots


def jump_slots(path: str, functions: Sequence[str], machine: int, jump_slot: int) -> dict[str, int]:
    """Function -> address of its entry relative to the library's base (ELF-64, little endian)."""
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18)[0] != machine:
            raise ValueError("not a 64-bit library for this processor")
        (table,) = struct.unpack_from("<Q", data, 32)
        size, count = struct.unpack_from("<HH", data, 54)
        segments = [struct.unpack_from("<IIQQQQ", data, table + i * size) for i in range(count)]
        loaded = sorted((vaddr, offset, length) for kind, _, offset, vaddr, _, length in segments if kind == PT_LOAD)
        if loaded[0][0] != 0:
            raise ValueError("the first segment does not start at address 0")

        def at(address: int) -> int:
            vaddr, offset, length = loaded[bisect.bisect(loaded, address, key=lambda item: item[0]) - 1]
            if address >= vaddr + length:
                raise ValueError(f"address {address:#x} is not in the file")
            return int(offset + address - vaddr)

        start, length = next((offset, length) for kind, _, offset, _, _, length in segments if kind == PT_DYNAMIC)
        dynamic = dict(struct.iter_unpack("<qQ", data[start : start + length]))
        if dynamic[DT_PLTREL] != DT_RELA:
            raise ValueError("relocations without addends")
        symbols, strings, relocations = (at(dynamic[tag]) for tag in (DT_SYMTAB, DT_STRTAB, DT_JMPREL))
        wanted = {name.encode(): name for name in functions}
        slots = {}
        for address, info, _ in struct.iter_unpack("<QQq", data[relocations : relocations + dynamic[DT_PLTRELSZ]]):
            if info & 0xFFFFFFFF != jump_slot:
                continue
            (name_at,) = struct.unpack_from("<I", data, symbols + 24 * (info >> 32))
            begin = strings + name_at
            name = data[begin : data.find(b"\0", begin)]
            if name in wanted:
                slots[wanted[name]] = address
        return slots


def addresses(library: ctypes.CDLL, functions: Sequence[str], prefix: str = "") -> dict[str, int]:
    """Where the library has each function, whose name there begins with `prefix`."""
    try:
        found = {name: library[prefix + name] for name in functions}
    except AttributeError as error:
        raise TableError(f"a function is missing: {error}") from None
    return {name: ctypes.cast(function, ctypes.c_void_p).value or 0 for name, function in found.items()}


def _mapping_at(mappings: list[MemoryRange], address: int) -> MemoryRange | None:
    return next((part for part in mappings if part.start <= address < part.end), None)


def pointer(address: int) -> ctypes.c_void_p:
    """What stands at an address, to be read and set."""
    return ctypes.c_void_p.from_address(address)
