"""Every public function and every method of processors, with every argument of a wrong kind: one clear error of ours.

The tables are complete: a test holds them against the signatures.
"""

from __future__ import annotations

import inspect
import math
import re
from collections import UserList, deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from glm_answers import script
from PIL import Image
from recipes import RECIPES

import mlx_mm
from mlx_mm import Conversation, PromptCache, classify, encode_audio, encode_image, encode_text, generate, load
from mlx_mm.errors import InputError, MlxMmError
from mlx_mm.processing.arguments import listed, strings

pytestmark = pytest.mark.filterwarnings("ignore:.* longer than")  # the tiny models have room for 16 tokens
HUGE = 10**5000  # which Python does not even print
PICTURES = (np.random.default_rng(0).random((3, 40, 50, 3)) * 255).astype(np.uint8)
SOUND = (np.sin(np.arange(24_000) / 9).astype(np.float32), 48_000)
TEXTS = ["a cat", "the dog", "a"]


class Odd:
    """What nobody expects."""

    def __repr__(self) -> str:
        return "odd\nthing" + "g" * 10_000


# What is no …
NO_TEXTS = [None, 5, 2.5, b"a", {"a": 1}, ["a", 3], ["a", None], [b"a"], np.arange(3), np.array([["a"]]), Odd(), True]
NO_FLAG = ["false", "True", 0, 1, "", [], 1.0, Odd(), np.array([True, False])]
NO_COUNT = [0, -1, True, 2.0, "8", math.nan, math.inf, [4], (), Odd(), np.float32(2), np.array([1, 2])]
NO_NUMBER = [math.nan, math.inf, -math.inf, "1", -1, True, [1.0], HUGE, 1j, Odd(), np.array([1.0, 2.0])]
NO_FUNCTION = ["yes", 5, 0, [], Odd()]
NO_NAME = [5, b"a", ["a"], "nonsense", Odd(), HUGE, True]
NO_MEDIA = [5, 2.5, {"a": 1}, Odd(), True, [None], [5], "", np.zeros((2, 2, 2, 2, 2)), [PICTURES[0], 7], np.arange(3)]
NO_PAIR = [None, "emoji-siglip2", 5, Path("x"), {}, Odd(), (1, 2)]
NO_LIST_OF_DICTS = ["tool", 5, [5], {"a": 1}, [{}], b"a", [["a"]], Odd(), True]
NO_PATH = [None, 5, b"a", ["a"], {}, Odd(), True, ""]

Case = tuple[dict[str, Any], dict[str, list[Any]]]  # arguments that are right, and for each of them what is not


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Any, Any]]:
    folder = tmp_path_factory.mktemp("arguments")
    names = ("siglip2", "siglip2-classifier", "jina_clip", "metaclip_2", "clap", "glm46v")
    return {name: load(RECIPES[name].write(folder / name)) for name in names}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source = RECIPES["siglip2"].write(tmp_path_factory.mktemp("folder") / "siglip2")
    mlx_mm.convert(source, source.parent / "ours", method="plain", check=False)
    return source


FAST: dict[str, list[Any]] = {"fast_decode": [*NO_FLAG, None]}
LOADED: dict[str, list[Any]] = {"model": NO_PAIR, "processor": NO_PAIR}
RUNNING: dict[str, list[Any]] = {
    "dim": [*NO_COUNT, HUGE, 10**9],
    "normalize": [*NO_FLAG, None],
    "batch_size": [*NO_COUNT, HUGE, 10**30, None],
    "progress": NO_FUNCTION,
}
SKIPPING = RUNNING | {"on_error": NO_FUNCTION}
SAMPLING: dict[str, list[Any]] = {
    "temperature": [*NO_NUMBER, 101],
    "top_p": [*NO_NUMBER, 0, 1.5],
    "top_k": [math.nan, 2.5, -1, "5", True, [5]],
    "min_p": [*NO_NUMBER, 1.5],
    "repetition_penalty": [*NO_NUMBER, 0],
    "seed": [-1, 2**64, 1.0, "1", True, HUGE],
}
ANSWERING: dict[str, list[Any]] = {
    **LOADED,
    "prompt": [
        None,
        5,
        b"a",
        [],
        {},
        [5],
        [{"role": "robot", "content": "a"}],
        [{"role": "user", "content": 5}],
        Odd(),
    ],
    "images": NO_MEDIA,
    "videos": NO_MEDIA,
    "max_tokens": [*NO_COUNT, None],
    **SAMPLING,
    "enable_thinking": NO_FLAG,
    "thinking_budget": [-1, True, 2.0, "8", math.nan, [4]],
    "stop": [5, b"a", [5], [""], "", [None], {"a": 1}, Odd(), True],
    "tools": NO_LIST_OF_DICTS,
    "max_kv_size": [*NO_COUNT, 4],
    "kv_bits": [*NO_COUNT, 3, 5, HUGE],
    "prefill_step_size": [*NO_COUNT, None],
    "fps": [*NO_NUMBER, 0],
    "max_pixels": [*NO_COUNT, HUGE],
    "cache": ["x", 5, {}, [], Odd(), True],
    "progress": NO_FUNCTION,
}


