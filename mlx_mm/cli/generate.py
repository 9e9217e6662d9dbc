"""`mlx_mm generate`: a question, images and videos -> an answer, as it comes or as JSON."""

import argparse
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, cast

from mlx_mm.cli.command import Command
from mlx_mm.cli.opening import open_generator
from mlx_mm.cli.options import add_answering, add_dividing, answering
from mlx_mm.cli.output import say_json
from mlx_mm.cli.ranks import loaded
from mlx_mm.cli.reading import read_json_file, read_stdin
from mlx_mm.cli.screen import Screen, note_end
from mlx_mm.errors import InputError

if TYPE_CHECKING:
    from mlx_mm.models.contracts import Model, Processor

Tools: TypeAlias = list[dict[str, object]]  # function schemas in the OpenAI shape


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `generate`."""
    parser.add_argument("prompt", help="what to ask; - reads it from stdin")
    parser.add_argument("--image", action="append", default=[], help="picture to ask about: a file or URL; repeatable")
    parser.add_argument("--video", action="append", default=[], help="video to ask about: a file; repeatable")
    parser.add_argument("--tools", type=Path, help=".json file with function schemas in the OpenAI shape")
    add_answering(parser)
    add_dividing(parser)


def run(args: argparse.Namespace) -> int:
    """Print an answer as it comes, or with --json all of it at the end."""
    tools = read_tools(args.tools)
    if args.prompt == "-":
        _check_stdin_ends()
    messages = _messages(args.system, read_stdin() if args.prompt == "-" else args.prompt)
    from mlx_mm.generate import refuse_idle

    refuse_idle(args.image, args.video, args.max_pixels, args.fps)
    with loaded(open_generator(args.model, args.revision), pipeline=args.pipeline, memory=args.memory) as opened:
        return 0 if opened is None else _answer(args, messages, tools, *opened[:2])


def _answer(
    args: argparse.Namespace,
    messages: list[dict[str, str]],
    tools: Tools | None,
    model: "Model",
    processor: "Processor",
) -> int:
    from mlx_mm.generate import stream_generate
    from mlx_mm.generation.answer import join

    screen, pieces = Screen(show_thinking=args.show_thinking), []
    for piece in stream_generate(
        model,
        processor,
        messages,
        images=args.image,
        videos=args.video,
        tools=tools,
        max_kv_size=args.max_kv_size,
        kv_bits=args.kv_bits,
        **answering(args),
    ):
        pieces.append(piece)
        if not args.json:
            screen.show(piece)
    screen.end()
    answer = join(pieces)
    if args.json:
        say_json(asdict(answer))
        return 0
    for call in answer.tool_calls:
        say_json(call, indent=None)
    note_end(answer, show_stats=args.stats)
    return 0


def _check_stdin_ends() -> None:
    """Raise InputError on one of several ranks: what starts them never ends their stdin."""
    from mlx_mm.backend.ranks import is_launched

    if is_launched():
        raise InputError("The prompt is -, and several ranks have no stdin that ends; expected a question. Write it.")


def read_tools(path: Path | None) -> Tools | None:
    """What a .json file holds, which `stream_generate` checks; InputError for one that is no JSON."""
    if path is None:
        return None
    return cast("Tools", read_json_file(path, "a list of function schemas"))


def _messages(system: str | None, prompt: str) -> list[dict[str, str]]:
    if not prompt.strip():
        raise InputError("The prompt is empty; expected a question. Write it, or - with a question on stdin.")
    messages = [{"role": "system", "content": system}] if system else []
    return [*messages, {"role": "user", "content": prompt}]


COMMAND = Command(
    "answer a question, also about pictures",
    add_arguments,
    run,
    (
        'mlx_mm generate "What is this?" --image cat.png',
        'mlx_mm generate "What is on this receipt?" --image receipt.jpg -m glm-flash-4bit',
        'mlx_mm generate "What happens here?" --video clip.mp4 --no-thinking -m glm-flash-4bit',
        "mlx_mm generate - -m glm-flash-4bit --json < question.txt",
    ),
)
