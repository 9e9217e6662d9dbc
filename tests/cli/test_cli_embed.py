"""`mlx_mm embed`: which vectors it prints or writes, what it skips, and what it refuses."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import ALL, EQUAL, Run, assert_one_error, damage, embed_images, process, read_vectors, stdin

from mlx_mm import encode_image, encode_text, load
from mlx_mm.cli import embeddings


@pytest.mark.parametrize(
    ("inputs", "names"),
    [
        (["photos/b.png"], ["photos/b.png"]),
        (["photos"], ALL),
        (["photos/*.png"], ["photos/b.png"]),
        (["photos/**/*.gif", "photos/b.png"], ["photos/deep/er/d.gif", "photos/b.png"]),
        (["photos/deep", "photos"], [*ALL[2:], *ALL[:2]]),
    ],
)
def test_embed_pictures(run: Run, model: Path, photos: Path, inputs: list[str], names: list[str]) -> None:
    result = run("embed", *inputs, "-m", model)
    assert (result.status, result.err) == (0, "")
    assert [row["id"] for row in result.rows] == names
    vectors = np.array([row["vector"] for row in result.rows], np.float32)
    assert np.abs(vectors - embed_images(model, names)).max() <= EQUAL


def test_embed_paths_of_stdin(run: Run, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stdin(monkeypatch, "photos/deep/er/d.gif\n\nphotos/a.jpg\n")
    result = run("embed", "photos/b.png", "-", "-m", model)
    assert [row["id"] for row in result.rows] == ["photos/b.png", "photos/deep/er/d.gif", "photos/a.jpg"]


def test_embed_texts(run: Run, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a cat", "猫", "photos", "a cat"]
    expected = encode_text(*load(model), texts)
    result = run("embed", "--text", *texts, "-m", model)
    assert [row["id"] for row in result.rows] == texts
    assert np.abs(np.array([row["vector"] for row in result.rows]) - expected).max() <= EQUAL
    stdin(monkeypatch, "猫\n  \nphotos\r\n")
    lines = run("embed", "--text", "a cat", "-", "a cat", "-m", model)
    assert lines.rows == result.rows


def test_embed_options(run: Run, model: Path, photos: Path) -> None:
    loaded = load(model)
    result = run("embed", "photos", "-m", model, "--dim", 5, "--no-normalize", "--batch-size", 1)
    got = np.array([row["vector"] for row in result.rows])
    assert np.abs(got - encode_image(*loaded, ALL, dim=5, normalize=False)).max() <= 1e-5
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).min() > 0.01
    few = run("embed", "photos", "-m", model, "--max-num-patches", 4)
    got = np.array([row["vector"] for row in few.rows])
    assert np.abs(got - encode_image(*loaded, ALL, max_num_patches=4)).max() <= EQUAL
    assert np.abs(got - encode_image(*loaded, ALL)).max() > 1e-3


def test_embed_writes_the_same_into_every_kind_of_file(run: Run, model: Path, photos: Path) -> None:
    expected = embed_images(model, ALL)
    lines = run("embed", "photos", "-m", model).out
    for ending in (".npz", ".jsonl", ".parquet"):
        if ending == ".parquet":
            pytest.importorskip("pyarrow")
        out = photos / f"vectors{ending}"
        result = run("embed", "photos", "-m", model, "-o", out)
        assert (result.status, result.err) == (0, "")
        assert result.out == f"4 vectors of 128 numbers -> {out}\n"
        ids, vectors = read_vectors(out)
        assert ids == ALL
        assert vectors.dtype == np.float32
        assert np.abs(vectors - expected).max() <= EQUAL
    assert (photos / "vectors.jsonl").read_text() == lines
    with np.load("vectors.npz") as file:
        assert str(file["model"]) == str(model)


def test_embed_json_summary(run: Run, model: Path, photos: Path) -> None:
    result = run("embed", "photos", "missing.png", "-m", model, "-o", "v.npz", "--json")
    assert result.status == 0
    assert result.json == {"out": "v.npz", "vectors": 4, "dim": 128, "skipped": 1}


def test_unreadable_files_are_skipped_with_a_line_each(run: Run, model: Path, photos: Path) -> None:
    bad = damage(photos)
    result = run("embed", "photos", "missing.png", "-m", model, "--batch-size", 2, "-o", "v.npz")
    assert result.status == 0
    *warnings, last = result.err.splitlines()
    assert warnings[0] == "warning: skipped missing.png: there is no such file"
    assert len(warnings) == 1 + len(bad)
    for name, line in zip(bad, warnings[1:], strict=True):
        assert line.startswith(f"warning: skipped {name}")
        assert line.count(name) == 1
    assert last == "5 inputs skipped, see the warnings above"
    ids, vectors = read_vectors(Path("v.npz"))
    assert ids == ALL
    assert np.abs(vectors - embed_images(model, ALL)).max() <= EQUAL


@pytest.mark.parametrize(
    ("out", "part"),
    [("v.csv", "expected one of .npz, .jsonl, .parquet"), ("missing/v.npz", "Create it first"), (".", "ends in")],
)
def test_bad_output_is_found_before_the_model_is_loaded(
    run: Run, photos: Path, out: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["mlx_mm.load"], "open_checkpoint", lambda *_, **__: pytest.fail("opened"))
    assert_one_error(run("embed", "photos", "-o", out), part)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["photos", "--dim", "0"], "--dim is 0"),
        (["photos", "--dim", "129"], "--dim is 129"),
        (["photos", "--dim", "-1"], "--dim is -1"),
        (["photos", "--batch-size", "0"], "--batch-size is 0"),
        (["photos", "--max-num-patches", "0"], "--max-num-patches is 0"),
        (["--text", "a cat", "--max-num-patches", "9"], "--max-num-patches"),
        (["--text", "a cat", "--max-length", "0"], "--max-length is 0; expected a whole number from 1 to 64"),
        (["--text", "a cat", "--task", "classification"], "task"),
        (["--text", "a cat", "--max-num-patches", "0"], "--max-num-patches"),
    ],
)
def test_embed_options_out_of_range(run: Run, model: Path, photos: Path, arguments: list[str], part: str) -> None:
    assert_one_error(run("embed", *arguments, "-m", model, "-o", "v.npz"), part)
    assert os.listdir(photos) == ["photos"]


def test_embed_long_texts(run: Run, model: Path) -> None:
    """The notice is one line on stderr, and stdout holds nothing but vectors."""
    texts = ["a cat", "hello " * 80, "hello " * 99]
    result = run("embed", "--text", *texts, "-m", model)
    assert result.status == 0
    assert [row["id"] for row in result.rows] == texts
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("warning: 2 of 3 texts are longer than 64 tokens (the longest has 199)")
    assert ".py" not in result.err
    assert run("embed", "--text", *texts, "-m", model).err == result.err
    assert_one_error(run("embed", "--text", *texts, "-m", model, "--no-truncate"), "161 tokens", "at most 64")
    short = run("embed", "--text", *texts, "-m", model, "--max-length", 5, "--json")
    assert "longer than 5 tokens" in short.err
    with pytest.warns(UserWarning, match="longer than 5 tokens"):
        expected = encode_text(*load(model), texts, max_length=5)
    assert np.abs(np.array([row["vector"] for row in short.rows]) - expected).max() <= EQUAL


@pytest.mark.parametrize("option", [["--task", "x"], ["--max-length", "9"], ["--no-truncate"]])
def test_options_of_texts_with_pictures(run: Run, model: Path, photos: Path, option: list[str]) -> None:
    result = run("embed", "photos", "-m", model, *option)
    assert_one_error(result, f"{option[0]} is about texts, and this embeds image. Leave it out.")


def test_embed_with_a_classifier(run: Run, classifier: Path, photos: Path) -> None:
    assert_one_error(run("embed", "photos", "-m", classifier))
    assert_one_error(run("embed", "--text", "cat", "-m", classifier), "no text encoder")


def test_file_names_that_are_no_utf_8(run: Run, model: Path, photos: Path) -> None:
    """Linux allows any bytes in a name; such a file is embedded or skipped, but ends nothing."""
    try:
        os.rename(b"photos/b.png", b"photos/\xff.png")
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    for more in ([], ["-o", "v.npz"], ["-o", "v.jsonl"]):
        ended = process("embed", "photos", "-m", model, *more)
        assert ended.returncode == 0, ended.stderr.decode("utf-8", "replace")


def test_stdin_that_is_no_utf_8(model: Path) -> None:
    ended = process("embed", "--text", "-", "-m", model, stdin=b"caf\xe9\n")
    assert ended.returncode in (0, 1)
    assert b"Traceback" not in ended.stderr


def test_interrupted_embedding_leaves_nothing(
    run: Run, model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(new: Path, *_: Any) -> None:
        new.write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(embeddings.WRITERS, ".jsonl", half)
    result = run("embed", "photos", "-m", model, "-o", "v.jsonl")
    assert (result.status, result.out) == (130, "")
    assert os.listdir(photos) == ["photos"]
