"""Files of a checkpoint: weights, their index, settings, tokenizers, templates, pickles."""

from __future__ import annotations

import json
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from torch_writer import mapping, number, storage, tensor, text

from fuzz.kinds.using import try_checkpoint
from fuzz.mutation import as_json, few, odd_text, odd_value, spoil_bytes, spoil_json, spoil_text
from fuzz.outcome import Trial
from fuzz.place import Place, replace

ENCODERS = ("siglip2", "siglip", "metaclip_2", "clap", "jina_clip", "siglip2-text", "clip-vision-projection")
ALL = (*ENCODERS, "clap-fused", "clap-audio", "glm46v", "glm4v_moe", "siglip2-classifier")
HEADER = 8  # bytes of the length before a safetensors header


def _trial(random: Random, folder: Path) -> Trial:
    then = Random(random.random())
    return lambda: try_checkpoint(then, folder)


# --- weights ------------------------------------------------------------------------------------------------------


def safetensors(random: Random, place: Place) -> Trial:
    """A header with other shapes, types or offsets; bytes anywhere; something that is no file at all."""
    folder = place.checkpoint(random.choice((*ALL, "siglip2-4bit")))
    path = folder / "model.safetensors"
    data, roll = path.read_bytes(), random.random()
    size = HEADER + int.from_bytes(data[:HEADER], "little")
    if roll < 0.6:
        header = json.loads(data[HEADER:size])
        for _ in range(few(random)):
            _spoil_entry(random, header)
        raw = as_json(random, header)
        length = len(raw) if random.random() < 0.95 else random.choice((0, 2**31, 2**63, 2**64 - 1, len(raw) - 1))
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
        _no_file(random, path)
    return _trial(random, folder)


def _spoil_entry(random: Random, header: dict[str, Any]) -> None:
    names = [name for name in header if name != "__metadata__"] or [""]
    name = random.choice(names)
    entry = header.get(name)
    roll = random.random()
    if roll < 0.1 or not isinstance(entry, dict):
        header.pop(name, None)
    elif roll < 0.2:
        header[random.choice((odd_text(random), f"{name}.weight", name[:-1]))] = header.pop(name)
    elif roll < 0.35:
        entry["dtype"] = random.choice(("F64", "F16", "BF16", "I64", "U8", "BOOL", "F8_E4M3", "C64", "X", "", None, 5))
    elif roll < 0.55:
        shape = list(entry.get("shape", [1])) if isinstance(entry.get("shape"), list) else [1]
        changes = (
            shape[::-1],
            [*shape, 1],
            shape[:-1],
            [-n if isinstance(n, int) else 0 for n in shape],
            [2**40, 0],
            [],
            [0],
        )
        entry["shape"] = random.choice(changes)
    elif roll < 0.7:
        start, end = (
            (entry.get("data_offsets") or [0, 0])[:2] if isinstance(entry.get("data_offsets"), list) else (0, 0)
        )
        entry["data_offsets"] = random.choice(
            ([end, start], [start, end + 4], [start], [2**63, 2**63], [-4, end], [0, end])
        )
    elif roll < 0.8:
        other = header[random.choice(names)]
        if isinstance(other, dict) and isinstance(other.get("shape"), list):
            entry["shape"], other["shape"] = other["shape"], entry.get("shape")
    elif roll < 0.9:
        header["__metadata__"] = random.choice(
            ({"format": "mlx"}, {"format": 5}, {}, None, {"format": odd_text(random)})
        )
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
    return _trial(random, folder)


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
        _no_file(random, path)
    else:
        replace(path, as_json(random, value))
        _no_file(random, folder / random.choice(shards))
    return _trial(random, folder)


def _no_file(random: Random, path: Path) -> None:
    """In the place of a file, something that cannot be read as one."""
    path.unlink(missing_ok=True)
    roll = random.randrange(8)
    if roll == 0:
        os.mkfifo(path)
    elif roll == 1:
        path.mkdir()
    elif roll == 2:
        path.symlink_to(path.name)  # to itself
    elif roll == 3:
        path.symlink_to(random.choice(("/dev/zero", "/dev/full", "/dev/null", "/dev/random", "/proc/self/mem")))
    elif roll == 4:
        path.symlink_to("nowhere")
    elif roll == 5:
        path.write_bytes(b"")
        path.chmod(0)
    elif roll == 6:
        path.write_bytes(b"")
    # or there is none at all


# --- settings and tokenizers ----------------------------------------------------------------------------------------


