"""The chat at a terminal, or over a pipe: lines in, answers out."""

import contextlib
import os
import re
import sys
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlx_mm.cli import console
from mlx_mm.cli.collect import IMAGE_ENDINGS
from mlx_mm.errors import InputError, MlxMmError

if TYPE_CHECKING:
    from mlx_mm.conversation import Conversation
    from mlx_mm.generate import Generation

VIDEO_ENDINGS = (".mp4", ".mov", ".m4v", ".webm", ".mkv", ".avi")
HELP = """\
Type a question. A file name in it, plain or in quotes, attaches that picture or video; so does the URL of a picture.
/image FILE  attach a picture to the next question    /video FILE  attach a video
/clear       forget what was said                     /save FILE   keep the conversation, in a .safetensors file
/load FILE   go on with a saved one                   /exit        leave (Ctrl-D too)
Ctrl-C stops an answer, and at an empty prompt leaves."""
# A word, a quoted text, or a word with escaped spaces, as terminals write a file that is dropped on them
_WORD = re.compile(r"""(?<!\S)("[^"]*"|'[^']*'|(?:\\.|[^\s\\])+)""")
_PUNCTUATION = "?!.,:;)"
_CONTROL = {code: None for code in (*range(32), *range(127, 160)) if chr(code) not in "\n\t"}
DIM, PLAIN = "\x1b[2m", "\x1b[0m"


@dataclass
class Media:
    """What goes with a question."""

    images: list[str] = field(default_factory=list)
    videos: list[str] = field(default_factory=list)


class Screen:
    """Shows an answer as it comes: reasoning dimmed and only where somebody watches, or asked for."""

    def __init__(self, *, show_thinking: bool = False) -> None:
        self._terminal = sys.stdout.isatty()
        self._colour = self._terminal and not os.environ.get("NO_COLOR")
        self._thinking = self._terminal or show_thinking
        self._last = ""  # "reasoning" or "text"

    def show(self, piece: "Generation") -> None:
        """Print what a piece adds."""
        if piece.reasoning and self._thinking:
            text = self._clean(piece.reasoning)
            self._write("reasoning", f"{DIM}{text}{PLAIN}" if self._colour else text)
        if piece.text:
            self._write("text", self._clean(piece.text))

    def end(self) -> None:
        """The line after an answer, also one that was cut short."""
        if self._last:
            print(flush=True)
        self._last = ""

    def _write(self, kind: str, text: str) -> None:
        gap = "\n\n" if self._last not in ("", kind) else ""
        print(gap + text, end="", flush=True)
        self._last = kind

    def _clean(self, text: str) -> str:
        """A model must not steer a terminal."""
        return text.translate(_CONTROL) if self._terminal else text


def stats(answer: "Generation") -> str:
    """Speed and memory in a line."""
    cached = f" ({answer.cached_tokens:,} of them kept from before)" if answer.cached_tokens else ""
    return (
        f"{answer.prompt_tokens:,} prompt tokens{cached}, {answer.prompt_tps:,.1f} per second; "
        f"{answer.generation_tokens:,} generated, {answer.generation_tps:,.1f} per second; "
        f"peak memory {answer.peak_memory:.2f} GB"
    )


def cut_note(answer: "Generation") -> str:
    """What to say of an answer that came to its limit."""
    return f"the answer was cut at {console.plural(answer.generation_tokens, 'token')}; --max-tokens allows more"


def find_media(line: str) -> tuple[str, Media]:
    """A line without the files and URLs in it that are pictures or videos, and these."""
    media = Media()

    def take(match: re.Match[str]) -> str:
        word = match.group()
        quoted = word[0] in "\"'" and word[-1] == word[0] and len(word) > 1
        name = word[1:-1] if quoted else word
        for plain, rest in _readings(name, quoted):
            ending = Path(plain.partition("?")[0] if "://" in plain else plain).suffix.lower()
            if ending in IMAGE_ENDINGS and _is_there(plain, url=True):
                media.images.append(_local(plain))
                return rest
            if ending in VIDEO_ENDINGS and _is_there(plain, url=False):
                media.videos.append(_local(plain))
                return rest
            if ending in (*IMAGE_ENDINGS, *VIDEO_ENDINGS) and "/" in plain and "://" not in plain:
                console.note(f"warning: there is no file {plain}; it is taken as text")
                break
        return word

    text = _WORD.sub(take, line)
    if media.images or media.videos:
        text = re.sub(r"[ \t]+(?=[?!.,:;)]|$)", "", re.sub(r"[ \t]{2,}", " ", text)).strip()
    return text, media


