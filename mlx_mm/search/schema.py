"""The tables of an index, and how older ones become these."""

import secrets
import sqlite3

VERSION = 1  # of the tables, in SQLite's user_version
APPLICATION = 0x6D6C786D  # "mlxm": SQLite's application_id, by which an index is told from other files of SQLite
PAGE = 8192  # bytes: five vectors of 768 float16 in one, where two would fill only 77 % of 4,096

# Version of the tables -> what makes them those of the next one.
MIGRATIONS: dict[int, str] = {}

# A content is what a file's bytes hold, told by their digest: it has the vectors, the tags and whatever the bytes say.
# A copy, a move or a new name of a file changes no content. live: how many files that are there hold it.
#
# meta.id: of this index, by which its derived files are told from those of others. digest: BLAKE2b of 16 bytes.
# taken_at: seconds since 1970 of the camera's clock, taken as UTC. files.path: relative to its root, the bytes that
# the file system has; name: the same as text in NFC. state: "here", "missing", "error". vectors.vector: little-endian
# float16, of length 1. part: 0 of a picture, else of a window or a key frame, which lasts from start to stop, in
# seconds. Ids of contents, spaces and vectors only grow, so that what is derived from vectors is extended by the newer
# ones; a vector never changes. spaces.generation counts how often vectors were taken away.
_TABLES = """
CREATE TABLE meta(key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE roots(
  id INTEGER PRIMARY KEY, path BLOB NOT NULL UNIQUE, device INTEGER, options TEXT NOT NULL DEFAULT '{}', scanned_at REAL
);
CREATE TABLE spaces(
  id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL UNIQUE, model TEXT NOT NULL, revision TEXT,
  dim INTEGER NOT NULL, kinds TEXT NOT NULL, about TEXT NOT NULL, canary BLOB NOT NULL,
  generation INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE contents(
  id INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE, kind TEXT NOT NULL, size INTEGER NOT NULL,
  width INTEGER, height INTEGER, seconds REAL, dhash INTEGER, taken_at REAL, latitude REAL, longitude REAL,
  camera TEXT, live INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX contents_hidden ON contents(id) WHERE live = 0;
CREATE INDEX contents_taken ON contents(taken_at);
CREATE TABLE files(
  id INTEGER PRIMARY KEY, root INTEGER NOT NULL REFERENCES roots(id) ON DELETE CASCADE, path BLOB NOT NULL,
  name TEXT NOT NULL, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, device INTEGER NOT NULL, inode INTEGER NOT NULL,
  content INTEGER REFERENCES contents(id), state TEXT NOT NULL, error TEXT, gone_at REAL, UNIQUE(root, path)
);
CREATE INDEX files_content ON files(content);
CREATE INDEX files_inode ON files(inode, device);
CREATE TABLE vectors(
  id INTEGER PRIMARY KEY AUTOINCREMENT, content INTEGER NOT NULL REFERENCES contents(id) ON DELETE CASCADE,
  space INTEGER NOT NULL REFERENCES spaces(id) ON DELETE CASCADE, part INTEGER NOT NULL, start REAL, stop REAL,
  vector BLOB NOT NULL, UNIQUE(content, space, part)
);
CREATE TABLE tags(
  content INTEGER NOT NULL REFERENCES contents(id) ON DELETE CASCADE, label TEXT NOT NULL, score REAL NOT NULL,
  PRIMARY KEY(content, label)
) WITHOUT ROWID;
CREATE INDEX tags_label ON tags(label);
CREATE TABLE kept_apart(a BLOB NOT NULL, b BLOB NOT NULL, PRIMARY KEY(a, b)) WITHOUT ROWID;
CREATE VIRTUAL TABLE words USING fts5(path, tags, tokenize = "unicode61 remove_diacritics 2", prefix = '2 3');
CREATE TRIGGER file_added AFTER INSERT ON files WHEN new.state = 'here' AND new.content IS NOT NULL BEGIN
  UPDATE contents SET live = live + 1 WHERE id = new.content;
END;
CREATE TRIGGER file_removed AFTER DELETE ON files WHEN old.state = 'here' AND old.content IS NOT NULL BEGIN
  UPDATE contents SET live = live - 1 WHERE id = old.content;
END;
CREATE TRIGGER file_changed AFTER UPDATE OF state, content ON files BEGIN
  UPDATE contents SET live = live - 1 WHERE id = old.content AND old.state = 'here';
  UPDATE contents SET live = live + 1 WHERE id = new.content AND new.state = 'here';
END;
CREATE TRIGGER file_without_words AFTER DELETE ON files BEGIN
  DELETE FROM words WHERE rowid = old.id;
END;
CREATE TRIGGER vector_removed AFTER DELETE ON vectors BEGIN
  UPDATE spaces SET generation = generation + 1 WHERE id = old.space;
END;
CREATE TRIGGER vector_changed BEFORE UPDATE OF id, content, space, vector ON vectors BEGIN
  SELECT RAISE(ABORT, 'vectors are replaced by others with new ids');
END;
"""


def create(connection: sqlite3.Connection) -> None:
    """The tables, in an empty file; the caller has begun no transaction."""
    connection.executescript(
        f"BEGIN IMMEDIATE; {_TABLES} INSERT INTO meta VALUES ('id', '{secrets.token_hex(8)}');"
        f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {VERSION}; COMMIT;"
    )


def migrate(connection: sqlite3.Connection, version: int) -> None:
    """Tables of an older version become those of this one, each step whole or not at all; the caller is the writer and
    has begun no transaction."""
    for step in range(version, VERSION):
        connection.executescript(f"BEGIN IMMEDIATE; {MIGRATIONS[step]}; PRAGMA user_version = {step + 1}; COMMIT;")
