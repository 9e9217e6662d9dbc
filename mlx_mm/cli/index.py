"""`mlx_mm index`: bring an index up to date with its folders, watch them, look after it."""

import argparse
import math
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_mm.checkpoint.bundled import EACH, PICTURES, SOUNDS
from mlx_mm.cli.command import Command
from mlx_mm.cli.hits import counted
from mlx_mm.cli.indexes import (
    add_index,
    duration,
    open_index,
    path_of,
    refuse_together,
    shown_bytes,
    shown_path,
    shown_seconds,
)
from mlx_mm.cli.notes import note
from mlx_mm.cli.opening import note_bundled
from mlx_mm.cli.output import flush, say, say_json, terminal_width, visible
from mlx_mm.cli.shards import add_shard, part_path, refuse_launcher, shard_of
from mlx_mm.cli.signals import Raised
from mlx_mm.cli.tables import key_values
from mlx_mm.errors import InputError, MlxMmError

if TYPE_CHECKING:
    from mlx_mm.search.index import Index
    from mlx_mm.search.records import CheckReport, RefreshReport

LISTED = 5  # files that are found unreadable are named; --json names all, also of earlier runs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `index`."""
    parser.add_argument(
        "folders", nargs="*", help="folders to add (default: those of the index are brought up to date)"
    )
    bundled = f"the bundled {PICTURES.name}, and {SOUNDS.name} for sounds"
    parser.add_argument(
        "-m",
        "--model",
        help=f"what makes vectors of a new index, such as {PICTURES.advised} (default: {bundled})",
    )
    add_index(parser)
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PAT", help="leave such names out; repeatable"
    )
    parser.add_argument("--videos", action="store_true", help="take videos too, by their key frames")
    parser.add_argument("--max-num-patches", type=int, metavar="N", help="of a new index: budget of NaFlex models")
    parser.add_argument("--retry", action="store_true", help="try files again that could not be read")
    parser.add_argument("--accept-missing", action="store_true", help="a folder that is gone or emptied is meant so")
    parser.add_argument("--add-space", action="store_true", help="make vectors of a second model as well")
    parser.add_argument("--reembed", action="store_true", help="make all vectors anew, by this model")
    parser.add_argument(
        "--wait",
        nargs="?",
        type=duration,
        const=math.inf,
        default=0.0,
        metavar="TIME",
        help="let another process finish first; --wait=60s gives up then",
    )
    add_shard(parser, "NAME-I-of-N.mmindex")
    parser.add_argument(
        "--server", nargs="+", default=[], metavar="URL", help="have these mlx_mm serve make vectors of pictures"
    )
    parser.add_argument(
        "--merge", nargs="+", metavar="PART", help="put what indexes of shards hold, or Parquet files, into one index"
    )
    parser.add_argument("--watch", action="store_true", help="stay, and follow what changes in the folders")
    parser.add_argument("--every", type=duration, metavar="TIME", help="with --watch: look at all of it then (15m)")
    parser.add_argument(
        "--poll", type=duration, metavar="TIME", help="with --watch: look so often, as on network disks"
    )
    parser.add_argument("--moved", nargs=2, metavar=("OLD", "NEW"), help="a folder of the index lies elsewhere now")
    parser.add_argument("--check", action="store_true", help="hold the index against itself")
    parser.add_argument("--repair", action="store_true", help="with --check: make right what is wrong")
    parser.add_argument("--compact", action="store_true", help="give back the room of what was taken away")
    parser.add_argument("--stats", action="store_true", help="how much is in it, and how large it is")
    parser.add_argument("--forget", action="store_true", help="take away files that are gone, or the named folders")