def film(frames: int = 4) -> list[np.ndarray]:
    return [PICTURES[0]] * frames


def verbs(pairs: dict[str, tuple[Any, Any]], folder: Path) -> dict[str, tuple[Callable[..., Any], Case]]:
    def of(name: str, **arguments: Any) -> dict[str, Any]:
        return {"model": pairs[name][0], "processor": pairs[name][1], **arguments}

    texts = {**LOADED, **RUNNING, "texts": NO_TEXTS, "task": NO_NAME, "max_length": [*NO_COUNT, HUGE, 10**9]}
    texts["truncate"] = [*NO_FLAG, None]
    images = {**LOADED, **SKIPPING, **FAST, "images": [*NO_MEDIA, None], "max_num_patches": [*NO_COUNT, HUGE]}
    audio = {**LOADED, **SKIPPING, "audio": [*NO_MEDIA, None, SOUND[0], (SOUND[0], "48000"), (SOUND[0], True)]}
    audio |= {"truncation": NO_NAME, "seed": [-1, 2**32, 1.0, "1", True, None, HUGE]}
    scored = {**LOADED, **SKIPPING, **FAST, "item": [*NO_MEDIA, None], "labels": ["cat", *NO_TEXTS[1:], []]}
    scored |= {"template": [5, b"{}", ["a"], [], "", "{ }", [5], ["a {}", None], {"{}": 1}, Odd(), True]}
    del scored["dim"], scored["normalize"]
    question = of("glm46v", prompt="q", images=[PICTURES[0]], videos=[film()], fps=1, temperature=1.0, max_tokens=2)
    return {
        "encode_text": (encode_text, (of("jina_clip", texts=TEXTS), texts)),
        "encode_image": (encode_image, (of("siglip2", images=PICTURES[0]), images)),
        "encode_audio": (encode_audio, (of("clap", audio=SOUND), audio)),
        "classify": (classify, (of("siglip2", item=PICTURES[0], labels=["cat", "dog"]), scored)),
        "convert": (
            mlx_mm.convert,
            (
                {"source": folder, "out": folder / "out", "overwrite": True},
                {
                    "source": NO_PATH,
                    "out": NO_PATH,
                    "bits": [0, 7, 4.0, "4", True, [4], Odd()],
                    "group_size": [*NO_COUNT, 7],
                    "mode": [*NO_NAME, None],
                    "dtype": NO_NAME,
                    "recipe": NO_NAME,
                    "target_cosine": [*NO_NUMBER, 0, 1, 1.5],
                    "target_size": [*NO_COUNT, "much", "4 apples", HUGE],
                    "target_kl": [*NO_NUMBER, 0, 1.0],  # an encoder has no answers
                    "method": [*NO_NAME, None],
                    "calibrate": [5, b"a", ["a"], Odd(), True, "", "no/such/folder"],
                    "revision": [5, b"a", ["a"], Odd(), True],
                    "overwrite": [*NO_FLAG, None],
                    "check": [*NO_FLAG, None],
                    "progress": NO_FUNCTION,
                },
            ),
        ),
        "compare": (
            mlx_mm.compare,
            (
                {"first": folder, "second": folder},
                {
                    "first": [*NO_PATH, "no/such/folder/at/all"],
                    "second": [*NO_PATH, "no/such/folder/at/all"],
                    "calibrate": [5, b"a", ["a"], Odd(), True, "", "no/such/folder"],
                    "revision": [5, b"a", ["a"], Odd(), True],
                    "progress": NO_FUNCTION,
                },
            ),
        ),
        "dequantize": (
            mlx_mm.dequantize,
            (
                {"source": folder.parent / "ours", "out": folder / "out", "overwrite": True},
                {
                    "source": NO_PATH,
                    "out": NO_PATH,
                    "dtype": NO_NAME,
                    "revision": [5, b"a", ["a"], Odd(), True],
                    "overwrite": [*NO_FLAG, None],
                    "progress": NO_FUNCTION,
                },
            ),
        ),
        "generate": (generate, (question, ANSWERING)),
        "stream_generate": (mlx_mm.stream_generate, (question, ANSWERING)),
        "load": (
            load,
            (
                {"path_or_repo": folder},
                {
                    "path_or_repo": [*NO_PATH, "no/such/folder/at/all"],
                    "revision": [5, b"a", ["a"], Odd(), True],
                    "dtype": [*NO_NAME, np.float32],
                    "lazy": [*NO_FLAG, None],
                    "group": [5, "a", True, [], Odd(), mx.distributed.init()],
                    "pipeline": [5, "a", True, [], [1, 2], Odd(), mx.array([1])],
                },
            ),
        ),
        "to_mlx": (mlx_mm.to_mlx, ({"batch": {}}, {"batch": [None, 5, "a", [1], {"a": "b"}, {"a": None}, Odd()]})),
        "Conversation": (
            Conversation,
            (
                of("glm46v"),
                {
                    **LOADED,
                    "system": [5, b"a", ["a"], Odd(), True],
                    "messages": ["a", 5, [5], b"a", ["a"], Odd(), True],
                    "tools": NO_LIST_OF_DICTS,
                    "max_kv_size": [*NO_COUNT, 4],
                    "kv_bits": [*NO_COUNT, 3],
                },
            ),
        ),
    }


