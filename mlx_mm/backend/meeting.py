"""Whether all ranks of a ring are there, before MLX joins them.

MLX tries for half a minute to reach one that never comes, with the interpreter's lock, so that nothing could end it.
"""

import contextlib
import json
import os
import select
import socket
import time
from pathlib import Path

from mlx_mm.errors import RanksError

GO = b"g"
SECONDS_BETWEEN = 0.1  # attempts to reach rank 0


def ring_places() -> list[tuple[str, int]]:
    """Host and port of each rank, as the launcher of a ring told all of them; none where it is no ring."""
    file = os.environ.get("MLX_HOSTFILE")
    if not file:
        return []
    first = [addresses[0].rpartition(":") for addresses in json.loads(Path(file).read_text("utf-8"))]
    return [(host.strip("[]"), int(port)) for host, _, port in first]


def meet(seconds: float) -> None:
    """Return once all ranks are there, which each says to rank 0 where the ring will find it.

    Raises RanksError where one does not come within so many seconds, or ends before all are there.
    """
    places, last = ring_places(), time.monotonic() + seconds
    if not places:
        return
    rank = int(os.environ["MLX_RANK"])
    if rank:
        _come(places[0], rank, last)
    else:
        _wait(places, last)


def _wait(places: list[tuple[str, int]], last: float) -> None:
    there: dict[int, socket.socket] = {}
    with contextlib.ExitStack() as opened:
        with socket.create_server(places[0]) as server:
            while missing := set(range(1, len(places))) - there.keys():
                server.settimeout(max(0.01, last - time.monotonic()))
                try:
                    peer = opened.enter_context(server.accept()[0])
                    peer.settimeout(1.0)
                    rank = int.from_bytes(peer.recv(4), "big")
                except OSError:
                    rank = 0
                if rank in missing:
                    there[rank] = peer
                elif time.monotonic() > last:
                    raise _lost(f"of {len(places)} did not come {_listed(missing)}")
        gone = select.select(list(there.values()), [], [], 0)[0]  # they say nothing until they are told to go
        if ended := {rank for rank, peer in there.items() if peer in gone}:
            raise _lost(f"of {len(places)} have ended {_listed(ended)}")
        for peer in there.values():
            with contextlib.suppress(OSError):
                peer.sendall(GO)
        for peer in there.values():
            with contextlib.suppress(OSError):
                peer.recv(1)  # it closes first, so that the port is free at once


def _come(place: tuple[str, int], rank: int, last: float) -> None:
    while (left := last - time.monotonic()) > 0:
        try:
            first = socket.create_connection(place, left)
        except OSError:  # it does not listen yet
            time.sleep(SECONDS_BETWEEN)
            continue
        with first, contextlib.suppress(OSError):
            if first.getsockname() == first.getpeername():  # TCP lets a port find itself
                continue
            first.sendall(rank.to_bytes(4, "big"))
            first.settimeout(max(0.01, last - time.monotonic()))
            if first.recv(1) == GO:
                return
        break
    raise _lost("rank 0 did not come, or has ended")


def _lost(found: str) -> RanksError:
    return RanksError(
        f"The ranks cannot find each other: {found}; expected all to start together. See what each rank said, and "
        "start all again."
    )


def _listed(ranks: set[int]) -> str:
    return ", ".join(map(str, sorted(ranks)))
