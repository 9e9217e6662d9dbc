"""Ways to spoil what is right: bytes, texts and values of JSON. All chance comes from the `Random` that is given."""

from __future__ import annotations

import copy
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from random import Random
from typing import Any

DEEP = "@deep@"  # becomes JSON nested so deep that json cannot write it
HUGE = "@huge@"  # becomes a number with more digits than Python converts
NUMBERS = (0, -1, 1, 2, 3, 7, 255, 256, 65535, 2**31 - 1, 2**31, 2**32, 2**63 - 1, 2**63, 10**400, -(2**63))
FRACTIONS = (0.0, -0.0, 0.5, -1.5, 1e-300, 1e38, 3.5e38, 1e308, float("nan"), float("inf"), float("-inf"))
TEXTS = (
    *("", " ", "\n", "\0", "a", "0", "-1", "1e999", "true", "null", "NaN", "None", "{}", "[]", "../../x", "/dev/zero"),
    *("\ud800", "\udcff", "\ufeffa", "\u2028", "\x85", "\x0c", "\x1b[31mred\x1b[0m", "\x1b]0;title\x07", "ﷺ" * 50),
    *("e\u0301" * 20, "a" * 300, "x" * 100_000, "%s%n%d", "{{ 1 }}", "{%", "${HOME}", "$(touch ran)", "`touch ran`"),
    *("猫", "👩‍👩‍👧‍👦", "\u202eevil", "(a+)+$", "a|" * 500, "<|image|>", "</think>", "<tool_call>x"),
)


def few(random: Random, most: int = 3) -> int:
    """1, or now and then more."""
    return next((count for count in range(1, most) if random.random() < 0.65), most)


# --- bytes --------------------------------------------------------------------------------------------------------


def spoil_bytes(random: Random, data: bytes, other: bytes = b"") -> bytes:
    """The data with one to three faults. other: where foreign pieces come from."""
    for _ in range(few(random)):
        data = random.choice(_BYTES)(random, data, other)
    return data


def _place(random: Random, data: bytes) -> int:
    """Often near the beginning, where formats keep their sizes."""
    return random.randrange(min(len(data), random.choice((16, 64, 512, *[1 << 30] * 3))) or 1)


def _flip(random: Random, data: bytes, _: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 8, 64)) if data else 0):
        out[_place(random, data)] ^= 1 << random.randrange(8)
    return bytes(out)


def _overwrite(random: Random, data: bytes, _: bytes) -> bytes:
    at, size = _place(random, data), random.choice((1, 2, 4, 8, 64, 1024))
    new = random.choice((bytes(size), b"\xff" * size, random.randbytes(size)))
    return data[:at] + new + data[at + size :]


def _number(random: Random, data: bytes, _: bytes) -> bytes:
    """A field of a size, with a number that nobody expects."""
    form = random.choice("BHIQ")
    bits = 8 * struct.calcsize(form)
    value = random.choice(
        (0, 1, 2, 1 << (bits - 1), (1 << bits) - 1, (1 << bits) - 2, len(data), random.getrandbits(bits))
    )
    field = struct.pack(random.choice("<>") + form, value % (1 << bits))
    at = _place(random, data)
    return data[:at] + field + data[at + len(field) :]


def _cut(random: Random, data: bytes, _: bytes) -> bytes:
    return data[: random.choice((random.randrange(len(data) + 1), max(0, len(data) - random.randrange(1, 12)), 1))]


def _cut_front(random: Random, data: bytes, _: bytes) -> bytes:
    return data[random.randrange(min(len(data), 64) + 1) :]


def _insert(random: Random, data: bytes, _: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + random.randbytes(random.choice((1, 3, 16, 300))) + data[at:]


def _drop(random: Random, data: bytes, _: bytes) -> bytes:
    at = _place(random, data)
    return data[:at] + data[at + random.choice((1, 2, 4, 16, 200)) :]


def _repeat(random: Random, data: bytes, _: bytes) -> bytes:
    start = _place(random, data)
    end = start + random.choice((4, 32, 256, 4096))
    return data[:end] + data[start:end] * random.choice((1, 2, 50)) + data[end:]


def _exchange(random: Random, data: bytes, _: bytes) -> bytes:
    size = random.choice((4, 16, 128))
    a, b = sorted((_place(random, data), _place(random, data)))
    if b - a < size:
        return data[::-1] if random.random() < 0.05 else data[b:] + data[:b]
    return data[:a] + data[b : b + size] + data[a + size : b] + data[a : a + size] + data[b + size :]


def _splice(random: Random, data: bytes, other: bytes) -> bytes:
    return data[: _place(random, data)] + other[_place(random, other) :]


def _append(random: Random, data: bytes, other: bytes) -> bytes:
    return data + random.choice((bytes(5000), random.randbytes(50), other, data))


_BYTES: tuple[Callable[[Random, bytes, bytes], bytes], ...] = (
    *(_flip, _flip, _overwrite, _number, _number, _number, _cut, _cut, _cut_front, _insert),
    *(_drop, _repeat, _exchange, _splice, _append),
)


def spoil_png(random: Random, data: bytes) -> bytes:
    """A PNG with a fault in one chunk whose checksum is right, so that a decoder looks at what is in it."""
    chunks = list(_png_chunks(data))
    at = random.randrange(len(chunks))
    name, body = chunks[at]
    if name == b"IHDR" and random.random() < 0.5:
        width, height = (random.choice((0, 1, 2**31 - 1, 2**31, 10**5, 30000, 64)) for _ in range(2))
        body = struct.pack(">II", width, height) + bytes(
            (random.choice((1, 2, 8, 16, 3)), random.randrange(8), 0, 0, random.randrange(3))
        )
    elif random.random() < 0.3:
        chunks.insert(random.randrange(len(chunks)), random.choice(chunks))
    elif random.random() < 0.3:
        name = random.choice(
            (b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"iCCP", b"acTL", b"fcTL", b"fdAT", b"PLTE", b"tRNS", b"xxxx")
        )
    else:
        body = spoil_bytes(random, body, data)
    chunks[at] = name, body
    parts = (
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body)) for name, body in chunks
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _png_chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    place = 8
    while place + 8 <= len(data):
        size = int.from_bytes(data[place : place + 4], "big")
        yield data[place + 4 : place + 8], data[place + 8 : place + 8 + size]
        place += size + 12


