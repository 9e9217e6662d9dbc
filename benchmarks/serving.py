"""A server's engine under load: tokens a second of several streams, and what stays after many have come and gone.

    python benchmarks/serving.py streams [--model emoji-glm4v] [--seconds 4] [--turns 3]
    python benchmarks/serving.py arrivals [--count 1000]
    python benchmarks/serving.py clients URL [--clients 40] [--seconds 60] [--pid PID] [--key KEY]

streams: each asks about one picture after another, `steady`: each writes one long answer, by 1, 2, 4 and 8 at once, in
turns. arrivals: at random, every third of which leaves at a random moment; each answer is held against the one alone.
clients: of a server that runs, over HTTP, every seventh of whose questions is left in the middle.
"""

from __future__ import annotations

import argparse
import base64
import dataclasses
import gc
import http.client
import json
import os
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlx.core as mx

from mlx_mm import generate, load
from mlx_mm.server.engine import Engine, Limits, Piece

PICTURES = sorted(Path(str(resources.files("mlx_mm") / "bundled" / "pictures")).glob("*.png"))
QUESTIONS = ("What is this?", "What do you see in the picture?", "Which colour has it?", "Where is it?", "Hello.")
STREAMS = (1, 2, 4, 8)
PARTS = 5  # of the arrivals, after each of which memory is read
LONG = 160  # tokens of an answer that goes on
GREEDY: dict[str, Any] = {"temperature": 0}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    kinds = parser.add_subparsers(dest="kind", required=True)
    streams = kinds.add_parser("streams")
    streams.add_argument("--seconds", type=float, default=4.0, help="of each run (default: 4)")
    streams.add_argument("--turns", type=int, default=3, help="of which the middle one counts (default: 3)")
    arrivals = kinds.add_parser("arrivals")
    arrivals.add_argument("--count", type=int, default=1000)
    arrivals.add_argument("--seed", type=int, default=1)
    for one in (streams, arrivals):
        one.add_argument("--model", default="emoji-glm4v", help="(default: emoji-glm4v)")
    clients = kinds.add_parser("clients")
    clients.add_argument("url")
    clients.add_argument("--clients", type=int, default=40)
    clients.add_argument("--seconds", type=float, default=60.0)
    clients.add_argument("--model", default="emoji-glm4v")
    clients.add_argument("--pid", type=int, help="of the server, to see its memory")
    clients.add_argument("--key")
    arguments = parser.parse_args()
    {"streams": run_streams, "arrivals": run_arrivals, "clients": run_clients}[arguments.kind](arguments)


def question(number: int) -> list[dict[str, Any]]:
    """About a picture, or none; no two of the first hundreds are alike."""
    text = QUESTIONS[number % len(QUESTIONS)]
    picture = {"type": "image", "image": str(PICTURES[number % len(PICTURES)])}
    return [{"role": "user", "content": [picture, {"type": "text", "text": text}] if number % 5 != 4 else text}]


@contextmanager
def serving(model: str, **limits: Any) -> Iterator[Engine]:
    engine = Engine([model], Limits(**limits))
    engine.start()
    try:
        engine.chat(name_of(model), question(0), max_tokens=4, **GREEDY).done()
        yield engine
    finally:
        engine.close()


def name_of(model: str) -> str:
    return Path(model).name if Path(model).is_dir() else model


# --- tokens a second


def run_streams(arguments: argparse.Namespace) -> None:
    name = name_of(arguments.model)
    works: dict[str, Callable[[Engine, int], float]] = {
        "questions": lambda engine, count: asking(engine, name, count, arguments.seconds),
        "steady": lambda engine, count: steady(engine, name, count),
    }
    found: dict[str, dict[int, list[float]]] = {work: {count: [] for count in STREAMS} for work in works}
    with serving(arguments.model) as engine:
        for turn in range(arguments.turns + 1):
            for work, run in works.items():
                for count in STREAMS:
                    speed = run(engine, count)
                    found[work][count] += [speed] if turn else []  # the first one warms up
    print(f"load {os.getloadavg()[0]:.1f}")
    print("| work | " + " | ".join(f"{count} streams" for count in STREAMS) + " | 8 against 1 |")
    for work, speeds in found.items():
        middle = {count: statistics.median(some) for count, some in speeds.items()}
        cells = [f"{middle[count]:.0f} ({min(speeds[count]):.0f}-{max(speeds[count]):.0f})" for count in STREAMS]
        print(f"| {work} | {' | '.join(cells)} | {middle[8] / middle[1]:.2f} |")