NO_NUMBERS = [math.nan, "1", [1, 2], {}, True, HUGE, 1j, Odd(), [math.nan] * 3, [True] * 3]
PIXELS: dict[str, list[Any]] = {
    "resample": [-1, 6, 2.0, "2", True, HUGE, Odd()],
    "do_rescale": NO_FLAG,
    "rescale_factor": NO_NUMBER[:2] + NO_NUMBER[3:4] + NO_NUMBER[5:],
    "do_normalize": NO_FLAG,
    "image_mean": NO_NUMBERS,
    "image_std": [*NO_NUMBERS, 0, [1, 0, 1]],
    "do_convert_rgb": NO_FLAG,
    "do_resize": NO_FLAG,
    "nonsense": [1, "a"],
}
SIDES = [0, -1, 2.5, "8", True, {}, {"height": 4}, {"height": 4, "width": "4"}, {"a": 1}, HUGE, 10**6, [4, 4], Odd()]
NAFLEX = PIXELS | FAST | {"patch_size": NO_COUNT, "max_num_patches": [*NO_COUNT, HUGE]}
CROPPED = PIXELS | FAST | {"size": SIDES, "crop_size": SIDES, "do_center_crop": NO_FLAG, "max_num_patches": [4]}
SQUEEZED: dict[str, list[Any]] = {
    "size": [*NO_COUNT, HUGE, 10**6],
    "resize_mode": NO_NAME,
    "interpolation": NO_NAME,
    "mean": NO_NUMBERS,
    "std": NO_NUMBERS,
    "max_num_patches": [4],
    **FAST,
}
BUDGETED = PIXELS | {
    "size": [*SIDES, {"shortest_edge": 9, "longest_edge": 4}, {"shortest_edge": 9, "longest_edge": HUGE}],
    "min_pixels": [*NO_COUNT, HUGE],
    "max_pixels": [*NO_COUNT, HUGE],
}
MOVING = BUDGETED | {"fps": [*NO_NUMBER, 0], "do_sample_frames": NO_FLAG}
HEARING: dict[str, list[Any]] = {
    "truncation": NO_NAME,
    "padding": NO_NAME,
    "max_length_s": [*NO_NUMBER, 0, 10**9],
    "feature_size": [*NO_COUNT, HUGE, 10**9],
    "hop_length": [*NO_COUNT, HUGE],
    "fft_window_size": [*NO_COUNT, HUGE, 10**9],
    "frequency_min": [*NO_NUMBER, 10**6],
    "frequency_max": NO_NUMBER,
    "sampling_rate": [48_000],
    "nonsense": [1],
}
LENGTH: dict[str, list[Any]] = {"max_length": [*NO_COUNT, HUGE, 10**9], "truncation": [*NO_FLAG, None]}
PADDING: dict[str, list[Any]] = {"padding": ["nonsense", False, 0, 1, 5, None, [], Odd(), np.array(["a", "b"])]}
LOWER: dict[str, list[Any]] = {"do_lower_case": NO_FLAG}
NO_IDS = [None, 5, "abc", [-1], [2**32], [1.5], [[1]], Odd(), [True], HUGE, [HUGE]]


