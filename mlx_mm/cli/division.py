"""How several machines would divide a model, and whether it fits them, by config.json and the index of its weights."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

from mlx_mm.errors import InputError, shown, whole_number

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Share

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
USABLE = 0.75  # of a Mac's memory, as Metal recommends; what is computed besides needs some of it
ROOM = 0.9  # of that, for weights and what is kept of tokens
TOKENS = 8192  # for which there must be room
MOST_RANKS = 1024
GROUP_SIZE = 64  # that `convert` takes
WIDTHS = "tensor parallel: each layer is divided, two sums over all ranks in each"
LAYERS = "pipeline: each rank has some layers, in proportion to its memory, and hands on what they make"


def read_memory(sizes: str | None, ranks: int) -> list[int] | None:
    """Bytes of each machine, of sizes such as "64GB,32GB"; of one size all machines are."""
    if sizes is None:
        return None
    found = []
    for size in sizes.split(","):
        match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]i?B)\s*", size, re.IGNORECASE)
        if match is None:
            raise InputError(f"--memory is {shown(sizes)}; expected sizes such as 64GB or 64GB,32GB. Write them so.")
        found.append(int(float(match[1]) * UNITS[match[2].upper()]))
    if len(found) not in (1, ranks):
        raise InputError(
            f"--memory has {len(found)} sizes, and there are {ranks} ranks; expected one, or one for each. Add others."
        )
    return found * ranks if len(found) == 1 else found


def describe_division(
    path_or_repo: str,
    ranks: int,
    memory: Sequence[int] | None = None,
    *,
    bits: int | None = None,
    pipeline: bool = False,
    revision: str | None = None,
) -> dict[str, object]:
    """What each of `ranks` has, its bytes and those of 1,000 tokens; with the memory of each, whether that fits.

    bits: as if it were converted to so many. pipeline: divided by layers. Raises InputError for a number of ranks that
    does not divide the model, UnsupportedModelError for one that is never divided.
    """
    from mlx_mm.checkpoint.shards import tensor_names
    from mlx_mm.load import open_settings
    from mlx_mm.quantize.apply import read_block
    from mlx_mm.quantize.plan import plan, to_block
    from mlx_mm.quantize.scheme import QuantConfig

    ranks = whole_number("ranks", ranks, least=2, most=MOST_RANKS, advice="Name how many machines there are.")
    opened = open_settings(path_or_repo, revision=revision)
    names = tensor_names(opened.folder)
    if bits is not None and read_block(opened.values) is None:
        scheme = QuantConfig(bits, GROUP_SIZE)
        layers = plan(opened.model(), scheme, "text-only")  # as `convert` does with a model that answers
        names = {f"{layer.path}.scales" for layer in layers if layer.scheme}
        opened = opened.with_values({"quantization": to_block(layers, scheme)})
    whole = opened.parameter_bytes(names)

    def divided(by_layers: bool) -> "tuple[Sequence[Share], list[int]]":
        """The share of each rank, and its bytes."""
        if by_layers:
            shares = opened.stages(memory or [1] * ranks, whole)
            return shares, [
                sum(size for name, size in whole.items() if share.part(name, ()) is None) for share in shares
            ]
        shares = [opened.share(rank, ranks) for rank in range(ranks)]
        return shares, [sum(opened.with_config(share.config).parameter_bytes(names).values()) for share in shares]

    def short_of(shares: "Sequence[Share]", sizes: Sequence[int]) -> dict[int, tuple[int, int]]:
        """Rank -> what it needs, and the room it has, where that is less."""
        needed = [
            size + TOKENS * opened.itemsize * share.token_numbers for size, share in zip(sizes, shares, strict=True)
        ]
        both = enumerate(zip(needed, map(_room, memory or []), strict=True))
        return {rank: (need, room) for rank, (need, room) in both if need > room}

    shares, sizes = divided(pipeline)
    result: dict[str, object] = {
        "split": LAYERS if pipeline else WIDTHS,
        "bytes": sum(whole.values()),
        "ranks": [
            {
                "rank": rank,
                "bytes": size,
                "bytes of 1000 tokens": 1000 * opened.itemsize * share.token_numbers,
                **share.described,
            }
            for rank, (size, share) in enumerate(zip(sizes, shares, strict=True))
        ],
    }
    if memory is not None:
        short = short_of(shares, sizes)
        result["fits"] = not short
        result["room"] = [_room(size) for size in memory]
        result["advice"] = _advice(short) if short else f"each rank has room for its part and {TOKENS} tokens"
        if short and not pipeline and not short_of(*divided(True)):
            result["advice"] = f"{result['advice']}; divided by layers it fits: --pipeline"
    return result


def _room(memory: int) -> int:
    return int(memory * USABLE * ROOM)


def _advice(short: Mapping[int, tuple[int, int]]) -> str:
    rank, (needed, room) = next(iter(short.items()))
    return (
        f"rank {rank} needs {_in_words(needed)} with {TOKENS} tokens and has {_in_words(room)}, {USABLE * ROOM:.0%} "
        "of its memory: take more machines, one with more memory in its place, or fewer bits"
    )


def in_lines(result: Mapping[str, object]) -> dict[str, object]:
    """The same for a reader: a line for each rank, and what the first has of the model."""
    ranks = cast("list[dict[str, object]]", result["ranks"])
    lines: dict[str, object] = {key: value for key, value in result.items() if key not in ("ranks", "room")}
    lines["bytes"] = _in_words(cast(int, result["bytes"]))
    for rank in ranks:
        size, tokens = cast(int, rank["bytes"]), cast(int, rank["bytes of 1000 tokens"])
        held = f", {rank['layers']} layers" if "layers" in rank else ""
        lines[f"rank {rank['rank']}"] = f"{_in_words(size)}{held}, and {math.ceil(tokens / 10**6)} MB for 1,000 tokens"
    parts = [f"{what} {much}" for what, much in ranks[0].items() if isinstance(much, str)]
    return lines | {"of the model": f"rank 0 has {', '.join(parts)}"}


def _in_words(size: int) -> str:
    """Rounded up."""
    return f"{math.ceil(size / 10**8) / 10:.1f} GB" if size > 10**9 else f"{math.ceil(size / 10**6)} MB"