def config(random: Random, place: Place) -> Trial:
    """config.json with other values, types and keys."""
    folder = place.checkpoint(random.choice((*ALL, "siglip2-4bit", "glm46v-4bit")))
    path = folder / "config.json"
    if random.random() < 0.05:
        _no_file(random, path)
        return _trial(random, folder)
    value = json.loads(path.read_bytes())
    for _ in range(few(random)):
        if random.random() < 0.5:
            value = spoil_json(random, value) if isinstance(value, dict) else value
        elif isinstance(value, dict):
            sections = [value, *(part for key, part in value.items() if isinstance(part, dict))]
            section = random.choice(sections)
            sizes = [key for key, size in section.items() if isinstance(size, int | float)] or ["hidden_size"]
            odd = (0, 1, -1, 2, 3, 5, 2**20, 2**31 - 1, 2**31, 2**40, 10**30, 1.5, -1e-6, True, "7", None, [4], 1e400)
            section[random.choice(sizes)] = random.choice(odd)
    replace(path, as_json(random, value))
    return _trial(random, folder)


def quantization(random: Random, place: Place) -> Trial:
    """What config.json says of quantised layers."""
    folder = place.checkpoint(random.choice(("siglip2-4bit", "glm46v-4bit", "siglip2")))
    path = folder / "config.json"
    value = json.loads(path.read_bytes())
    block = value.get("quantization") or {"group_size": 32, "bits": 4, "mode": "affine"}
    roll = random.random()
    if roll < 0.4:
        key, odd = random.choice(
            (
                ("bits", (0, 1, 2, 3, 5, 8, 16, -4, 4.0, "4", True, None, 2**31)),
                ("group_size", (0, 1, 16, 64, 128, -32, 32.0, "32", 2**31, None)),
                ("mode", ("mxfp4", "nvfp4", "", None, 5, "affine ", ["affine"], odd_text(random))),
            )
        )
        block = {**block, key: random.choice(odd)}
    elif roll < 0.6:
        paths = ("vision_model.encoder.layers.0.mlp.fc1", "text_model.head", "", "*", "logit_scale", odd_text(random))
        block = {
            **block,
            random.choice(paths): random.choice((False, True, {"bits": 8}, {}, None, [], odd_value(random))),
        }
    else:
        block = spoil_json(random, block)
    value["quantization"] = block
    if random.random() < 0.5:
        value.pop("quantization_config", None)
    replace(path, as_json(random, value))
    return _trial(random, folder)


def tokenizer(random: Random, place: Place) -> Trial:
    """tokenizer.json, tokenizer_config.json, special_tokens_map.json or spiece.model."""
    texts = ("siglip2", "metaclip_2", "clap", "jina_clip", "siglip2-text", "glm46v", "spiece")
    folder = place.checkpoint(random.choice(texts))
    names = [
        name
        for name in ("tokenizer.json", "tokenizer.json", "tokenizer_config.json", "spiece.model")
        if (folder / name).exists()
    ]
    path = folder / random.choice(names)
    roll = random.random()
    if roll < 0.04:
        _no_file(random, path)
    elif path.suffix == ".model":
        replace(path, spoil_bytes(random, path.read_bytes(), os.urandom(0)))
    elif roll < 0.12:
        value = (
            odd_value(random)
            if roll < 0.07
            else {"eos_token": odd_value(random), "pad_token": {"content": odd_value(random)}}
        )
        replace(folder / "special_tokens_map.json", as_json(random, value))
        replace(folder / "added_tokens.json", as_json(random, value))
    else:
        value = json.loads(path.read_bytes())
        value = (
            _hostile_tokenizer(random, value)
            if path.name == "tokenizer.json" and roll < 0.4
            else spoil_json(random, value)
        )
        replace(path, as_json(random, value))
    return _trial(random, folder)


