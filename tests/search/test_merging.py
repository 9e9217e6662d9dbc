"""Indexes of shards become the index that one run makes, whatever was killed, repeated or merged before."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from comparing import LONG
from folders import LONG_AGO, Library, age, picture, pictures, sound
from merged import held

import mlx_mm
from mlx_mm import Index
from mlx_mm.errors import BusyError, DamagedError, InputError, OtherModelError, StoreError
from mlx_mm.search.store import Store
from mlx_mm.search.thumbnail_files import thumbnail_path


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Twelve pictures, one of them three times, and one that is none."""
    folder = pictures(tmp_path / "photos", 12)
    for name in ("again.png", "deep/once more.png"):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copy2(folder / "0.png", folder / name)
    (folder / "broken.jpg").write_bytes(b"none")
    age(folder / "broken.jpg")
    return folder


Made = Callable[..., Path]


@pytest.fixture
def made(tmp_path: Path, photos: Path, tiny_model: Path) -> Made:
    """`made("a", "1/3")` is an index of that shard."""

    def make(name: str, shard: str | None = None, model: Path | str = tiny_model, folder: Path = photos) -> Path:
        with Index(tmp_path / f"{name}.mmindex", str(model)) as index:
            index.refresh(folder, shard=shard)
        return tmp_path / f"{name}.mmindex"

    return make


def test_shards_become_the_index_of_one_run(made: Made, tmp_path: Path) -> None:
    whole = held(made("whole"))
    parts = [made(f"part{number}", f"{number}/3") for number in (1, 2, 3)]
    with Index(tmp_path / "all.mmindex") as index:
        first = index.merge(parts)
        assert held(tmp_path / "all.mmindex") == whole
        assert (first.parts, first.files, first.contents, first.vectors) == (3, 15, 12, 12)
        again = index.merge(parts[::-1])
        assert (again.files, again.contents, again.vectors) == (0, 0, 0)
        assert held(tmp_path / "all.mmindex") == whole
        assert index.check().problems == ()
        report = index.refresh()
        assert (report.files, report.new, report.encoded, report.missing) == (14, 0, 0, 0)
        with Store(tmp_path / "whole.mmindex").reading() as rows:
            digests = [row[0] for row in rows.execute("SELECT digest FROM contents")]
        assert all(thumbnail_path(tmp_path / "all.mmindex", digest).exists() for digest in digests)


@LONG[0]
@LONG[1]
def test_parts_that_come_one_after_another_into_an_index_in_use(made: Made, tmp_path: Path) -> None:
    whole = held(made("whole"))
    with Index(made("all", "1/3")) as index:  # also an index of a shard takes others in
        assert index.merge(made("second", "2/3")).absent == ["1/3", "3/3"]
        assert index.merge(str(made("third", "3/3"))).parts == 1
        report = index.refresh()  # which is of all files now
        assert (report.new, report.encoded, report.missing) == (0, 0, 0)
    assert held(tmp_path / "all.mmindex") == whole


@LONG[0]
@LONG[1]
def test_what_a_killed_shard_has_is_kept_and_nothing_comes_twice(
    made: Made, tmp_path: Path, photos: Path, tiny_model: Path
) -> None:
    whole = held(made("whole"))
    code = (
        "import os, signal, sys\n"
        "from mlx_mm import Index\n"
        "from mlx_mm.search import encoding\n"
        "encoding.FILES = 1\n"
        "index, left = Index(sys.argv[1], sys.argv[2]), [3]\n"
        "def event(what, path):\n"
        "    left[0] -= 1\n"
        "    left[0] or os.kill(os.getpid(), signal.SIGKILL)\n"
        "index.refresh(sys.argv[3], shard='1/2', on_event=event)\n"
    )
    part = tmp_path / "killed.mmindex"
    command = [sys.executable, "-c", code, str(part), str(tiny_model), str(photos)]
    environment = {**os.environ, "PYTHONPATH": str(Path(mlx_mm.__file__).parents[1])}
    assert subprocess.run(command, env=environment, timeout=60, check=False).returncode == -signal.SIGKILL
    with Index(tmp_path / "all.mmindex") as index:
        early = index.merge([part, made("other", "2/2")])
        assert 0 < early.vectors < 12
        with Index(part) as killed:
            assert 0 < killed.refresh().encoded < 12
        late = index.merge(part)
        assert late.vectors == 12 - early.vectors
    assert held(tmp_path / "all.mmindex") == whole


class _Interrupted(BaseException):
    pass


def _interrupt(done: int, total: int | None) -> None:
    if done == 9:
        raise _Interrupted


@LONG[0]
@LONG[1]
def test_an_interrupted_merge_leaves_nothing(made: Made, tmp_path: Path) -> None:
    parts = [made(f"part{number}", f"{number}/2") for number in (1, 2)]
    before = sorted(os.listdir(tmp_path))
    with Index(tmp_path / "all.mmindex") as index, pytest.raises(_Interrupted):
        index.merge(parts, progress=_interrupt)
    assert sorted(os.listdir(tmp_path)) == before
    old = made("old", "1/3")
    was = held(old)
    with Index(old) as index:
        with pytest.raises(_Interrupted):
            index.merge(parts, progress=_interrupt)
        assert held(old) == was
        index.merge(parts)
    assert held(old) == held(made("whole"))


