"""What the demonstration does: bundled checkpoints to 4 bit, an index of pictures and sounds, searches, questions."""

import contextlib
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from mlx_mm.checkpoint import hub
from mlx_mm.checkpoint.bundled import ANSWERS, PICTURES, SOUNDS, Bundled
from mlx_mm.cli.notes import note
from mlx_mm.errors import BusyError, OutputError, reason

if TYPE_CHECKING:
    from mlx_mm.search.index import Index
    from mlx_mm.search.records import DuplicateKind, RefreshReport

BITS = 4
BEST = 5  # files per query
MOST_TOKENS = 64  # of an answer
# Pictures that are there twice, so that there is something to find: one as a smaller JPEG, one as a copy of the file
SMALLER, COPIED = "mushroom", "frog"


class Conversion(TypedDict):
    """What became of a bundled checkpoint; sizes in bytes."""

    model: str
    knows: str
    folder: str
    bits: int
    source_bytes: int
    bytes: int
    seconds: float


class Hit(TypedDict):
    """The name of a picture or a sound without its ending, the cosine of its vector with the query's, whether the model
    holds it to fit, and of a sound the seconds of the part that fits best."""

    name: str
    score: float
    strong: bool
    start: float | None
    stop: float | None


class Search(TypedDict):
    """A query, its language, the file it must find ("" where there is none), the nearest ones, best first, and those of
    them that fit."""

    query: str
    language: str
    expected: str
    hits: list[Hit]
    fitting: list[str]


class Answer(TypedDict):
    """A question about a picture, its language, what the answer must hold, the answer, and how long it took."""

    picture: str
    question: str
    language: str
    expected: str
    answer: str
    seconds: float


class Demo(TypedDict):
    """What `run_demo` did, with the path of its index. pictures, sounds: a RefreshReport's fields. searches: of
    pictures; heard: of sounds. duplicates: kind -> groups of names, the one to keep first. tags: label -> how many
    pictures have it. seconds: all of it."""

    models: list[Conversion]
    index: str
    pictures: dict[str, object]
    searches: list[Search]
    duplicates: dict[str, list[list[str]]]
    tags: dict[str, int]
    sounds: dict[str, object]
    heard: list[Search]
    answers: list[Answer]
    seconds: float


class Telling:
    """What is told of a demonstration while it goes on: here nothing."""

    def converted(self, made: Conversion) -> None:
        """A checkpoint is there."""

    def searched(self, what: str, report: "RefreshReport", searches: Sequence[Search]) -> None:
        """Pictures or sounds (what) are in the index, and were searched."""

    def asking(self, model: str) -> None:
        """Questions follow."""

    def asked(self, picture: str, question: str) -> None:
        """A question goes to the model."""

    def said(self, text: str) -> None:
        """A piece of the answer."""

    def answered(self, answer: Answer) -> None:
        """The whole of it."""


def cache_folder() -> Path:
    """Where the demo keeps what it makes; MLX_MM_CACHE overrides the system's place for caches."""
    if folder := os.environ.get("MLX_MM_CACHE"):
        return Path(folder).expanduser()
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "mlx_mm"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlx_mm"


def run_demo(telling: Telling | None = None) -> Demo:
    """Run everything. Others that run in the same cache are waited for. Raises OutputError."""
    from mlx_mm.search.index import Index

    telling, begun = telling or Telling(), time.monotonic()
    plan = json.loads((hub.BUNDLED / "demo.json").read_text("utf-8"))
    with alone(cache_folder()):
        seeing, hearing, answering = models = [_converted(one, telling) for one in (PICTURES, SOUNDS, ANSWERS)]
        folder = _fresh(cache_folder() / "demo")
        place = folder / "demo.mmindex"
        with Index(place, model=seeing["folder"]) as index:
            seen = index.refresh(lay_out(folder / "pictures"), progress=True)
            absent = [{**search, "expected": ""} for search in plan["absent"]]
            searches = [_searched(index, search) for search in [*plan["searches"], *absent]]
            telling.searched("pictures", seen, searches)
            duplicates = _duplicates(index)
            tags = index.tag(dict.fromkeys(label for item in plan["classify"] for label in item["labels"]))
        with Index(place, model=hearing["folder"]) as index:
            heard = index.refresh(copied(hub.BUNDLED / "sounds", folder / "sounds"), progress=True)
            listened = [_searched(index, search) for search in plan["sounds"]]
            telling.searched("sounds", heard, listened)
        answers = list(_answers(answering["folder"], plan["questions"], telling))
    return {
        "models": models,
        "index": str(place),
        "pictures": asdict(seen),
        "searches": searches,
        "duplicates": duplicates,
        "tags": tags,
        "sounds": asdict(heard),
        "heard": listened,
        "answers": answers,
        "seconds": round(time.monotonic() - begun, 2),
    }