def _hostile_tokenizer(random: Random, value: dict[str, Any]) -> dict[str, Any]:
    """Steps that take time or memory out of proportion, or ids that no table has."""
    pattern = random.choice(("(a+)+$", "(.*)*x", "(a|aa)+$", "(", "\\p{L", "a{1,60000}", "(?=a)*", ".", ""))
    steps: dict[str, tuple[Any, ...]] = {
        "normalizer": (
            {"type": "Prepend", "prepend": "x" * random.choice((1, 10_000, 3_000_000))},
            {"type": "Replace", "pattern": {"Regex": pattern}, "content": "y" * random.choice((0, 5, 100_000))},
            {"type": "Replace", "pattern": {"String": " "}, "content": "z" * 1_000_000},
            {
                "type": "Sequence",
                "normalizers": [{"type": "Replace", "pattern": {"String": "c"}, "content": "c" * 50}] * 6,
            },
            {"type": "Precompiled", "precompiled_charsmap": random.choice(("", "AAAA", "////", "QUJD" * 99))},
            {"type": "Nonsense"},
        ),
        "pre_tokenizer": (
            {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False},
            {
                "type": "Metaspace",
                "replacement": random.choice(("▁", "", "ab")),
                "prepend_scheme": "always",
                "split": True,
            },
            {"type": "Sequence", "pretokenizers": []},
        ),
        "post_processor": (
            {
                "type": "TemplateProcessing",
                "single": [{"SpecialToken": {"id": "nowhere", "type_id": 0}}],
                "pair": [],
                "special_tokens": {},
            },
            {"type": "BertProcessing", "sep": ["x", 2**31], "cls": ["y", 2**32 - 1]},
            {
                "type": "RobertaProcessing",
                "sep": ["</s>", 10**6],
                "cls": ["<s>", 10**6],
                "trim_offsets": True,
                "add_prefix_space": False,
            },
        ),
        "truncation": (
            {"direction": "Right", "max_length": 0, "strategy": "LongestFirst", "stride": 9},
            {"max_length": 2**63},
        ),
        "padding": (
            {
                "strategy": {"Fixed": random.choice((0, 7, 300_000_000))},
                "direction": "Right",
                "pad_to_multiple_of": 0,
                "pad_id": 0,
                "pad_type_id": 0,
                "pad_token": "x",
            },
        ),
        "model": (
            {"type": "BPE", "vocab": {"a": 0}, "merges": []},
            {"type": "WordLevel", "vocab": {"a": 2**31}, "unk_token": "a"},
            {"type": "Unigram", "unk_id": 5, "vocab": [["a", 0.0]]},
            {
                "type": "WordPiece",
                "unk_token": "x",
                "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 0,
                "vocab": {},
            },
            {},
        ),
        "added_tokens": (
            [
                {
                    "id": i,
                    "content": random.choice(("", "a", " ", "\ud800")),
                    "special": True,
                    "normalized": False,
                    "single_word": False,
                    "lstrip": True,
                    "rstrip": True,
                }
                for i in (0, 0, 2**32 - 1)
            ],
        ),
    }
    key = random.choice(sorted(steps))
    return {**value, key: random.choice(steps[key])}


PROCESSOR_FILES = (
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "processor_config.json",
    "generation_config.json",
)


def processor_files(random: Random, place: Place) -> Trial:
    """The settings of pictures, sounds, videos and sampling."""
    folder = place.checkpoint(random.choice((*ALL, "glm46v")))
    path = folder / random.choice(
        [name for name in PROCESSOR_FILES if (folder / name).exists()] or [PROCESSOR_FILES[0]]
    )
    roll = random.random()
    if roll < 0.04:
        _no_file(random, path)
        return _trial(random, folder)
    value = json.loads(path.read_bytes()) if path.exists() else {}
    if roll < 0.12:
        path, value = folder / "processor_config.json", {"image_processor": value, "feature_extractor": value}
    if roll < 0.5 and value:
        numbers = (
            0,
            -1,
            1,
            2**31,
            2**40,
            10**30,
            1e-30,
            1e38,
            -0.5,
            float("nan"),
            "224",
            True,
            None,
            [0, 0],
            {"height": 0, "width": 1},
        )
        sizes = (
            {"height": 20000, "width": 20000},
            {"shortest_edge": 0},
            {"longest_edge": 10**9, "shortest_edge": 10**9},
        )
        value = {**value, random.choice(sorted(value)): random.choice((*numbers, *sizes))}
    else:
        value = spoil_json(random, value)
    replace(path, as_json(random, value))
    return _trial(random, folder)


# --- templates ----------------------------------------------------------------------------------------------------

