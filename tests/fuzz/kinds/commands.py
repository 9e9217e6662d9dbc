"""Command lines, in this process and in one of their own, and the text files that they read."""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import json
import os
import re
import sys
from collections.abc import Iterator
from random import Random
from typing import Any, NoReturn

from PIL import Image

from fuzz.kinds.chats import TOOLS
from fuzz.kinds.media import LABELS
from fuzz.kinds.using import PIXELS
from fuzz.mutation import few, odd_text, spoil_bytes
from fuzz.outcome import (
    ACCEPTED,
    CLEAN,
    BadOutputError,
    ElsewhereError,
    Trial,
)
from fuzz.place import Place

STATUSES = (0, 1, 2, 130)  # done, an error to mend, wrong usage, interrupted
CONTROL = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]")
FRAME = re.compile(r'File ".*/(mlx_mm/[^"]+)", line (\d+), in (\w+)')
LONGEST = 60.0  # seconds of a process of its own
MODELS = ("siglip2", "siglip2", "clap", "glm46v", "siglip2-classifier", "siglip2-4bit", "siglip2-text")
ODD_NAMES = (
    *(
        "a b.png",
        "a\nb.png",
        "\x1b[31mred.png",
        "ñ猫.png",
        "a[1].png",
        "*.png",
        "-dash.png",
        "--json",
        "~",
        "$HOME.png",
    ),
    *(
        "\udcff\udcfe.png",
        "a" * 250 + ".png",
        "a\tb.png",
        ".hidden.png",
        "a.png.",
        "\u202egnp.exe",
        "'quote\".png",
        "%s.png",
    ),
)
PLACES = (
    *("missing.png", "", ".", "..", "/dev/null", "/dev/full", "/dev/stdin", "/proc/self/mem", "x" * 300, "x" * 5000),
    *("folder/", "no/such/x", "http://127.0.0.1:1/a.png", "data:,x"),
)
NUMBERS = (
    *("0", "1", "2", "-1", "3.5", "nan", "inf", "1e400", "99999999999999999999", "abc", "", "0x10", "1_0", " 5", "٣"),
    "-0",
)


class Run:
    """What one command left: its status, the bytes on stdout and on stderr."""

    def __init__(self, status: object, out: bytes, err: bytes) -> None:
        self.status, self.out, self.err = status, out, err

    def check(self, argv: list[str]) -> str:
        """Whether it was done or refused; raises what a fault in any of them counts as."""
        if b"Traceback (most recent call last)" in self.err:
            raise _traceback(self.err)
        if self.status not in STATUSES:
            raise BadOutputError(f"exit status {self.status!r}: {self.err[-300:]!r}")
        if self.status == 1 and b"error: " not in self.err:
            raise BadOutputError(f"exit status 1 without an error: {self.err[-300:]!r}")
        for name, data in (("stdout", self.out), ("stderr", self.err)):
            found = CONTROL.search(data) if name == "stderr" or "--json" not in argv else None
            if found:
                raise BadOutputError(f"{name} has the control character {found.group()!r}")
        words = argv[: argv.index("--")] if "--" in argv else argv  # what comes after is no option
        if self.status == 0 and "--json" in words and "-h" not in argv and "--help" not in argv:
            _check_json(self.out)
        return CLEAN if self.status else ACCEPTED


def _traceback(err: bytes) -> ElsewhereError:
    """The error of another process, so that it is counted where it was raised."""
    text = err.decode("utf-8", "replace")
    places = FRAME.findall(text)
    frame = f"{places[-1][0]}:{places[-1][1]} {places[-1][2]}" if places else ""
    return ElsewhereError(text.strip().splitlines()[-1], frame, text)


def _check_json(out: bytes) -> None:
    """One value, or one on each line, without NaN, in UTF-8."""
    text = out.decode("utf-8")
    try:
        json.loads(text, parse_constant=_refuse)
    except ValueError:
        for line in text.split("\n"):
            if line:
                json.loads(line, parse_constant=_refuse)


