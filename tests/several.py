"""Several processes at once, as mlx.launch starts them, on this machine."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

HERE = Path(__file__).parent


def environment(folder: Path, rank: int, count: int) -> dict[str, str]:
    """Of one of `count` processes that find each other by a file in the folder, which the first call writes."""
    hosts = folder / "hosts.json"
    if not hosts.exists():
        with ExitStack() as held:
            free = [held.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
            hosts.write_text(json.dumps([[f"127.0.0.1:{one.getsockname()[1]}"] for one in free]))
    paths = [str(HERE.parent), str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"MLX_RANK": str(rank), "MLX_HOSTFILE": str(hosts), "PYTHONPATH": os.pathsep.join(paths)}
    return {**os.environ, "MLX_MM_THREADS": "1", **own}


@contextmanager
def started(
    folder: Path, *commands: list[str], stdin: int = subprocess.DEVNULL
) -> Iterator[list[subprocess.Popen[str]]]:
    """A process for each list of words after `python`; those that still run at the end are killed."""
    running = [
        subprocess.Popen(
            [sys.executable, *words],
            env=environment(folder, rank, len(commands)),
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, words in enumerate(commands)
    ]
    try:
        yield running
    finally:
        for process in running:
            process.kill()
            process.communicate()


def chat_without(lost: int, how: signal.Signals, folder: Path, *options: str) -> tuple[int, str]:
    """Status and stderr of the other of two ranks, of which one is lost while rank 0 waits for a line of a chat."""
    words = ["-m", "mlx_mm", "chat", *options]
    with started(folder, words, words, stdin=subprocess.PIPE) as ranks:
        time.sleep(8)
        os.kill(ranks[lost].pid, how)
        other = ranks[1 - lost]
        assert other.stderr is not None
        return other.wait(60), other.stderr.read()


def idles(pid: int) -> bool:
    """Whether a process takes less than a tenth of a processor for two seconds. It needs Linux's /proc."""

    def used() -> int:
        """Hundredths of a second."""
        return sum(map(int, Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]))

    before = used()
    time.sleep(2)
    return used() - before < 20


def run_all(folder: Path, *commands: list[str], timeout: float = 200) -> list[tuple[int, str, str]]:
    """Status, stdout and stderr of each."""
    with started(folder, *commands) as running:
        said = [process.communicate(timeout=timeout) for process in running]
        return [(process.returncode, *texts) for process, texts in zip(running, said, strict=True)]
