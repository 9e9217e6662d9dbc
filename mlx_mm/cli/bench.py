"""`mlx_mm bench`: how fast this machine is with a model."""

import argparse
import contextlib
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mlx_mm import __version__
from mlx_mm.checkpoint.bundled import PICTURES
from mlx_mm.cli.command import Command
from mlx_mm.cli.notes import note
from mlx_mm.cli.options import add_revision
from mlx_mm.cli.output import say, say_json, terminal_width
from mlx_mm.cli.tables import key_values, table
from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.cli.timing import Case
    from mlx_mm.models.contracts import Model, Processor

BATCHES = (1, 8)
TURNS = 5
SECONDS = 12.0  # for all cases together; each has two turns nevertheless, of which the first warms up
PURE = {"MLX_MM_CPU": "off"}
VARIABLES = ("OPENBLAS_CORETYPE", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS")
NOUNS = {
    "image": "pictures",
    "text": "texts",
    "audio": "sounds of 10 s",
    "prompt": "tokens of a prompt",
    "answer": "tokens of an answer",
}


class Spread(TypedDict):
    """Of several turns."""

    median: float
    least: float
    most: float


class Measured(TypedDict):
    """A case. pure_per_second, ratio: without the kernels, and how many times as fast it is with them, turn by turn."""

    what: str
    batch: int
    turns: int
    per_second: Spread
    pure_per_second: Spread | None
    ratio: Spread | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `bench`."""
    parser.add_argument(
        "-m", "--model", default=PICTURES.name, help="folder, bundled name or hub id (default: the bundled %(default)s)"
    )
    add_revision(parser)
    parser.add_argument(
        "--batch", type=int, nargs="+", default=list(BATCHES), metavar="N", help="items at a time (default: 1 8)"
    )
    parser.add_argument("--turns", type=int, default=TURNS, help="measurements of each case (default: %(default)s)")
    parser.add_argument(
        "--seconds", type=float, default=SECONDS, help="fewer turns rather than more time (default: %(default)s)"
    )
    parser.add_argument("--no-pure", action="store_true", help="leave out the comparison without the CPU kernels")


def run(args: argparse.Namespace) -> int:
    """Measure and print."""
    from mlx_mm.load import open_checkpoint

    for name, least in (("--batch", min(args.batch)), ("--turns", args.turns)):
        if least < 1:
            raise InputError(f"{name} is {least}; expected whole numbers from 1. Leave it out for the default.")
    if not args.seconds >= 0:  # NaN too
        raise InputError(f"--seconds is {args.seconds}; expected a number from 0. Leave it out for {SECONDS:.0f}.")
    checkpoint = open_checkpoint(args.model, revision=args.revision)
    load_before, start = os.getloadavg()[0], time.perf_counter()
    model, processor = checkpoint.load()
    about = {"model": args.model, "load_seconds": round(time.perf_counter() - start, 2), **describe_machine()}
    results = measure(model, processor, args)
    about["load"] = {"before": round(load_before, 2), "after": round(os.getloadavg()[0], 2)}
    if args.json:
        say_json({**about, "results": results})
    else:
        width = terminal_width()
        say(f"{key_values(about, width)}\n\n{results_table(results, width)}")
    return 0


def describe_machine() -> dict[str, object]:
    """What it is, the settings that matter, and how fast it computes and reads at best."""
    import platform
    from importlib import metadata

    from mlx_mm.backend import device
    from mlx_mm.backend.cpus import usable_cpus
    from mlx_mm.backend.native.library import native_status
    from mlx_mm.backend.native.peaks import measure_peaks

    native, peaks = native_status(), measure_peaks()
    versions = {"mlx_mm": __version__, "mlx": metadata.version("mlx"), "numpy": metadata.version("numpy")}
    settings = {name: os.environ[name] for name in sorted(os.environ) if name in VARIABLES or name[:7] == "MLX_MM_"}
    return {
        "versions": {**versions, "python": platform.python_version()},
        "processor": processor_name(),
        "device": "cpu" if device.on_cpu() else "gpu",
        "cpus": usable_cpus(),
        "kernels": {"active": native.active, "reason": native.reason, "threads": native.threads},
        "peaks": {name: round(value, 1) for name, value in peaks._asdict().items() if value is not None},
        "settings": settings or None,
    }


def processor_name() -> str:
    """As the system calls it."""
    import platform

    if sys.platform == "linux":
        with contextlib.suppress(OSError, IndexError):
            lines = Path("/proc/cpuinfo").read_text("utf-8", "replace").splitlines()
            return next(line for line in lines if line.startswith("model name")).split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def measure(model: "Model", processor: "Processor", args: argparse.Namespace) -> list[Measured]:
    """Every case, with the kernels and in another process without them, where that is another thing."""
    from mlx_mm.backend.native.library import native_status
    from mlx_mm.cli.timing import cases_of, other_process, per_second
    from mlx_mm.progress import progressing

    cases = cases_of(model, args.batch)
    # A model that answers is large, and without the kernels a case would take minutes
    compared = native_status().active and model.kind != "generator" and not args.no_pure
    with contextlib.ExitStack() as stack:
        advance = stack.enter_context(progressing(True, len(cases) * (1 + args.turns), "measuring", "turn"))
        pure = stack.enter_context(other_process(args.model, args.revision, PURE)) if compared else None
        results = []
        for case in cases:
            sides = [partial(per_second, model, processor, case)]
            sides += [] if pure is None else [partial(pure.per_second, case)]
            turns = take_turns(sides, args.turns, args.seconds / len(cases), advance)
            if min(map(min, turns)) > 0:
                results.append(measured(case, turns))
            else:
                note(f"{NOUNS[case.what]}: not measured, since the model ended its answer at once")
    return results


def take_turns(
    sides: Sequence[Callable[[], float]], most: int, seconds: float, advance: Callable[[int], None]
) -> list[list[float]]:
    """What each side says, turn by turn; a first turn warms up. There are fewer than `most` where time runs out."""
    turns: list[list[float]] = []
    start = time.perf_counter()
    for number in range(most + 1):
        order = sides if number % 2 else sides[::-1]
        said = [side() for side in order]
        turns.append(said if number % 2 else said[::-1])
        advance(1)
        if number and time.perf_counter() - start > seconds:
            advance(most - number)
            break
    return turns[1:]


def measured(case: "Case", turns: list[list[float]]) -> Measured:
    """Medians of the turns."""
    compared = len(turns[0]) > 1
    return {
        "what": case.what,
        "batch": case.batch,
        "turns": len(turns),
        "per_second": spread([turn[0] for turn in turns]),
        "pure_per_second": spread([turn[1] for turn in turns]) if compared else None,
        "ratio": spread([turn[0] / turn[1] for turn in turns]) if compared else None,
    }


def spread(values: list[float]) -> Spread:
    """With four digits."""
    median, least, most = (float(f"{value:.4g}") for value in (statistics.median(values), min(values), max(values)))
    return {"median": median, "least": least, "most": most}


def results_table(results: list[Measured], width: int | None = None) -> str:
    """A line for each case. width: as of `table`."""
    rows: list[Sequence[str]] = [
        ("", "at a time", "a second", "least - most", "without kernels", "times as fast", "least - most")
    ]
    for one in results:
        pure, ratio = one["pure_per_second"], one["ratio"]
        cells = [NOUNS[one["what"]], str(one["batch"]), *_shown(one["per_second"])]
        cells += ["-", "-", "-"] if pure is None or ratio is None else [_shown(pure)[0], *_shown(ratio)]
        rows.append(cells)
    return table(rows, "<>>>>>>", width)


def _shown(values: Spread) -> tuple[str, str]:
    """The median, and what the others lie between."""
    median, least, most = (_digits(value) for value in (values["median"], values["least"], values["most"]))
    return median, f"{least} - {most}"


def _digits(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


COMMAND = Command(
    "measure how fast this machine is with a model",
    add_arguments,
    run,
    (
        "mlx_mm bench",
        "mlx_mm bench -m so400m-4bit --batch 1 16 --json",
        "MLX_MM_CPU=avx2 mlx_mm bench --turns 11 --seconds 60",
    ),
)
