"""Threads: whichever calls, the same bits, no thread of the system more, and a process that ends well."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipes import RECIPES

import mlx_mm
from mlx_mm import Conversation, generate, load, stream_generate
from mlx_mm.errors import InputError

PICTURES = [(np.random.default_rng(i).random((40, 40, 3)) * 255).astype(np.uint8) for i in range(3)]
SOUNDS = [(np.random.default_rng(i).standard_normal(9600).astype(np.float32), 48000) for i in range(2)]
FAMILIES = ["siglip", "siglip2", "metaclip_2", "clip", "clap", "jina_clip", "glm4v", "siglip2-classifier"]
linux = pytest.mark.skipif(sys.platform != "linux", reason="counts in /proc")


def os_threads() -> int:
    return len(os.listdir("/proc/self/task"))


def in_thread(work: Callable[[], Any]) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result()


@pytest.fixture(scope="module")
def calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Callable[[], Any]]:
    folder = tmp_path_factory.mktemp("threads")
    encoder, processor = load("emoji-siglip2")
    clap, hearing = load(RECIPES["clap"].write(folder / "clap"))
    glm, chat = load(RECIPES["glm4v"].write(folder / "glm"))
    chosen: Any = {"temperature": 1.0, "top_k": 20, "top_p": 0.9, "min_p": 0.01, "seed": 3, "repetition_penalty": 1.1}
    return {
        "text": lambda: mlx_mm.encode_text(encoder, processor, ["a cat", "a dog on a mat"]).tobytes(),
        "one text": lambda: mlx_mm.encode_text(encoder, processor, "a cat").tobytes(),
        "image": lambda: mlx_mm.encode_image(encoder, processor, PICTURES).tobytes(),
        "audio": lambda: mlx_mm.encode_audio(clap, hearing, SOUNDS).tobytes(),
        "classify": lambda: mlx_mm.classify(encoder, processor, PICTURES[0], ["a cat", "a dog"]),
        "generate": lambda: generate(glm, chat, "hello", max_tokens=4).raw,
        "sample": lambda: generate(glm, chat, "hello", max_tokens=4, **chosen).raw,
    }


@linux
def test_os_threads_stay_as_many(calls: dict[str, Callable[[], Any]]) -> None:
    right = {name: call() for name, call in calls.items()}
    in_thread(lambda: [call() for call in calls.values()])
    before, wrong = os_threads(), []

    def run(times: int) -> None:
        for _ in range(times):
            wrong.extend(name for name, call in calls.items() if call() != right[name])

    run(5)
    with ThreadPoolExecutor(16) as pool:
        for future in [pool.submit(run, 1) for _ in range(16)]:
            future.result()
    assert wrong == []
    for _ in range(100):  # those that have ended are counted until the system has dropped them
        if os_threads() <= before + 2:
            break
        time.sleep(0.05)
    assert os_threads() <= before + 2  # one that has ended may still be counted


def test_pieces_may_be_taken_and_closed_by_any_thread(tmp_path: Path) -> None:
    model, processor = load(RECIPES["glm4v"].write(tmp_path / "glm"))
    right = generate(model, processor, "hello", max_tokens=12).raw
    streams = [stream_generate(model, processor, "hello", max_tokens=12) for _ in range(3)]
    found = [""] * 3
    with ThreadPoolExecutor(4) as pool:
        for _ in range(13):
            for number, stream in enumerate(streams):
                found[number] += pool.submit(next, stream).result().raw
    assert found == [right] * 3
    left = stream_generate(model, processor, "hello", max_tokens=12)
    in_thread(lambda: next(left))
    in_thread(left.close)
    assert list(left) == []


@pytest.mark.parametrize("family", FAMILIES)
def test_loaded_lazily_in_one_thread_and_used_in_others(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    folder = tiny_checkpoint(family)

    def use(model: Any, processor: Any) -> list[bytes]:
        if model.kind == "generator":
            return [generate(model, processor, "hello", images=PICTURES[:1], max_tokens=3).raw.encode()]
        if model.kind == "classifier":
            return [repr(mlx_mm.classify(model, processor, PICTURES[0])).encode()]
        inputs = {"text": ["a cat", "a dog"], "image": PICTURES, "audio": SOUNDS}
        return [
            getattr(mlx_mm, f"encode_{kind}")(model, processor, inputs[kind]).tobytes() for kind in model.modalities
        ]

    right = use(*load(folder))
    lazy = in_thread(lambda: load(folder, lazy=True))
    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(use, *lazy) for _ in range(3)]
        assert [future.result() for future in futures] == [right] * 3


@pytest.mark.parametrize("family", ["siglip2", "clap", "glm4v"])
def test_weights_that_the_caller_changed(family: str, tiny_checkpoint: Callable[..., Path]) -> None:
    """What is lazy on the caller's own stream is finished by the caller."""
    model, processor = load(tiny_checkpoint(family))

    def use() -> object:
        if model.kind == "generator":
            return generate(model, processor, "hello", images=PICTURES[:1], max_tokens=3).raw
        item = SOUNDS[0] if "audio" in model.modalities else PICTURES[0]
        return mlx_mm.encode_text(model, processor, "a").tobytes(), mlx_mm.classify(
            model, processor, item, ["a", "b"], template="{}"
        )

    right = use()
    model.apply(lambda array: array * 1)
    assert use() == right