def asking(engine: Engine, model: str, streams: int, seconds: float) -> float:
    """Tokens a second of streams that ask one question after another."""
    end, begin = time.perf_counter() + seconds, engine.stats()["generated_tokens_total"]
    numbers = iter(range(10**6))

    def ask() -> None:
        while time.perf_counter() < end:
            engine.chat(model, question(next(numbers)), max_tokens=64, **GREEDY).done()

    start = time.perf_counter()
    together([ask] * streams)
    return (engine.stats()["generated_tokens_total"] - begin) / (time.perf_counter() - start)


def steady(engine: Engine, model: str, streams: int) -> float:
    """Tokens a second of answers that do not end, between the first token of the last and the first end."""
    processor = engine._models[model].load().processor
    usual = processor.defaults
    processor.defaults = dataclasses.replace(usual, stop_ids=frozenset())  # as no option of ours has it
    marks: list[tuple[float, int]] = []

    def ask(number: int) -> None:
        ticket = engine.chat(model, question(number), max_tokens=LONG, **GREEDY)
        ticket.on_event(lambda event: marks.append((time.perf_counter(), number)) if isinstance(event, Piece) else None)

    for number in range(streams):
        ask(number)
    while engine.stats()["running"] or engine.stats()["waiting"]:
        time.sleep(0.01)
    processor.defaults = usual
    begin = max(min(at for at, number in marks if number == own) for own in range(streams))
    end = min(max(at for at, number in marks if number == own) for own in range(streams))
    return sum(begin < at <= end for at, _ in marks) / (end - begin)


