"""How many processors this process may use: those of its affinity mask, and no more than its container has time for."""

import math
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path, PurePosixPath

GROUPS = Path("/sys/fs/cgroup")  # where Linux shows control groups, of version 1 and of version 2
MEMBERSHIP = Path("/proc/self/cgroup")  # in which of them this process is


def usable_cpus() -> int:
    """The processors that this process may run on, or as many as the time that it may have, rounded up."""
    if sys.platform != "linux":
        return os.cpu_count() or 1
    return max(1, math.ceil(min(len(os.sched_getaffinity(0)), quota(GROUPS, MEMBERSHIP))))


def quota(groups: Path, membership: Path) -> float:
    """Processors' worth of time that the control groups of a process allow it; infinite where none sets a bound."""
    return min(_quotas(groups, membership), default=math.inf) if membership.exists() else math.inf


def _quotas(groups: Path, membership: Path) -> Iterator[float]:
    """Of each group, and of those around it, that bounds its members' time."""
    for line in membership.read_text("utf-8", "replace").splitlines():
        _, controllers, path = line.split(":", 2)
        for folder in _folders(groups, controllers, PurePosixPath(path).parts[1:]):
            with suppress(OSError, ValueError):
                microseconds, period = _numbers(folder)
                if microseconds > 0 and period > 0:
                    yield microseconds / period


def _folders(groups: Path, controllers: str, parts: tuple[str, ...]) -> Iterator[Path]:
    """From the outermost group to the process's own. A container may show its own as the outermost, and no other."""
    if not controllers:  # version 2
        roots = (groups, groups / "unified")
    elif "cpu" in controllers.split(","):
        roots = (groups / controllers, groups / "cpu")
    else:
        return
    for root in roots:
        for depth in range(len(parts) + 1):
            yield root.joinpath(*parts[:depth])


def _numbers(group: Path) -> tuple[int, int]:
    """The microseconds of each period that a group may compute, and the period's. ValueError without a bound."""
    if (both := group / "cpu.max").exists():
        microseconds, period = both.read_text("utf-8").split()  # or "max 100000"
        return int(microseconds), int(period)
    names = ("cpu.cfs_quota_us", "cpu.cfs_period_us")  # version 1; a quota of -1 is none
    microseconds, period = ((group / name).read_text("utf-8") for name in names)
    return int(microseconds), int(period)
