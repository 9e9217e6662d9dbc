"""Vectors written as .npz, .jsonl and .parquet: the same numbers in each, all of it or nothing."""

from __future__ import annotations

import itertools
import json
import os
import resource
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlx_mm.cli import embeddings
from mlx_mm.errors import OutputError

IDS = ["photos/cat.png", "猫 и кот", 'quote " and, comma', "a\nnew line", "🐱"]
ENDINGS = [".npz", ".jsonl", ".parquet"]


@pytest.fixture
def vectors() -> np.ndarray:
    """Float32 values that shortest-decimal or half-precision writing would change."""
    values = np.random.default_rng(0).normal(size=(len(IDS), 7)).astype(np.float32)
    values[0, :4] = [1 / 3, 1e-38, -0.0, np.nextafter(np.float32(1), np.float32(2))]
    return values


def read(path: Path) -> tuple[list[str], np.ndarray]:
    """Ids and vectors of a written file."""
    if path.suffix == ".npz":
        with np.load(path) as file:
            return file["ids"].tolist(), file["vectors"]
    if path.suffix == ".jsonl":
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return [row["id"] for row in rows], np.array([row["vector"] for row in rows], np.float32)
    parquet = pytest.importorskip("pyarrow.parquet")
    table = parquet.read_table(path)
    columns = table.column("vector").combine_chunks()
    return table.column("id").to_pylist(), np.array(columns.values).reshape(len(table), -1)


def needs(ending: str) -> None:
    if ending == ".parquet":
        pytest.importorskip("pyarrow")


@pytest.mark.parametrize("ending", ENDINGS)
def test_written_numbers_come_back_bit_for_bit(tmp_path: Path, vectors: np.ndarray, ending: str) -> None:
    needs(ending)
    path = tmp_path / f"vectors{ending}"
    embeddings.write_embeddings(path, IDS, vectors, "a-model")
    ids, values = read(path)
    assert ids == IDS
    assert values.dtype == np.float32
    assert np.array_equal(values.view(np.uint32), vectors.view(np.uint32))
    assert os.listdir(tmp_path) == [path.name]
    assert path.stat().st_mode & 0o777 == 0o644


def test_npz_names_the_model_and_needs_no_pickle(tmp_path: Path, vectors: np.ndarray) -> None:
    embeddings.write_embeddings(tmp_path / "v.npz", IDS, vectors, "a-model")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as file:
        assert sorted(file) == ["ids", "model", "vectors"]
        assert str(file["model"]) == "a-model"


def test_one_long_id_does_not_widen_the_others(tmp_path: Path) -> None:
    ids = [f"photos/{number}.png" for number in range(2000)] + ["x" * 5_000]
    vectors = np.ones((len(ids), 4), np.float32)
    path = tmp_path / "v.npz"
    tracemalloc.start()
    embeddings.write_embeddings(path, ids, vectors, "m")
    assert tracemalloc.get_traced_memory()[1] < 20e6
    tracemalloc.stop()
    assert path.stat().st_size < 4e5
    with np.load(path, allow_pickle=False) as file:
        assert file["ids"].tolist() == ids
        assert np.array_equal(file["vectors"], vectors)


@pytest.mark.parametrize("ids", [IDS, ["", os.fsdecode(b"caf\xe9.png"), "\u2028"], ["a"]])
def test_ids_too_wide_for_an_array_of_texts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ids: list[str]) -> None:
    monkeypatch.setattr(embeddings, "MOST_IDS_BYTES", 1)
    embeddings.write_embeddings(tmp_path / "v.npz", ids, np.ones((len(ids), 2), np.float32), "m")
    with np.load(tmp_path / "v.npz", allow_pickle=False) as file:
        assert sorted(file) == ["ids_offsets", "ids_utf8", "model", "vectors"]
        text, offsets = file["ids_utf8"].tobytes(), file["ids_offsets"]
        assert (offsets.dtype, offsets[0], offsets[-1]) == (np.int64, 0, len(text))
        assert [os.fsdecode(text[a:b]) for a, b in itertools.pairwise(offsets)] == ids


def test_jsonl_has_one_plain_object_a_line(tmp_path: Path, vectors: np.ndarray) -> None:
    embeddings.write_embeddings(tmp_path / "v.jsonl", IDS, vectors, "a-model")
    lines = (tmp_path / "v.jsonl").read_text("utf-8").split("\n")
    assert lines.pop() == ""
    assert len(lines) == len(IDS)
    assert [sorted(json.loads(line)) for line in lines] == [["id", "vector"]] * len(IDS)
    assert "猫" in lines[1]  # readable, not escaped
    assert lines == list(embeddings.json_lines(IDS, vectors))


def test_parquet_has_two_columns_of_fixed_width(tmp_path: Path, vectors: np.ndarray) -> None:
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    embeddings.write_embeddings(tmp_path / "v.parquet", IDS, vectors, "a-model")
    schema = parquet.read_schema(tmp_path / "v.parquet")
    assert schema.names == ["id", "vector"]
    assert schema.field("vector").type == pa.list_(pa.float32(), 7)
    assert schema.metadata[b"model"] == b"a-model"


def test_the_ending_counts_in_any_case(tmp_path: Path, vectors: np.ndarray) -> None:
    embeddings.write_embeddings(tmp_path / "V.NPZ", IDS, vectors, "m")
    assert os.listdir(tmp_path) == ["V.NPZ"]  # np.savez would have added .npz
    with np.load(tmp_path / "V.NPZ") as file:
        assert np.array_equal(file["vectors"], vectors)