def methods(pairs: dict[str, tuple[Any, Any]]) -> dict[str, tuple[Callable[..., Any], Case]]:
    words: dict[str, list[Any]] = {"texts": [*NO_TEXTS, []], "task": NO_NAME}
    pictures: dict[str, list[Any]] = {"images": [*NO_MEDIA, None, []]}
    sounds: dict[str, list[Any]] = {"audio": [*NO_MEDIA, None, [], SOUND[0]], "seed": [-1, 2**32, 1.0, True, HUGE]}
    sounds |= {"as_transformers": [*NO_FLAG, None]} | HEARING
    siglip, clip, jina, clap, glm = (
        pairs[name][1] for name in ("siglip2", "metaclip_2", "jina_clip", "clap", "glm46v")
    )
    both: dict[str, list[Any]] = {"text": [*NO_TEXTS[1:], []], "images": [*NO_MEDIA, []]}
    heard: dict[str, list[Any]] = {"text": [*NO_TEXTS[1:], []], "audio": [*NO_MEDIA, [], SOUND[0]]}
    heard |= {"seed": [-1, 2**32, True], "as_transformers": NO_FLAG, "audio_kwargs": [5, "a", [1], {"nonsense": 1}]}
    right = {"text": "a", "images": PICTURES[0]}
    chat = {key: value for key, value in ANSWERING.items() if key in ("images", "videos", "tools", "enable_thinking")}
    chat |= {"messages": ANSWERING["prompt"] + ["a"], "add_generation_prompt": [*NO_FLAG, None], **MOVING}
    message = [{"role": "user", "content": "a"}]
    seen: dict[str, list[Any]] = {"images": NO_MEDIA, "videos": NO_MEDIA}
    sizes: dict[str, list[Any]] = {"height": [*NO_COUNT, None], "width": [*NO_COUNT, None]}
    options: list[Any] = [5, "a", [1], {"nonsense": 1}, {"size": 4}]
    frames = {"num_frames": [*NO_COUNT, None], **sizes, "videos_kwargs": options}
    glm_words: dict[str, list[Any]] = {**PADDING, "padding_side": ["up", 5, None, Odd()]}
    return {
        "siglip2()": (siglip, (right, {**both, **LENGTH, **LOWER, **NAFLEX})),
        "siglip2.text": (siglip.text, ({"texts": TEXTS}, {**words, **LENGTH, **LOWER})),
        "siglip2.images": (siglip.images, ({"images": PICTURES[0]}, {**pictures, **NAFLEX})),
        "metaclip_2()": (clip, (right, {**both, **LENGTH, **LOWER, **PADDING, **CROPPED})),
        "metaclip_2.text": (clip.text, ({"texts": TEXTS}, {**words, **LENGTH, **LOWER, **PADDING})),
        "metaclip_2.images": (clip.images, ({"images": PICTURES[0]}, {**pictures, **CROPPED})),
        "jina_clip()": (jina, (right, {**both, "task": NO_NAME, **LENGTH, **PADDING, **SQUEEZED})),
        "jina_clip.text": (jina.text, ({"texts": TEXTS}, {**words, **LENGTH, **PADDING})),
        "jina_clip.images": (jina.images, ({"images": PICTURES[0]}, {**pictures, **SQUEEZED})),
        "clap()": (clap, ({"text": "a", "audio": SOUND}, {**heard, **LENGTH, **LOWER, **PADDING})),
        "clap.text": (clap.text, ({"texts": TEXTS}, {**words, **LENGTH, **LOWER, **PADDING})),
        "clap.audio": (clap.audio, ({"audio": SOUND}, sounds)),
        "clap.windows": (clap.windows, ({"audio": SOUND}, {"audio": [*NO_MEDIA, None, [], SOUND[0]], **HEARING})),
        "glm46v()": (
            glm,
            (
                {"text": "<|image|><|video|>", "images": PICTURES[0], "videos": [film()], "fps": 2},
                {"text": [*NO_TEXTS[1:], []], "images": [*NO_MEDIA, []], "videos": [*NO_MEDIA, []], **glm_words}
                | MOVING,
            ),
        ),
        "glm46v.text": (glm.text, ({"texts": TEXTS}, {"texts": [*NO_TEXTS, []], **glm_words})),
        "glm46v.images": (glm.images, ({"images": PICTURES[0]}, {**pictures, **BUDGETED})),
        "glm46v.videos": (glm.videos, ({"videos": [film()], "fps": 2}, {"videos": [*NO_MEDIA, None, []], **MOVING})),
        "glm46v.chat": (glm.chat, ({"messages": message, "videos": [film()], "fps": 2}, chat)),
        "glm46v.image_sizes": (
            glm.image_sizes,
            ({"messages": message}, {"messages": ANSWERING["prompt"], "images": NO_MEDIA}),
        ),
        "glm46v.count_tokens": (glm.count_tokens, ({"videos": [film()], "fps": 2}, {**seen, **MOVING})),
        "glm46v.decode": (glm.decode, ({"ids": [1]}, {"ids": NO_IDS, "skip_special_tokens": [*NO_FLAG, None]})),
        "glm46v.batch_decode": (
            glm.batch_decode,
            ({"rows": [[1]]}, {"rows": [5, None, "abc", Odd(), [[-1]], [5], ["a"]], "skip_special_tokens": NO_FLAG}),
        ),
        "glm46v.get_number_of_image_patches": (
            glm.get_number_of_image_patches,
            ({"height": 40, "width": 50}, {**sizes, "images_kwargs": options}),
        ),
        "glm46v.get_num_of_video_patches": (
            glm.get_num_of_video_patches,
            ({"num_frames": 4, "height": 40, "width": 50}, frames),
        ),
    }