HOSTILE = (
    *("{{ lipsum(n=10**8) }}", "{{ 'a'.ljust(10**10) }}", "{{ 'a'.center(10**10) }}", "{{ 'a'.zfill(10**10) }}"),
    *("{{ '%1000000000s' % 'a' }}", "{{ '{:1000000000}'.format(1) }}", "{{ messages | tojson(indent=10**9) }}"),
    *("{{ [1] | batch(10**9, 0) | list | length }}", "{{ 'a'.translate({97: 'b' * 10**6}) * 10**4 }}"),
    *("{% set x = 'a' * 10**6 %}{% for i in range(10**6) %}{% set x = x ~ x %}{% endfor %}", "{{ 'a' * 10**10 }}"),
    *("{% filter upper %}{{ 'a' * 10**9 }}{% endfilter %}", "{{ ''.__class__.__mro__[1].__subclasses__() }}"),
    *("{{ cycler.__init__.__globals__.os.system('touch ran') }}", "{{ self._TemplateReference__context }}"),
    *("{{ messages.__class__ }}", "{{ raise_exception('no') }}", "{{ strftime_now('%Y' * 10**6) }}", "{{ 1 / 0 }}"),
    *("{% include 'x' %}", "{% extends messages %}", "{% import 'os' as os %}", "{{ range(10**12) | list }}"),
    *("{% macro f(n) %}{{ f(n) }}{% endmacro %}{{ f(1) }}", "{{ 10 ** 10 ** 10 }}", "{{ (1, 2) * 10**9 }}"),
    *("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "{{ 2 ** 100000000 }}"),
    *("{{ 'x' | replace('', 'y' * 10**6) | replace('y', 'z' * 10**6) }}", "{{ ['a' * 10**6] * 10**5 | join }}"),
    *("{{ 'a' | indent(10**9) }}", "{{ 'a a' | wordwrap(0) }}", "{{ 'a' | center(10**10) }}", "{{ '%s' | format(1) }}"),
    *("{% set ns = namespace(a=1) %}{% set ns.a = ns %}{{ ns | tojson }}", "{{ messages | map('nope') | list }}"),
    *(
        "{{ messages | sort }}",
        "{{ {}['a'].b }}",
        "{{ undefined.x.y }}",
        "{% if %}",
        "{{",
        "{% raw %}",
        "{{ dict(a=1) | xmlattr }}",
    ),
    *(
        "{{ 'a'.encode('x') }}",
        "{{ 'é'.encode('ascii') }}",
        "{{ 'a'.split('') }}",
        "{{ 'ab'.rjust(10**10) }}",
        "{{ 5 | round(10**9) }}",
    ),
    *(
        "{{ 'a,' * 10**5 }}{{ ('a,' * 10**6).split(',') | length }}",
        "{{ 'a'.expandtabs(10**10) }}",
        "{{ '\t'.expandtabs(10**10) }}",
    ),
    *(
        "{{ ('a' * 10**5).replace('a', 'b' * 10**5) }}",
        "{{ ','.join(['a' * 10**6] * 10**4) }}",
        "{{ 10**9 | filesizeformat }}",
    ),
    *(
        "{{ range(9) | slice(10**9) | list }}",
        "{{ 'a' | urlize }}",
        "{{ messages | groupby('x') }}",
        "{{ 'a' | random }}",
    ),
)


def template(random: Random, place: Place) -> Trial:
    """A chat template that takes time or memory, reaches for Python, or is none."""
    folder = place.checkpoint("glm46v")
    path = folder / "chat_template.jinja"
    source, roll = path.read_text(), random.random()
    if roll < 0.05:
        _no_file(random, path)
        return _trial(random, folder)
    if roll < 0.5:
        at = random.choice((0, len(source), source.find("{%- for")))
        changed = source[:at] + random.choice(HOSTILE) + source[at:]
    elif roll < 0.6:
        changed = (
            "{% if " * 2000 if roll < 0.52 else "(" * 5000 if roll < 0.53 else "{{ " + "(" * 5000 + ")" * 5000 + " }}"
        )
    else:
        changed = spoil_text(random, source)
    if random.random() < 0.3:
        path.unlink()
        named = random.choice(
            (
                changed,
                [{"name": "default", "template": changed}],
                [{"name": "x"}],
                {"default": changed},
                odd_value(random),
            )
        )
        settings = json.loads((folder / "tokenizer_config.json").read_bytes()) | {"chat_template": named}
        replace(folder / "tokenizer_config.json", as_json(random, settings))
    else:
        replace(
            path, spoil_bytes(random, changed.encode()) if roll > 0.95 else changed.encode("utf-8", "surrogatepass")
        )
    return _trial(random, folder)


# --- pickles ------------------------------------------------------------------------------------------------------

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
        return _trial(random, folder)
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
    return _trial(random, folder)


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
