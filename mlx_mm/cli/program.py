"""Command line: arguments -> a call of the API -> print. Progress and warnings go to stderr."""

import argparse
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from mlx_mm import __version__
from mlx_mm.cli import answering as cli_generate
from mlx_mm.cli import console
from mlx_mm.errors import InputError, MediaError, MlxMmError

DEFAULT_MODEL = "emoji-siglip2"
PHOTO_MODEL = "google/siglip2-base-patch16-naflex"


class Command(NamedTuple):
    """One subcommand: its line in --help, its arguments, and what it does with them."""

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]


def main(argv: list[str] | None = None) -> None:
    """Run the command line; the exit status is 0, 1 for an error the user can mend, 2 for wrong usage."""
    args = build_parser().parse_args(argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names may be any bytes
    try:
        with console.warnings_as_notes():
            status = COMMANDS[args.command].run(args)
        sys.stdout.flush()
    except MlxMmError as error:
        print(f"error: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("interrupted; nothing half-written was kept", file=sys.stderr)
        status = 130  # 128 + SIGINT, as shells report it
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 1
    sys.exit(status)


def build_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="mlx_mm", description="Search pictures and sounds by words, tag them, convert models. All on this machine."
    )
    parser.add_argument("--version", action="version", version=f"mlx_mm {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        sub = commands.add_parser(name, help=command.help, description=command.help)
        command.add_arguments(sub)
        sub.add_argument("--json", action="store_true", help="print results as JSON")
    return parser


def _demo_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--out", type=Path, default=Path("mlx_mm-demo.png"), help="contact sheet to write (default: %(default)s)"
    )


def _demo(args: argparse.Namespace) -> int:
    from mlx_mm.cli.demo import run_demo

    result = run_demo(args.out)
    print(json.dumps(result, ensure_ascii=False, indent=2) if args.json else console.demo_table(result))
    return 0


def _convert_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="folder, bundled name or hub id of a Hugging Face checkpoint")
    parser.add_argument("out", type=Path, help="folder to create")
    parser.add_argument("--bits", type=_bits, default=4, help="4, 8 or none (default: %(default)s)")
    parser.add_argument("--group-size", type=int, default=64, help="32, 64 or 128 (default: %(default)s)")
    parser.add_argument("--mode", default="affine", help="quantisation mode (default: %(default)s)")
    parser.add_argument("--dtype", help="of what is not quantised: float32, float16, bfloat16 (default: the source's)")
    parser.add_argument("--recipe", help="all, text-only, embeddings-8bit, or a .json file of {path pattern: settings}")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--overwrite", action="store_true", help="replace a checkpoint that stands at OUT")
    parser.add_argument("--check", action="store_true", help="compare vectors with the source's afterwards")


def _convert(args: argparse.Namespace) -> int:
    from mlx_mm import convert

    names = ("bits", "group_size", "mode", "dtype", "revision", "overwrite", "check")
    options = {name: getattr(args, name) for name in names}
    report = convert(args.source, args.out, recipe=_read_recipe(args.recipe), progress=console.is_terminal(), **options)
    print(json.dumps(console.report_as_dict(report), indent=2) if args.json else console.report_table(report))
    return 0


def _info_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", nargs="?", help="folder, bundled name or hub id; without it, about this machine")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--image", action="append", default=[], help="show the tokens this picture costs; repeatable")
    parser.add_argument("--video", action="append", default=[], help="show the tokens this video costs; repeatable")


def _info(args: argparse.Namespace) -> int:
    from mlx_mm.cli import info

    if (args.image or args.video) and not args.model:
        raise InputError("--image and --video show what a model makes of them; expected one. Name it first.")
    result = info.describe_model(args.model, args.revision) if args.model else info.describe_machine()
    if args.image or args.video:
        result["tokens"] = info.count_tokens(args.model, args.image, args.video, args.revision)
    print(json.dumps(result, indent=2) if args.json else console.key_values(result))
    return 0


def _add_model_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", help=f"folder, bundled name or hub id (default: the bundled {DEFAULT_MODEL})")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
    parser.add_argument("--batch-size", type=int, default=8, help="items at a time (default: %(default)s)")


def _embed_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        help="pictures or sounds: files, folders, patterns, of pictures also URLs, or - for one per line on stdin",
    )
    parser.add_argument("--text", action="store_true", help="the inputs, or the lines of -, are texts")
    parser.add_argument("-o", "--out", type=Path, help=".npz, .jsonl or .parquet (default: JSON lines on stdout)")
    parser.add_argument("--dim", type=int, help="keep the first DIM numbers of each vector")
    parser.add_argument("--no-normalize", action="store_true", help="leave the vectors at their own length")
    parser.add_argument("--max-num-patches", type=int, help="budget of NaFlex models; more keeps finer detail")
    parser.add_argument("--task", help="what the vectors of texts are for, in models that distinguish it")
    parser.add_argument("--max-length", type=int, help="tokens of a text, of which the rest is cut off")
    parser.add_argument("--no-truncate", action="store_true", help="refuse longer texts instead of cutting them")
    _add_model_arguments(parser)