SCRIPT = """
import sys, threading
sys.path.insert(0, {tests!r})
import mlx_mm
from mlx_mm.errors import InputError
from pathlib import Path

glm, chat = mlx_mm.load(Path({folder!r}))
model, processor = mlx_mm.load("emoji-siglip2")

def use():
    mlx_mm.encode_text(model, processor, ["a", "b"])
    mlx_mm.generate(glm, chat, "hello", max_tokens=2, temperature=1.0, top_k=5)

threads = [threading.Thread(target=use) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
{rest}
"""
FORK = """
import os, warnings
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    try:
        mlx_mm.encode_text(model, processor, "a")
    except InputError as error:
        os._exit(7 if "spawn" in str(error) else 8)
    os._exit(9)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_script(folder: Path, rest: str) -> subprocess.CompletedProcess[str]:
    script = SCRIPT.format(tests=str(Path(__file__).parent), folder=str(folder), rest=rest)
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_says_so(tmp_path: Path) -> None:
    done = run_script(RECIPES["glm4v"].write(tmp_path / "glm"), FORK)
    assert done.stdout == "7\n", done.stderr


def test_a_conversation_is_for_one_thread_at_a_time(tmp_path: Path) -> None:
    model, processor = load(RECIPES["glm4v"].write(tmp_path / "glm"))
    conversation = Conversation(model, processor)
    first = conversation.ask("hello", max_tokens=8)
    next(first)
    list(in_thread(lambda: conversation.ask("and", max_tokens=2)))
    with pytest.raises(InputError, match="Another thread has asked"):
        next(first)
    refused: list[str] = []

    def ask() -> None:
        try:
            for _ in range(4):
                list(conversation.ask("again", max_tokens=4))
        except InputError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all("nother thread" in text for text in refused)
    conversation.settle()
    assert list(conversation.ask("hello", max_tokens=2))[-1].finish_reason == "length"


@pytest.mark.parametrize("ending", ["png", "jpg", "gif", "webp"])
def test_one_pillow_image_twice_in_a_list(ending: str, tmp_path: Path) -> None:
    model, processor = load("emoji-siglip2")
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.kron(PICTURES[0], np.ones((12, 12, 1), np.uint8))).save(path)
    right = mlx_mm.encode_image(model, processor, [path] * 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(3):
            with Image.open(path) as image:
                assert np.array_equal(mlx_mm.encode_image(model, processor, [image] * 4), right)
