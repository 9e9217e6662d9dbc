"""Whether all ranks still live: each holds a connection to rank 0, over which both say so every two seconds.

MLX waits for a rank as long as it takes, and a machine that has lost its power or its cable says nothing.
"""

import contextlib
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Callable, Iterator

from mlx_mm.backend.meeting import ring_places
from mlx_mm.backend.ranks import Group, tell_bytes, told_bytes
from mlx_mm.errors import RanksError, foreign

SECONDS_BETWEEN = 2.0
SECONDS_OF_SILENCE = 15.0  # after which a rank counts as lost
SECONDS_TO_CONNECT = 20.0
PLACE_BYTES, TOKEN_BYTES = 128, 16
ALIVE, WAKE, DONE, LOST = b".", b"w", b"e", b"l"  # the last with the number of another rank
CONNECT = "expected a connection from each rank to rank 0. Let its firewall pass them, and start all ranks again."


class Alarm:
    """Other ranks may sleep until rank 0 wakes them: where MLX waits for a rank, it keeps a processor busy."""

    def __init__(self, peers: dict[int, socket.socket]) -> None:
        self._peers, self._rung = peers, threading.Semaphore(0)

    def wake(self) -> None:
        """End one sleep of each other rank, also where it is yet to begin. Rank 0 calls it."""
        for peer in self._peers.values():
            _say(peer, WAKE)

    def sleep(self) -> None:
        """Wait for rank 0."""
        self._rung.acquire()

    def ring(self, times: int) -> None:
        """So often has rank 0 called."""
        for _ in range(times):
            self._rung.release()


@contextlib.contextmanager
def watched(group: Group, on_lost: Callable[[int], None]) -> Iterator[Alarm]:
    """Inside, `on_lost` is called, by a thread, with the number of a rank that has ended or fallen silent.

    A rank that leaves the block says so, and is none that is lost. Raises RanksError where a rank cannot be reached.
    """
    with foreign(RanksError, "The ranks cannot reach each other", CONNECT):
        peers = _accept(group) if group.rank() == 0 else {0: _connect(group, on_lost)}
    ended, alarm = threading.Event(), Alarm(peers)
    watch = threading.Thread(target=_watch, args=(peers, ended, on_lost, alarm), name="mlx_mm watchdog", daemon=True)
    watch.start()
    clean = False
    try:
        yield alarm
        clean = True
    finally:
        ended.set()
        watch.join()
        for peer in peers.values():
            with contextlib.suppress(OSError):
                if clean:
                    peer.sendall(DONE)
            peer.close()


def _watch(
    peers: dict[int, socket.socket], ended: threading.Event, on_lost: Callable[[int], None], alarm: Alarm
) -> None:
    heard = dict.fromkeys(peers, time.monotonic())
    waiting = selectors.DefaultSelector()
    for rank, peer in peers.items():
        waiting.register(peer, selectors.EVENT_READ, rank)
    said = 0.0
    while not ended.is_set() and heard:
        lost: int | None = None
        if time.monotonic() - said > SECONDS_BETWEEN:
            said = time.monotonic()
            for rank in heard:
                lost = lost if _say(peers[rank], ALIVE) else rank
        for key, _ in waiting.select(0.1):
            data = _hear(peers[key.data])
            heard[key.data] = time.monotonic()
            alarm.ring(data.count(WAKE))
            if DONE in data:
                waiting.unregister(peers[key.data])
                del heard[key.data]
            elif LOST in data:
                lost = data[data.index(LOST) + 1]
            elif not data:
                lost = key.data
        silent = [rank for rank, last in heard.items() if time.monotonic() - last > SECONDS_OF_SILENCE]
        lost = silent[0] if silent and lost is None else lost
        if lost is not None and not ended.is_set():
            for rank in set(heard) - {lost}:
                _say(peers[rank], LOST + bytes([lost]))
            on_lost(lost)
            return


def _say(peer: socket.socket, data: bytes) -> bool:
    try:
        peer.sendall(data)
    except TimeoutError:
        return True  # it does not read, which its silence will tell
    except OSError:
        return False
    return True


def _hear(peer: socket.socket) -> bytes:
    """Nothing from one that has ended."""
    try:
        return peer.recv(64)
    except OSError:
        return b""


def _accept(group: Group) -> dict[int, socket.socket]:
    """A connection from each other rank, by its number, made by whoever knows what rank 0 told."""
    token, host = secrets.token_bytes(TOKEN_BYTES), _own_address()
    peers: dict[int, socket.socket] = {}
    with socket.create_server((host, 0)) as server:
        place = f"{host} {server.getsockname()[1]}".encode()
        tell_bytes(token + place.ljust(PLACE_BYTES), group)
        last = time.monotonic() + SECONDS_TO_CONNECT
        while len(peers) < group.size() - 1:
            server.settimeout(max(0.0, last - time.monotonic()))
            peer, _ = server.accept()
            peer.settimeout(SECONDS_BETWEEN)
            said = _read(peer, TOKEN_BYTES + 1)
            if secrets.compare_digest(said[:TOKEN_BYTES], token) and 0 < said[-1] < group.size():
                peers[said[-1]] = peer
            else:
                peer.close()
    return peers


def _connect(group: Group, on_lost: Callable[[int], None]) -> socket.socket:
    late = threading.Timer(SECONDS_TO_CONNECT, on_lost, [0])  # MLX would wait for ever
    late.start()
    try:
        told = told_bytes(TOKEN_BYTES + PLACE_BYTES, group)
    finally:
        late.cancel()
    host, port = told[TOKEN_BYTES:].decode().split()
    peer = socket.create_connection((host, int(port)), SECONDS_TO_CONNECT)
    peer.settimeout(SECONDS_BETWEEN)
    peer.sendall(told[:TOKEN_BYTES] + bytes([group.rank()]))
    return peer


def _read(peer: socket.socket, size: int) -> bytes:
    """So many bytes, zeros where a stranger says less."""
    data = b""
    with contextlib.suppress(OSError):
        while len(data) < size and (more := peer.recv(size - len(data))):
            data += more
    return data.ljust(size, b"\0")


def _own_address() -> str:
    """Where others reach this machine, rank 0: as the launcher told all ranks, or by its name."""
    if places := ring_places():
        return places[0][0]
    coordinator = os.environ.get("MLX_JACCL_COORDINATOR")
    if coordinator:
        return coordinator.rpartition(":")[0].strip("[]")
    return socket.gethostbyname(socket.gethostname())
