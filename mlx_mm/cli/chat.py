"""`mlx_mm chat`: lines in, answers out, at a terminal or over a pipe."""

import argparse
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from mlx_mm.cli.attachments import Attachments, find_attachments, is_there, local_name, unquote
from mlx_mm.cli.command import Command
from mlx_mm.cli.notes import note
from mlx_mm.cli.opening import open_generator
from mlx_mm.cli.options import add_answering, add_dividing, answering
from mlx_mm.cli.output import say, watched
from mlx_mm.cli.ranks import loaded
from mlx_mm.cli.reading import stdin_line
from mlx_mm.cli.screen import Screen, note_end
from mlx_mm.cli.tables import plural
from mlx_mm.errors import InputError, MlxMmError

if TYPE_CHECKING:
    from mlx_mm.conversation import Conversation
    from mlx_mm.generate import GenerateOptions
    from mlx_mm.models.contracts import Model, Processor

HELP = """\
Type a question. A file name in it, plain or in quotes, attaches that picture or video; so does the URL of a picture.
/image FILE  attach a picture to the next question    /video FILE  attach a video
/clear       forget what was said                     /save FILE   keep the conversation, in a .safetensors file
/load FILE   go on with a saved one                   /exit        leave (Ctrl-D too)
Ctrl-C stops an answer, and at an empty prompt leaves."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `chat`."""
    add_answering(parser)
    add_dividing(parser)


def run(args: argparse.Namespace) -> int:
    """Answer the lines of stdin."""
    if args.json:
        raise InputError("--json is given, and a chat has no result; expected none. Use generate --json.")
    with loaded(open_generator(args.model, args.revision), pipeline=args.pipeline, memory=args.memory) as opened:
        return 0 if opened is None else _talk_with(args, *opened)


def _talk_with(args: argparse.Namespace, model: "Model", processor: "Processor", rest: Callable[[], None]) -> int:
    from mlx_mm import Conversation

    system, size, bits = args.system or None, args.max_kv_size, args.kv_bits

    def begin() -> Conversation:
        return Conversation(model, processor, system=system, max_kv_size=size, kv_bits=bits)

    return talk(
        begin,
        answering(args),
        show_stats=args.stats,
        show_thinking=args.show_thinking,
        as_options=args.as_options,
        rest=rest,
    )


def talk(
    begin: "Callable[[], Conversation]",
    options: "GenerateOptions",
    *,
    show_stats: bool = False,
    show_thinking: bool = False,
    as_options: Callable[[str], str] = str,
    rest: Callable[[], None] = lambda: None,
) -> int:
    """Read questions until the input ends; the status is 1 where a piped one could not be answered.

    begin: makes a conversation in which nothing was said. options: of `Conversation.ask`. as_options: puts the names of
    options in the place of those of arguments. rest: called before a line is waited for.
    """
    piped = not watched(sys.stdin)
    screen = Screen(show_thinking=show_thinking)
    if not piped:
        note("Type a question; /help lists what else there is. Ctrl-C stops an answer, Ctrl-D leaves.")
    conversation, waiting, failed = begin(), Attachments(), False
    while (line := _read(piped, rest)) is not None:
        try:
            if line.startswith("/") and not is_there(line.split()[0], url=False):
                order, _, argument = line.partition(" ")
                if order == "/exit":
                    break
                if order == "/clear":
                    conversation, waiting = begin(), Attachments()
                else:
                    waiting += _obey(order, argument.strip(), conversation)
                continue
            text, found = find_attachments(line)
            waiting += found
            if text:
                question, waiting = waiting, Attachments()
                _answer(conversation, screen, text, question, options, show_stats)
        except MlxMmError as error:
            screen.end()
            note(f"error: {as_options(str(error))}")
            failed = True
    return int(failed and piped)


def _read(piped: bool, rest: Callable[[], None]) -> str | None:
    """The next line that is not empty; None at the end."""
    rest()
    while True:
        try:
            line = stdin_line() if piped else input("> ")
        except EOFError:
            line = None
        except KeyboardInterrupt:
            say("")
            line = None
        if line is None:
            return None
        if line.strip():
            return line.strip()


def _answer(
    conversation: "Conversation",
    screen: Screen,
    text: str,
    attached: Attachments,
    options: "GenerateOptions",
    show_stats: bool,
) -> None:
    last = None
    try:
        for last in conversation.ask(text, images=attached.images, videos=attached.videos, **options):
            screen.show(last)
    except KeyboardInterrupt:
        screen.end()
        note("stopped")
        return
    finally:
        conversation.settle()  # so that an answer that is stopped is kept as far as it came
    screen.end()
    if last is not None:
        note_end(last, show_stats=show_stats)


def _obey(order: str, argument: str, conversation: "Conversation") -> Attachments:
    """Do what a line that begins with / says; what it attaches to the next question."""
    if order == "/help":
        say(HELP)
        return Attachments()
    if order not in ("/image", "/video", "/save", "/load"):
        known = "/image, /video, /clear, /save, /load, /help or /exit"
        raise InputError(f"There is no command {order}; expected {known}.")
    if not argument:
        raise InputError(f"{order} needs a file; expected {order} FILE.")
    name = local_name(unquote(argument))
    if order == "/save":
        conversation.save(name)
        note(f"saved to {name}")
        return Attachments()
    if order == "/load":
        conversation.load(name)
        note(f"going on after {plural(len(conversation.messages), 'message')}")
        return Attachments()
    if not is_there(name, url=True):
        raise InputError(f"There is no file {name}; expected a picture or video. Check the name.")
    return Attachments(images=[name]) if order == "/image" else Attachments(videos=[name])


COMMAND = Command(
    "talk about pictures and videos",
    add_arguments,
    run,
    (
        "mlx_mm chat",
        "mlx_mm chat -m glm-flash-4bit",
        "mlx_mm chat -m zai-org/GLM-4.6V-Flash --system 'Answer in one sentence.' --no-thinking",
        "printf 'What is on receipt.jpg?\\nWhat did it cost?\\n' | mlx_mm chat -m glm-flash-4bit",
    ),
)
