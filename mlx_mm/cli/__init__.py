"""The command line."""

from mlx_mm.cli.program import main

__all__ = ["main"]
