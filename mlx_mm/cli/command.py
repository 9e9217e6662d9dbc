"""What a command is."""

import argparse
from collections.abc import Callable
from typing import NamedTuple


class Command(NamedTuple):
    """One command of `mlx_mm`: its line in --help, its arguments, and what it does with them.

    run: gives the exit status. What it needs beyond the standard library it imports itself, so that --help is instant.
    examples: lines that its help shows.
    """

    help: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[argparse.Namespace], int]
    examples: tuple[str, ...]
