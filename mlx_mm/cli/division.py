"""How several machines would divide a model, and whether it fits them, by config.json and the index of its weights."""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import cast

from mlx_mm.errors import InputError, shown, whole_number

UNITS = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}
USABLE = 0.75  # of a Mac's memory, as Metal recommends; what is computed besides needs some of it
ROOM = 0.9  # of that, for weights and what is kept of tokens
TOKENS = 8192  # for which there must be room
MOST_RANKS = 1024
GROUP_SIZE = 64  # that `convert` takes


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
    revision: str | None = None,
) -> dict[str, object]:
    """What each of `ranks` has, its bytes and those of 1,000 tokens; with the memory of each, whether that fits.

    bits: as if it were converted to so many. Raises InputError for a number of ranks that does not divide the model,
    UnsupportedModelError for one that is never divided.
    """
    from mlx_mm.backend.streams import compute
    from mlx_mm.checkpoint.matching import parameter_bytes
    from mlx_mm.checkpoint.shards import tensor_names
    from mlx_mm.load import FLOATS, OpenCheckpoint, open_settings
    from mlx_mm.quantize.apply import apply_block, read_block
    from mlx_mm.quantize.plan import plan, to_block
    from mlx_mm.quantize.scheme import QuantConfig

    ranks = whole_number("ranks", ranks, least=2, most=MOST_RANKS, advice="Name how many machines there are.")
    opened = open_settings(path_or_repo, revision=revision)
    names, block = tensor_names(opened.folder), read_block(opened.values)
    if bits is not None and block is None:
        scheme = QuantConfig(bits, GROUP_SIZE)
        layers = plan(opened.model(), scheme, "text-only")  # as `convert` does with a model that answers
        names, block = {f"{layer.path}.scales" for layer in layers if layer.scheme}, to_block(layers, scheme)
        opened = opened.with_values({"quantization": block})
    stored = opened.values.get("dtype") or opened.values.get("torch_dtype")
    text = opened.values.get("text_config")
    if stored is None and isinstance(text, dict):
        stored = text.get("dtype") or text.get("torch_dtype")
    itemsize = FLOATS.get(str(stored), FLOATS["bfloat16"]).size

    def of(part: OpenCheckpoint) -> int:
        model = part.model()
        if block is not None:
            apply_block(model, block, names)
        return parameter_bytes(model, itemsize)

    shares = [opened.share(rank, ranks) for rank in range(ranks)]
    whole = compute(partial(of, opened))
    sizes = [compute(partial(of, opened.with_config(share.config))) for share in shares]
    tokens = [share.token_numbers * itemsize for share in shares]
    result: dict[str, object] = {
        "split": "tensor parallel: each layer is divided, two sums over all ranks in each",
        "bytes": whole,
        "ranks": [
            {"rank": rank, "bytes": size, "bytes of 1000 tokens": 1000 * token, **share.described}
            for rank, (size, token, share) in enumerate(zip(sizes, tokens, shares, strict=True))
        ],
    }
    if memory is not None:
        needed = [size + TOKENS * token for size, token in zip(sizes, tokens, strict=True)]
        room = [int(size * USABLE * ROOM) for size in memory]
        short = [rank for rank in range(ranks) if needed[rank] > room[rank]]
        result["fits"] = not short
        result["room"] = room
        result["advice"] = _advice(short, needed, room)
    return result


def _advice(short: Sequence[int], needed: Sequence[int], room: Sequence[int]) -> str:
    if not short:
        return f"each rank has room for its part and {TOKENS} tokens"
    rank = short[0]
    return (
        f"rank {rank} needs {_gigabytes(needed[rank])} with {TOKENS} tokens and has {_gigabytes(room[rank])}, "
        f"{USABLE * ROOM:.0%} of its memory: all ranks get equal parts, so take more machines, one with more memory in "
        "its place, or fewer bits"
    )


def in_lines(result: Mapping[str, object]) -> dict[str, object]:
    """The same for a reader: a line for each rank, and what the first has of the model."""
    ranks = cast("list[dict[str, object]]", result["ranks"])
    lines: dict[str, object] = {key: value for key, value in result.items() if key not in ("ranks", "room")}
    lines["bytes"] = _gigabytes(cast(int, result["bytes"]))
    for rank in ranks:
        size, tokens = cast(int, rank["bytes"]), cast(int, rank["bytes of 1000 tokens"])
        lines[f"rank {rank['rank']}"] = f"{_gigabytes(size)}, and {math.ceil(tokens / 10**6)} MB for 1,000 tokens"
    parts = [f"{what} {much}" for what, much in ranks[0].items() if isinstance(much, str)]
    return lines | {"of the model": f"rank 0 has {', '.join(parts)}"}


def _gigabytes(size: int) -> str:
    return f"{math.ceil(size / 10**8) / 10:.1f} GB"