def _refuse(name: str) -> None:
    raise BadOutputError(f"{name} in the JSON that is printed")


# --- making command lines -------------------------------------------------------------------------------------------


def command_line(random: Random, place: Place) -> Trial:
    """Any command, with options and values from everywhere, in this process."""
    make_files(random, place)
    argv, stdin = arguments_of(random, place), odd_stdin(random)
    return lambda: inside(argv, stdin).check(argv)


def make_files(random: Random, place: Place) -> None:
    """A folder with pictures, sounds, lists and models, some with names that nobody expects."""
    image = io.BytesIO()
    Image.fromarray(PIXELS).save(image, "png")
    names = ["a.png", "b.png", *random.sample(ODD_NAMES, few(random))]
    (place.folder / "folder").mkdir()
    for name in names:
        with contextlib.suppress(OSError):
            (place.folder / random.choice(("", "folder")) / name).write_bytes(image.getvalue())
    if random.random() < 0.1:
        os.mkfifo(place.folder / "folder" / "pipe.png")
    if random.random() < 0.1:
        (place.folder / "folder" / "loop").symlink_to(".")
    (place.folder / "a.wav").write_bytes(place.seeds.media("sounds")["a.wav"])
    (place.folder / "a.gif").write_bytes(place.seeds.media("videos")["a.gif"])
    (place.folder / "labels.txt").write_text("cat\ndog\n")
    (place.folder / "tools.json").write_text(json.dumps(TOOLS))
    (place.folder / "recipe.json").write_text('{"*": {"bits": 8}}')
    place.checkpoint(random.choice(MODELS))


class _Recorder:
    """Takes the place of a parser, and keeps the arguments that a command adds."""

    def __init__(self) -> None:
        self.actions: list[argparse.Action] = []

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        action = argparse.ArgumentParser(add_help=False).add_argument(*names, **options)
        self.actions.append(action)
        return action

    def add_argument_group(self, *_: Any, **__: Any) -> _Recorder:
        return self

    def error(self, message: str) -> NoReturn:
        raise AssertionError(message)

    def set_defaults(self, **_: Any) -> None:
        """Nothing that a caller can give."""

    add_mutually_exclusive_group = add_argument_group


@functools.cache
def _commands() -> dict[str, list[argparse.Action]]:
    """The arguments of every command, those of all included."""
    from mlx_mm.cli.program import COMMANDS

    found = {}
    for name, command in COMMANDS.items():
        recorder: Any = _Recorder()
        command.add_arguments(recorder)
        recorder.add_argument("--json", action="store_true")
        recorder.add_argument("-h", "--help", action="store_true")
        found[name] = recorder.actions
    return found


def arguments_of(random: Random, place: Place) -> list[str]:
    """A command, mostly with what it needs, then whatever else it takes or does not take."""
    commands = _commands()
    kept = {"serve", "demo"} if random.random() < 0.97 else {"serve"}  # a server ends only when it is told to
    name = random.choice(sorted(set(commands) - kept))
    if random.random() < 0.02:
        return [odd_text(random)[:1000].replace("\0", ""), *random.choice(([], ["--version"], ["--help"]))]
    argv = [name]
    for action in commands[name]:
        needed = not action.option_strings or (action.dest == "model" and random.random() < 0.9)
        if action.nargs == 0 and not needed:
            if random.random() < (0.3 if action.dest == "json" else 0.02 if action.dest == "help" else 0.1):
                argv.append(action.option_strings[-1])
        elif random.random() < (0.95 if needed else 0.12):
            values = _values(random, name, action)
            option = action.option_strings[-1:]
            joined = option and option[0].startswith("--") and random.random() < 0.2
            argv += [f"{option[0]}={values[0]}", *values[1:]] if joined and values else [*option, *values]
    if name in ("generate", "chat"):  # long answers are no fault
        argv += ["--max-tokens", random.choice(("1", "2", "3", "3", "0", "-1", "x"))]
    if random.random() < 0.05:
        argv.insert(
            random.randrange(1, len(argv) + 1),
            random.choice(("--nonsense", "--", "-x", "--json=1", odd_text(random)[:100])),
        )
    return [argument.replace("\0", "") for argument in argv]


