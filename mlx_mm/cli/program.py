"""Command line: arguments -> a call of the API -> print. Progress and warnings go to stderr."""

import argparse
import io
import os
import sys

from mlx_mm import __version__
from mlx_mm.checkpoint import undisturbed
from mlx_mm.cli import chat, classify, convert, demo, embed, generate, info
from mlx_mm.cli.notes import warnings_as_notes
from mlx_mm.cli.signals import Raised, Terminated, unwinding
from mlx_mm.errors import MlxMmError

COMMANDS = {
    "demo": demo.COMMAND,
    "convert": convert.COMMAND,
    "info": info.COMMAND,
    "embed": embed.COMMAND,
    "classify": classify.COMMAND,
    "generate": generate.COMMAND,
    "chat": chat.COMMAND,
}
ERROR = 1  # one that the user can mend; argparse itself ends with 2 for wrong usage
INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv: list[str] | None = None) -> None:
    """Run the command line; the exit status is 0, 1 for an error the user can mend, 2 for wrong usage, 128 and the
    number of a signal that ended it.

    argv: the words after the name; None for those of this process, which ends with them.
    """
    with unwinding(last=argv is None):
        try:
            undisturbed.end()
            status = _run(argv)
            undisturbed.Section.held = True
        except KeyboardInterrupt:
            undisturbed.Section.held = True
            print("interrupted; nothing half-written was kept", file=sys.stderr)
            status = INTERRUPTED
        except Terminated as ended:
            undisturbed.Section.held = True
            print("terminated; nothing half-written was kept", file=sys.stderr)
            status = ended.status
        except ImportError:
            undisturbed.Section.held = True
            if Raised.number is None:
                raise
            word = "interrupted" if Raised.number == INTERRUPTED - 128 else "terminated"
            print(f"{word}; nothing half-written was kept", file=sys.stderr)
            status = 128 + Raised.number
    sys.exit(status)


def _run(argv: list[str] | None) -> int:
    """The exit status of a command that is not interrupted."""
    args = build_parser().parse_args(argv)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="surrogateescape")  # file names may be any bytes
    try:
        with warnings_as_notes():
            status = COMMANDS[args.command].run(args)
        sys.stdout.flush()
    except MlxMmError as error:
        print(f"error: {error}", file=sys.stderr)
        status = ERROR
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = ERROR
    return status


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
