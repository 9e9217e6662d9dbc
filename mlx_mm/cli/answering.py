"""The commands that answer in words: arguments -> a call of the API -> print."""

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mlx_mm.cli import chat, console
from mlx_mm.errors import InputError

EXAMPLE_MODEL = "zai-org/GLM-4.6V-Flash"
MAX_TOKENS = 2048  # reasoning counts
# Options of `generate` -> those of the command line that pass them on as they are
PASSED = ["max_tokens", "temperature", "top_p", "top_k", "min_p", "repetition_penalty", "seed", "thinking_budget"]
PASSED += ["stop", "max_pixels", "fps"]


def add_generate(parser: argparse.ArgumentParser) -> None:
    """Those of `generate`."""
    parser.add_argument("prompt", help="what to ask; - reads it from stdin")
    parser.add_argument("--image", action="append", default=[], help="picture to ask about: a file or URL; repeatable")
    parser.add_argument("--video", action="append", default=[], help="video to ask about: a file; repeatable")
    parser.add_argument("--tools", type=Path, help=".json file with function schemas in the OpenAI shape")
    _add_shared(parser)


def run_generate(args: argparse.Namespace) -> int:
    """Print an answer as it comes, or with --json all of it at the end."""
    _require_model(args)
    tools = _read_tools(args.tools)
    prompt = sys.stdin.read() if args.prompt == "-" else args.prompt
    if not prompt.strip():
        raise InputError("The prompt is empty; expected a question. Write it, or - with a question on stdin.")
    messages = [{"role": "system", "content": args.system}] if args.system else []
    messages.append({"role": "user", "content": prompt})
    from mlx_mm.generate import join, refuse_idle, stream_generate

    refuse_idle(args.image, args.video, args.max_pixels, args.fps)
    model, processor = _load(args)
    screen, pieces = chat.Screen(show_thinking=args.show_thinking), []
    media = {"images": args.image, "videos": args.video}
    for piece in stream_generate(model, processor, messages, tools=tools, **media, **_limits(args), **_options(args)):
        pieces.append(piece)
        if not args.json:
            screen.show(piece)
    screen.end()
    answer = join(pieces)
    if args.json:
        print(json.dumps(asdict(answer), ensure_ascii=False, indent=2))
        return 0
    for call in answer.tool_calls:
        print(json.dumps(call, ensure_ascii=False))
    if answer.finish_reason == "length":
        console.note(chat.cut_note(answer))
    if args.stats:
        console.note(chat.stats(answer))
    return 0


def add_chat(parser: argparse.ArgumentParser) -> None:
    """Those of `chat`."""
    _add_shared(parser)


def run_chat(args: argparse.Namespace) -> int:
    """Answer the lines of stdin."""
    _require_model(args)
    if args.json:
        raise InputError("--json is given, and a chat has no result; expected none. Use generate --json.")
    from mlx_mm import Conversation

    model, processor = _load(args)

    def begin() -> Conversation:
        return Conversation(model, processor, system=args.system or None, **_limits(args))

    shown = {"show_stats": args.stats, "show_thinking": args.show_thinking}
    return chat.run_chat(begin(), begin, _options(args), **shown)


def _add_shared(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-m", "--model", help=f"folder or hub id of a model that answers, such as {EXAMPLE_MODEL}")
    parser.add_argument("--revision", help="branch, tag or commit of a hub id")
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


def _require_model(args: argparse.Namespace) -> None:
    if args.model is None:
        raise InputError(
            f"No model is named, and the bundled ones do not answer; expected one that does. Pass -m {EXAMPLE_MODEL}, "
            "or a folder that convert made of it."
        )


def _load(args: argparse.Namespace) -> tuple[Any, Any]:
    from mlx_mm import load

    return load(args.model, revision=args.revision)


def _limits(args: argparse.Namespace) -> dict[str, Any]:
    return {"max_kv_size": args.max_kv_size, "kv_bits": args.kv_bits}


def _options(args: argparse.Namespace) -> dict[str, Any]:
    options = {name: getattr(args, name) for name in PASSED}
    return options | {"enable_thinking": False if args.no_thinking else None, "progress": console.is_terminal()}


def _read_tools(path: Path | None) -> Any:
    if path is None:
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"Cannot read {path}: {error}. Expected a JSON list of function schemas.") from error