# Of these the message names what is wrong inside, such as a file, an item or a key
INSIDE = {"images", "videos", "item", "audio", "prompt", "messages", "path_or_repo", "source"}
INSIDE |= {"first", "second", "images_kwargs", "videos_kwargs", "audio_kwargs"}


def described(value: Any) -> str:
    try:
        return f"{value!r}"[:60]
    except ValueError:
        return f"{type(value).__name__} with a huge number"


def refusals(call: Callable[..., Any], case: Case) -> Iterator[str]:
    """What goes wrong: a bad value that is taken, another error than ours, or a message that says too little."""
    right, wrong = case
    for name, values in wrong.items():
        for value in values:
            shown = f"{name}={described(value)}"
            try:
                result = call(**(right | {name: value}))
                if isinstance(result, Iterator):
                    list(result)
            except MlxMmError as error:
                text = str(error)
                said = (name, name.rstrip("s"), type(value).__name__, described(value)[:20])
                if name not in INSIDE and not any(word.lower() in text.lower() for word in said):
                    yield f"{shown}: says neither what nor where: {text}"
                if len(text) > 800 or "\n" in text or not re.search("expected|Leave|Pass|Give|Use", text):
                    yield f"{shown}: {text[:900]!r}"
            except BaseException as error:
                yield f"{shown}: {type(error).__name__}: {str(error)[:200]}"
            else:
                yield f"{shown}: taken"


VERBS = [name for name in mlx_mm.__all__ if name[0].islower()] + ["Conversation"]
METHODS = ["siglip2()", "siglip2.text", "siglip2.images", "metaclip_2()", "metaclip_2.text", "metaclip_2.images"]
METHODS += ["jina_clip()", "jina_clip.text", "jina_clip.images", "clap()", "clap.text", "clap.audio", "clap.windows"]
METHODS += ["glm46v()", "glm46v.text", "glm46v.images", "glm46v.videos", "glm46v.chat", "glm46v.image_sizes"]
METHODS += ["glm46v.count_tokens", "glm46v.decode", "glm46v.batch_decode"]
METHODS += ["glm46v.get_number_of_image_patches", "glm46v.get_num_of_video_patches"]


@pytest.mark.parametrize("name", VERBS)
def test_what_public_functions_refuse(name: str, pairs: dict[str, tuple[Any, Any]], folder: Path) -> None:
    call, case = verbs(pairs, folder)[name]
    assert set(case[1]) == set(inspect.signature(call).parameters)  # every argument is in the table
    call(**case[0])  # which is right but for the one that is changed
    assert not list(refusals(call, case))


