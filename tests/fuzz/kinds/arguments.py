"""Arguments of the public functions: plausible ones, and in one or two places anything."""

from __future__ import annotations

import contextlib
import datetime
import decimal
import fractions
import io
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image

from fuzz.kinds.using import PIXELS, WAVE, answered, finite, vectors
from fuzz.mutation import FRACTIONS, NUMBERS, few, odd_text
from fuzz.outcome import Trial
from fuzz.place import Place


def _anything(random: Random) -> Any:
    """A value of any type, as a slip in somebody's code may give it."""
    arrays: tuple[Any, ...] = (
        *(
            np.array(3),
            np.array([]),
            np.array(["a", "b"]),
            np.array([b"a"]),
            np.array([1.5, np.nan]),
            np.array([None, "a"]),
        ),
        *(np.zeros((2, 2), bool), np.float32(2), np.int64(1), np.str_("a"), np.bool_(True), np.zeros(3, "f4,i4")),
    )
    objects: tuple[Any, ...] = (
        *(
            None,
            True,
            False,
            b"",
            b"\xff\xfe",
            bytearray(b"a"),
            memoryview(b"ab"),
            [],
            {},
            (),
            set(),
            frozenset("a"),
            object(),
        ),
        *(
            int,
            len,
            lambda: 1,
            iter("ab"),
            (x for x in "ab"),
            range(3),
            {"a": 1},
            {1: "a"},
            [[]],
            [None],
            ["a", None],
            [1, 2],
        ),
        *(
            ["a", b"b"],
            [True],
            ("a",),
            {"a"},
            1j,
            decimal.Decimal("1.5"),
            fractions.Fraction(1, 3),
            datetime.date(2020, 1, 1),
        ),
        *(
            Path("a.png"),
            Path(),
            io.BytesIO(b"a"),
            io.StringIO("a"),
            Image.new("RGB", (4, 4)),
            Image.new("RGB", (0, 0)),
            ...,
        ),
        *(
            {"text": "a"},
            [{"role": "user", "content": "a"}],
            [[1, 2]],
            ["a"] * 300,
            "a,b",
            ["", " "],
            [odd_text(random)],
        ),
    )
    roll = random.random()
    if roll < 0.25:
        return random.choice(NUMBERS)
    if roll < 0.35:
        return random.choice(FRACTIONS)
    if roll < 0.5:
        return odd_text(random)
    return random.choice(objects if roll < 0.85 else arrays)


def arguments(random: Random, place: Place) -> Trial:
    """One call of a public function."""
    Image.fromarray(PIXELS).save(place.folder / "a.png")
    sees, hears, speaks = (place.loaded(name) for name in ("siglip2", "clap", "glm46v"))
    name = random.choice(sorted(CALLS))
    make = CALLS[name]
    if random.random() < 0.06:  # the wrong model for the verb, or another one's processor
        sees, hears, speaks = random.choice(((hears, speaks, sees), (speaks, sees, hears), ((sees[0], hears[1]),) * 3))
    return make(random, place, (sees, hears, speaks))


def _odd(random: Random, usual: dict[str, Any], options: dict[str, Any]) -> dict[str, Any]:
    """The usual arguments and some of the options, of which one or two are anything."""
    chosen = {**usual, **{key: value for key, value in options.items() if random.random() < 0.2}}
    for key in random.sample(sorted({**usual, **options}), few(random, 2)):
        value = _anything(random)
        chosen[key] = 5 if key in ("progress", "on_error") and callable(value) else value  # what it raises is its own
    return chosen


Models = tuple[tuple[Any, Any], tuple[Any, Any], tuple[Any, Any]]
BATCH = {"batch_size": 2, "progress": False, "normalize": True, "dim": 8}