def test_the_newer_file_counts(made: Made, photos: Path, tmp_path: Path) -> None:
    old = made("old")
    picture(photos / "3.png", 77)
    os.remove(photos / "4.png")
    new = made("new")
    with Index(old) as index:
        assert index.merge(new).files == 1
        assert index.refresh().missing == 1
        assert index.merge(new).files == 0
    assert [row for row in held(old)[2] if row[8] == "here"] == [row for row in held(new)[2] if row[8] == "here"]
    with Index(new) as index:  # what is older changes nothing
        was = held(new)
        assert index.merge(made("older", folder=photos)).files == 0
        assert held(new) == was


def test_tags_and_decisions_come_along(made: Made, photos: Path, tmp_path: Path) -> None:
    part = made("part", model="emoji-siglip2")
    with Index(part) as index:
        index.tag(["noise", "cat"], least=1e-30)
        with Store(part).reading() as rows:
            a, b = [row[0].hex() for row in rows.execute("SELECT digest FROM contents LIMIT 2")]
        index.keep_apart(a, b)
    with Index(tmp_path / "all.mmindex") as index:
        index.merge(part)
        assert index.search("noise", strong_only=False)[0].tags == ("cat", "noise")
    assert held(tmp_path / "all.mmindex") == held(part)
    with Store(tmp_path / "all.mmindex").reading() as rows:
        assert rows.execute("SELECT count(*) FROM kept_apart").fetchone() == (1,)


def test_sounds_beside_pictures(made: Made, hearing_model: Path, tmp_path: Path) -> None:
    sound(tmp_path / "sounds" / "long.wav", 21.0)
    heard = made("heard", model=hearing_model, folder=tmp_path / "sounds")
    seen = made("seen")
    with Index(tmp_path / "all.mmindex") as index:
        index.merge([seen, heard])
        assert index.check().problems == ()
    assert held(tmp_path / "all.mmindex")[1] == sorted(held(seen)[1] + held(heard)[1], key=repr)


def test_another_model(made: Made, tmp_path: Path) -> None:
    other = made("other", model="emoji-siglip2")
    ours = made("ours", "1/2")
    was = held(ours)
    with Index(ours) as index, pytest.raises(OtherModelError, match=r"other\.mmindex holds vectors of .*ours\.mmindex"):
        index.merge([made("fine", "2/2"), other])
    assert held(ours) == was
    with Index(tmp_path / "new.mmindex") as index, pytest.raises(OtherModelError, match="expected the same model"):
        index.merge([ours, other])
    assert not (tmp_path / "new.mmindex").exists()


def test_a_part_whose_model_was_damaged(made: Made, tmp_path: Path) -> None:
    ours, damaged = made("ours"), made("damaged")
    with Store(damaged).writing() as rows:
        rows.execute("UPDATE spaces SET canary = zeroblob(length(canary))")
    with Index(ours) as index, pytest.raises(DamagedError, match=r"damaged\.mmindex gives another vector"):
        index.merge(damaged)


def test_busy_indexes(made: Made, tmp_path: Path) -> None:
    ours, part = made("ours", "1/2"), made("part", "2/2")
    for busy in (ours, part):
        with Store(busy).writer(), Index(ours) as index, pytest.raises(BusyError, match=busy.name):
            index.merge(part)
    with Index(ours) as index:
        assert index.merge(part).files > 0


def test_what_is_no_part(made: Made, tmp_path: Path, photos: Path) -> None:
    ours = made("ours")
    with Index(ours) as index:
        with pytest.raises(InputError, match="is the index itself"):
            index.merge(ours)
        with pytest.raises(InputError, match="no parts"):
            index.merge([])
        with pytest.raises(StoreError, match=r"There is no .*nothing\.mmindex; expected an index"):
            index.merge(tmp_path / "nothing.mmindex")
        with pytest.raises(StoreError, match=r"holds .* and no index"):
            index.merge(photos)
    assert not (tmp_path / "nothing.mmindex").exists()


def test_a_part_that_is_only_read(made: Made, tmp_path: Path, library: Library) -> None:
    part = made("part")
    for path in (part / "index.sqlite", part):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        with Index(tmp_path / "all.mmindex") as index:
            assert index.merge(part).contents == 12
    finally:
        part.chmod(0o700)


def test_machines_number_volumes_differently(made: Made, tmp_path: Path, photos: Path) -> None:
    ours, part = made("ours", "1/2"), made("part", "2/2")
    with Store(part).writing() as rows:
        rows.execute("UPDATE roots SET device = 4711")
        rows.execute("UPDATE files SET device = 4711")
    with Index(ours) as index:
        index.merge(part)
        os.rename(photos / "5.png", photos / "renamed.png")
        os.rename(photos / "6.png", photos / "renamed too.png")
        report = index.refresh()
    assert (report.moved, report.encoded) == (2, 0)
    assert age(photos / "0.png", LONG_AGO).exists()
