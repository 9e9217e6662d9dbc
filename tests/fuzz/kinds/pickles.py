"""Files of torch.save."""

from __future__ import annotations

import zipfile
from random import Random

from torch_writer import mapping, number, storage, tensor, text

from fuzz.kinds.spoiling import trying
from fuzz.mutation import odd_text, spoil_bytes
from fuzz.outcome import Trial
from fuzz.place import Place, replace

CALLS = (
    *(b"cos\nsystem\n(X\x09\x00\x00\x00touch rantR.", b"cposix\nsystem\n(X\x09\x00\x00\x00touch rantR."),
    *(b"cbuiltins\nexec\n(X\x15\x00\x00\x00open('ran','w').close()tR.", b"cbuiltins\neval\n(X\x010\x00\x00\x00tR."),
    *(b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x09touch ran\x85R.", b"csubprocess\nPopen\n(X\x03\x00\x00\x00envtR."),
    *(b"ctorch\nload\n)R.", b"ctorch._utils\n_rebuild_tensor_v2\n)R.", b"ccollections\nOrderedDict\n(I1\ntR."),
    *(b"(lp0\n" + b"(l" * 9000 + b".", b"\x80\x05\x95\xff\xff\xff\xff\xff\xff\xff\x7f.", b"I" + b"9" * 9000 + b"\n."),
    *(
        b"\x8d\xff\xff\xff\xff\xff\xff\xff\x7fa.",
        b"N" * 99999 + b".",
        b"}" + b"\x94" * 99999 + b".",
        b"2" * 100 + b".",
        b".",
    ),
    *(
        b"c__builtin__\nfilter\n)R.",
        b"\x80\x02ccollections\nOrderedDict\n)R}(X\x01\x00\x00\x00aK\x01ub.",
        b"j\xff\xff\xff\xff.",
    ),
)


def pickle(random: Random, place: Place) -> Trial:
    """pytorch_model.bin: the pickle, the zip around it, and calls of what must not be called."""
    folder = place.checkpoint("torch")
    path = folder / "pytorch_model.bin"
    roll = random.random()
    if roll < 0.3:
        replace(path, spoil_bytes(random, path.read_bytes(), random.choice(CALLS)))
        return trying(random, folder)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    program = next(name for name in entries if name.endswith("data.pkl"))
    if roll < 0.5:
        entries[program] = spoil_bytes(random, entries[program], random.choice(CALLS))
    elif roll < 0.7:
        call = random.choice(CALLS)
        entries[program] = call if random.random() < 0.5 else entries[program][:-1] + call
    elif roll < 0.85:
        entries = {f"archive/{name}": raw for name, raw in _odd_tensor(random).items()}
    else:
        name = random.choice(sorted(entries))
        raw = entries.pop(name)
        entries[random.choice((f"../{name}", "/ran", "ran", name.upper(), f"{name}\0", name * 30))] = spoil_bytes(
            random, raw[:9999]
        )
    path.unlink()
    packed = random.random() < 0.2
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, raw in entries.items():
            archive.writestr(name, raw)
    if random.random() < 0.2:
        replace(path, spoil_bytes(random, path.read_bytes()))
    return trying(random, folder)


def _odd_tensor(random: Random) -> dict[str, bytes]:
    """One tensor whose numbers do not fit each other."""
    odd = (0, 1, -1, 2, 3, 2**31, 2**62, 2**63 - 1, -(2**63))
    shape = tuple(random.choice(odd) for _ in range(random.randrange(1, 4)))
    strides = tuple(random.choice(odd) for _ in range(random.choice((len(shape), len(shape), 1, 0))))
    kind = random.choice(("FloatStorage", "HalfStorage", "BFloat16Storage", "LongStorage", "NoStorage", "BoolStorage"))
    source = storage(kind, random.choice(("0", "1", "../x", "a" * 300)), random.choice((6, *odd)))
    program = mapping(
        {random.choice(("a", "", "logit_scale", odd_name(random))): tensor(source, random.choice(odd), shape, strides)}
    )
    if random.random() < 0.2:
        program = program.replace(text("cpu"), random.choice((text("cuda:0"), text(""), number(5), b"(K\x01K\x02t")))
    return {
        "data.pkl": program,
        "data/0": bytes(24),
        "version": b"3\n",
        "byteorder": random.choice((b"little", b"big", b"")),
    }


def odd_name(random: Random) -> str:
    """That can be encoded, as the writer needs."""
    return odd_text(random).encode("utf-8", "replace").decode()[:1000]