def _encode_text(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    given = _odd(random, {"texts": ["a cat", "b"]}, {**BATCH, "task": None, "max_length": 8, "truncate": True})
    return lambda: vectors(mlx_mm.encode_text(*models[0], **given))


def _encode_image(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    given = _odd(random, {"images": [PIXELS, "a.png"]}, {**BATCH, "max_num_patches": 16, "on_error": lambda *_: None})
    return lambda: vectors(mlx_mm.encode_image(*models[0], **given))


def _encode_audio(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    options = {**BATCH, "truncation": "windows", "seed": 1, "on_error": lambda *_: None}
    given = _odd(random, {"audio": [(WAVE, 48000)]}, options)
    return lambda: vectors(mlx_mm.encode_audio(*models[1], **given))


def _classify(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    options = {"template": "a {}", "batch_size": 2, "progress": False, "on_error": lambda *_: None}
    given = _odd(random, {"item": PIXELS, "labels": ["cat", "dog"]}, options)
    return lambda: finite("scores", mlx_mm.classify(*models[0], **given))


GENERATE = {
    **{"temperature": 0.5, "top_p": 0.9, "top_k": 5, "min_p": 0.1, "repetition_penalty": 1.1, "seed": 1, "stop": ["x"]},
    **{
        "enable_thinking": False,
        "thinking_budget": 2,
        "prefill_step_size": 64,
        "max_pixels": 40_000,
        "progress": False,
    },
    **{"max_kv_size": 64, "kv_bits": 8, "images": [PIXELS], "videos": (), "tools": None, "fps": None, "cache": None},
}


def _generate(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    given = _odd(random, {"prompt": "What is it?", "max_tokens": 2}, GENERATE)
    if isinstance(given["max_tokens"], int | np.integer) and given["max_tokens"] > 2:
        given["max_tokens"] = 2  # long answers are no fault
    return lambda: answered(mlx_mm.generate(*models[2], **given))


def _stream(random: Random, place: Place, models: Models) -> Trial:
    """Left after the first piece."""
    import mlx_mm

    given = _odd(random, {"prompt": "What is it?", "max_tokens": 9}, GENERATE)

    def trial() -> None:
        with contextlib.closing(mlx_mm.stream_generate(*models[2], **given)) as pieces:
            next(pieces, None)

    return trial


def _conversation(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    made = _odd(random, {"system": "Be short."}, {"messages": [], "tools": None, "max_kv_size": 64, "kv_bits": 8})
    options = {key: value for key, value in GENERATE.items() if key not in ("max_kv_size", "kv_bits", "tools", "cache")}
    asked = {**_odd(random, {"text": "What?"}, options), "max_tokens": 1}
    name = random.choice(("s.safetensors", "s.safetensors", _anything(random), Path("no/such/s.safetensors")))

    def trial() -> None:
        conversation = mlx_mm.Conversation(*models[2], **made)
        for _ in conversation.ask(**asked):
            pass
        conversation.save(name)
        conversation.load(name)

    return trial


def _load(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    folder = place.checkpoint("siglip2-text")
    given = _odd(random, {"path_or_repo": folder}, {"revision": None, "dtype": "float32", "lazy": False})
    return lambda: vectors(mlx_mm.encode_text(*mlx_mm.load(**given), "a"))


def _convert(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    folder = place.checkpoint("siglip2-text")
    usual = {"source": folder, "out": place.folder / "new", "bits": 4, "group_size": 32}
    options = {
        "mode": "affine",
        "dtype": "float16",
        "recipe": "all",
        "revision": None,
        "overwrite": True,
        "check": False,
    }
    given = _odd(random, usual, {**options, "progress": False})
    return lambda: mlx_mm.convert(**given)


def _to_mlx(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    batch = random.choice((_anything(random), {"a": _anything(random)}, {"a": np.zeros(3), 5: np.ones(2, np.int64)}))
    return lambda: mlx_mm.to_mlx(batch)


def _prompt_cache(random: Random, place: Place, models: Models) -> Trial:
    import mlx_mm

    model, processor = models[2]
    name = random.choice((_anything(random), "c.safetensors", Path("c.safetensors"), "a.png"))
    about = random.choice((None, {"a": "b"}, _anything(random)))

    def trial() -> None:
        cache = mlx_mm.PromptCache()
        mlx_mm.generate(model, processor, "What?", max_tokens=1, cache=cache)
        cache.save(name, about=about)
        mlx_mm.PromptCache.load(name, model)

    return trial


def _processors(random: Random, place: Place, models: Models) -> Trial:
    """What a processor makes of texts, pictures, sounds and settings, given by their names in transformers."""
    which = random.choice(("text", "images", "audio", "images"))
    _, processor = place.loaded("clap" if which == "audio" else "siglip2")
    usual = {"text": {"texts": ["a"]}, "images": {"images": [PIXELS]}, "audio": {"audio": [(WAVE, 48000)]}}[which]
    (name,) = usual
    value = _anything(random) if random.random() < 0.5 else usual[name]
    settings = {
        "text": {"max_length": 8, "truncation": True, "task": None},
        "images": {
            "do_resize": True,
            "do_normalize": False,
            "image_mean": [0.5] * 3,
            "rescale_factor": 1 / 255,
            "size": {"height": 8, "width": 8},
            "resample": 2,
            "max_num_patches": 9,
        },
        "audio": {"seed": 0, "truncation": "rand_trunc"},
    }[which]
    options = _odd(random, {}, settings)

    def trial() -> None:
        batch = getattr(processor, which)(value, **options)
        for key, array in batch.items():
            if array.dtype.kind == "f" and array.size:
                finite(key, array.astype(np.float64).ravel()[:2000].tolist())

    return trial


def _counts(random: Random, place: Place, models: Models) -> Trial:
    processor = place.loaded("glm46v")[1]
    given = _odd(random, {"images": [PIXELS]}, {"videos": []})
    return lambda: processor.count_tokens(**given)


CALLS: dict[str, Callable[[Random, Place, Models], Trial]] = {
    **{"encode_text": _encode_text, "encode_image": _encode_image, "encode_audio": _encode_audio},
    **{"classify": _classify, "generate": _generate, "stream": _stream, "conversation": _conversation, "load": _load},
    **{"convert": _convert, "to_mlx": _to_mlx, "prompt_cache": _prompt_cache, "processors": _processors},
    "counts": _counts,
}
