"""Threads: whichever calls, the same bits, no thread of the system more, and a process that ends well."""

from __future__ import annotations

import asyncio
import os
import re
import signal
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
from comparing import LONG
from PIL import Image
from recipes import RECIPES

import mlx_mm
from mlx_mm import Conversation, PromptCache, convert, generate, load, stream_generate
from mlx_mm.backend.streams import computing
from mlx_mm.errors import InputError

pytestmark = [*LONG]

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


def test_every_public_function_from_any_thread_at_once(calls: dict[str, Callable[[], Any]], tmp_path: Path) -> None:
    hearing = RECIPES["clap"].write(tmp_path / "clap")
    answering = load(RECIPES["glm4v"].write(tmp_path / "glm"))
    encoder, processor = load(hearing)
    batch = processor.text(["a cat", "a dog"])
    numbers = iter(range(99))

    def converted() -> bytes:
        return (convert(hearing, tmp_path / f"out{next(numbers)}").out / "model.safetensors").read_bytes()

    same = convert(hearing, tmp_path / "same", bits=8).out
    everything = calls | {
        "load": lambda: mlx_mm.encode_text(*load(hearing), "a").tobytes(),
        "lazy": lambda: mlx_mm.encode_text(*load(hearing, lazy=True), "a").tobytes(),
        "stream": lambda: [piece.raw for piece in stream_generate(*answering, "hello", max_tokens=4)],
        "ask": lambda: [piece.raw for piece in Conversation(*answering).ask("hello", max_tokens=4)],
        "convert": converted,
        "evaluate": lambda: mlx_mm.compare(hearing, same).vectors,
        "to_mlx": lambda: {key: np.array(value).tolist() for key, value in mlx_mm.to_mlx(batch).items()},
        "features": lambda: np.array(encoder.get_text_features(**mlx_mm.to_mlx(batch))).tobytes(),
    }
    right = {name: call() for name, call in everything.items()}
    with ThreadPoolExecutor(8) as pool:
        futures = {name: pool.submit(call) for name, call in everything.items()}
        assert {name: future.result() for name, future in futures.items()} == right

    async def gathered() -> list[Any]:
        return await asyncio.gather(*[asyncio.to_thread(call) for call in calls.values()])

    assert asyncio.run(gathered()) == [right[name] for name in calls]


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


@pytest.mark.parametrize(
    "streaming", [stream_generate, lambda *model, **options: Conversation(*model[:2]).ask("hello", **options)]
)
def test_threads_that_take_pieces_at_the_same_time(streaming: Callable[..., Any], tmp_path: Path) -> None:
    loaded = load(RECIPES["glm4v"].write(tmp_path / "glm"))
    right = generate(*loaded, "hello", max_tokens=24).raw
    stream = streaming(*loaded, "hello", max_tokens=24)
    with ThreadPoolExecutor(4) as pool:
        taken = [future.result() for future in [pool.submit(list, stream) for _ in range(4)]]
    pieces = sorted((piece for part in taken for piece in part), key=lambda piece: piece.generation_tokens)
    assert "".join(piece.raw for piece in pieces) == right
    stream = streaming(*loaded, "hello", max_tokens=400)
    next(stream)
    with ThreadPoolExecutor(2) as pool:
        taker = pool.submit(list, stream)
        pool.submit(stream.close).result()
        assert len(taker.result()) < 400
    with pytest.raises(KeyError):
        streaming(*loaded, "hello", max_tokens=2).throw(KeyError("a"))
    assert generate(*loaded, "hello", max_tokens=24).raw == right


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


STATUS = """
import functools, os, sys, threading, warnings
from pathlib import Path
sys.path.insert(0, {tests!r})
import mlx.core as mx

compiled, compile_now = set(), mx.compile

def compile(function=None, *args, **options):
    if function is None:
        return functools.partial(compile, *args, **options)
    made = compile_now(function, *args, **options)
    def call(*args, **options):
        compiled.add(threading.current_thread().name)
        return made(*args, **options)
    return call

mx.compile = compile
import mlx_mm
from mlx_mm.errors import InputError

def use():
    model, processor = mlx_mm.load("emoji-siglip2")
    mlx_mm.encode_text(model, processor, ["a", "b"])
    mlx_mm.classify(model, processor, Path({picture!r}), ["a", "b"])
    glm, chat = mlx_mm.load(Path({folder!r}))
    mlx_mm.generate(glm, chat, "hello", max_tokens=2, temperature=1.0, top_k=5)

threads = [threading.Thread(target=use) for _ in range(3)]
[thread.start() for thread in threads]
[thread.join() for thread in threads]
print("compiled", sorted(compiled), flush=True)
warnings.simplefilter("ignore")
child = os.fork()
if child == 0:
    try:
        mlx_mm.load("emoji-siglip2")
    except InputError as error:
        os._exit(7 if "spawn" in str(error) else 8)
    os._exit(9)
print("forked", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
child = os.fork()
if child:
    print("left", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def run_script(script: str) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_compiled_functions_run_in_workers_and_a_fork_says_so(tmp_path: Path) -> None:
    glm, picture = RECIPES["glm4v"].write(tmp_path / "glm"), tmp_path / "a.png"
    Image.fromarray(PICTURES[0]).save(picture)
    script = STATUS.format(tests=str(Path(__file__).parent), folder=str(glm), picture=str(picture))
    with run_script(script) as process:
        said, error = process.communicate(timeout=120)
    lines = said.splitlines()
    assert re.fullmatch(r"compiled \[('mlx_mm \d+'(, )?)+\]", lines[0]), error
    assert lines[1:] == ["forked 7", "left 0"], error
    assert (process.returncode, error) == (0, "")


USE = """
import sys, threading, time
import mlx_mm
model, processor = mlx_mm.load("emoji-siglip2")