def _values(random: Random, command: str, action: argparse.Action) -> list[str]:
    """Values of one option: plausible ones, and now and then any."""
    if random.random() < 0.12:
        return [random.choice((*NUMBERS, *PLACES, odd_text(random)[:2000]))]
    if action.choices:
        return [str(random.choice(list(action.choices)))]
    if action.type in (int, float):
        return [random.choice((*NUMBERS, "1", "2", "8"))]
    media = [
        "a.png",
        "b.png",
        "folder",
        "a.wav",
        "a.gif",
        "-",
        "*.png",
        *random.choices(ODD_NAMES, k=3),
        *random.choices(PLACES, k=2),
    ]
    dest = action.dest
    if dest in ("model", "source"):
        return [random.choice(("model", "model", "model", "model", "emoji-siglip2", "a.png", "no/such", *PLACES[:4]))]
    if dest in ("out", "output"):
        endings = (
            "new",
            "new.npz",
            "new.jsonl",
            "new.png",
            "folder",
            "model",
            "x" * 300,
            "a.png",
            "/dev/full",
            "no/such/x.npz",
            "ñ\n.jsonl",
            ".",
        )
        return [random.choice(endings)]
    if dest in ("inputs", "image", "video", "images", "videos"):
        count = few(random) if action.nargs in ("+", "*") else 1
        return [random.choice(media) for _ in range(count)]
    texts = {
        "labels": ",".join(LABELS),
        "labels_file": "labels.txt",
        "tools": "tools.json",
        "recipe": "recipe.json",
        "template": "a {}",
    }
    texts |= {"prompt": "What is it?", "bits": random.choice(("4", "8", "none")), "mode": "affine", "dtype": "float16"}
    return [texts.get(dest) or random.choice((*NUMBERS, *PLACES, odd_text(random)[:2000]))]


def odd_stdin(random: Random) -> bytes:
    lines = [
        "a.png",
        "b.png",
        "What is it?",
        "/image a.png",
        "/save s.safetensors",
        "/load s.safetensors",
        "/clear",
        "/help",
        "/exit",
    ]
    lines += [
        odd_text(random)[:3000],
        f"/load {random.choice(PLACES)}",
        f"/save {random.choice(PLACES)}",
        "/video a.gif",
        "/x",
        "a.png? b.png!",
    ]
    text = random.choice(("\n", "\n", "\r\n", "\0")).join(random.choices(lines, k=random.randrange(6)))
    data = text.encode("utf-8", "surrogatepass")
    return random.choice((b"", b"\xef\xbb\xbf", b"")) + (spoil_bytes(random, data) if random.random() < 0.1 else data)


# --- running them ---------------------------------------------------------------------------------------------------


class _Stream(io.TextIOWrapper):
    """A text stream over bytes in memory."""

    def __init__(self, data: bytes = b"") -> None:
        self.bytes = io.BytesIO(data)
        super().__init__(self.bytes, encoding="utf-8", write_through=True)


@contextlib.contextmanager
def _streams(stdin: bytes) -> Iterator[tuple[_Stream, _Stream]]:
    before = sys.stdin, sys.stdout, sys.stderr
    out, err = _Stream(), _Stream()
    sys.stdin, sys.stdout, sys.stderr = _Stream(stdin), out, err
    try:
        yield out, err
    finally:
        sys.stdin, sys.stdout, sys.stderr = before


def inside(argv: list[str], stdin: bytes) -> Run:
    from mlx_mm.cli import main

    with _streams(stdin) as (out, err):
        try:
            main(argv)
            status: object = 0
        except SystemExit as stop:
            status = 0 if stop.code is None else stop.code
        return Run(status, out.bytes.getvalue(), err.bytes.getvalue())