def test_a_file_is_replaced(tmp_path: Path, vectors: np.ndarray) -> None:
    path = tmp_path / "v.jsonl"
    path.write_text("old")
    with path.open() as reader:  # who reads the old file meanwhile keeps it
        embeddings.write_embeddings(path, IDS, vectors, "m")
        assert reader.read() == "old"
    assert read(path)[0] == IDS


@pytest.mark.parametrize("name", ["v.csv", "v", "v.npz.gz", ".npz", "v.json"])
def test_other_endings(tmp_path: Path, name: str) -> None:
    with pytest.raises(OutputError, match=r"\.npz, \.jsonl, \.parquet"):
        embeddings.check_output(tmp_path / name)


def test_places_where_no_file_can_be(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="There is no folder"):
        embeddings.check_output(tmp_path / "missing" / "v.npz")
    (tmp_path / "folder.npz").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        embeddings.check_output(tmp_path / "folder.npz")
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match="There is no folder"):
        embeddings.check_output(tmp_path / "file" / "v.npz")


def test_parquet_without_pyarrow(tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(OutputError, match=r"pip install 'mlx_mm\[parquet\]'"):
        embeddings.check_output(tmp_path / "v.parquet")
    with pytest.raises(OutputError, match="pyarrow"):
        embeddings.write_embeddings(tmp_path / "v.parquet", IDS, vectors, "m")
    embeddings.check_output(tmp_path / "v.npz")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("ending", [".npz", ".jsonl"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failure_keeps_the_old_file_and_nothing_else(
    tmp_path: Path, vectors: np.ndarray, monkeypatch: pytest.MonkeyPatch, ending: str, error: BaseException
) -> None:
    path = tmp_path / f"v{ending}"
    path.write_text("old")

    def fail(new: Path, *_: Any) -> None:
        new.write_text("half")
        raise error

    monkeypatch.setitem(embeddings.WRITERS, ending, fail)
    expected: type[BaseException] = OutputError if isinstance(error, OSError) else KeyboardInterrupt
    with pytest.raises(expected) as caught:
        embeddings.write_embeddings(path, IDS, vectors, "m")
    assert not isinstance(error, OSError) or "No space left on device" in str(caught.value)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_may_not_be_written(vectors: np.ndarray) -> None:
    """One in which not even root may."""
    folder = Path("/proc/self")
    if not folder.is_dir():
        pytest.skip("this system has no /proc")
    with pytest.raises(OutputError, match=r"Writing /proc/self/v\.npz failed: .*Nothing was kept"):
        embeddings.write_embeddings(folder / "v.npz", IDS, vectors, "m")


@pytest.mark.parametrize("ending", ENDINGS)
def test_mode_umask_and_link_hold(tmp_path: Path, vectors: np.ndarray, ending: str) -> None:
    needs(ending)
    path, link, new = (tmp_path / f"{name}{ending}" for name in ("real", "link", "new"))
    path.touch()
    path.chmod(0o640)
    link.symlink_to(path.name)
    before = os.umask(0o077)
    try:
        embeddings.write_embeddings(link, IDS, vectors, "m")
        embeddings.write_embeddings(new, IDS, vectors, "m")
    finally:
        os.umask(before)
    assert (path.stat().st_mode & 0o777, new.stat().st_mode & 0o777) == (0o640, 0o600)
    assert os.readlink(link) == path.name
    assert read(path)[0] == IDS
    assert sorted(os.listdir(tmp_path)) == sorted([path.name, link.name, new.name])


def test_a_link_to_a_file_of_another_ending(tmp_path: Path, vectors: np.ndarray) -> None:
    """The name that was given decides what is written."""
    (tmp_path / "v.npz").symlink_to("blob")
    embeddings.write_embeddings(tmp_path / "v.npz", IDS, vectors, "m")
    assert read(tmp_path / "v.npz")[0] == IDS
    assert sorted(os.listdir(tmp_path)) == ["blob", "v.npz"]


@pytest.mark.parametrize("name", ["pipe.npz", "to-pipe.jsonl", "to-null.jsonl", "x" * 252 + ".npz", "loop.npz"])
def test_what_cannot_be_written_is_found_first(name: str, tmp_path: Path, vectors: np.ndarray) -> None:
    os.mkfifo(tmp_path / "pipe.npz")
    for link, target in (("to-pipe.jsonl", "pipe.npz"), ("to-null.jsonl", "/dev/null"), ("loop.npz", "loop.npz")):
        (tmp_path / link).symlink_to(target)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(OutputError):
        embeddings.check_output(tmp_path / name)
    with pytest.raises(OutputError):
        embeddings.write_embeddings(tmp_path / name, IDS, vectors, "m")
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/null", "/dev/fd/1"])
def test_devices_have_no_ending(name: str) -> None:
    with pytest.raises(OutputError, match=r"Without -o, JSON lines go to stdout\.$"):
        embeddings.check_output(Path(name))


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_limit_of_the_system(tmp_path: Path, ending: str) -> None:
    """As a full disk, in the middle of a file and at its end, where what is buffered is written."""
    needs(ending)
    for count in (1, 100, 400):
        many = np.ones((count, 64), np.float32)
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
        try:
            with pytest.raises(OutputError, match=r"File too large.*Nothing was kept"):
                embeddings.write_embeddings(tmp_path / f"v{ending}", ["x"] * count, many, "m")
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        assert os.listdir(tmp_path) == []