def use():
    mlx_mm.load("emoji-siglip2", lazy=True)
    for _ in range(3):
        mlx_mm.encode_text(model, processor, ["a", "b"])
"""
ENDS = [
    "[thread.start() or thread.join() for thread in [threading.Thread(target=use) for _ in range(8)]]",
    "[threading.Thread(target=use).start() for _ in range(8)]",  # they outlive the main thread
    """
def on():
    while True:
        use()
[threading.Thread(target=on, daemon=True).start() for _ in range(4)]
time.sleep(0.5)
""",
]


def test_processes_end_well_while_threads_do() -> None:
    """`benchmarks/threads.py` has more of them."""
    processes = [run_script(USE + end) for end in ENDS]
    for process in processes:
        with process:
            said, error = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, ""), error
    assert error == ""  # of the last one, whose threads are stopped in the middle


def test_waiting_for_a_turn_can_be_interrupted(calls: dict[str, Callable[[], Any]]) -> None:
    right, holds, done = calls["text"](), threading.Event(), threading.Event()

    def hold() -> None:
        with computing():
            holds.set()
            done.wait(60)

    usual = signal.signal(signal.SIGINT, signal.default_int_handler)
    holder = threading.Thread(target=hold)
    holder.start()
    holds.wait(60)
    interruption = threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT])
    interruption.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            calls["text"]()
        assert not done.is_set()
    finally:
        signal.signal(signal.SIGINT, usual)
        done.set()
        holder.join()
        interruption.join()
    assert calls["text"]() == right


def test_converting_gives_others_their_turn(calls: dict[str, Callable[[], Any]], tmp_path: Path) -> None:
    right, found = calls["text"](), []

    def advance(done: int, total: int | None) -> None:
        if len(found) < 3:
            other = threading.Thread(target=lambda: found.append(calls["text"]()), daemon=True)
            other.start()
            other.join(60)

    convert(RECIPES["siglip2"].write(tmp_path / "source"), tmp_path / "out", progress=advance)
    assert found == [right] * 3


def test_new_threads_draw_different_answers(tmp_path: Path) -> None:
    """MLX's own generators all begin alike, one in each thread."""
    model, processor = load(RECIPES["glm4v"].write(tmp_path / "glm"))

    def draw() -> str:
        return generate(model, processor, "hello", max_tokens=8, temperature=1.5).raw

    assert len({in_thread(draw) for _ in range(4)}) == 4


def test_a_prompt_cache_serves_one_answer_at_a_time(tmp_path: Path) -> None:
    model, processor = load(RECIPES["glm4v"].write(tmp_path / "glm"))
    cache = PromptCache()

    def say(prompt: str, **options: Any) -> str:
        return generate(model, processor, prompt, max_tokens=6, **options).raw

    right = say("hello")
    first = stream_generate(model, processor, "hello", max_tokens=6, cache=cache)
    text = next(first).raw
    for use in (lambda: say("other", cache=cache), lambda: cache.save(tmp_path / "a.safetensors")):
        for run in (use, lambda use=use: in_thread(use)):
            with pytest.raises(InputError, match="in use by an answer that is not complete"):
                run()
    assert text + "".join(piece.raw for piece in first) == right
    assert say("hello", cache=cache) == right
    left = stream_generate(model, processor, "hello", max_tokens=6, cache=cache)
    next(left)
    in_thread(left.close)
    assert say("hello", cache=cache) == right
    refused = []

    def ask() -> None:
        for _ in range(4):
            try:
                assert say("hello", cache=cache) == right
            except InputError:
                refused.append(1)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(ask) for _ in range(4)]:
            future.result()
    assert len(refused) < 16
    assert say("hello", cache=cache) == right


STARTS = re.compile(r"\b(Thread|ThreadPoolExecutor|Timer|start_new_thread)\(|\bmultiprocessing\b")


def test_threads_are_started_where_they_are_known() -> None:
    """One that owns models, some that read ahead, one that is told of changes to folders, one that watches other ranks;
    a server's engine, what prepares for it, what waits for its end and what asks servers; and some that compute with
    NumPy alone, for a layer's inputs. Subclasses of `threading.local`, which are no threads, are named so."""
    package = Path(mlx_mm.__file__).parent
    found = {
        path.relative_to(package).as_posix()
        for path in package.rglob("*.py")
        if any(
            STARTS.search(line.split('"')[0]) and "local)" not in line for line in path.read_text("utf-8").splitlines()
        )
    }
    assert found == {
        "backend/streams.py",
        "backend/watchdog.py",
        "cli/serve.py",
        "processing/read_ahead.py",
        "quantize/inputs.py",
        "search/servers.py",
        "search/watching.py",
        "server/engine.py",
    }


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