def _embed(args: argparse.Namespace) -> int:
    from mlx_mm import encode_audio, encode_image, encode_text
    from mlx_mm.cli import export

    if args.out:
        export.check_export(args.out)
    options = {
        "dim": args.dim,
        "normalize": not args.no_normalize,
        "batch_size": args.batch_size,
        "progress": console.is_terminal(),
    }
    skipped = console.Skipped()
    inputs = _require_some(_lines(args.inputs))
    loaded = _load(args)
    kind = "text" if args.text else _kind(loaded[0])
    _check_kind(args, kind)
    if kind == "text":
        ids = inputs
        options |= {"task": args.task, "max_length": args.max_length, "truncate": not args.no_truncate}
        vectors = encode_text(*loaded, ids, **options)
    else:
        files = _require_some(skipped.find(inputs, kind))
        options["on_error"] = skipped.on_error(files)
        if kind == "audio":
            vectors = encode_audio(*loaded, files, **options)
        else:
            vectors = encode_image(*loaded, files, max_num_patches=args.max_num_patches, **options)
        ids = skipped.remaining(files)
    _require_some(ids)
    if args.out:
        export.write_vectors(args.out, ids, vectors, args.model or DEFAULT_MODEL)
        summary = {"out": str(args.out), "vectors": len(ids), "dim": vectors.shape[1], "skipped": skipped.count}
        line = f"{console.plural(len(ids), 'vector')} of {vectors.shape[1]} numbers -> {args.out}"
        print(json.dumps(summary) if args.json else line)
    else:
        for line in export.json_lines(ids, vectors):
            print(line)
    skipped.report()
    return 0


def _check_kind(args: argparse.Namespace, kind: str) -> None:
    """Raise InputError for options that say nothing about what is embedded."""
    about = {
        "--max-num-patches": ("image", "pictures", args.max_num_patches is not None),
        "--task": ("text", "texts", args.task is not None),
        "--max-length": ("text", "texts", args.max_length is not None),
        "--no-truncate": ("text", "texts", args.no_truncate),
    }
    for option, (fitting, what, given) in about.items():
        if given and kind != fitting:
            raise InputError(f"{option} is about {what}, and this embeds {kind}. Leave it out.")


def _classify_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "inputs",
        nargs="+",
        help="pictures or sounds: files, folders, patterns, of pictures also URLs, or - for one per line on stdin",
    )
    parser.add_argument(
        "-l", "--labels", action="append", help="words to choose from, comma-separated; may be given more than once"
    )
    parser.add_argument("--labels-file", type=Path, help="file with one label per line")
    parser.add_argument("--template", action="append", help="sentence with {} for the label; several are averaged")
    parser.add_argument("--top", type=int, default=5, help="labels to print for each picture (default: %(default)s)")
    _add_model_arguments(parser)


def _classify(args: argparse.Namespace) -> int:
    from mlx_mm import classify

    labels = _read_labels(args)
    if args.top < 1:
        raise InputError(f"--top is {args.top}; expected 1 or more.")
    skipped = console.Skipped()
    model, processor = _load(args)
    files = _require_some(skipped.find(_lines(args.inputs), _kind(model)))
    options = {"batch_size": args.batch_size, "progress": console.is_terminal()}
    results = classify(
        model, processor, files, labels, template=args.template, on_error=skipped.on_error(files), **options
    )
    names = skipped.remaining(files)
    _require_some(names)
    rows = [(name, result[: args.top]) for name, result in zip(names, results, strict=True)]
    print(console.scores_json(rows) if args.json else console.scores_table(rows))
    skipped.report()
    return 0


def _load(args: argparse.Namespace) -> tuple[Any, Any]:
    from mlx_mm import load

    if args.model is None:
        console.note(
            f"using the bundled {DEFAULT_MODEL}, made for emoji-like drawings; for photographs: --model {PHOTO_MODEL}"
        )
    return load(args.model or DEFAULT_MODEL, revision=args.revision)


def _kind(model: Any) -> str:
    """What a model takes beside texts."""
    return "audio" if "audio" in model.modalities else "image"


def _lines(inputs: list[str]) -> list[str]:
    """The inputs, with - replaced by the lines of stdin; empty lines are left out."""
    result: list[str] = []
    for item in inputs:
        result += [line for line in sys.stdin.read().splitlines() if line.strip()] if item == "-" else [item]
    return result


def _require_some(items: list[str]) -> list[str]:
    if not items:
        raise MediaError("Nothing could be read, so there is no result. Name pictures or sounds, or texts with --text.")
    return items


def _read_labels(args: argparse.Namespace) -> list[str] | None:
    if args.labels is None and args.labels_file is None:
        return None
    labels = [part.strip() for text in args.labels or [] for part in text.split(",")]
    if args.labels_file is not None:
        labels += [line.strip() for line in _read_text(args.labels_file).splitlines()]
    return [label for label in labels if label]


def _read_recipe(recipe: str | None) -> Any:
    if recipe is None or not recipe.endswith(".json"):
        return recipe
    try:
        return json.loads(_read_text(Path(recipe)))
    except ValueError as error:
        raise InputError(f"{recipe} is not JSON ({error}). Expected {{path pattern: settings or false}}.") from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"Cannot read {path}: {error}. Expected a UTF-8 text file.") from error


def _bits(text: str) -> int | None:
    if text == "none":
        return None
    if text not in ("4", "8"):
        raise argparse.ArgumentTypeError(f"expected 4, 8 or none, found {text!r}")
    return int(text)


COMMANDS = {
    "demo": Command("search and classify the bundled pictures, offline", _demo_arguments, _demo),
    "convert": Command("convert a Hugging Face checkpoint to 4 or 8 bit", _convert_arguments, _convert),
    "info": Command("show what runs here, or what a checkpoint is", _info_arguments, _info),
    "embed": Command("turn pictures, sounds or texts into vectors", _embed_arguments, _embed),
    "classify": Command("score pictures or sounds against labels", _classify_arguments, _classify),
    "generate": Command("answer a question, also about pictures", cli_generate.add_generate, cli_generate.run_generate),
    "chat": Command("talk about pictures and videos", cli_generate.add_chat, cli_generate.run_chat),
}
