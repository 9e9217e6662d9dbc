"""Command line: arguments -> a call of the API -> print. Progress and warnings go to stderr."""

import argparse
import sys
from collections.abc import Callable

from mlx_mm import __version__
from mlx_mm.checkpoint import undisturbed
from mlx_mm.cli import (
    INTERRUPTED,
    bench,
    chat,
    classify,
    completion,
    convert,
    demo,
    dups,
    embed,
    export,
    generate,
    index,
    info,
    models,
    search,
    serve,
    tag,
)
from mlx_mm.cli.notes import note, warnings_as_notes
from mlx_mm.cli.option_names import naming_options
from mlx_mm.cli.output import abandon, flush, prepare_streams, say
from mlx_mm.cli.signals import Raised, Terminated, as_itself, unwinding
from mlx_mm.cli.usage import Parser
from mlx_mm.errors import ConfigError, MlxMmError, WeightsError

COMMANDS = {
    "demo": demo.COMMAND,
    "index": index.COMMAND,
    "search": search.COMMAND,
    "dups": dups.COMMAND,
    "tag": tag.COMMAND,
    "export": export.COMMAND,
    "serve": serve.COMMAND,
    "convert": convert.COMMAND,
    "info": info.COMMAND,
    "embed": embed.COMMAND,
    "classify": classify.COMMAND,
    "generate": generate.COMMAND,
    "chat": chat.COMMAND,
    "models": models.COMMAND,
    "bench": bench.COMMAND,
    "completion": completion.COMMAND,
}
ERROR = 1  # one that the user can mend; argparse itself ends with 2 for wrong usage


def main(argv: list[str] | None = None) -> None:
    """Run the command line; the exit status is 0, 1 for an error the user can mend, 2 for wrong usage, 128 and the
    number of a signal that ended it.

    argv: the words after the name; None for those of this process, which ends with them.
    """
    prepare_streams()
    with unwinding(last=argv is None):
        try:
            undisturbed.end()
            with as_itself():
                status = _run(argv)
            undisturbed.Section.held = True
        except KeyboardInterrupt:
            undisturbed.Section.held = True
            note(f"interrupted; {Raised.outcome}")
            status = INTERRUPTED
        except Terminated as ended:
            undisturbed.Section.held = True
            note(f"terminated; {Raised.outcome}")
            status = ended.status
    sys.exit(status)


def _run(argv: list[str] | None) -> int:
    """The exit status of a command that is not interrupted."""
    as_options: Callable[[str], str] = str
    try:
        parser = build_parser()
        args = parser.parse_args(argv)
        as_options = args.as_options = naming_options(parser.commands[args.command].options)
        with warnings_as_notes(as_options):
            status = COMMANDS[args.command].run(args)
        flush()
    except MlxMmError as error:
        # What stands in a checkpoint has the names of its files, which may be those of arguments
        own = isinstance(error, ConfigError | WeightsError)
        note(f"error: {error if own else as_options(str(error))}")
        status = ERROR
    except BrokenPipeError:  # the reader of our output, such as `head`, has gone
        abandon(sys.stdout)
        status = ERROR
    return status


def build_parser() -> Parser:
    """The parser of all commands."""
    parser = Parser(
        prog="mlx_mm",
        description="Search pictures and sounds by words, tag them, convert models. All on this machine.",
        examples=("mlx_mm demo", "mlx_mm index ~/Pictures", 'mlx_mm search "dog on a beach"', "mlx_mm search --help"),
    )
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    parser.commands = {
        name: commands.add_parser(
            name,
            help=command.help,
            prog=f"mlx_mm {name}",
            description=command.help[0].upper() + command.help[1:] + ".",
            examples=command.examples,
            command=name,
        )
        for name, command in COMMANDS.items()
    }
    for name, command in COMMANDS.items():
        command.add_arguments(parser.commands[name])
        parser.commands[name].add_argument("--json", action="store_true", help="print results as JSON")
    return parser


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        say(f"mlx_mm {__version__}")
        parser.exit()