def _readings(name: str, quoted: bool) -> Iterator[tuple[str, str]]:
    """A word as the name of a file, and what of it is not: first as it is, then without punctuation at its end."""
    plain = name if quoted else re.sub(r"\\(.)", r"\1", name)
    bare = plain.rstrip(_PUNCTUATION)
    if bare != plain and not quoted:
        if Path(plain).suffix.lower() in (*IMAGE_ENDINGS, *VIDEO_ENDINGS):
            yield plain, ""
        yield bare, plain[len(bare) :]
    else:
        yield plain, ""


def _is_there(name: str, *, url: bool) -> bool:
    if name.lower().startswith(("http://", "https://")):
        return url
    with contextlib.suppress(OSError, ValueError):  # a name can be too long for any file
        return Path(_local(name)).is_file()
    return False


def _local(name: str) -> str:
    if name.lower().startswith("file://"):
        return urllib.parse.unquote(urllib.parse.urlsplit(name).path)
    return os.path.expanduser(name) if name.startswith("~") else name


def run_chat(
    conversation: "Conversation",
    restart: Callable[[], "Conversation"],
    options: dict[str, Any],
    *,
    show_stats: bool = False,
    show_thinking: bool = False,
) -> int:
    """Read questions until the input ends; the status is 1 where a piped one could not be answered.

    restart: makes a conversation in which nothing was said. options: of `Conversation.ask`.
    """
    piped = not sys.stdin.isatty()
    screen = Screen(show_thinking=show_thinking)
    if not piped:
        console.note("Type a question; /help lists what else there is. Ctrl-C stops an answer, Ctrl-D leaves.")
    waiting, failed = Media(), False
    while True:
        line = _read(piped)
        if line is None:
            return int(failed and piped)
        try:
            if line.startswith("/") and not _is_there(line.split()[0], url=False):
                command, _, argument = line.partition(" ")
                if command == "/exit":
                    return int(failed and piped)
                if command == "/clear":
                    conversation, waiting = restart(), Media()
                else:
                    _command(command, argument.strip(), conversation, waiting)
                continue
            text, media = find_media(line)
            waiting = Media(waiting.images + media.images, waiting.videos + media.videos)
            if not text:
                continue
            question, waiting = waiting, Media()
            _answer(conversation, screen, text, question, options, show_stats)
        except MlxMmError as error:
            screen.end()
            console.note(f"error: {error}")
            failed = True


def _read(piped: bool) -> str | None:
    """The next line that is not empty; None at the end."""
    while True:
        try:
            line = (sys.stdin.readline() or None) if piped else input("> ")
        except EOFError:
            line = None
        except KeyboardInterrupt:
            print()
            line = None
        if line is None:
            return None
        if line.strip():
            return line.strip()


def _answer(
    conversation: "Conversation", screen: Screen, text: str, media: Media, options: dict[str, Any], show_stats: bool
) -> None:
    last: Generation | None = None
    try:
        with contextlib.closing(  # so that an answer that is stopped is kept as far as it came
            conversation.ask(text, images=media.images, videos=media.videos, **options)
        ) as pieces:
            for last in pieces:
                screen.show(last)
    except KeyboardInterrupt:
        screen.end()
        console.note("stopped")
        return
    screen.end()
    if last is not None and last.finish_reason == "length":
        console.note(cut_note(last))
    if show_stats and last is not None:
        console.note(stats(last))


def _command(command: str, argument: str, conversation: "Conversation", waiting: Media) -> None:
    if command == "/help":
        print(HELP)
        return
    if command not in ("/image", "/video", "/save", "/load"):
        known = "/image, /video, /clear, /save, /load, /help or /exit"
        raise InputError(f"There is no command {command}; expected {known}.")
    if not argument:
        raise InputError(f"{command} needs a file; expected {command} FILE.")
    name = argument[1:-1] if argument[0] in "\"'" and argument[-1] == argument[0] else argument
    name = _local(name)
    if command == "/save":
        conversation.save(name)
        console.note(f"saved to {name}")
    elif command == "/load":
        conversation.load(name)
        console.note(f"going on after {console.plural(len(conversation.messages), 'message')}")
    elif not _is_there(name, url=True):
        raise InputError(f"There is no file {name}; expected a picture or video. Check the name.")
    else:
        (waiting.images if command == "/image" else waiting.videos).append(name)
