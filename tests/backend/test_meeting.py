"""Ranks wait for each other before MLX joins them, and no longer than they are told to."""

from __future__ import annotations

import json
import socket
import threading
import time
from pathlib import Path

import pytest

from mlx_mm.backend.meeting import GO, meet
from mlx_mm.errors import RanksError


@pytest.fixture
def ports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Of three ranks on this machine."""
    held = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    found = [one.getsockname()[1] for one in held]
    for one in held:
        one.close()
    (tmp_path / "hosts").write_text(json.dumps([[f"127.0.0.1:{port}"] for port in found]))
    monkeypatch.setenv("MLX_HOSTFILE", str(tmp_path / "hosts"))
    monkeypatch.setenv("MLX_RANK", "0")
    return found


def come(port: int, rank: int) -> socket.socket:
    """What rank `rank` says to the first."""
    while True:
        try:
            peer = socket.create_connection(("127.0.0.1", port), 5)
        except OSError:
            time.sleep(0.01)
            continue
        peer.sendall(rank.to_bytes(4, "big"))
        return peer


def test_the_first_waits_for_all(ports: list[int]) -> None:
    said: list[bytes] = []

    def follow() -> None:
        with come(ports[0], 7), come(ports[0], 2) as second, come(ports[0], 1) as first:  # 7 is a stranger
            said.extend([first.recv(1), second.recv(1)])

    following = threading.Thread(target=follow)
    following.start()
    meet(20)
    following.join()
    assert said == [GO, GO]


def test_who_does_not_come_is_named(ports: list[int]) -> None:
    with pytest.raises(RanksError, match="of 3 did not come 1, 2"):
        meet(0.1)


def test_who_ends_before_all_are_there_is_named(ports: list[int]) -> None:
    def follow() -> None:
        come(ports[0], 1).close()
        come(ports[0], 2).close()

    following = threading.Thread(target=follow)
    following.start()
    with pytest.raises(RanksError, match="of 3 have ended 1"):
        meet(20)
    following.join()


def test_the_others_wait_for_the_first(ports: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLX_RANK", "1")
    with pytest.raises(RanksError, match="rank 0 did not come"):
        meet(0.3)
    with socket.create_server(("127.0.0.1", ports[0])) as first:
        threading.Thread(target=lambda: first.accept()[0].close()).start()
        with pytest.raises(RanksError, match="or has ended"):
            meet(20)


def test_what_is_no_ring_does_not_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLX_HOSTFILE", raising=False)
    meet(0.0)
