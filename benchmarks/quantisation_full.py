"""Seconds and peak memory of `convert` on models of published sizes with random weights: plain, checked, by default.

    python benchmarks/quantisation_full.py [vit clap jina metaclip flash] [--folder F] [--text-layers 24] ...

Each conversion is a process of its own; its memory is the most that was resident, and what the files that it maps
have in memory counts. Sources are kept in --folder. Flash is GLM-4.6V-Flash, 20.6 GB with all its layers.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import checkpoints

FOLDER = Path(tempfile.gettempdir()) / "mlx_mm-benchmarks" / "quantisation"
WAYS: dict[str, dict] = {
    "plain": {"method": "plain", "check": False},
    "plain, checked": {"method": "plain", "check": True},
    "search": {"method": "search", "check": False},
    "default": {"check": False},
    "default, checked": {},
}


def writers(text_layers: int, vision_layers: int, glm_layers: int) -> dict:
    """By name what writes a source."""
    flash = checkpoints.glm_config(layers=glm_layers, depth=min(24, glm_layers), words=151552)
    return {
        "vit": checkpoints.write_vit,
        "clap": checkpoints.write_clap,
        "jina": functools.partial(checkpoints.write_jina, text_layers=text_layers, vision_layers=vision_layers),
        "metaclip": checkpoints.write_metaclip_huge,
        "flash": functools.partial(checkpoints.write_glm, config=flash),
    }


def convert(source: Path, way: str) -> dict[str, float]:
    """In this process: seconds of converting, of the processor and of measuring, and the most memory in GB."""
    import mlx_mm

    before = resource.getrusage(resource.RUSAGE_SELF)
    with tempfile.TemporaryDirectory(dir=source.parent) as out:
        report = mlx_mm.convert(source, Path(out) / "new", **WAYS[way])
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "source": report.source_bytes / 1e9,
        "size": report.bytes / 1e9,
        "seconds": report.seconds,
        "checking": report.cost.seconds if report.cost else 0.0,
        "processor": used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime,
        "memory": peak() / 1e9,
    }


def peak() -> int:
    """The most bytes that were resident; `ru_maxrss` of Linux also counts those of whoever started the process."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM")]
    return int(line.split()[1]) * 1024


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["vit", "clap", "jina", "metaclip"], metavar="MODEL")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--text-layers", type=int, default=24, help="of Jina CLIP (default: 24, all)")
    parser.add_argument("--vision-layers", type=int, default=24, help="of Jina CLIP (default: 24, all)")
    parser.add_argument("--glm-layers", type=int, default=40, help="of Flash (default: 40, all)")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(convert(args.folder, args.one)))
        return
    print("| model | source, GB | 4 bit, GB | way | s | of them checking | CPU s | peak memory, GB |")
    print("|---" * 8 + "|")
    for name in args.models:
        source = args.folder / name
        if not (source / "config.json").exists():
            writers(args.text_layers, args.vision_layers, args.glm_layers)[name](source)
        for way in args.ways:
            command = [sys.executable, __file__, "--folder", str(source), "--one", way]
            done = subprocess.run(
                command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
            )
            if done.returncode:
                print(f"| {name} | | | {way} | it failed |", flush=True)
                continue
            one = json.loads(done.stdout.strip().splitlines()[-1])
            print(
                f"| {name} | {one['source']:.2f} | {one['size']:.2f} | {way} | {one['seconds'] + one['checking']:.0f} "
                f"| {one['checking']:.0f} | {one['processor']:.0f} | {one['memory']:.2f} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
