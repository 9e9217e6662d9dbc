"""The store of an index: what it opens and what it refuses, one writer and its readers, full disks, versions."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from mlx_mm.errors import BusyError, DamagedError, NewerSchemaError, OutputError, StoreError
from mlx_mm.search import schema
from mlx_mm.search import store as store_module
from mlx_mm.search.file_systems import kind_among, parsed
from mlx_mm.search.store import DATABASE, Store
from mlx_mm.search.writer_lock import LOCK


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "photos.mmindex", create=True)


def put(store: Store, key: str, value: str = "x") -> None:
    with store.writing() as rows:
        rows.execute("INSERT INTO meta VALUES (?, ?)", (key, value))


def keys(store: Store) -> set[str]:
    with store.reading() as rows:
        return {row[0] for row in rows.execute("SELECT key FROM meta")} - {"id"}


# --- what it opens --------------------------------------------------------------------------------------------------


def test_a_store_is_made_by_its_first_writer(tmp_path: Path) -> None:
    path = tmp_path / "a" / "photos.mmindex"
    store = Store(path)
    assert not store.exists()
    with pytest.raises(StoreError, match="mlx_mm index"), store.reading():
        pass
    assert not path.parent.exists()
    with store.writer():
        put(store, "one")
    assert store.exists()
    assert keys(store) == {"one"}
    assert keys(Store(path)) == {"one"}


def test_a_name_with_all_that_a_name_may_have(tmp_path: Path) -> None:
    path = tmp_path / "50%20 of? my#photos\n\udce9é" / ("x" * 200 + ".mmindex")
    put(Store(path, create=True), "one")
    assert keys(Store(path)) == {"one"}
    assert os.listdir(os.fsencode(path.parent)) == [os.fsencode(path.name)]


def test_two_stores_have_ids_of_their_own(tmp_path: Path) -> None:
    found = set()
    for name in "ab":
        with Store(tmp_path / name, create=True).reading() as rows:
            found.add(rows.execute("SELECT value FROM meta WHERE key = 'id'").fetchone()[0])
    assert len(found) == 2


def test_a_transaction_is_whole_or_nothing(store: Store) -> None:
    with pytest.raises(sqlite3.IntegrityError), store.writing() as rows:
        rows.executemany("INSERT INTO meta VALUES (?, '')", [("half",), ("half",)])
    put(store, "whole")
    assert keys(store) == {"whole"}


def test_what_is_no_index_is_refused_and_left_alone(tmp_path: Path) -> None:
    file = tmp_path / "a.jpg"
    file.write_bytes(b"a picture")
    with pytest.raises(StoreError, match="is no folder"):
        Store(file)
    with pytest.raises(StoreError, match=r"holds 'a.jpg' and no index"), Store(tmp_path).writer():
        pass
    foreign = tmp_path / "foreign.mmindex"
    foreign.mkdir()
    with sqlite3.connect(foreign / DATABASE) as other:
        other.execute("CREATE TABLE songs(name)")
    other.close()
    before = (foreign / DATABASE).read_bytes()
    with pytest.raises(StoreError, match="another program"):
        Store(foreign)
    assert (foreign / DATABASE).read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "foreign.mmindex"]


def test_a_newer_schema_is_refused(store: Store) -> None:
    store.close()
    with sqlite3.connect(store.database) as other:
        other.execute(f"PRAGMA user_version = {schema.VERSION + 1}")
    other.close()
    with pytest.raises(NewerSchemaError, match=f"version {schema.VERSION + 1}, expected {schema.VERSION} at most"):
        Store(store.path)


def test_an_older_schema_becomes_this_one(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "kept")
    store.close()
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 2)
    steps = {
        1: "ALTER TABLE roots ADD COLUMN volume TEXT",
        2: "CREATE TABLE faces(id); INSERT INTO meta VALUES ('f', 1)",
    }
    monkeypatch.setattr(schema, "MIGRATIONS", {**steps, 2: steps[2] + "; SELECT no_such_function()"})
    with pytest.raises(sqlite3.OperationalError, match="no_such_function"):
        Store(store.path)
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    assert keys(Store(store.path)) == {"kept", "f"}
    with sqlite3.connect(store.database) as other:
        assert other.execute("PRAGMA user_version").fetchone()[0] == 3
        assert other.execute("SELECT count(volume) FROM roots").fetchone()[0] == 0
    other.close()


@pytest.mark.parametrize("keep", [0, 50, 5000, 20_000])
def test_a_truncated_file(store: Store, keep: int) -> None:
    put(store, "one", "x" * 100_000)
    store.close()
    os.truncate(store.database, keep)
    damaged = Store(store.path)
    if keep == 0:  # as one whose making was interrupted
        assert not damaged.exists()
    else:
        with pytest.raises(DamagedError, match=r"damaged; expected .*(repair|backup)"):
            keys(damaged)


def test_a_closed_store(store: Store) -> None:
    store.close()
    store.close()
    with pytest.raises(StoreError, match="was closed"):
        keys(store)
    assert not list(store.path.glob("*-wal"))


# --- one writer and its readers -------------------------------------------------------------------------------------

HOLD = """
import sys, pathlib
from mlx_mm.search.store import Store
with Store(pathlib.Path(sys.argv[1])).writer():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_writes(store: Store) -> None:
    command = [sys.executable, "-c", HOLD, str(store.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        for wait in (0.0, 0.1):
            with (
                pytest.raises(BusyError, match=rf"by process {other.pid} since \d\d:\d\d.*wait=SECONDS"),
                store.writer(wait),
            ):
                pass
        assert keys(store) == set()  # searches work
        other.kill()
    with store.writer():
        put(store, "after its death")
    assert keys(store) == {"after its death"}


def test_one_thread_writes(store: Store) -> None:
    with store.writer(), store.writer():  # the second is the first
        for other in (store, Store(store.path)):
            said: list[BaseException] = []
            thread = threading.Thread(target=lambda other=other, said=said: said.append(failure(other)))
            thread.start()
            thread.join()
            assert isinstance(said[0], BusyError)
            assert "by this process" in str(said[0])
    with Store(store.path).writer():
        pass


def failure(store: Store) -> BaseException:
    try:
        with store.writer():
            pass
    except BusyError as error:
        return error
    raise AssertionError("there were two writers")


def test_readers_do_not_wait_for_the_writer(store: Store) -> None:
    with store.writer(), store.writing() as rows:
        rows.execute("INSERT INTO meta VALUES ('new', '')")
        found: list[set[str]] = []
        thread = threading.Thread(target=lambda: found.append(keys(store)))
        thread.start()
        thread.join()
        assert found == [set()]
        assert keys(Store(store.path)) == {"new"} or keys(store) == {"new"}  # its own thread sees what it wrote
    assert keys(store) == {"new"}


def test_a_view_stays(store: Store) -> None:
    with store.reading() as rows:
        before = rows.execute("SELECT count(*) FROM meta").fetchone()
        thread = threading.Thread(target=put, args=(store, "meanwhile"))
        thread.start()
        thread.join()
        assert rows.execute("SELECT count(*) FROM meta").fetchone() == before
        assert keys(store) == set()
    assert keys(store) == {"meanwhile"}
    with store.reading(), pytest.raises(RuntimeError, match="inside"), store.writing():
        pass


# --- where it lies --------------------------------------------------------------------------------------------------


def test_a_read_only_folder(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, "one")
    store.close()
    monkeypatch.setattr(Store, "read_only", True)
    before = sorted(os.listdir(store.path))
    reader = Store(store.path)
    assert keys(reader) == {"one"}
    assert sorted(os.listdir(store.path)) == before  # neither a WAL nor shared memory
    with pytest.raises(StoreError, match="cannot be written to"), reader.writer():
        pass


def test_a_network_file_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "network_kind", lambda folder: "nfs4")
    path = tmp_path / "photos.mmindex"
    with pytest.warns(UserWarning, match=r"network file system \(nfs4\)"):
        first = Store(path, create=True)
    with pytest.warns(UserWarning, match=r"network file system"):
        second = Store(path)
    put(first, "one")
    assert keys(second) == {"one"}
    put(second, "two")
    assert keys(first) == {"one", "two"}
    assert sorted(os.listdir(path)) == [DATABASE, f"{DATABASE}-journal", LOCK]


def test_kinds_of_file_systems() -> None:
    linux = (
        "/dev/sda1 / ext4 rw 0 0\nnas:/p /mnt/my\\040photos nfs4 rw 0 0\nm /mnt/my\\040photos/disk fuse.sshfs rw 0 0\n"
    )
    found = parsed(linux, mac=False)
    assert kind_among(found, Path("/mnt/my photos/2023")) == "nfs4"
    assert kind_among(found, Path("/mnt/my photos/disk/x")) == "fuse.sshfs"
    assert kind_among(found, Path("/mnt/my photos2")) is None
    assert kind_among([*found, ("/mnt/my photos", "ext4")], Path("/mnt/my photos")) is None  # mounted over it
    mac = "/dev/disk3s1 on / (apfs, local)\n//me@nas/p on /Volumes/My (old) photos (smbfs, nodev, mounted by me)\n"
    found = parsed(mac, mac=True)
    assert kind_among(found, Path("/Volumes/My (old) photos/a")) == "smbfs"
    assert kind_among(found, Path("/Volumes/Other")) is None
    assert kind_among([], Path("/")) is None


# --- full disks -----------------------------------------------------------------------------------------------------

FILL = """
import resource, signal, sys, pathlib
from mlx_mm.errors import MlxMmError
from mlx_mm.search.store import Store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
store = Store(pathlib.Path(sys.argv[1]))
written = 0
resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, 400_000))
try:
    while True:
        with store.writer(), store.writing() as rows:
            rows.execute("INSERT INTO meta VALUES (?, ?)", (str(written), "x" * 20_000))
        written += 1
except MlxMmError as error:
    print(written, type(error).__name__, error)
with store.reading() as rows:
    assert rows.execute("SELECT count(*) FROM meta").fetchone()[0] == written + 1
"""


def test_a_full_disk(store: Store) -> None:
    store.close()
    run = subprocess.run([sys.executable, "-c", FILL, str(store.path)], capture_output=True, text=True)
    assert not run.stderr
    written, kind, *_ = run.stdout.split()
    assert kind in ("OutputError", "StoreError")
    assert "committed" in run.stdout or "disk" in run.stdout
    assert int(written) > 3
    assert len(keys(Store(store.path))) == int(written)


def fill(store: Store) -> None:
    with store.writing() as rows:
        rows.execute("PRAGMA max_page_count = 1")
        rows.execute("INSERT INTO meta VALUES ('large', ?)", ("x" * 1_000_000,))


def test_a_full_disk_as_sqlite_says_it(store: Store) -> None:
    """A bound on pages is the same error as a full disk."""
    put(store, "before")
    with pytest.raises(OutputError, match="the disk is full; what was committed before is whole"):
        fill(store)
    assert keys(store) == {"before"}