# --- text ---------------------------------------------------------------------------------------------------------


def odd_text(random: Random) -> str:
    """Text that somebody forgot to think of."""
    return (
        random.choice(TEXTS) if random.random() < 0.8 else "".join(random.choices([*"ab \n{}[]<>|", "é", "猫"], k=40))
    )


def spoil_text(random: Random, text: str) -> str:
    """Text with something inserted, cut out, repeated or put in another's place."""
    for _ in range(few(random)):
        a, b = sorted(random.randrange(len(text) + 1) for _ in range(2))
        b = min(b, a + random.choice((0, 1, 5, 40)))
        middle = random.choice((odd_text(random), "", text[a:b] * 2, text[b : b + 20]))
        text = text[:a] + middle + text[b:]
    return text


# --- JSON ---------------------------------------------------------------------------------------------------------


def odd_value(random: Random) -> Any:
    """A value of JSON that does not belong where it is put."""
    roll = random.random()
    if roll < 0.3:
        return random.choice(NUMBERS)
    if roll < 0.45:
        return random.choice(FRACTIONS)
    if roll < 0.6:
        return odd_text(random)
    plain: tuple[Any, ...] = (None, True, False, [], {}, [[]], [None], {"": None}, {"a": {"b": [1]}}, [1, "a", None])
    large: tuple[Any, ...] = (DEEP, HUGE, list(range(5000)), {str(i): i for i in range(2000)}, [["x"]])
    return copy.deepcopy(random.choice(plain if roll < 0.9 else large))


def spoil_json(random: Random, value: Any) -> Any:
    """A copy of the value with one to three faults, each anywhere in it."""
    value = copy.deepcopy(value)
    for _ in range(few(random)):
        places = list(_places(value))
        if not places:
            return odd_value(random)
        holder, key = random.choice(places)
        _change(random, holder, key, places)
    return value


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key or index) below a value; of long containers, only the first few of each."""
    keys = list(value)[:64] if isinstance(value, dict) else range(min(len(value), 8)) if isinstance(value, list) else ()
    for key in keys:
        yield value, key
        yield from _places(value[key])


def _change(random: Random, holder: Any, key: Any, places: list[tuple[Any, Any]]) -> None:
    found, roll = holder[key], random.random()
    if roll < 0.3:
        holder[key] = odd_value(random)
    elif roll < 0.45:
        holder.pop(key)
    elif roll < 0.6:
        other, at = random.choice(places)
        if at in other if isinstance(other, dict) else at < len(other):
            holder[key] = copy.deepcopy(other[at])
    elif roll < 0.7 and isinstance(holder, dict):
        holder[random.choice((odd_text(random), f"{key}s", str(key).upper(), "__class__"))] = holder.pop(key)
    elif roll < 0.8:
        holder[key] = random.choice(([found], {"value": found}, str(found), [found] * 3, {str(key): found}))
    elif isinstance(found, bool):
        holder[key] = not found
    elif isinstance(found, int | float):
        factor = random.choice((-1, 0, 2, 3, 10, 0.5, 1000, 1e9))
        holder[key] = found * factor if isinstance(found, float) or random.random() < 0.3 else int(found * factor)
    elif isinstance(found, str):
        holder[key] = spoil_text(random, found)
    else:
        holder[key] = odd_value(random)


def as_json(random: Random, value: Any) -> bytes:
    """The value as a file, now and then with a fault of the file itself."""
    text = json.dumps(value, ensure_ascii=random.random() < 0.8, indent=random.choice((None, 2)))
    depth = random.choice((200, 990, 3000, 100_000))
    text = text.replace(json.dumps(DEEP), "[" * depth + "]" * depth).replace(json.dumps(HUGE), "9" * 5000)
    data = text.encode("utf-8", "surrogatepass")
    roll = random.random()
    if roll < 0.8:
        return data
    if roll < 0.9:
        marks = (b"\xef\xbb\xbf" + data, text.encode("utf-16", "surrogatepass"), text.encode("latin-1", "replace"))
        return random.choice((*marks, b"", b"\0", data + b"\0", data + data, b"[" + data + b"]", data[:-1] + b",}"))
    if roll < 0.95 and text.startswith("{"):
        return b'{"a":1,"a":' + random.choice((b"null", b"Infinity", data)) + b"," + data[1:]
    return spoil_bytes(random, data)
