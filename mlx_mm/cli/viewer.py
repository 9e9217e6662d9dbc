"""Showing a file by the program that the desktop has for it."""

import os
import subprocess
import sys
from pathlib import Path

from mlx_mm.errors import InputError, OutputError, reason

WAIT = 5.0  # seconds for the desktop to say that it cannot


def has_display() -> bool:
    """Whether there is a desktop to show anything."""
    return sys.platform == "darwin" or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def check_display() -> None:
    """InputError where there is no desktop."""
    if not has_display():
        raise InputError("--open needs a desktop, and neither DISPLAY nor WAYLAND_DISPLAY is set. Leave it out.")


def show_file(path: str) -> None:
    """Open a file as a double click does. Raises OutputError."""
    _open(os.path.abspath(path))


def show_address(address: str) -> None:
    """Open an address in the browser. Raises OutputError."""
    _open(address)


def reveal(path: Path) -> None:
    """Show a file in its folder, by the desktop's file manager. Raises OutputError."""
    if sys.platform == "darwin":
        _open("-R", str(path))
    else:  # there is no way to mark a file that all desktops have
        _open(str(path.parent))


def _open(*arguments: str) -> None:
    path = arguments[-1]
    program = "open" if sys.platform == "darwin" else "xdg-open"
    try:
        opened = subprocess.Popen(
            [program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    except OSError as error:
        raise OutputError(
            f"{program} cannot be run ({reason(error)}); expected the desktop's own. Open {path} by hand."
        ) from error
    try:
        status = opened.wait(WAIT)
    except subprocess.TimeoutExpired:  # it is the viewer itself, which stays
        return
    if status:
        raise OutputError(f"{program} ended with {status}; expected a program that shows {path}. Open it by hand.")
