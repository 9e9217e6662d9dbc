"""The command line: what goes to stdout, what to stderr, which files appear, and the exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny import (
    classification_shapes,
    golden_weights,
    hashed,
    siglip_shapes,
    tiny_config,
    tiny_weights,
    write_checkpoint,
)

from mlx_mm import __version__, classify, encode_image, encode_text, load
from mlx_mm.backend import blas
from mlx_mm.checkpoint import hub
from mlx_mm.cli import export
from mlx_mm.cli import program as cli

HEAVY = {"mlx", "numpy", "PIL", "huggingface_hub", "tokenizers", "tqdm", "safetensors", "soundfile", "mlx_lm"}
EQUAL = 1e-6


class Result:
    """What one run of the command line left behind."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def rows(self) -> list[dict[str, Any]]:
        """JSON lines."""
        return [json.loads(line) for line in self.out.splitlines()]


@pytest.fixture
def mlx_mm(capsys: pytest.CaptureFixture[str]) -> Callable[..., Result]:
    """`mlx_mm("embed", path, …)` runs a command in this process."""

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            cli.main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        status = 0 if stop.value.code is None else stop.value.code
        assert isinstance(status, int)
        return Result(status, out, err)

    return run


def process(*arguments: object, stdin: bytes = b"", **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`python -m mlx_mm …` as its own process."""
    command = [sys.executable, "-m", "mlx_mm", *map(str, arguments)]
    return subprocess.run(
        command, input=stdin, capture_output=True, timeout=120, check=False, env=environment(), **options
    )


def environment() -> dict[str, str]:
    """The package is found from any folder, installed or not; text is strict UTF-8, as in most people's locale."""
    path = str(Path(cli.__file__).parents[1])
    return {**os.environ, "PYTHONPATH": path, "PYTHONIOENCODING": "utf-8:strict"}


def assert_one_error(result: Result, *parts: str, status: int = 1) -> None:
    """Exit status 1, nothing on stdout, and the last line on stderr is the only error."""
    assert result.status == status
    assert result.out == ""
    lines = result.err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [False] * (len(lines) - 1) + [True], result.err
    for part in parts:
        assert part in lines[-1]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny NaFlex checkpoint with room for a template and its label."""
    config = tiny_config("siglip2")
    config["text_config"] |= {"max_position_embeddings": 64}
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny", config, tiny_weights(config))


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = {**tiny_config("siglip2"), "architectures": ["Siglip2ForImageClassification"]}
    config |= {"id2label": {"0": "cat", "1": "dog", "2": "owl"}}
    return write_checkpoint(
        tmp_path_factory.mktemp("model") / "head", config, golden_weights(classification_shapes(config, 3))
    )


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with `photos/` of four pictures, two of them deeper, and a text file."""
    monkeypatch.chdir(tmp_path)
    for k, (name, height, width) in enumerate(
        [("b.png", 40, 60), ("a.jpg", 60, 40), ("deep/c.webp", 20, 90), ("deep/er/d.gif", 50, 50)]
    ):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray((np.abs(hashed((height, width, 3), k)) * 255).astype(np.uint8)).save(path)
    (tmp_path / "photos" / "notes.txt").write_text("no picture")
    return tmp_path


ALL = ["photos/a.jpg", "photos/b.png", "photos/deep/c.webp", "photos/deep/er/d.gif"]


def images(model: Path, names: list[str], **options: Any) -> np.ndarray:
    return encode_image(*load(model), names, **options)


def stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


# --- usage --------------------------------------------------------------------------------------------------------


def test_version_and_help(mlx_mm: Callable[..., Result]) -> None:
    assert mlx_mm("--version").out == f"mlx_mm {__version__}\n"
    text = mlx_mm("--help")
    assert text.status == 0
    for name, command in cli.COMMANDS.items():
        assert name in text.out
        assert command.help in text.out
        sub = mlx_mm(name, "--help")
        assert sub.status == 0
        assert "--json" in sub.out


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["unknown"],
        ["embed"],
        ["classify"],
        ["convert", "only-source"],
        ["convert", "a", "b", "--bits", "5"],
        ["convert", "a", "b", "--bits", "four"],
        ["convert", "a", "b", "--group-size", "large"],
        ["embed", "x", "--dim", "many"],
        ["embed", "x", "--nonsense"],
        ["info", "a", "b"],
    ],
    ids=" ".join,
)
def test_wrong_usage_exits_2(mlx_mm: Callable[..., Result], arguments: list[str]) -> None:
    result = mlx_mm(*arguments)
    assert result.status == 2
    assert result.out == ""
    assert "usage: mlx_mm" in result.err
    assert "Traceback" not in result.err