def lay_out(folder: Path) -> Path:
    """The bundled pictures in a folder of their own, two of them twice."""
    from PIL import Image

    copied(hub.BUNDLED / "pictures", folder)
    shutil.copyfile(folder / f"{COPIED}.png", folder / f"{COPIED}-copy.png")
    with Image.open(folder / f"{SMALLER}.png") as image:
        drawn = image.convert("RGBA")
    white = Image.new("RGBA", drawn.size, "white")
    white.alpha_composite(drawn)
    white.convert("RGB").resize((96, 96), Image.Resampling.LANCZOS).save(folder / f"{SMALLER}-small.jpg", quality=90)
    return folder


def copied(source: Path, folder: Path) -> Path:
    """The pictures or sounds of a bundled folder in another one."""
    folder.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        if file.suffix != ".txt":  # a licence
            shutil.copyfile(file, folder / file.name)
    return folder


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Inside, no other process lays anything out in this cache. Raises OutputError where it cannot be written."""
    from mlx_mm.search.writer_lock import writer_lock

    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            try:
                stack.enter_context(writer_lock(folder))
            except BusyError:
                note("another demonstration is running here, or a server begins; this one waits for its end")
                stack.enter_context(writer_lock(folder, math.inf))
        except OSError as error:
            raise OutputError(
                f"{folder} cannot be used ({reason(error)}); expected a folder of ours. Set MLX_MM_CACHE "
                "to another one."
            ) from error
        yield


def _converted(one: Bundled, telling: Telling) -> Conversion:
    from mlx_mm import convert

    folder = cache_folder() / f"{one.name}-{BITS}bit"
    report = convert(one.name, folder, bits=BITS, overwrite=True, progress=True)
    made: Conversion = {
        "model": one.name,
        "knows": one.knows,
        "folder": str(folder),
        "bits": BITS,
        "source_bytes": report.source_bytes,
        "bytes": report.bytes,
        "seconds": round(report.seconds, 3),
    }
    telling.converted(made)
    return made


def _fresh(folder: Path) -> Path:
    """Of the cache, without what an earlier demonstration left in it."""
    try:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    except OSError as error:
        raise OutputError(
            f"{folder} cannot be made anew ({reason(error)}); expected a folder of ours. Remove it."
        ) from error
    return folder


def _searched(index: "Index", search: Mapping[str, str]) -> Search:
    found = index.search(search["query"], top=BEST, strong_only=False)
    hits: list[Hit] = [
        {
            "name": Path(hit.path).stem,
            "score": round(hit.score or 0.0, 4),
            "strong": hit.strong,
            "start": hit.start,
            "stop": hit.stop,
        }
        for hit in found
    ]
    return {
        "query": search["query"],
        "language": search["language"],
        "expected": search["expected"],
        "hits": hits,
        "fitting": [hit["name"] for hit in hits if hit["strong"]],
    }


def _duplicates(index: "Index") -> dict[str, list[list[str]]]:
    kinds: tuple[DuplicateKind, ...] = ("identical", "same")
    return {
        kind: [[Path(file.path).name for file in group.files] for group in index.duplicates(kind)] for kind in kinds
    }


def _answers(folder: str, questions: Sequence[Mapping[str, str]], telling: Telling) -> Iterator[Answer]:
    from mlx_mm import load, stream_generate

    model, processor = load(folder)
    telling.asking(ANSWERS.name)
    for item in questions:
        telling.asked(item["picture"], item["question"])
        begun, text = time.monotonic(), ""
        picture = hub.BUNDLED / "pictures" / item["picture"]
        for piece in stream_generate(
            model,
            processor,
            item["question"],
            images=[picture],
            max_tokens=MOST_TOKENS,
            temperature=0,
            enable_thinking=False,
        ):
            text += piece.text
            telling.said(piece.text)
        answer: Answer = {
            "picture": item["picture"],
            "question": item["question"],
            "language": item["language"],
            "expected": item["expected"],
            "answer": text,
            "seconds": round(time.monotonic() - begun, 3),
        }
        telling.answered(answer)
        yield answer