@pytest.mark.parametrize("name", METHODS)
def test_what_processors_refuse(name: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    call, case = methods(pairs)[name]
    named = [p.name for p in inspect.signature(call).parameters.values() if p.kind is not p.VAR_KEYWORD]
    assert set(named) - {"on_cut"} <= set(case[1])
    call(**case[0])
    assert not list(refusals(call, case))


def test_the_table_of_processors_is_complete(pairs: dict[str, tuple[Any, Any]]) -> None:
    assert set(METHODS) == set(methods(pairs))
    public = {"text", "images", "audio", "windows", "videos", "chat", "image_sizes", "count_tokens", "decode"}
    for name, (_, processor) in pairs.items():
        for method in public & set(dir(processor)):
            if "classifier" not in name:
                assert f"{name}.{method}" in METHODS


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"text": 5}, "content"),
        ({"text": None, "images": [PICTURES[0]]}, "text is None"),
        ({"text": "a", "images": [5]}, "int"),
        ({"text": "a", "stop": 5}, "A stop string is int"),
        ({"text": "a", "max_tokens": "8"}, "max_tokens is '8'"),
        ({"text": "a", "enable_thinking": "false"}, "enable_thinking is 'false'"),
        ({"text": "a", "progress": "yes"}, "progress is 'yes'"),
    ],
)
def test_what_a_conversation_refuses(
    arguments: dict[str, Any], message: str, pairs: dict[str, tuple[Any, Any]]
) -> None:
    chat = Conversation(*pairs["glm46v"])
    with pytest.raises(InputError, match=message):
        list(chat.ask(**arguments))
    assert chat.messages == []
    assert [piece.text for piece in chat.ask("a", images=None, videos=None, stop=None, max_tokens=1)]


@pytest.mark.parametrize("path", NO_PATH)
def test_what_is_no_file_of_a_cache(path: Any, pairs: dict[str, tuple[Any, Any]]) -> None:
    chat, cache = Conversation(*pairs["glm46v"]), PromptCache()
    for call in (chat.save, chat.load, cache.save, lambda path: PromptCache.load(path, pairs["glm46v"][0])):
        with pytest.raises(InputError, match=r"prompt cache"):
            call(path)


@pytest.mark.parametrize(
    ("model", "processor", "message"),
    [
        ("emoji-siglip2", 0, r"model is 'emoji-siglip2'; .* mlx_mm\.load\('emoji-siglip2'\)"),
        (None, 0, "model is a NoneType"),
        (0, None, "processor is a NoneType"),
        (1, 0, "exchanged"),
        (0, "other", "of the family siglip2 and the processor of clap"),
    ],
)
def test_pairs_that_do_not_belong_together(
    model: Any, processor: Any, message: str, pairs: dict[str, tuple[Any, Any]]
) -> None:
    own = (*pairs["siglip2"],)
    model = own[model] if isinstance(model, int) else model
    processor = own[processor + 1 if processor == 0 and model is not own[1] else 0] if processor == 0 else processor
    processor = pairs["clap"][1] if processor == "other" else processor
    for call in (
        lambda: encode_text(model, processor, "a"),
        lambda: encode_image(model, processor, PICTURES[0]),
        lambda: encode_audio(model, processor, SOUND),
        lambda: classify(model, processor, PICTURES[0], ["a"]),
        lambda: generate(model, processor, "a"),
        lambda: Conversation(model, processor),
    ):
        with pytest.raises(InputError, match=message):
            call()


# --- what is taken, and is the same ------------------------------------------------------------------------------


class Column:
    """A column of a table as pandas has it: items by `tolist`, one axis."""

    ndim = 1

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def tolist(self) -> list[Any]:
        return list(self.items)


class Arrow:
    """A column as Arrow has it, whose items are wrapped when it is iterated over."""

    def __init__(self, items: list[Any]) -> None:
        self.items = items

    def __iter__(self) -> Iterator[Odd]:
        return (Odd() for _ in self.items)

    def to_pylist(self) -> list[Any]:
        return list(self.items)


