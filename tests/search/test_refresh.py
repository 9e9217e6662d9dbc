"""What a refresh does with files that are new, changed, moved, copied, gone, unreadable or still being written."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from folders import LONG_AGO, Library, Spy, age, picture, pictures, sound
from PIL import Image

from mlx_mm import encode_image, load
from mlx_mm.errors import InputError, StoreError
from mlx_mm.search import encoding, reading
from mlx_mm.search.duplicates import duplicates
from mlx_mm.search.planning import HALF_OF
from mlx_mm.search.refresh import KEPT_SECONDS, moved
from mlx_mm.search.thumbnail_files import thumbnail_path


def test_each_content_is_encoded_once(library: Library, spy: Spy) -> None:
    pictures(library.photos, 5)
    shutil.copy2(library.photos / "0.png", library.photos / "again.png")
    assert library.refresh(library.photos) == {"new": 5, "copied": 1, "encoded": 5}
    assert spy.taken() == 5
    assert library.report.files == 6
    assert library.refresh() == {}
    assert library.refresh(library.photos) == {}
    assert spy.taken() == 0


def test_vectors_are_those_of_encode_image(library: Library, tiny_model: Path) -> None:
    pictures(library.photos, 3)
    picture(library.photos / "wide.png", 9, (60, 20))
    library.refresh(library.photos)
    paths = sorted(library.photos.iterdir())
    expected = encode_image(*load(tiny_model), paths)
    for path, vector in zip(paths, expected, strict=True):
        digest = library.query(
            "SELECT digest FROM files JOIN contents ON contents.id = content WHERE path = ?", os.fsencode(path.name)
        )[0][0]
        stored = np.frombuffer(library.vectors()[digest][0], "<f2").astype(np.float32)
        assert abs(np.linalg.norm(stored) - 1) < 1e-3
        cosines = expected @ stored / np.linalg.norm(stored)
        assert (cosines > 0.99999).tolist() == [path == other for other in paths]
        assert stored @ vector > 0.999


def test_changed_files_are_encoded_and_no_others(library: Library, spy: Spy) -> None:
    pictures(library.photos, 6)
    library.refresh(library.photos)
    before = library.vectors()
    spy.taken()
    picture(library.photos / "2.png", 102)
    age(library.photos / "3.png", LONG_AGO + 1)  # the same bytes
    assert library.refresh() == {"changed": 1, "encoded": 1}
    assert spy.taken() == 1
    after = library.vectors()
    assert len(after) == 6  # what nobody has any more goes at once
    assert len(after.keys() & before.keys()) == 5
    assert library.refresh() == {}


def test_moves_and_new_names_cost_no_model_run(library: Library, spy: Spy) -> None:
    pictures(library.photos, 4)
    library.refresh(library.photos)
    spy.taken()
    (library.photos / "deep").mkdir()
    os.rename(library.photos / "0.png", library.photos / "deep" / "zero.png")
    os.rename(library.photos / "1.png", library.photos / "1 holiday.png")
    events: list[tuple[str, str]] = []
    assert library.refresh(on_event=lambda *event: events.append(event)) == {"moved": 2}
    assert spy.taken() == 0
    assert {event for event, _ in events} == {"moved"}
    assert library.files() == {"photos/deep/zero.png", "photos/1 holiday.png", "photos/2.png", "photos/3.png"}
    found = library.query("SELECT path FROM words WHERE words MATCH 'holiday'")
    assert found == [("1 holiday.png",)]
    assert library.query("SELECT count(*) FROM words") == [(4,)]


def test_a_root_with_a_new_name_is_given_anew(library: Library, spy: Spy) -> None:
    pictures(library.photos, 4)
    library.refresh(library.photos)
    spy.taken()
    os.rename(library.photos, library.place / "pictures")
    assert library.refresh(library.place / "pictures") == {"moved": 4}
    assert spy.taken() == 0
    assert library.query("SELECT path FROM roots") == [(os.fsencode(library.place / "pictures"),)]
    assert library.refresh() == {}


def test_a_copied_tree_costs_no_model_run(library: Library, spy: Spy) -> None:
    pictures(library.photos, 4)
    library.refresh(library.photos)
    spy.taken()
    shutil.copytree(library.photos, library.place / "copy", copy_function=shutil.copy)
    for path in (library.place / "copy").iterdir():
        age(path, LONG_AGO + 5)
    assert library.refresh(library.place / "copy") == {"copied": 4}
    assert spy.taken() == 0


def test_files_that_are_gone_come_back_for_nothing(library: Library, spy: Spy) -> None:
    pictures(library.photos, 4)
    library.refresh(library.photos)
    shutil.move(library.photos / "1.png", library.place / "kept.png")
    assert library.refresh() == {"missing": 1}
    assert library.files("missing") == {"photos/1.png"}
    assert library.query("SELECT count(*) FROM contents WHERE live = 0") == [(1,)]
    assert library.refresh() == {}
    shutil.move(library.place / "kept.png", library.photos / "1.png")
    spy.taken()
    assert library.refresh() == {"moved": 1}
    assert spy.taken() == 0
    assert len(library.files()) == 4


def test_after_thirty_days_they_are_forgotten(library: Library) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    digest = library.query("SELECT digest FROM contents JOIN files ON content = contents.id WHERE path = ?", b"1.png")
    (library.photos / "1.png").unlink()
    library.refresh()
    assert thumbnail_path(library.store.path, digest[0][0]).exists()
    with library.store.writing() as rows:
        rows.execute("UPDATE files SET gone_at = ? WHERE state = 'missing'", (time.time() - KEPT_SECONDS + 60,))
    library.refresh()
    assert len(library.vectors()) == 3
    with library.store.writing() as rows:
        rows.execute("UPDATE files SET gone_at = ? WHERE state = 'missing'", (time.time() - KEPT_SECONDS - 60,))
    library.refresh()
    assert len(library.vectors()) == 2
    assert library.query("SELECT count(*) FROM words") == [(2,)]
    assert not thumbnail_path(library.store.path, digest[0][0]).exists()


def test_links_are_no_copies(library: Library) -> None:
    """Who deletes what is listed as a copy must not lose the file itself."""
    real = picture(library.photos / "a long name.png", 0)
    (library.photos / "a.png").symlink_to(real)
    os.link(real, library.photos / "b.png")
    assert library.refresh(library.photos) == {"new": 1, "copied": 2, "encoded": 1}
    assert duplicates(library.store, "identical") == []
    shutil.copy2(real, library.photos / "another long name.png")
    library.refresh()
    (group,) = duplicates(library.store, "identical")
    assert [os.path.basename(file.path) for file in group.files] == ["b.png", "another long name.png"]
    os.unlink(library.photos / "b.png")
    library.refresh()
    (group,) = duplicates(library.store, "identical")
    assert [os.path.basename(file.path) for file in group.files] == ["a long name.png", "another long name.png"]


# --- folders that lost too much ---------------------------------------------------------------------------------


def test_a_folder_that_is_not_there_changes_nothing(library: Library) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    os.rename(library.photos, library.place / "away")
    with pytest.raises(StoreError, match=r"photos is not there, and 3 of its 3 files are gone.*Nothing was changed"):
        library.refresh()
    assert len(library.files()) == 3
    library.photos.mkdir()
    with pytest.raises(StoreError, match="photos is empty, and 3 of its 3"):
        library.refresh()
    assert library.refresh(accept_missing=True) == {"missing": 3}
    assert library.refresh() == {}


def test_another_folder_can_be_refreshed_meanwhile(library: Library) -> None:
    pictures(library.photos, 3)
    pictures(library.place / "other", 2, 10)
    library.refresh(library.photos, library.place / "other")
    os.rename(library.photos, library.place / "away")
    pictures(library.place / "other", 1, 20)
    assert library.refresh(library.place / "other") == {"new": 1, "encoded": 1}
    assert library.report.left_alone == [f"{library.photos} is not there, and 3 of its 3 files are gone"]
    assert len(library.files()) == 6
    pictures(library.place / "other", 1, 21)
    assert library.refresh() == {"new": 1, "encoded": 1}  # also where none is named: a disk that is away is usual
    assert len(library.report.left_alone) == 1
    assert len(library.files()) == 7
    os.rename(library.place / "other", library.place / "gone too")
    with pytest.raises(StoreError, match=r"other is not there.*photos is not there"):
        library.refresh()


def test_copies_of_what_cannot_be_read_are_named_themselves(library: Library) -> None:
    for name in ("a.png", "b.png"):
        (library.photos / name).write_bytes(b"")
        age(library.photos / name)
    assert library.refresh(library.photos) == {"failed": 2}
    assert library.report.failed == {
        str(path): f"{path} is empty; expected an image. Replace the file."
        for path in (library.photos / "a.png", library.photos / "b.png")
    }


def test_more_than_half_of_a_hundred(library: Library) -> None:
    pictures(library.photos, HALF_OF)
    library.refresh(library.photos)
    for number in range(51):
        (library.photos / f"{number}.png").unlink()
    pictures(library.photos, 1, 500)
    with pytest.raises(StoreError, match=r"51 of its 100 files in .*photos are gone"):
        library.refresh()
    assert len(library.files()) == HALF_OF  # the new one is not in it either
    picture(library.photos / "0.png", 0)
    assert library.refresh() == {"new": 1, "missing": 50, "encoded": 1}  # with one file back


def test_another_volume_at_the_same_place(library: Library) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    for number in range(2):
        (library.photos / f"{number}.png").unlink()
    with library.store.writing() as rows:
        rows.execute("UPDATE roots SET device = device + 1")
    with pytest.raises(StoreError, match="photos is another volume now, and 2 of its 3 files are gone"):
        library.refresh()


def test_a_folder_that_cannot_be_read_keeps_its_files(library: Library) -> None:
    pictures(library.photos / "inner", 2)
    pictures(library.photos, 2, 10)
    library.refresh(library.photos)
    (library.photos / "inner").chmod(0)
    if os.access(library.photos / "inner", os.R_OK):
        pytest.skip("this user may read everything")
    assert library.refresh() == {}
    assert library.report.skipped == {"folders that cannot be read": 1}
    (library.photos / "inner").chmod(0o700)


# --- files that cannot be read, or not yet ------------------------------------------------------------------------


def test_unreadable_files_are_recorded_and_left_alone(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures(library.photos, 2)
    bad, empty = library.photos / "bad.jpg", library.photos / "empty.png"
    bad.write_bytes(b"\xff\xd8\xff\xe0 no more")
    empty.touch()
    shutil.copy(bad, library.photos / "copy of bad.jpg")
    for path in library.photos.iterdir():
        age(path)
    assert library.refresh(library.photos) == {"new": 2, "encoded": 2, "failed": 3}
    assert "is empty; expected an image" in library.report.failed[str(empty)]
    assert library.files("error") == {"photos/bad.jpg", "photos/empty.png", "photos/copy of bad.jpg"}
    opened: list[object] = []
    kept = reading.open_regular
    monkeypatch.setattr(reading, "open_regular", lambda path: opened.append(path) or kept(path))
    assert library.refresh() == {"failed": 3}
    assert opened == []
    assert library.refresh(retry=True) == {"failed": 3}
    assert len(opened) == 3
    picture(empty, 7)
    assert library.refresh() == {"changed": 1, "encoded": 1, "failed": 2}


def test_a_picture_that_is_damaged_later_is_found_no_more(library: Library) -> None:
    pictures(library.photos, 2)
    library.refresh(library.photos)
    (library.photos / "1.png").write_bytes(b"")
    age(library.photos / "1.png", LONG_AGO + 9)
    assert library.refresh() == {"failed": 1}
    assert library.query("SELECT count(*) FROM contents WHERE live > 0") == [(1,)]
    assert len(library.vectors()) == 1


def test_a_file_that_is_being_written_comes_last(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(reading.time, "sleep", waited.append)
    pictures(library.photos, 3)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now)  # also where reading takes long
    age(library.photos / "0.png", now - 0.5)
    events: list[str] = []
    library.refresh(library.photos, on_event=lambda _, path: events.append(Path(path).name))
    assert events == ["1.png", "2.png", "0.png"]
    assert waited == pytest.approx([1.5])


# --- folders, and what is remembered of them ----------------------------------------------------------------------


def test_hostile_names(library: Library) -> None:
    names = [b"new\nline.png", b"bad\xff\xfe.png", "Zoe\u0308.png".encode(), b"x" * 251 + b".png", b" .png", b"-0.png"]
    for number, name in enumerate(names):
        path = picture(library.place / "one.png", number)
        os.rename(path, os.path.join(os.fsencode(library.photos), name))
    assert library.refresh(library.photos) == {"new": 6, "encoded": 6}
    assert {row[0] for row in library.query("SELECT path FROM files")} == set(names)
    shown = {row[0] for row in library.query("SELECT name FROM files")}
    assert {"new\nline.png", "bad\ufffd\ufffd.png", "Zo\u00eb.png"} < shown
    assert library.refresh() == {}


def test_an_index_among_the_photos_is_not_searched(tmp_path: Path, tiny_model: Path) -> None:
    library = Library(tmp_path, tiny_model)
    pictures(library.photos, 2)
    assert library.refresh(tmp_path) == {"new": 2, "encoded": 2}
    assert library.refresh() == {}
    with pytest.raises(InputError, match="is the folder of the index, or lies in it"):
        library.refresh(library.store.path / "thumbs")


def test_a_folder_in_a_folder(library: Library, spy: Spy) -> None:
    pictures(library.photos / "2023", 2)
    pictures(library.photos, 2, 10)
    assert library.refresh(library.photos / "2023") == {"new": 2, "encoded": 2}
    spy.taken()
    assert library.refresh(library.photos) == {"new": 2, "encoded": 2}
    assert library.files() == {"photos/2023/0.png", "photos/2023/1.png", "photos/10.png", "photos/11.png"}
    assert library.query("SELECT path FROM roots") == [(os.fsencode(library.photos),)]
    assert library.refresh(library.photos / "2023") == {}
    assert library.query("SELECT count(*) FROM roots") == [(1,)]


def test_excluded_files_are_hidden_and_no_cause_for_alarm(library: Library) -> None:
    pictures(library.photos / "drafts", 3)
    pictures(library.photos, 1, 10)
    library.refresh(library.photos)
    assert library.refresh(library.photos, exclude=("drafts/",)) == {"missing": 3}
    assert library.refresh() == {}  # it is remembered
    assert library.files() == {"photos/10.png"}
    with pytest.raises(InputError, match="exclude has ''; expected a pattern"):
        library.refresh(exclude=("",))


@pytest.mark.parametrize("name", ["nothing", "a.png"])
def test_what_is_no_folder(library: Library, name: str) -> None:
    picture(library.place / "a.png", 0)
    with pytest.raises(InputError, match=r"cannot be searched .*; expected a folder"):
        library.refresh(library.place / name)


def test_moved_tells_of_a_new_place(library: Library, spy: Spy) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    spy.taken()
    new = library.place / "disk" / "photos"
    shutil.copytree(library.photos, new)
    shutil.rmtree(library.photos)
    assert moved(library.store, library.photos, new) == 3
    assert library.refresh() == {}
    assert spy.taken() == 0
    with pytest.raises(StoreError, match=r"has no folder .*nowhere; expected one of its own: .*disk/photos"):
        moved(library.store, library.place / "nowhere", new)
    with pytest.raises(InputError, match="cannot be searched"):
        moved(library.store, new, library.place / "nowhere")


# --- interruptions ------------------------------------------------------------------------------------------------


def test_an_interruption_keeps_what_was_committed(library: Library, spy: Spy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FILES", 4)
    pictures(library.photos, 20)

    def stop(event: str, path: str) -> None:
        if path.endswith("15.png"):  # by name it is the seventh
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        library.refresh(library.photos, on_event=stop)
    kept = len(library.files())
    assert 4 <= kept < 20
    assert kept % 4 == 0
    spy.taken()
    assert library.refresh() == {"new": 20 - kept, "encoded": 20 - kept}
    assert spy.taken() == 20 - kept
    (library.place / "other").mkdir()
    other = Library(library.place / "other", library.model)
    other.refresh(library.photos)
    assert other.vectors() == library.vectors()


# --- what is learned of a picture -----------------------------------------------------------------------------------


def test_what_a_photo_says(library: Library) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010F], exif[0x0110] = 6, "Canon", "Canon EOS R5"
    exif.get_ifd(0x8769)[0x9003] = "2023:07:14 12:13:14"
    exif.get_ifd(0x8825).update({1: "S", 2: (54.0, 18.0, 0.0), 3: "W", 4: (13.0, 6.0, 0.0)})
    picture(library.photos / "photo.jpg", 0, (900, 600), exif=exif)
    library.refresh(library.photos)
    columns = "width, height, taken_at, latitude, longitude, camera, kind, size"
    found = library.query(f"SELECT {columns} FROM contents")[0]
    size = (library.photos / "photo.jpg").stat().st_size
    assert found == (600, 900, 1689336794.0, pytest.approx(-54.3), pytest.approx(-13.1), "Canon EOS R5", "image", size)
    digest = library.query("SELECT digest FROM contents")[0][0]
    with Image.open(thumbnail_path(library.store.path, digest)) as small:
        assert small.size == (213, 320)
        assert not small.getexif()


def test_sounds_by_windows(library: Library, hearing_model: Path, tiny_model: Path) -> None:
    sound(library.photos / "long.wav", 25)
    sound(library.photos / "short.flac", 2, seed=1)
    pictures(library.photos, 1)
    assert library.refresh(library.photos) == {"new": 1, "encoded": 1}
    assert library.report.skipped == {"sounds, for which the index has no model (--model)": 2}
    assert library.refresh(model=hearing_model) == {"new": 2, "encoded": 2}
    spans = library.query(
        "SELECT part, start, stop, seconds FROM vectors JOIN contents ON contents.id = content"
        " WHERE kind = 'audio' ORDER BY seconds, part"
    )
    assert spans == [(0, 0, 2, 2), (0, 0, 10, 25), (1, 10, 20, 25), (2, 15, 25, 25)]
    assert library.refresh() == {}


def test_videos_by_key_frames(library: Library) -> None:
    av = pytest.importorskip("av")
    with av.open(str(library.photos / "v.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=2)
        stream.width, stream.height, stream.pix_fmt, stream.codec_context.gop_size = 48, 32, "yuv420p", 2
        for number in range(50):
            pixels = np.full((32, 48, 3), 10 * (number // 10), np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    age(library.photos / "v.mp4")
    assert library.refresh(library.photos) == {}
    assert library.report.skipped == {"videos (--videos takes them)": 1}
    assert library.refresh(videos=True) == {"new": 1, "encoded": 1}
    columns = "kind, width, height, seconds, part, start, stop"
    found = library.query(f"SELECT {columns} FROM vectors JOIN contents ON contents.id = content ORDER BY part")
    assert found == [("video", 48, 32, 25, number, 10 * number, min(10 * number + 10, 25)) for number in range(3)]
    assert library.refresh() == {}  # it is remembered


def test_videos_without_the_package(library: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mlx_mm.search.refresh.can_read_videos", lambda: False)
    with pytest.raises(InputError, match=r"PyAV, which decodes them, is not there; .* pip install 'mlx_mm\[video\]'"):
        library.refresh(library.photos, videos=True)
    monkeypatch.setattr("mlx_mm.processing.heif.can_read_heif", lambda: False)
    (library.photos / "a.heic").write_bytes(b"....ftypheic")
    age(library.photos / "a.heic")
    assert library.refresh(library.photos) == {}
    assert library.report.skipped == {"HEIC pictures (pip install 'mlx_mm[heic]')": 1}
    assert library.files("error") == set()


def test_nothing_is_written_where_a_folder_lost_too_much(library: Library) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    os.rename(library.photos, library.place / "away")
    tables = ("roots", "files", "spaces", "contents", "vectors")
    before = [library.query(f"SELECT * FROM {table}") for table in tables]
    with pytest.raises(StoreError, match="is not there"):
        library.refresh(reembed=True, max_num_patches=9, exclude=("*.tmp",))
    assert before == [library.query(f"SELECT * FROM {table}") for table in tables]


def test_a_root_that_a_link_in_another_leads_to(library: Library) -> None:
    other = library.place / "other"
    pictures(library.photos, 2)
    pictures(other, 2, 10)
    (library.photos / "a link").symlink_to(other)
    (other / "back").symlink_to(library.photos)
    assert library.refresh(library.photos, other) == {"new": 4, "encoded": 4}
    assert library.files() == {"photos/0.png", "photos/1.png", "other/10.png", "other/11.png"}
    assert library.refresh() == {}


def test_names_that_are_exchanged(library: Library, spy: Spy) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    spy.taken()
    for old, new in (("0.png", "x"), ("1.png", "0.png"), ("x", "1.png")):
        os.rename(library.photos / old, library.photos / new)
    assert library.refresh() == {"changed": 2}
    assert spy.taken() == 0
    assert library.refresh() == {}


def test_an_unreadable_file_that_goes_away(library: Library) -> None:
    picture(library.photos / "a.png", 0)
    age(library.photos / "a.png")
    (library.photos / "bad.png").write_bytes(b"bad")
    age(library.photos / "bad.png")
    assert library.refresh(library.photos) == {"new": 1, "encoded": 1, "failed": 1}
    (library.photos / "bad.png").unlink()
    assert library.refresh() == {"missing": 1}
    assert library.query("SELECT count(*) FROM files") == [(1,)]
    assert library.query("SELECT count(*) FROM words") == [(1,)]


def test_a_volume_that_was_mounted_again(library: Library, spy: Spy) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    with library.store.writing() as rows:
        rows.execute("UPDATE roots SET device = device + 1")
        rows.execute("UPDATE files SET device = device + 1")
    assert library.refresh() == {}
    os.rename(library.photos / "0.png", library.photos / "other.png")
    spy.taken()
    assert library.refresh() == {"moved": 1}
    assert spy.taken() == 0


def test_a_refresh_with_nothing_to_do_writes_nothing(library: Library) -> None:
    pictures(library.photos, 3)
    library.refresh(library.photos)
    (library.photos / "bad.png").write_bytes(b"bad")
    age(library.photos / "bad.png")
    library.refresh()
    before = library.query("PRAGMA data_version"), library.query("SELECT scanned_at FROM roots")
    wal = library.store.path / "index.sqlite-wal"
    size = wal.stat().st_size if wal.exists() else 0
    assert library.refresh() == {"failed": 1}
    assert (wal.stat().st_size if wal.exists() else 0) == size
    assert before == (library.query("PRAGMA data_version"), library.query("SELECT scanned_at FROM roots"))