def test_help_and_import_load_nothing_heavy() -> None:
    """What makes `mlx_mm --help` answer at once."""
    code = (
        "import contextlib, io, sys\nfrom mlx_mm.cli import main\n"
        "for words in (['--help'], ['embed', '--help']):\n"
        "    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()):\n"
        "        main(words)\n"
        "print(*{name.split('.')[0] for name in sys.modules})"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True, env=environment()
    )
    assert not set(run.stdout.split()) & HEAVY
    assert "mlx_mm" in run.stdout.split()


def test_as_a_process(model: Path, photos: Path) -> None:
    run = process("embed", "photos/a.jpg", "photos/missing.png", "-m", model)
    assert run.returncode == 0
    row = json.loads(run.stdout)
    assert row["id"] == "photos/a.jpg"
    assert np.abs(np.array(row["vector"], np.float32) - images(model, ["photos/a.jpg"])[0]).max() <= EQUAL
    assert run.stderr.decode().splitlines() == [
        "warning: skipped photos/missing.png: there is no such file",
        "1 input skipped, see the warnings above",
    ]
    failed = process("info", "missing")
    assert failed.returncode == 1
    assert failed.stdout == b""
    assert failed.stderr.startswith(b"error: There is no folder missing")
    assert failed.stderr.count(b"\n") == 1


# --- embed --------------------------------------------------------------------------------------------------------


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
def test_embed_pictures(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, inputs: list[str], names: list[str]
) -> None:
    result = mlx_mm("embed", *inputs, "-m", model)
    assert (result.status, result.err) == (0, "")
    assert [row["id"] for row in result.rows] == names
    vectors = np.array([row["vector"] for row in result.rows], np.float32)
    assert np.abs(vectors - images(model, names)).max() <= EQUAL


