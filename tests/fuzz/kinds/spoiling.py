"""What the kinds of files of a checkpoint share: how they are tried, and what may stand in a file's place."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

from fuzz.kinds.using import try_checkpoint
from fuzz.outcome import Trial

ENCODERS = ("siglip2", "siglip", "metaclip_2", "clap", "jina_clip", "siglip2-text", "clip-vision-projection")
ALL = (*ENCODERS, "clap-fused", "clap-audio", "glm46v", "glm4v_moe", "siglip2-classifier")  # seeds


def trying(random: Random, folder: Path, *, load: bool = True) -> Trial:
    """One of the things that people do with a checkpoint. load: or only such that look at all its files."""
    then = Random(random.random())
    return lambda: try_checkpoint(then, folder, load=load)


def no_file(random: Random, path: Path) -> None:
    """In the place of a file, something that cannot be read as one."""
    path.unlink(missing_ok=True)
    roll = random.randrange(9)
    if roll == 0:
        os.mkfifo(path)
    elif roll == 1:
        path.mkdir()
    elif roll == 2:
        path.symlink_to(path.name)  # to itself
    elif roll == 3:
        path.symlink_to(random.choice(("/dev/zero", "/dev/full", "/dev/null", "/dev/random", "/proc/self/mem")))
    elif roll == 4:
        path.symlink_to("nowhere")
    elif roll == 5:
        path.write_bytes(b"")
        path.chmod(0)
    elif roll == 6:
        path.write_bytes(b"")
    elif roll == 7:
        huge(path)
    # or there is none at all


def huge(path: Path) -> Path:
    """A file of far more zeros than fit into memory, which takes no place on the disk."""
    path.write_bytes(b"")
    os.truncate(path, 20 << 30)
    return path