def run(args: argparse.Namespace) -> int:
    """Do the one task that was asked for; without one, bring the index up to date."""
    tasks = {
        "--merge": args.merge is not None,
        "--watch": args.watch,
        "--moved": args.moved is not None,
        "--check": args.check,
        "--compact": args.compact,
        "--stats": args.stats,
        "--forget": args.forget,
    }
    refuse_together(*tasks.items())
    task = next((name for name, given in tasks.items() if given), "")
    if args.repair and not args.check:
        raise InputError("--repair stands without --check; expected both. Run: mlx_mm index --check --repair")
    if args.folders and task not in ("", "--watch", "--forget"):
        raise InputError(f"{task} is about the whole index, and folders are named. Leave them out.")
    for name, given in (("--every", args.every), ("--poll", args.poll)):
        if given is not None and not args.watch:
            raise InputError(f"{name} stands without --watch; expected both. Add it, or leave {name} out.")
    if not task:
        return _refresh(args)
    _refuse_for(args, task)
    refuse_launcher(task)
    with open_index(args) as index:
        if args.watch:
            return _watch(index, args)
        if args.merge:
            return _merge(index, args)
        if args.check:
            return _check(index, args)
        if args.stats:
            return _stats(index, args)
        if args.compact:
            index.compact(wait=args.wait)
            return _say(args, {"compacted": str(path_of(args))})
        if args.forget:
            count = index.forget(missing=not args.folders, folders=args.folders, wait=args.wait)
            return _say(args, {"forgotten": count})
        return _say(args, {"moved": index.moved(*args.moved, wait=args.wait)})


def _refuse_for(args: argparse.Namespace, task: str) -> None:
    """InputError for options of a refresh beside another task, where they would do nothing."""
    given = {
        "--exclude": bool(args.exclude) and task != "--watch",
        "--videos": args.videos and task != "--watch",
        "--max-num-patches": args.max_num_patches is not None,
        "--retry": args.retry,
        "--accept-missing": args.accept_missing,
        "--add-space": args.add_space,
        "--reembed": args.reembed,
        "--shard": args.shard is not None,
        "--server": bool(args.server),
        "--wait": args.wait != 0 and task not in ("--compact", "--forget", "--moved", "--merge"),
        "--model": args.model is not None and task == "--merge",
    }
    for name in (name for name, is_given in given.items() if is_given):
        raise InputError(f"{name} says nothing about {task}. Leave it out, or run mlx_mm index with it first.")


def _watch(index: "Index", args: argparse.Namespace) -> int:
    """Follow the folders until a signal comes."""
    from mlx_mm.search.planning import refuse

    reports, noted = 0, ""

    def tell(trouble: str) -> None:
        nonlocal noted
        if trouble and trouble != noted:
            note(f"error: {trouble}")
        noted = trouble

    def on_report(report: "RefreshReport") -> None:
        nonlocal reports
        reports += 1
        tell(str(refuse(report.left_alone)) if report.left_alone else "")
        if reports > 1 and not (report.new or report.changed or report.moved or report.copied or report.missing):
            return
        if args.json:
            say_json(asdict(report), indent=None)
        else:
            say(summary(report))
        flush()

    def on_error(error: MlxMmError) -> None:
        if not reports:
            raise error
        tell(str(error))

    def on_event(event: str, name: str) -> None:
        if event == "model":
            note_bundled(EACH[name])

    every = {} if args.every is None else {"every": args.every}
    Raised.outcome = "the index is as the last line says"
    index.watch(
        args.folders,
        exclude=args.exclude,
        videos=args.videos,
        poll=args.poll,
        on_event=on_event,
        on_report=on_report,
        on_error=on_error,
        **every,
    )
    return 0


def _stats(index: "Index", args: argparse.Namespace) -> int:
    values = index.stats()
    sizes = values.get("bytes")
    if isinstance(sizes, Mapping) and not args.json:
        values = {**values, "bytes": {name: shown_bytes(size) for name, size in sizes.items()}}
    return _say(args, values)


def _say(args: argparse.Namespace, values: dict[str, object]) -> int:
    if args.json:
        say_json(values)
    else:
        say(key_values(values, terminal_width()))
    return 0


def _merge(index: "Index", args: argparse.Namespace) -> int:
    Raised.outcome = "the index is as it was before"
    report = index.merge(args.merge, wait=args.wait, progress=True)
    if report.absent and not args.json:
        are = "s {} are" if len(report.absent) > 1 else " {} is"
        note(f"note: shard{are.format(' and '.join(report.absent))} not among the parts")
    if args.json:
        say_json({"index": str(path_of(args)), **asdict(report)})
    else:
        say(
            f"{counted(report.parts, 'part')} | {counted(report.files, 'file')} new or newer | "
            f"{counted(report.contents, 'content')} and {counted(report.vectors, 'vector')} new, "
            f"{report.known:,} known | {shown_seconds(report.seconds)}"
        )
    return 0


