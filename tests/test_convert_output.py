"""`convert`: where it writes, what it leaves behind, and arguments that are refused before anything is opened."""

from __future__ import annotations

import os
import resource
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx.core as mx
import numpy as np
import pytest
from damage import listing
from tiny import tiny_config, tiny_weights, write_checkpoint

import mlx_mm
from mlx_mm.checkpoint import writing
from mlx_mm.errors import InputError, MlxMmError, ModalityError, OutputError, QuantizationError

Checkpoint = Callable[..., Path]


def modes(folder: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


@pytest.fixture
def opens_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["mlx_mm.convert"], "open_checkpoint", lambda *_, **__: pytest.fail("opened"))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002], ids=oct)
def test_all_files_follow_the_umask(umask: int, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Those that are carried over, too, whatever their own mode."""
    source = tiny_checkpoint("siglip2")
    for path in source.iterdir():
        path.chmod(0o440)
    before = os.umask(umask)
    try:
        mlx_mm.convert(source, tmp_path / "out")
    finally:
        os.umask(before)
    assert modes(tmp_path / "out") == {0o666 & ~umask}
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o777 & ~umask


def test_a_linked_folder_is_overwritten_where_it_lies(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    (tmp_path / "disk").mkdir()
    (tmp_path / "link").symlink_to("disk/model")
    report = mlx_mm.convert(source, tmp_path / "link", bits=8)  # the link led nowhere
    assert report.out == tmp_path / "link"
    report = mlx_mm.convert(source, tmp_path / "link", bits=4, overwrite=True)
    assert os.readlink(tmp_path / "link") == "disk/model"
    assert report.bytes == sum(
        array.nbytes for array in mx.load(str(tmp_path / "disk/model/model.safetensors")).values()
    )
    assert sorted(os.listdir(tmp_path)) == ["disk", "link", "tiny-siglip2"]
    assert os.listdir(tmp_path / "disk") == ["model"]


PLACES = [
    ".",
    "..",
    "/",
    "",
    "pipe",
    "file",
    "file/out",
    "loop",
    "/dev/null",
    "x" * 256,
    "a/b/" + "x" * 256,
    "\0",
    "~nobody-here",
]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.usefixtures("opens_nothing")
def test_places_are_refused_before_any_work(
    place: str, overwrite: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    Path("file").touch()
    os.mkfifo("pipe")
    os.symlink("loop", "loop")
    before = listing(tmp_path)
    with pytest.raises(OutputError):
        mlx_mm.convert("emoji-siglip2", place, overwrite=overwrite)
    assert listing(tmp_path) == before


@pytest.mark.parametrize("name", ["x" * 255, "a\nb", "a b ", os.fsdecode(b"\xff\xfe"), "-", "猫", "$(x)"])
def test_odd_names_are_names(name: str, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    out = tmp_path / name
    try:
        mlx_mm.convert(source, out)
    except OutputError:
        assert sys.platform == "darwin"  # its file systems take UTF-8 only
        assert name.isprintable() is False
    else:
        assert (out / "model.safetensors").exists()
        assert "# " in (out / "README.md").read_text("utf-8")
        assert {path.name for path in tmp_path.iterdir()} == {name, source.name}


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        *(({"bits": bits}, QuantizationError) for bits in (True, False, 4.0, np.float32(4), "8", [4], np.array([4]))),
        *(({"group_size": size}, QuantizationError) for size in (True, 64.0, "64", (64,), 48)),
        ({"bits": None, "group_size": 48}, QuantizationError),
        ({"bits": None, "mode": "nonsense"}, QuantizationError),
        ({"mode": ["affine"]}, QuantizationError),
        ({"recipe": "fast"}, QuantizationError),
        ({"recipe": 5}, QuantizationError),
        ({"recipe": {5: False}}, QuantizationError),
        ({"dtype": "int8"}, InputError),
        ({"dtype": np.float16}, InputError),
        *(({"progress": value}, InputError) for value in (0.5, 1, "yes")),
        *(({name: value}, InputError) for name in ("overwrite", "check") for value in (1, "no", None, 0.0)),
        ({"source": 5}, InputError),
        ({"source": None}, InputError),
        ({"out": 5}, InputError),
        ({"out": None}, InputError),
        ({"out": b"out"}, InputError),
    ],
    ids=str,
)
@pytest.mark.usefixtures("opens_nothing")
def test_arguments_are_held_before_any_work(arguments: dict[str, Any], error: type[MlxMmError], tmp_path: Path) -> None:
    given = {"source": "emoji-siglip2", "out": tmp_path / "out", **arguments}
    with pytest.raises(error):
        mlx_mm.convert(**given)
    assert list(tmp_path.iterdir()) == []


def test_whole_numbers_of_numpy(tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    mlx_mm.convert(source, tmp_path / "a", bits=np.int64(4), group_size=np.uint8(32))  # type: ignore[arg-type]
    mlx_mm.convert(source, tmp_path / "b", bits=4, group_size=32)
    assert (tmp_path / "a/config.json").read_bytes() == (tmp_path / "b/config.json").read_bytes()


def test_a_tower_without_head_is_not_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It gives no vectors to compare, which is said before anything is written."""
    config = tiny_config("siglip2")
    config["vision_config"]["vision_use_head"] = False
    source = write_checkpoint(tmp_path / "source", config, tiny_weights(config))
    monkeypatch.setattr(writing.ShardWriter, "write", lambda *_: pytest.fail("wrote"))
    with pytest.raises(ModalityError, match="no pooling head"):
        mlx_mm.convert(source, tmp_path / "out", check=True)
    assert os.listdir(tmp_path) == ["source"]


def test_a_tower_without_head_is_rounded_without_inputs(tmp_path: Path) -> None:
    """The texts of the same model have vectors, so their layers are rounded with their inputs."""
    config = tiny_config("siglip2")
    config["vision_config"]["vision_use_head"] = False
    source = write_checkpoint(tmp_path / "source", config, tiny_weights(config))
    written = {}
    for method in ("search", "best"):
        mlx_mm.convert(source, tmp_path / method, bits=4, group_size=32, method=method, check=False)
        written[method] = mx.load(str(tmp_path / method / "model.safetensors"))
    same = {name: mx.array_equal(array, written["best"][name]).item() for name, array in written["search"].items()}
    assert all(equal for name, equal in same.items() if name.startswith("vision_model"))
    assert not all(equal for name, equal in same.items() if name.startswith("text_model.encoder"))


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_limit_of_the_system(overwrite: bool, tiny_checkpoint: Checkpoint, tmp_path: Path) -> None:
    source = tiny_checkpoint("siglip2")
    if overwrite:
        mlx_mm.convert(source, tmp_path / "out")
    before = listing(tmp_path)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OutputError, match="File too large"):
            mlx_mm.convert(source, tmp_path / "out", bits=8, overwrite=overwrite)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert listing(tmp_path) == before
