"""Options that several commands have, and the names they have in the API."""

import argparse
from typing import TYPE_CHECKING

from mlx_mm.checkpoint.bundled import ANSWERS, PICTURES, SOUNDS

if TYPE_CHECKING:
    from mlx_mm.generate import GenerateOptions

MAX_TOKENS = 2048  # reasoning counts


def add_inputs(parser: argparse.ArgumentParser) -> None:
    """What is to be embedded or classified."""
    parser.add_argument(
        "inputs",
        nargs="+",
        help="pictures or sounds: files, folders, patterns, of pictures also URLs, or - for one per line on stdin",
    )
    parser.add_argument("--null", action="store_true", help="those on stdin end with NUL, as of find -print0")


def add_fast_decode(parser: argparse.ArgumentParser) -> None:
    """How pictures are read."""
    parser.add_argument("--fast-decode", action="store_true", help="read large photos faster, not to the last bit")


def add_encoder(parser: argparse.ArgumentParser) -> None:
    """Which model makes vectors, of how much at a time."""
    bundled = f"the bundled {PICTURES.name}, or {SOUNDS.name} for sounds"
    parser.add_argument("-m", "--model", help=f"folder, bundled name or hub id (default: {bundled})")
    add_revision(parser)
    parser.add_argument("--batch-size", type=int, default=8, help="items at a time (default: %(default)s)")


def add_revision(parser: argparse.ArgumentParser) -> None:
    """Of a hub id."""
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Which model answers, and how."""
    bundled = f"the bundled {ANSWERS.name}, which knows emoji; such as {ANSWERS.advised}"
    parser.add_argument("-m", "--model", help=f"folder or hub id of a model that answers (default: {bundled})")
    add_revision(parser)
    parser.add_argument("--system", help="what the model is told before everything")
    parser.add_argument(
        "--max-tokens", type=int, default=MAX_TOKENS, help="of an answer with its reasoning (default: %(default)s)"
    )
    own = "(default: the model's own)"
    parser.add_argument("--temperature", type=float, help=f"0 takes the likeliest token {own}")
    parser.add_argument("--top-p", type=float, help=f"choose among tokens of this share of probability {own}")
    parser.add_argument("--top-k", type=int, help=f"choose among so many tokens {own}")
    parser.add_argument("--min-p", type=float, help=f"leave out tokens below this share of the likeliest one's {own}")
    parser.add_argument("--repetition-penalty", type=float, help=f"above 1 against repetition {own}")
    parser.add_argument("--seed", type=int, help="the same number gives the same answer")
    parser.add_argument("--no-thinking", action="store_true", help="answer at once, without reasoning")
    parser.add_argument("--thinking-budget", type=int, metavar="N", help="end the reasoning after N tokens")
    parser.add_argument("--show-thinking", action="store_true", help="print the reasoning to a file or pipe too")
    parser.add_argument("--stop", action="append", default=[], help="end the answer before this text; repeatable")
    parser.add_argument("--max-pixels", type=int, help="of a picture or frame; fewer are faster and show less")
    parser.add_argument("--fps", type=float, help="frames per second of videos that do not tell")
    parser.add_argument("--max-kv-size", type=int, metavar="N", help="keep N tokens in memory, forget older ones")
    parser.add_argument("--kv-bits", type=int, choices=(4, 8), help="quantise that memory")
    parser.add_argument("--stats", action="store_true", help="tokens per second and memory, on stderr")


def add_dividing(parser: argparse.ArgumentParser) -> None:
    """How several ranks divide a model."""
    parser.add_argument("--pipeline", action="store_true", help="under mlx.launch: divide the model by layers")
    parser.add_argument("--memory", metavar="SIZES", help="of each rank's machine, as 64GB,32GB, for --pipeline")


def answering(args: argparse.Namespace) -> "GenerateOptions":
    """Those of `add_answering` that may differ from turn to turn, as `stream_generate` and `Conversation.ask` call
    them."""
    return {
        "max_tokens": args.max_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "min_p": args.min_p,
        "repetition_penalty": args.repetition_penalty,
        "seed": args.seed,
        "enable_thinking": False if args.no_thinking else None,
        "thinking_budget": args.thinking_budget,
        "stop": args.stop,
        "fps": args.fps,
        "max_pixels": args.max_pixels,
        "progress": True,
    }