def _refresh(args: argparse.Namespace) -> int:
    shard = shard_of(args)
    args.index = path = part_path(path_of(args), shard)
    given = [Path(name).expanduser() for name in args.folders]
    kept, failed = 0, list[str]()

    def count(event: str, path: str) -> None:
        nonlocal kept
        if event == "failed":
            failed.append(path)
        if event == "model":
            note_bundled(EACH[path])
        kept += event not in ("missing", "failed", "model")
        Raised.outcome = (
            f"{counted(kept, 'file')} of this run {'is' if kept == 1 else 'are'} kept, run it again to go on"
        )

    count("missing", "")
    with open_index(args) as index:
        report = index.refresh(
            given,
            exclude=args.exclude,
            videos=args.videos,
            max_num_patches=args.max_num_patches,
            retry=args.retry,
            accept_missing=args.accept_missing,
            add_space=args.add_space,
            reembed=args.reembed,
            shard=None if shard is None else str(shard),
            servers=args.server,
            wait=args.wait,
            on_event=count,
            progress=True,
        )
    if args.json:
        say_json({"index": str(path), **asdict(report)})
        return _status(report, given)
    for name in failed[:LISTED]:
        why = report.failed.get(name, "")
        note(f"not indexed: {why if name in why else f'{shown_path(name)}: {why}'}")
    if len(failed) > LISTED:
        note(f"… and {counted(len(failed) - LISTED, 'other')}; --json names all")
    say(summary(report) if shard is None else f"{visible(path.name)}: {summary(report)}")
    return _status(report, given)


def _status(report: "RefreshReport", named: list[Path]) -> int:
    """1 where something must be seen to: a folder that was left alone, unless others were named."""
    from mlx_mm.search.planning import refuse

    if report.left_alone:
        note(f"{'note' if named else 'error'}: {refuse(report.left_alone)}")
    return int(bool(report.left_alone) and not named)


def summary(report: "RefreshReport") -> str:
    """A refresh in one line."""
    changes = {
        "new": report.new,
        "changed": report.changed,
        "moved": report.moved,
        "copied": report.copied,
        "missing": report.missing,
    }
    said = [f"{count:,} {what}" for what, count in changes.items() if count] or ["nothing new"]
    if report.failed:
        said.append(f"{len(report.failed):,} unreadable")
    parts = [
        counted(report.files, "file"),
        ", ".join(said),
    ]
    if report.skipped:
        parts.append("left out: " + "; ".join(f"{what}: {count:,}" for what, count in sorted(report.skipped.items())))
    took = shown_seconds(report.seconds)
    if report.encoded:
        rate = f" ({report.encoded / report.seconds:,.1f}/s)" if report.seconds > 0 else ""
        parts.append(f"{report.encoded:,} through the model in {took}{rate}")
    else:
        parts.append(took)
    return " | ".join(parts)


def _check(index: "Index", args: argparse.Namespace) -> int:
    report = index.check(repair=args.repair)
    if args.json:
        say_json(asdict(report))
    else:
        say(check_lines(report, args.repair))
    return 1 if report.left else 0


def check_lines(report: "CheckReport", repair: bool) -> str:
    """What is the matter with an index, a line for each thing."""
    lines = [f"repaired: {visible(line)}" for line in report.repaired]
    lines += [f"problem: {visible(line)}" for line in report.problems]
    counts = ", ".join(f"{what} {count:,}" for what, count in report.counts.items())
    if report.left:
        lines.append("mlx_mm index --check --repair mends what can be mended" if not repair else "not all is mended")
    else:
        lines.append(f"all is well{f': {counts}' if counts else ''}")
    return "\n".join(lines)


COMMAND = Command(
    "bring an index of your pictures and sounds up to date",
    add_arguments,
    run,
    (
        f"mlx_mm index ~/Pictures -m {PICTURES.advised}",
        "mlx_mm index",
        "mlx_mm index ~/Pictures --exclude '*.tmp' --videos",
        "mlx_mm index --watch",
        "mlx_mm index ~/Pictures --index photos.mmindex --shard 1/3",
        "mlx_mm index --index photos.mmindex --merge photos-*-of-3.mmindex",
        "mlx_mm index --moved ~/Pictures /Volumes/Disk/Pictures",
        "mlx_mm index --check --repair",
    ),
)
