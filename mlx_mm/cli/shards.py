"""Which share of the files a run takes: the one that is named, or that of its rank under a launcher."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.cli.ranks import SECONDS_TO_JOIN
from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.search.sharding import Shard


def add_shard(parser: argparse.ArgumentParser, what: str) -> None:
    """Which one. what: becomes a part with a name of its own."""
    parser.add_argument(
        "--shard",
        metavar="I/N",
        help=f"take share I of N of the files, into {what} (under mlx.launch: that of its rank)",
    )


def shard_of(args: argparse.Namespace) -> "Shard | None":
    """The one that was asked for, or that of this process's rank; None for all. Raises InputError for what is none."""
    from mlx_mm.backend import ranks
    from mlx_mm.search.sharding import Shard

    if args.shard is not None:
        return Shard.parse(args.shard)
    if not ranks.is_launched():
        return None
    group = ranks.join(SECONDS_TO_JOIN)
    return Shard(group.rank() + 1, group.size())


def part_path(path: Path, shard: "Shard | None") -> Path:
    """photos.npz of shard 1/3 is photos-1-of-3.npz, so that all shards can be run with the same words."""
    if shard is None or re.search(rf"-{shard.number}-of-{shard.of}$", path.stem):
        return path
    return path.with_name(shard.named(path.stem, path.suffix))


def refuse_launcher(task: str) -> None:
    """InputError where a launcher runs this beside others, for what one process does."""
    from mlx_mm.backend.ranks import is_launched

    if is_launched():
        raise InputError(f"{task} is for one process, and a launcher started several. Run it without mlx.launch.")
