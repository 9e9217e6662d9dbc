"""The rooms of the package, their one order, and what docs/ shows of them, made from the code.

`python tests/rooms.py` writes docs/rooms.svg, a picture, and docs/rooms.md, a list of files; a test compares them.
"""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]
PACKAGE = REPOSITORY / "mlx_mm"
DOCS = REPOSITORY / "docs"

# Room -> its job. From the lowest up: a file imports from its own room and from those before it.
ROOMS = {
    "errors": "what can go wrong, and checks for every room",
    "progress": "how far long work is",
    "processing": "pictures, sounds, videos, texts, chats → NumPy",
    "backend": "the machine: device, threads, memory, BLAS",
    "checkpoint": "hub, folders, files of weights",
    "layers": "blocks that several families share",
    "quantize": "which layer has how many bits",
    "generation": "from one token to the next",
    "models": "the families, and what they promise the rest",
    "load": "a folder → a model and its processor",
    "batches": "prepared items → rows of a model",
    "embed": "inputs → embeddings",
    "classify": "inputs and labels → scores",
    "generate": "prompts → answers",
    "conversation": "a chat that goes on",
    "probes": "what a model is tried on",
    "evaluate": "what rounding cost, two checkpoints side by side",
    "convert": "Hugging Face's folder → ours",
    "dequantize": "ours → Hugging Face's folder",
    "search": "an index of files: search, duplicates, tags",
    "server": "the same over HTTP",
    "cli": "the command line",
}
ORDER = tuple(ROOMS)

STEP = 30  # pixels from room to room, in both directions
BOX = 112  # pixels
STYLE = """
text { font-family: system-ui, sans-serif; font-size: 13px; fill: #1f2328 }
.name { font-weight: 600 }
.job { fill: #59636e }
.wire { stroke: #c3c9d0; fill: none }
.box { fill: #ddeeff; stroke: #4f8cc9 }
.dot, .tip { fill: #4f8cc9 }
@media (prefers-color-scheme: dark) {
  text { fill: #f0f6fc }
  .job { fill: #9198a1 }
  .wire { stroke: #4a525c }
  .box { fill: #132c45; stroke: #6cb0f5 }
  .dot, .tip { fill: #6cb0f5 }
}
"""


@functools.cache
def code_of(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Every module that a file imports, anywhere in it; `from a.b import c` gives a.b and a.b.c."""
    return frozenset(_imported(path))


def _imported(path: Path) -> Iterator[str]:
    for node in ast.walk(code_of(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name} imports relatively"
            assert node.module is not None
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str:
    """`mlx_mm.models.clap.model` and `models/clap/model` are in the room `models`."""
    return name.removeprefix("mlx_mm.").replace(".", "/").split("/")[0]


def files_of(room: str) -> list[Path]:
    return sorted(path for path in PACKAGE.rglob("*.py") if room_of(_file(path)) == room)


def arrows(room: str) -> set[str]:
    """The other rooms from which a room imports directly."""
    names = {name for path in files_of(room) for name in imported(path) if name.startswith("mlx_mm.")}
    return ({room_of(name) for name in names} & set(ORDER)) - {room}


def picture() -> str:
    """Rooms down a staircase; a wire goes left from a room, and at each dot up to one from which it imports."""
    rooms = [room for room in ORDER if files_of(room)]
    at = {room: 20 + STEP * i for i, room in enumerate(rooms)}  # both x and y
    uses = {room: sorted(arrows(room), key=rooms.index) for room in rooms}
    wires, dots, boxes = [], [], []
    for room in rooms:
        here = at[room]
        if uses[room]:
            wires.append(f'<path class="wire" d="M{here} {here}H{at[uses[room][0]]}"/>')
        if users := [user for user in rooms if room in uses[user]]:
            wires.append(f'<path class="wire" d="M{here} {here}V{at[users[-1]]}"/>')
            top = here + 11
            dots.append(f'<path class="tip" d="M{here} {top}l-4 8h8z"/>')
        dots += [f'<circle class="dot" cx="{at[used]}" cy="{here}" r="3.5"/>' for used in uses[room]]
        lines = sum(len(path.read_text("utf-8").splitlines()) for path in files_of(room))
        text = here + 4
        boxes += [
            f'<rect class="box" x="{here - 10}" y="{here - 11}" width="{BOX}" height="22" rx="5"/>',
            f'<text class="name" x="{here}" y="{text}">{room}</text>',
            f'<text class="job" x="{here + BOX}" y="{text}">{ROOMS[room]}, {_rounded(lines)}</text>',
        ]
    width, height = at[rooms[-1]] + BOX + 260, at[rooms[-1]] + 24
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    return "\n".join([head, f"<style>{STYLE}</style>", *wires, *dots, *boxes, "</svg>", ""])


def listing() -> str:
    """Every file with the first sentence of its docstring."""
    parts = [
        "# Where things are\n\n"
        "Made by `python tests/rooms.py`. A file imports from its own room and from rooms above it; in the picture a\n"
        "wire goes left from a room, and at each dot up to one from which it imports.\n\n"
        "![The rooms](rooms.svg)\n"
    ]
    for room in ORDER:
        if files := files_of(room):
            parts.append(
                f"\n## {room}\n\n{ROOMS[room][0].upper()}{ROOMS[room][1:]}.\n\n| file | its job |\n|---|---|\n"
            )
            parts += [f"| `{_file(path)}.py` | {job} |\n" for path in files if (job := _job(path))]
    return "".join(parts)


def documents() -> dict[Path, str]:
    """What docs/ should hold."""
    return {DOCS / "rooms.svg": picture(), DOCS / "rooms.md": listing()}


def _job(path: Path) -> str:
    """The first line of a file's docstring; empty for a file without one."""
    return (ast.get_docstring(code_of(path)) or "").split("\n")[0]


def _rounded(lines: int) -> str:
    """To hundreds, so that not every change needs a new picture."""
    return f"{round(lines, -2):,} lines" if lines >= 50 else "a few lines"


def _file(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").as_posix()


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text, "utf-8")