SEVERAL: dict[str, Callable[[list[Any]], Any]] = {
    "list": list,
    "tuple": tuple,
    "iterator": iter,
    "generator": lambda items: (item for item in items),
    "keys": lambda items: dict.fromkeys(items).keys(),
    "values": lambda items: dict(enumerate(items)).values(),
    "deque": deque,
    "UserList": UserList,
    "objects": lambda items: np.array(items, dtype=object),
    "text array": np.array,
    "column": Column,
    "arrow": Arrow,
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_texts_and_labels_in_anything_that_holds_several(kind: str, pairs: dict[str, tuple[Any, Any]]) -> None:
    pair, several = pairs["siglip2"], SEVERAL[kind]
    right = encode_text(*pair, TEXTS)
    assert np.array_equal(encode_text(*pair, several(TEXTS)), right)
    assert np.array_equal(pair[1].text(several(TEXTS))["input_ids"], pair[1].text(TEXTS)["input_ids"])
    assert strings(several(TEXTS), "Text") == (TEXTS, False)
    templates = ["a {}", "{}"]
    scores = classify(*pair, PICTURES[0], TEXTS, template=templates)
    assert classify(*pair, PICTURES[0], several(TEXTS), template=several(templates)) == scores


@pytest.mark.parametrize("kind", SEVERAL)
def test_pictures_in_anything_that_holds_several(kind: str, pairs: dict[str, tuple[Any, Any]], tmp_path: Path) -> None:
    pair, several = pairs["siglip2"], SEVERAL[kind]
    paths = [str(tmp_path / f"{i}.png") for i in range(3)]
    for path, picture in zip(paths, PICTURES, strict=True):
        Image.fromarray(picture).save(path)
    right = encode_image(*pair, paths)
    assert np.array_equal(encode_image(*pair, several(paths)), right)
    assert np.array_equal(pair[1].images(several(paths))["pixel_values"], pair[1].images(paths)["pixel_values"])
    assert classify(*pair, several(paths), TEXTS) == classify(*pair, paths, TEXTS)
    assert listed(several(paths)) == paths
    glm = pairs["glm46v"]
    if kind in ("iterator", "column"):
        answer = generate(*glm, "What?", images=paths, videos=[film()], fps=2, max_tokens=2)
        films = (film() for _ in range(1))
        assert generate(*glm, "What?", images=several(paths), videos=films, fps=2, max_tokens=2).raw == answer.raw


def test_an_array_of_several_pictures_or_videos(pairs: dict[str, tuple[Any, Any]]) -> None:
    pair, glm = pairs["siglip2"], pairs["glm46v"]
    assert np.array_equal(encode_image(*pair, PICTURES), encode_image(*pair, list(PICTURES)))
    assert encode_image(*pair, PICTURES[:1]).shape == encode_image(*pair, [PICTURES[0]]).shape
    assert classify(*pair, PICTURES, TEXTS) == classify(*pair, list(PICTURES), TEXTS)
    right = generate(*glm, "What?", images=list(PICTURES), videos=[PICTURES, PICTURES], fps=2, max_tokens=3)
    films = np.stack([PICTURES, PICTURES])
    assert generate(*glm, "What?", images=PICTURES, videos=films, fps=2, max_tokens=3).raw == right.raw
    assert glm[1].count_tokens(images=PICTURES) == glm[1].count_tokens(images=list(PICTURES))
    assert len(glm[1].videos(films, fps=2)["video_grid_thw"]) == 2
    assert len(glm[1].videos(PICTURES, fps=2)["video_grid_thw"]) == 1  # which is the frames of one


def test_sounds_in_columns(pairs: dict[str, tuple[Any, Any]], tmp_path: Path) -> None:
    soundfile = pytest.importorskip("soundfile")
    paths = [str(tmp_path / f"{i}.wav") for i in range(2)]
    for i, path in enumerate(paths):
        soundfile.write(path, SOUND[0] * (0.5 + i / 4), SOUND[1])
    right = encode_audio(*pairs["clap"], paths)
    for kind in ("column", "arrow", "keys", "text array", "objects"):
        assert np.array_equal(encode_audio(*pairs["clap"], SEVERAL[kind](paths)), right)


def test_one_text_is_one_text(pairs: dict[str, tuple[Any, Any]]) -> None:
    right = encode_text(*pairs["siglip2"], "a cat")
    for text in (np.str_("a cat"), np.array("a cat"), np.array(["a cat"])[0]):
        assert np.array_equal(encode_text(*pairs["siglip2"], text), right)
    assert encode_text(*pairs["siglip2"], []).shape[0] == 0
    assert encode_text(*pairs["siglip2"], np.array([], dtype=str)).shape[0] == 0


def test_numbers_and_switches_of_numpy(pairs: dict[str, tuple[Any, Any]]) -> None:
    texts: dict[str, Any] = {"dim": np.int32(5), "normalize": np.False_, "max_length": np.int64(9)}
    texts |= {"truncate": np.True_, "batch_size": np.uint8(2), "progress": np.False_}
    plain = {"dim": 5, "normalize": False, "max_length": 9, "truncate": True, "batch_size": 2}
    assert np.array_equal(
        encode_text(*pairs["jina_clip"], TEXTS, **texts), encode_text(*pairs["jina_clip"], TEXTS, **plain)
    )
    images: dict[str, Any] = {"max_num_patches": np.int16(16), "dim": np.uint16(3)}
    right = encode_image(*pairs["siglip2"], PICTURES, max_num_patches=16, dim=3)
    assert np.array_equal(encode_image(*pairs["siglip2"], PICTURES, **images), right)
    sounds = encode_audio(*pairs["clap"], SOUND, truncation="rand_trunc", seed=3)
    assert np.array_equal(encode_audio(*pairs["clap"], SOUND, truncation="rand_trunc", seed=np.uint32(3)), sounds)
    glm: dict[str, Any] = {"fps": np.float64(2), "max_pixels": np.int64(4000), "temperature": np.float32(1), "seed": 1}
    right = generate(
        *pairs["glm46v"], "q", videos=[film()], fps=2, max_pixels=4000, temperature=1.0, seed=1, max_tokens=3
    )
    assert generate(*pairs["glm46v"], "q", videos=[film()], max_tokens=np.int8(3), **glm).raw == right.raw


def test_none_is_absent(pairs: dict[str, tuple[Any, Any]]) -> None:
    options: dict[str, Any] = dict.fromkeys(
        (
            "images",
            "videos",
            "stop",
            "tools",
            "cache",
            "seed",
            "temperature",
            "fps",
            "max_pixels",
            "kv_bits",
            "progress",
        )
    )
    assert (
        generate(*pairs["glm46v"], "q", max_tokens=3, **options).raw
        == generate(*pairs["glm46v"], "q", max_tokens=3).raw
    )
    nothing: dict[str, Any] = dict.fromkeys(("dim", "task", "max_length", "progress"))
    assert np.array_equal(encode_text(*pairs["jina_clip"], TEXTS, **nothing), encode_text(*pairs["jina_clip"], TEXTS))
    heard = encode_audio(*pairs["clap"], SOUND)
    assert np.array_equal(encode_audio(*pairs["clap"], SOUND, truncation=None, on_error=None), heard)
    scores = classify(*pairs["siglip2-classifier"], PICTURES[0])
    assert classify(*pairs["siglip2-classifier"], PICTURES[0], None, template=None) == scores
    processor = pairs["glm46v"][1]
    message = [{"role": "user", "content": "a"}]
    right = processor.chat(message)["input_ids"]
    assert np.array_equal(processor.chat(message, images=None, videos=None)["input_ids"], right)
    assert processor.image_sizes(message, images=None) == []
    assert processor.count_tokens(images=None, videos=None) == {"images": [], "videos": []}


def test_boxes_of_a_picture_from_an_iterator(pairs: dict[str, tuple[Any, Any]]) -> None:
    """It is read once and needed twice."""
    model, processor = pairs["glm46v"]
    usual = model.request
    try:
        script(model, processor, "<think></think><|begin_of_box|>[[0,0,500,1000]]<|end_of_box|>")
        answer = generate(model, processor, "Where?", images=iter([PICTURES[0]]))
    finally:
        model.request = usual
    assert answer.pixel_boxes == [[0, 0, 25, 40]]


def test_a_huge_batch_takes_no_memory(pairs: dict[str, tuple[Any, Any]]) -> None:
    right = encode_image(*pairs["siglip2"], PICTURES)
    assert np.array_equal(encode_image(*pairs["siglip2"], PICTURES, batch_size=10**9), right)
    assert np.array_equal(
        encode_text(*pairs["siglip2"], TEXTS, batch_size=10**9), encode_text(*pairs["siglip2"], TEXTS)
    )
    heard = encode_audio(*pairs["clap"], [SOUND, SOUND], batch_size=10**9)
    assert np.array_equal(heard, encode_audio(*pairs["clap"], [SOUND, SOUND]))


@pytest.mark.parametrize("temperature", [1e-320, 1e-30, 1e-6])
def test_a_temperature_near_zero_takes_the_likeliest(temperature: float, pairs: dict[str, tuple[Any, Any]]) -> None:
    right = generate(*pairs["glm46v"], "q", max_tokens=5, temperature=0).raw
    assert generate(*pairs["glm46v"], "q", max_tokens=5, temperature=temperature, seed=1).raw == right
