"""A part of demo.json, which is written only if the trained model answers all of it rightly, in 16, 8 and 4 bit."""

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from release import write_json

from mlx_mm import convert


def write_part(model: str, out: Path, part: str, rows: list[dict], wrong_answers: Callable[[str], list[str]]) -> None:
    """wrong_answers: of a model's folder, one line for each row that it answers wrongly."""
    wrong = [f"16 bit: {line}" for line in wrong_answers(model)]
    with tempfile.TemporaryDirectory() as folder:
        for bits in (8, 4):
            convert(model, Path(folder) / str(bits), bits=bits)
            wrong += [f"{bits} bit: {line}" for line in wrong_answers(str(Path(folder) / str(bits)))]
    if wrong:
        sys.exit("demo.json not written:\n" + "\n".join(wrong))
    demo = json.loads((out / "demo.json").read_text())
    demo[part] = rows
    write_json(out / "demo.json", demo)
