"""The command line."""

import sys

INTERRUPTED = 130  # 128 + SIGINT, as shells report it


def main(argv: list[str] | None = None) -> None:
    """Run the command line, see `program.main`; Ctrl-C while that is imported ends as it does later."""
    try:
        from mlx_mm.cli import program
    except KeyboardInterrupt:
        if sys.stderr is not None:
            sys.stderr.write("interrupted; nothing half-written was kept\n")
        sys.exit(INTERRUPTED)
    program.main(argv)