def test_embed_paths_of_stdin(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stdin(monkeypatch, "photos/deep/er/d.gif\n\nphotos/a.jpg\n")
    result = mlx_mm("embed", "photos/b.png", "-", "-m", model)
    assert [row["id"] for row in result.rows] == ["photos/b.png", "photos/deep/er/d.gif", "photos/a.jpg"]


def test_embed_texts(mlx_mm: Callable[..., Result], model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["a cat", "猫", "photos", "a cat"]
    expected = encode_text(*load(model), texts)
    result = mlx_mm("embed", "--text", *texts, "-m", model)
    assert [row["id"] for row in result.rows] == texts
    assert np.abs(np.array([row["vector"] for row in result.rows]) - expected).max() <= EQUAL
    stdin(monkeypatch, "猫\n  \nphotos\r\n")
    lines = mlx_mm("embed", "--text", "a cat", "-", "a cat", "-m", model)
    assert lines.rows == result.rows


def test_embed_options(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    loaded = load(model)
    result = mlx_mm("embed", "photos", "-m", model, "--dim", 5, "--no-normalize", "--batch-size", 1)
    got = np.array([row["vector"] for row in result.rows])
    assert np.abs(got - encode_image(*loaded, ALL, dim=5, normalize=False)).max() <= 1e-5
    assert np.abs(np.linalg.norm(got, axis=-1) - 1).min() > 0.01
    few = mlx_mm("embed", "photos", "-m", model, "--max-num-patches", 4)
    got = np.array([row["vector"] for row in few.rows])
    assert np.abs(got - encode_image(*loaded, ALL, max_num_patches=4)).max() <= EQUAL
    assert np.abs(got - encode_image(*loaded, ALL)).max() > 1e-3


def test_embed_writes_the_same_into_every_kind_of_file(
    mlx_mm: Callable[..., Result], model: Path, photos: Path
) -> None:
    expected = images(model, ALL)
    lines = mlx_mm("embed", "photos", "-m", model).out
    for ending in (".npz", ".jsonl", ".parquet"):
        if ending == ".parquet":
            pytest.importorskip("pyarrow")
        out = photos / f"vectors{ending}"
        result = mlx_mm("embed", "photos", "-m", model, "-o", out)
        assert (result.status, result.err) == (0, "")
        assert result.out == f"4 vectors of 128 numbers -> {out}\n"
        ids, vectors = read_vectors(out)
        assert ids == ALL
        assert vectors.dtype == np.float32
        assert np.abs(vectors - expected).max() <= EQUAL
    assert (photos / "vectors.jsonl").read_text() == lines
    with np.load("vectors.npz") as file:
        assert str(file["model"]) == str(model)


def read_vectors(path: Path) -> tuple[list[str], np.ndarray]:
    if path.suffix == ".npz":
        with np.load(path) as file:
            return file["ids"].tolist(), file["vectors"]
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text().splitlines()]
        return [row["id"] for row in rows], np.array([row["vector"] for row in rows], np.float32)
    rows = pytest.importorskip("pyarrow.parquet").read_table(path).to_pylist()
    return [row["id"] for row in rows], np.array([row["vector"] for row in rows], np.float32)


def test_embed_json_summary(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    result = mlx_mm("embed", "photos", "missing.png", "-m", model, "-o", "v.npz", "--json")
    assert result.status == 0
    assert result.json == {"out": "v.npz", "vectors": 4, "dim": 128, "skipped": 1}


def damage(photos: Path) -> list[str]:
    """Files that look like pictures and are none; returns their names."""
    whole = (photos / "photos/a.jpg").read_bytes()
    bad = {"empty.png": b"", "text.jpg": b"no picture", "cut.png": (photos / "photos/b.png").read_bytes()[:900]}
    bad["zeros.jpg"] = bytes(len(whole))
    for name, data in bad.items():
        (photos / "photos" / name).write_bytes(data)
    return sorted(f"photos/{name}" for name in bad)


def test_unreadable_files_are_skipped_with_a_line_each(
    mlx_mm: Callable[..., Result], model: Path, photos: Path
) -> None:
    bad = damage(photos)
    result = mlx_mm("embed", "photos", "missing.png", "-m", model, "--batch-size", 2, "-o", "v.npz")
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
    assert np.abs(vectors - images(model, ALL)).max() <= EQUAL


@pytest.mark.parametrize("command", ["embed", "classify"])
def test_nothing_readable(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = damage(photos)
    more = ["-o", "v.npz"] if command == "embed" else ["-l", "cat,dog"]
    for inputs in (bad, ["missing.png"], ["photos/*.bmp"]):
        result = mlx_mm(command, *inputs, "-m", model, *more)
        assert_one_error(result, "Nothing could be read")
        assert len(result.err.splitlines()) == len(inputs) + 1
    stdin(monkeypatch, "\n\n")
    assert_one_error(mlx_mm(command, "-", "-m", model, *more), "Nothing could be read")
    assert not Path("v.npz").exists()


@pytest.mark.parametrize(
    ("out", "part"),
    [("v.csv", "expected one of .npz, .jsonl, .parquet"), ("missing/v.npz", "Create it first"), (".", "ends in")],
)
def test_bad_output_is_found_before_the_model_is_loaded(
    mlx_mm: Callable[..., Result], photos: Path, out: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_load", lambda _: pytest.fail("loaded"))
    assert_one_error(mlx_mm("embed", "photos", "-o", out), part)


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["photos", "--dim", "0"], "dim is 0"),
        (["photos", "--dim", "129"], "dim is 129"),
        (["photos", "--dim", "-1"], "dim is -1"),
        (["photos", "--batch-size", "0"], "batch_size is 0"),
        (["photos", "--max-num-patches", "0"], "max_num_patches is 0"),
        (["--text", "a cat", "--max-num-patches", "9"], "--max-num-patches"),
        (["--text", "a cat", "--max-length", "0"], "max_length is 0; expected a whole number from 1 to 64"),
        (["--text", "a cat", "--task", "classification"], "task"),
        (["--text", "a cat", "--max-num-patches", "0"], "--max-num-patches"),
    ],
)
def test_embed_options_out_of_range(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, arguments: list[str], part: str
) -> None:
    assert_one_error(mlx_mm("embed", *arguments, "-m", model, "-o", "v.npz"), part)
    assert os.listdir(photos) == ["photos"]


def test_embed_long_texts(mlx_mm: Callable[..., Result], model: Path) -> None:
    """The notice is one line on stderr, and stdout holds nothing but vectors."""
    texts = ["a cat", "hello " * 80, "hello " * 99]
    result = mlx_mm("embed", "--text", *texts, "-m", model)
    assert result.status == 0
    assert [row["id"] for row in result.rows] == texts
    assert len(result.err.splitlines()) == 1
    assert result.err.startswith("warning: 2 of 3 texts are longer than 64 tokens (the longest has 199)")
    assert ".py" not in result.err
    assert mlx_mm("embed", "--text", *texts, "-m", model).err == result.err
    assert_one_error(mlx_mm("embed", "--text", *texts, "-m", model, "--no-truncate"), "161 tokens", "at most 64")
    short = mlx_mm("embed", "--text", *texts, "-m", model, "--max-length", 5, "--json")
    assert "longer than 5 tokens" in short.err
    with pytest.warns(UserWarning, match="longer than 5 tokens"):
        expected = encode_text(*load(model), texts, max_length=5)
    assert np.abs(np.array([row["vector"] for row in short.rows]) - expected).max() <= EQUAL


def test_classify_with_long_labels(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    result = mlx_mm("classify", "photos", "-m", model, "-l", "cat," + "hello " * 80, "--json")
    assert result.status == 0
    assert len(result.json) == len(ALL)
    assert result.err.startswith("warning: 1 of 2 texts is longer than 64 tokens")
    assert len(result.err.splitlines()) == 1


@pytest.mark.parametrize("option", [["--task", "x"], ["--max-length", "9"], ["--no-truncate"]])
def test_options_of_texts_with_pictures(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, option: list[str]
) -> None:
    result = mlx_mm("embed", "photos", "-m", model, *option)
    assert_one_error(result, f"{option[0]} is about texts, and this embeds image. Leave it out.")


def test_embed_with_a_classifier(mlx_mm: Callable[..., Result], classifier: Path, photos: Path) -> None:
    assert_one_error(mlx_mm("embed", "photos", "-m", classifier))
    assert_one_error(mlx_mm("embed", "--text", "cat", "-m", classifier), "no text encoder")


def test_file_names_that_are_no_utf_8(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    """Linux allows any bytes in a name; such a file is embedded or skipped, but ends nothing."""
    try:
        os.rename(b"photos/b.png", b"photos/\xff.png")
    except OSError:
        pytest.skip("this file system allows UTF-8 names only")
    for more in ([], ["-o", "v.npz"], ["-o", "v.jsonl"]):
        run = process("embed", "photos", "-m", model, *more)
        assert run.returncode == 0, run.stderr.decode("utf-8", "replace")


def test_stdin_that_is_no_utf_8(model: Path) -> None:
    run = process("embed", "--text", "-", "-m", model, stdin=b"caf\xe9\n")
    assert run.returncode in (0, 1)
    assert b"Traceback" not in run.stderr


# --- classify -----------------------------------------------------------------------------------------------------


def expected_scores(model: Path, labels: list[str] | None, **options: Any) -> list[dict[str, Any]]:
    rows = classify(*load(model), ALL, labels, **options)
    return [
        {"id": name, "labels": [{"label": label, "score": score} for label, score in row]}
        for name, row in zip(ALL, rows, strict=True)
    ]


def assert_same_scores(got: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert [row["id"] for row in got] == [row["id"] for row in expected]
    for row, want in zip(got, expected, strict=True):
        scores = {item["label"]: item["score"] for item in row["labels"]}
        assert scores == pytest.approx({item["label"]: item["score"] for item in want["labels"]}, abs=EQUAL)
        assert [item["score"] for item in row["labels"]] == sorted(scores.values(), reverse=True)


def test_classify(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    result = mlx_mm("classify", "photos", "-m", model, "-l", "cat, dog", "-l", "hello", "--json")
    assert (result.status, result.err) == (0, "")
    assert_same_scores(result.json, expected_scores(model, ["cat", "dog", "hello"]))


def test_classify_prints_a_table(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    lines = mlx_mm("classify", "photos", "-m", model, "-l", "cat,猫,hello dog", "--top", 2).out.splitlines()
    expected = expected_scores(model, ["cat", "猫", "hello dog"])
    assert len(lines) == 2 * len(ALL)
    for i, row in enumerate(expected):
        first, second = lines[2 * i : 2 * i + 2]
        assert first.startswith(row["id"])
        assert second.startswith(" " * len(max(ALL, key=len)))
        for line, item in zip((first, second), row["labels"], strict=False):
            assert line.endswith(f"{item['score']:.3f}")
            assert item["label"] in line


def test_labels_of_a_file(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    """One a line, so a label may hold a comma there."""
    Path("labels.txt").write_text("dog, wet\n\n  猫  \r\n", "utf-8")
    result = mlx_mm("classify", "photos", "-m", model, "-l", "cat", "--labels-file", "labels.txt", "--json")
    assert_same_scores(result.json, expected_scores(model, ["cat", "dog, wet", "猫"]))


def test_templates_and_top(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    more = ["--template", "a {}", "--template", "hello {}", "--top", "1", "--batch-size", "1", "--json"]
    result = mlx_mm("classify", "photos", "-m", model, "-l", "cat,dog,hello", *more)
    expected = expected_scores(model, ["cat", "dog", "hello"], template=["a {}", "hello {}"])
    assert_same_scores(result.json, [{**row, "labels": row["labels"][:1]} for row in expected])


def test_the_checkpoints_own_head(mlx_mm: Callable[..., Result], classifier: Path, photos: Path) -> None:
    result = mlx_mm("classify", "photos", "-m", classifier, "--json")
    assert_same_scores(result.json, expected_scores(classifier, None))
    assert {item["label"] for item in result.json[0]["labels"]} == {"cat", "dog", "owl"}


def test_classify_skips(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    bad = damage(photos)
    result = mlx_mm("classify", "photos", "-m", model, "-l", "cat,dog", "--json")
    assert result.status == 0
    assert [row["id"] for row in result.json] == ALL
    assert len(result.err.splitlines()) == len(bad) + 1
    assert result.err.splitlines()[-1] == "4 inputs skipped, see the warnings above"


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        ([], "no classification head"),
        (["-l", ","], "no labels"),
        (["-l", ""], "no labels"),
        (["-l", "cat", "--template", "a photo"], "has no {}"),
        (["-l", "cat", "--top", "0"], "--top is 0"),
        (["-l", "cat", "--batch-size", "-1"], "batch_size is -1"),
        (["--labels-file", "missing.txt"], "missing.txt"),
        (["--labels-file", "photos/b.png"], "photos/b.png"),
        (["--labels-file", "photos"], "photos"),
        (["--labels-file", os.devnull], "no labels"),
    ],
)
def test_classify_errors(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, arguments: list[str], part: str
) -> None:
    assert_one_error(mlx_mm("classify", "photos", "-m", model, *arguments), part)


def test_a_vision_tower_cannot_read_labels(mlx_mm: Callable[..., Result], tmp_path: Path, photos: Path) -> None:
    config = tiny_config("siglip2")
    vision = {**config["vision_config"], "architectures": ["Siglip2VisionModel"]}
    shapes = [pair for pair in siglip_shapes(config) if pair[0].startswith("vision_model.")]
    tower = write_checkpoint(tmp_path / "tower", vision, golden_weights(shapes))
    assert_one_error(mlx_mm("classify", "photos", "-m", tower, "-l", "cat"), "no text encoder; it takes image")
    assert mlx_mm("embed", "photos", "-m", tower).status == 0


# --- models -------------------------------------------------------------------------------------------------------


def test_the_default_model_is_named_in_one_line(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever has photographs must learn which checkpoint to take."""
    monkeypatch.setattr(hub, "BUNDLED", model.parent)
    monkeypatch.setattr(cli, "DEFAULT_MODEL", model.name)
    for command in (["embed", "--text", "cat"], ["embed", "photos"], ["classify", "photos", "-l", "cat"]):
        result = mlx_mm(*command)
        assert result.status == 0
        [line] = result.err.splitlines()
        assert model.name in line
        assert cli.PHOTO_MODEL in line
        assert not line.startswith(("error", "warning"))
        assert mlx_mm(*command, "-m", model).err == ""


def test_the_default_model_is_bundled() -> None:
    assert cli.DEFAULT_MODEL in hub.bundled_names()
    assert cli.PHOTO_MODEL.count("/") == 1


@pytest.mark.parametrize(
    "arguments",
    [["info", "x/y/z"], ["embed", "photos", "-m", "nothing"], ["classify", "photos", "-l", "a", "-m", "./no"]],
)
def test_unknown_model(mlx_mm: Callable[..., Result], photos: Path, arguments: list[str]) -> None:
    assert_one_error(mlx_mm(*arguments), "There is no folder", cli.DEFAULT_MODEL)


def test_a_revision_needs_the_hub(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    for command in (["info", model], ["embed", "photos", "-m", model], ["convert", model, "out"]):
        assert_one_error(mlx_mm(*command, "--revision", "v2"), "no revision 'v2'")
    assert os.listdir(photos) == ["photos"]


def test_a_folder_that_is_no_model(mlx_mm: Callable[..., Result], photos: Path) -> None:
    for command in (["info", "photos"], ["embed", "photos", "-m", "photos"], ["convert", "photos", "out"]):
        assert_one_error(mlx_mm(*command), "no config.json")
    assert os.listdir(photos) == ["photos"]


# --- convert and info ---------------------------------------------------------------------------------------------


def test_convert_info_embed(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    """The whole way: a Hugging Face folder, four bits, the same vectors but for rounding."""
    result = mlx_mm("convert", model, "tiny-4bit")
    assert (result.status, result.err) == (0, "")
    assert "4 bit, group 64" in result.out
    assert "vision_config.intermediate_size 144 -> 192" in result.out
    assert result.out.endswith("written to tiny-4bit\n")
    described = mlx_mm("info", "tiny-4bit", "--json").json
    assert described["quantization"] == {"bits": 4, "group_size": 64, "mode": "affine"}
    assert described["format"] == "mlx"
    plain = mlx_mm("info", "tiny-4bit").out.splitlines()
    assert any(line.split() == ["modalities", "text,", "image"] for line in plain)
    got = np.array([row["vector"] for row in mlx_mm("embed", "photos", "-m", "tiny-4bit").rows])
    cosines = (got * images(model, ALL)).sum(-1)
    assert (cosines > 0.98).all()
    assert (cosines < 1 - 1e-6).any()  # quantised indeed


def test_convert_options(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    Path("recipe.json").write_text(json.dumps({"text_model.*": False, "*.fc1": {"bits": 4}}))
    more = ["--bits", "8", "--group-size", "32", "--dtype", "float16", "--recipe", "recipe.json", "--json"]
    report = mlx_mm("convert", model, "out", *more).json
    assert report["out"] == "out"
    schemes = {choice["path"]: choice["scheme"] for choice in report["choices"]}
    layer = "encoder.layers.0.mlp.fc1"
    assert schemes[f"text_model.{layer}"] is None
    assert schemes[f"vision_model.{layer}"] == {"bits": 4, "group_size": 32, "mode": "affine"}
    assert schemes["vision_model.head.mlp.fc2"] == {"bits": 8, "group_size": 32, "mode": "affine"}
    index = json.loads(Path("out/model.safetensors.index.json").read_text())
    assert report["bytes"] == index["metadata"]["total_size"]
    whole = mlx_mm("convert", model, "float", "--bits", "none", "--json").json
    assert whole["choices"] == []
    assert whole["bytes"] == 4 * whole["parameters"]
    got = np.array([row["vector"] for row in mlx_mm("embed", "photos", "-m", "float").rows])
    assert np.abs(got - images(model, ALL)).max() <= EQUAL


def test_convert_with_a_named_recipe(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    report = mlx_mm("convert", model, "out", "--recipe", "text-only", "--json").json
    assert {c["path"].split(".")[0] for c in report["choices"] if c["scheme"]} == {"text_model"}


def test_convert_overwrites_only_when_told(mlx_mm: Callable[..., Result], model: Path, photos: Path) -> None:
    assert mlx_mm("convert", model, "out").status == 0
    before = Path("out/config.json").read_bytes()
    assert_one_error(mlx_mm("convert", model, "out", "--bits", "8"), "exists already", "--overwrite")
    assert Path("out/config.json").read_bytes() == before
    assert mlx_mm("convert", model, "out", "--bits", "8", "--overwrite").status == 0
    assert json.loads(Path("out/config.json").read_text())["quantization"]["bits"] == 8
    assert sorted(os.listdir(photos)) == ["out", "photos"]


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["out", "--group-size", "48"], "group_size is 48"),
        (["out", "--mode", "nf4"], "mode is 'nf4'"),
        (["out", "--dtype", "float8"], "dtype is 'float8'"),
        (["out", "--recipe", "fast"], "no recipe 'fast'"),
        (["out", "--recipe", "missing.json"], "missing.json"),
        (["out", "--recipe", "bad.json"], "bad.json is not JSON"),
        (["out", "--recipe", "list.json"], "recipe"),
        (["out", "--bits", "none", "--recipe", "text-only"], "bits=None"),
        (["bad.json"], "bad.json is a file"),
        (["photos"], "exists already"),
        (["photos", "--overwrite"], "is no checkpoint, so it is not overwritten"),
    ],
)
def test_convert_errors_leave_nothing(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, arguments: list[str], part: str
) -> None:
    Path("bad.json").write_text("{'*': false}")
    Path("list.json").write_text("[1, 2]")
    before = sorted(str(path) for path in photos.rglob("*"))
    assert_one_error(mlx_mm("convert", model, *arguments), part)
    assert sorted(str(path) for path in photos.rglob("*")) == before


def test_info_of_this_machine(mlx_mm: Callable[..., Result], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blas, "measure_gflops", lambda: 77.7)
    values = mlx_mm("info", "--json").json
    assert "siglip2" in values["model_types"]
    assert values["versions"]["mlx_mm"] == __version__
    plain = mlx_mm("info").out
    assert all(key.replace("_", " ") in plain for key in values)


# --- interruptions ------------------------------------------------------------------------------------------------


def interrupt(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


def test_interrupted_conversion_leaves_nothing(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.modules["mlx_mm.convert"], "_carry_files", interrupt)  # when the weights are written
    result = mlx_mm("convert", model, "out")
    assert (result.status, result.out) == (130, "")
    assert result.err.splitlines() == ["interrupted; nothing half-written was kept"]
    assert os.listdir(photos) == ["photos"]


def test_interrupted_embedding_leaves_nothing(
    mlx_mm: Callable[..., Result], model: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def half(new: str, *_: Any) -> None:
        Path(new).write_text("half")
        raise KeyboardInterrupt

    monkeypatch.setitem(export.WRITERS, ".jsonl", half)
    result = mlx_mm("embed", "photos", "-m", model, "-o", "v.jsonl")
    assert (result.status, result.out) == (130, "")
    assert os.listdir(photos) == ["photos"]


def test_a_bug_keeps_its_traceback(photos: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def bug(_: Any) -> Any:
        raise ZeroDivisionError

    monkeypatch.setattr(cli, "_load", bug)
    with pytest.raises(ZeroDivisionError):
        cli.main(["embed", "photos"])


def test_a_reader_that_goes_away(model: Path) -> None:
    """`mlx_mm embed … | head -1`."""
    command = [sys.executable, "-m", "mlx_mm", "embed", "--text", "-", "-m", str(model)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, env=environment()) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        assert run.stderr is not None
        run.stdin.write(b"cat\n" * 400)  # more vectors than a pipe holds
        run.stdin.close()
        assert json.loads(run.stdout.readline())["id"] == "cat"
        run.stdout.close()
        err = run.stderr.read()
        assert run.wait(timeout=120) in (0, 1)
    assert err == b""


@pytest.mark.parametrize("arguments", [["info", "MODEL"], ["embed", "--text", "cat", "-m", "MODEL"], ["--help"]])
def test_a_reader_that_was_never_there(model: Path, arguments: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "mlx_mm", *(str(model) if word == "MODEL" else word for word in arguments)]
    try:
        run = subprocess.run(
            command, stdout=writer, stderr=subprocess.PIPE, timeout=120, check=False, env=environment()
        )
    finally:
        os.close(writer)
    assert run.stderr == b""
    assert run.returncode in (0, 1)