def together(calls: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


# --- what stays


def run_arrivals(arguments: argparse.Namespace) -> None:
    name, draw = name_of(arguments.model), random.Random(arguments.seed)
    loaded = load(arguments.model)
    asked = [question(number) for number in range(40)]
    want = [generate(*loaded, messages, max_tokens=24, **GREEDY).raw for messages in asked]
    del loaded
    readings, answered, left = [], 0, 0
    with serving(arguments.model, prefill=64) as engine:
        start = time.perf_counter()
        for count in (200, *[arguments.count // PARTS] * PARTS):
            done, gone = come_and_go(engine, name, asked, want, count, draw)
            answered, left = answered + done, left + gone
            readings.append(held(engine, name))
        seconds, stats = time.perf_counter() - start, engine.stats()
    print(f"{answered} answered as alone, {left} left, {seconds:.0f} s, load {os.getloadavg()[0]:.1f}")
    for what, *values in zip(("MLX bytes without caches", "RSS bytes", "threads"), *readings, strict=True):
        change = 100 * (values[-1] / values[0] - 1)
        print(f"{what}: {' '.join(f'{value:,}' for value in values)} ({change:+.2f} %)")
    print({name: value for name, value in stats.items() if value})


def come_and_go(
    engine: Engine, model: str, asked: list[Any], want: list[str], count: int, draw: random.Random
) -> tuple[int, int]:
    """How many were answered, and how many left."""
    answered = left = 0
    running: list[tuple[int, Any, bool]] = []
    for number in range(count):
        which = draw.randrange(len(asked))
        running.append((which, engine.chat(model, asked[which], max_tokens=24, **GREEDY), draw.random() < 1 / 3))
        while len(running) > (draw.randrange(1, 14) if number < count - 1 else 0):
            which, ticket, leaves = running.pop(draw.randrange(len(running)))
            if leaves:
                time.sleep(draw.random() * 0.05)
                ticket.cancel()
                left += 1
            else:
                answered += 1
                found = ticket.done(120).result.raw
                assert found == want[which], (asked[which], found, want[which])
    return answered, left


def held(engine: Engine, model: str) -> tuple[int, int, int]:
    """Of an engine in which nothing runs, without what it keeps for later."""
    while (stats := engine.stats())["running"] or stats["waiting"]:
        time.sleep(0.01)
    time.sleep(0.1)  # in which its last turn ends
    engine._answers.forget(model)
    gc.collect()
    return int(mx.get_active_memory()), rss(os.getpid()), threading.active_count()


def rss(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) << 10
    return 0


# --- over HTTP


def data_uri(picture: Path) -> str:
    return f"data:image/png;base64,{base64.b64encode(picture.read_bytes()).decode()}"


class Seen:
    """What clients saw. first: seconds to the first token, whole: to the last."""

    def __init__(self) -> None:
        self.statuses: dict[int, int] = {}
        self.first: list[float] = []
        self.whole: list[float] = []
        self.left = self.torn = self.tokens = 0


def run_clients(arguments: argparse.Namespace) -> None:
    seen, lock, end = Seen(), threading.Lock(), time.perf_counter() + arguments.seconds
    memory = []

    def watch() -> None:
        while time.perf_counter() < end:
            memory.append(rss(arguments.pid) if arguments.pid else 0)
            time.sleep(1)

    def client(number: int) -> None:
        draw = random.Random(number)
        while time.perf_counter() < end:
            ask_over_http(arguments, draw, seen, lock)

    together([watch, *[lambda number=number: client(number) for number in range(arguments.clients)]])
    print(f"statuses {seen.statuses}, left {seen.left}, torn {seen.torn}, load {os.getloadavg()[0]:.1f}")
    print(f"{seen.tokens / arguments.seconds:.0f} tokens/s, {len(seen.whole) / arguments.seconds:.1f} answers/s")
    for what, times in (("first token", seen.first), ("whole answer", seen.whole)):
        cuts = statistics.quantiles(times, n=20)
        print(f"{what}: p50 {statistics.median(times):.2f} s, p95 {cuts[18]:.2f} s, most {max(times):.2f} s")
    if arguments.pid:
        tenth = max(1, len(memory) // 6)
        first, last = statistics.mean(memory[tenth : 2 * tenth]), statistics.mean(memory[-tenth:])
        print(
            f"RSS: {first:,.0f} bytes in the second sixth, {last:,.0f} in the last ({100 * (last / first - 1):+.1f} %)"
        )


def ask_over_http(arguments: argparse.Namespace, draw: random.Random, seen: Seen, lock: threading.Lock) -> None:
    """One question, streamed; every seventh is left after a random number of lines."""
    address = urlsplit(arguments.url)
    number = draw.randrange(10**6)
    text = QUESTIONS[number % len(QUESTIONS)]
    picture = {"type": "image_url", "image_url": {"url": data_uri(PICTURES[number % len(PICTURES)])}}
    content = [picture, {"type": "text", "text": text}] if number % 5 != 4 else text
    body = {
        "model": arguments.model,
        "messages": [{"role": "user", "content": content}],
        "stream": True,
        "max_tokens": 64,
        "temperature": 0,
    }
    leaves = draw.randrange(6) if draw.randrange(7) == 0 else None
    headers = {"Content-Type": "application/json"}
    if arguments.key:
        headers["Authorization"] = f"Bearer {arguments.key}"
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
    start, first, tokens, status, whole = time.perf_counter(), None, 0, 0, False
    try:
        connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        response = connection.getresponse()
        status = response.status
        for count, line in enumerate(response):
            if leaves is not None and count >= leaves:
                break
            if line.startswith(b"data: {") and (delta := json.loads(line[6:])["choices"][0]["delta"]).keys() & {
                "content",
                "reasoning_content",
            }:
                tokens += any(delta.values())
                first = time.perf_counter() if first is None and any(delta.values()) else first
            whole = whole or line.startswith(b"data: [DONE]")
    except (OSError, http.client.HTTPException):
        pass
    finally:
        connection.close()
    with lock:
        seen.statuses[status] = seen.statuses.get(status, 0) + 1
        seen.tokens += tokens
        if leaves is not None:
            seen.left += 1
        elif status == 200 and not whole:
            seen.torn += 1
        if first is not None:
            seen.first.append(first - start)
        if whole:
            seen.whole.append(time.perf_counter() - start)
    if status == 429:
        time.sleep(draw.random())


if __name__ == "__main__":
    main()
