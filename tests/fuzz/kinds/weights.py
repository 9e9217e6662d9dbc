"""Weights, and the index of their files."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Callable
from random import Random
from typing import Any

from fuzz.kinds.spoiling import ALL, no_file, trying
from fuzz.mutation import as_json, few, odd_text, spoil_bytes, spoil_json
from fuzz.outcome import Trial
from fuzz.place import Place, replace

HEADER = 8  # bytes of the length before a safetensors header


def safetensors(random: Random, place: Place) -> Trial:
    """A header with other shapes, types or offsets; bytes anywhere; something that is no file at all."""
    folder = place.checkpoint(random.choice((*ALL, "siglip2-4bit")))
    path = folder / "model.safetensors"
    data, roll = path.read_bytes(), random.random()
    size = HEADER + int.from_bytes(data[:HEADER], "little")
    if roll < 0.6:
        header = json.loads(data[HEADER:size])
        change = _change_tensor if roll < 0.35 else _spoil_entry
        for _ in range(few(random)):
            change(random, header)
        raw = as_json(random, header) if roll > 0.35 else json.dumps(header).encode()
        length = (
            len(raw)
            if roll < 0.35 or random.random() < 0.95
            else random.choice((0, 2**31, 2**63, 2**64 - 1, len(raw) - 1))
        )
        replace(path, struct.pack("<Q", length) + raw + data[size:])
    elif roll < 0.85:
        head = spoil_bytes(random, data[:size], data)
        replace(path, head + (data[size:] if random.random() < 0.7 else data[size : random.randrange(size, len(data))]))
    elif roll < 0.9:
        replace(
            path,
            random.choice((b"", b"{}", b"PK\3\4" * 50, b"<html>", b"version https://git-lfs.github.com/spec/v1\n")),
        )
    else:
        no_file(random, path)
    return trying(random, folder)


def _change_tensor(random: Random, header: dict[str, Any]) -> None:
    """Another file without a fault of its own: a tensor of another name, shape, type or place."""
    names = [name for name in header if name != "__metadata__"]
    name, other = random.choice(names), random.choice(names)
    entry, roll = header[name], random.random()
    shape = entry["shape"]
    if roll < 0.35:
        flat = [math.prod(shape)]
        entry["shape"] = random.choice((shape[::-1], [*shape, 1], [1, *shape], flat, [1, *flat], [*flat, 1, 1]))
    elif roll < 0.55:
        same = {"F32": ("I32", "U32"), "U32": ("F32", "I32"), "F16": ("BF16", "I16", "U16"), "BF16": ("F16", "I16")}
        entry["dtype"] = random.choice(same.get(entry["dtype"], (entry["dtype"],)))
    elif roll < 0.7:
        header[name], header[other] = header[other], header[name]
    elif roll < 0.85:
        renamed = (
            odd_text(random),
            f"{name}.weight",
            name[:-1],
            name.replace(".0.", ".9."),
            name.replace(".0.", ".-1."),
        )
        header[random.choice((*renamed, f"model.{name}", name.upper(), f"{name}.scales"))] = header.pop(name)
    else:
        marks = ({"format": "mlx"}, {"format": odd_text(random)}, {}, {"format": "pt", "x": "y" * 10**6})
        header["__metadata__"] = random.choice(marks)


def _spoil_entry(random: Random, header: dict[str, Any]) -> None:
    """A tensor that cannot be as its entry says."""
    names = [name for name in header if name != "__metadata__"] or [""]
    name = random.choice(names)
    entry, roll = header.get(name), random.random()
    if roll < 0.1 or not isinstance(entry, dict):
        header.pop(name, None)
    elif roll < 0.35:
        entry["dtype"] = random.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", "", None, 5))
    elif roll < 0.6:
        shape = entry["shape"] if isinstance(entry.get("shape"), list) else [1]
        entry["shape"] = random.choice((shape[:-1], [*shape, 2], [-1, -1], [2**40, 0], [], [0], [2**63], None, "1"))
    elif roll < 0.85:
        place = entry.get("data_offsets")
        start, end = place if isinstance(place, list) and len(place) == 2 else (0, 0)
        odd = ([end, start], [start, end + 4], [start], [2**63, 2**63], [-4, end], [0, end], [start, start], None)
        entry["data_offsets"] = random.choice(odd)
    else:
        header[name] = spoil_json(random, entry)


def _useless(random: Random) -> Callable[[Any], Any]:
    """Weights that are numbers, and yet make a model useless."""
    import numpy as np

    value = random.choice((0.0, 1e30, -3e38, 1e20, 65504.0, 1e-45, np.nan, np.inf))
    share = random.choice((1.0, 1.0, 0.01))
    seed = random.getrandbits(32)

    def change(array: Any) -> Any:
        changed = array.copy()
        changed.flat[np.random.default_rng(seed).random(array.size) < share if share < 1 else slice(None)] = value
        return changed

    return change


def numbers(random: Random, place: Place) -> Trial:
    """Tensors of zeros, of huge or of not finite numbers, or in another type; shapes as they should be."""
    import numpy as np
    from safetensors.numpy import load_file, save_file

    folder = place.checkpoint(random.choice(ALL))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    names = sorted(tensors)
    part = random.choice(("", ".weight", ".bias", "norm", "proj", "embed", "head", "logit"))
    chosen = [name for name in names if part in name] or names
    chosen = chosen if random.random() < 0.3 else random.sample(chosen, min(len(chosen), few(random, 5)))
    change = _useless(random)
    for name in chosen:
        tensors[name] = change(tensors[name])
    if random.random() < 0.2:
        kind = random.choice((np.float16, np.float64, np.int32))
        with np.errstate(all="ignore"):
            tensors = {name: array.astype(kind) for name, array in tensors.items()}
    path.unlink()
    save_file(tensors, path, metadata={"format": "pt"})
    return trying(random, folder)


def index(random: Random, place: Place) -> Trial:
    """An index that names other files, other tensors, or is something else."""
    folder = place.checkpoint(random.choice(("sharded", "sharded", "siglip2", "siglip2-4bit")))
    path = folder / "model.safetensors.index.json"
    shards = sorted(file.name for file in folder.glob("*.safetensors"))
    names = {"logit_scale": shards[0], "logit_bias": shards[-1], "x": shards[0]}
    value = json.loads(path.read_bytes()) if path.exists() else {"weight_map": names}
    roll = random.random()
    if roll < 0.5:
        replace(path, as_json(random, spoil_json(random, value)))
    elif roll < 0.75:
        files = value["weight_map"]
        for name in random.sample(sorted(files), min(len(files), random.choice((1, 1, 3, 1000)))):
            odd = ("../model.safetensors", "/dev/zero", "/proc/self/mem", "", ".", "x" * 300, "config.json", "a\0b")
            files[name] = random.choice((*odd, "/etc/hostname", "missing.safetensors", *shards, odd_text(random)))
        replace(path, as_json(random, value))
    elif roll < 0.85:
        no_file(random, path)
    else:
        replace(path, as_json(random, value))
        no_file(random, folder / random.choice(shards))
    return trying(random, folder)
