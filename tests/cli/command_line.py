"""Running the command line in tests, and what its runs leave behind."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

import mlx_mm
from mlx_mm import encode_image, load

EQUAL = 1e-6
ALL = ["photos/a.jpg", "photos/b.png", "photos/deep/c.webp", "photos/deep/er/d.gif"]  # of the fixture `photos`


class Result(NamedTuple):
    """What one run of the command line left behind."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


Run = Callable[..., Result]
Checkpoint = Callable[..., Path]


def process(*arguments: object, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`python -m mlx_mm …` as its own process."""
    command = [sys.executable, "-m", "mlx_mm", *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, timeout=120, check=False, env=environment(), **options
    )


def environment() -> dict[str, str]:
    """The package is found from any folder, installed or not; text is strict UTF-8, as in most people's locale."""
    path = str(Path(mlx_mm.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8:strict"}


def assert_one_error(result: Result, *parts: str, status: int = 1) -> None:
    """Exit status 1, nothing on stdout, and the last line on stderr is the only error."""
    assert result.status == status
    assert result.out == ""
    lines = result.err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True], result.err
    for part in parts:
        assert part in lines[-1]


def embed_images(model: Path, names: list[str], **options: Any) -> np.ndarray:
    return encode_image(*load(model), names, **options)


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def damage(photos: Path) -> list[str]:
    """Files that look like pictures and are none; returns their names."""
    whole = (photos / "photos/a.jpg").read_bytes()
    bad = {"empty.png": b"", "text.jpg": b"no picture", "cut.png": (photos / "photos/b.png").read_bytes()[:900]}
    bad["zeros.jpg"] = bytes(len(whole))
    for name, data in bad.items():
        (photos / "photos" / name).write_bytes(data)
    return sorted(f"photos/{name}" for name in bad)


def read_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            return file["ids"].tolist(), file["vectors"]
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [row["id"] for row in rows], np.array([row["vector"] for row in rows], np.float32)
    rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return [row["id"] for row in rows], np.array([row["vector"] for row in rows], np.float32)
