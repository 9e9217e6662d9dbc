"""Whether a folder lies on a disk of this machine: on others SQLite's shared memory does not work."""

import os
import re
import subprocess
import sys
from pathlib import Path

MOUNTS = Path("/proc/self/mounts")
NETWORK = re.compile(r"nfs\d?|cifs|smb\w*|fuse\..*|macfuse|osxfuse|afpfs|webdav|9p|ceph|glusterfs|lustre|ncpfs|vboxsf")
_MAC_LINE = re.compile(r".+? on (?P<place>/.*) \((?P<kind>[^,)]+)")


def network_kind(folder: Path) -> str | None:
    """The kind of network file system that a folder lies on, such as "nfs4"; None of a local one."""
    return kind_among(mounts(), Path(os.path.realpath(folder)))


def kind_among(found: list[tuple[str, str]], folder: Path) -> str | None:
    """The same among mounts: (where, kind) of each, the later ones above the earlier."""
    inside = [(len(place), number, kind) for number, (place, kind) in enumerate(found) if folder.is_relative_to(place)]
    kind = max(inside, default=(0, 0, ""))[2]
    return kind if NETWORK.fullmatch(kind) else None


def mounts() -> list[tuple[str, str]]:
    """Where file systems are mounted, and their kinds; none where the system does not say."""
    try:
        return parsed(_listing(), mac=sys.platform == "darwin")
    except (OSError, subprocess.SubprocessError):
        return []


def parsed(listing: str, *, mac: bool) -> list[tuple[str, str]]:
    """The lines of /proc/self/mounts, or of the command `mount` of macOS."""
    if mac:
        lines = filter(None, map(_MAC_LINE.match, listing.splitlines()))
        return [(line["place"], line["kind"]) for line in lines]
    words = [line.split(" ") for line in listing.splitlines()]
    return [(_plain(line[1]), line[2]) for line in words if len(line) > 2]


def _listing() -> str:
    if sys.platform == "darwin":
        run = subprocess.run(["/sbin/mount"], capture_output=True, timeout=10, check=True)
        return os.fsdecode(run.stdout)
    return os.fsdecode(MOUNTS.read_bytes())


def _plain(place: str) -> str:
    """Without the octal numbers that stand for spaces, tabs, line ends and backslashes."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), place)
