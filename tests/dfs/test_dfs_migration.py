"""Opening a namespace of version 1, and killed while that is migrated."""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import apsw
import pytest

from dfs.changes import Copy, MakeDir, Move, PutFile, PutFolder, Remove
from dfs.database import Database, create_database, open_database
from dfs.errors import Unsupported
from dfs.metadata import Namespace
from tests.dfs.test_dfs_history import Bench, make_namespace, manifest

SCHEMA_1 = """
CREATE TABLE store(key TEXT PRIMARY KEY, value ANY NOT NULL) STRICT;
CREATE TABLE storage_node(
  id TEXT PRIMARY KEY, path TEXT NOT NULL UNIQUE, weight REAL NOT NULL CHECK(weight > 0)
) STRICT;
CREATE TABLE txn(
  id INTEGER PRIMARY KEY,
  request TEXT NOT NULL UNIQUE,
  changes_digest BLOB NOT NULL,
  time_ms INTEGER NOT NULL,
  chain BLOB NOT NULL
) STRICT;
CREATE TABLE node(id INTEGER PRIMARY KEY, kind TEXT NOT NULL CHECK(kind IN ('file', 'dir'))) STRICT;
CREATE TABLE dentry(
  parent INTEGER NOT NULL REFERENCES node(id),
  name TEXT NOT NULL,
  node INTEGER NOT NULL REFERENCES node(id),
  from_txn INTEGER NOT NULL,
  to_txn INTEGER NOT NULL DEFAULT 4611686018427387904 CHECK(to_txn > from_txn),
  PRIMARY KEY(parent, name, from_txn)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX dentry_now ON dentry(parent, name) WHERE to_txn = 4611686018427387904;
CREATE INDEX dentry_node ON dentry(node);
CREATE TABLE file(
  node INTEGER PRIMARY KEY REFERENCES node(id),
  size INTEGER NOT NULL CHECK(size >= 0),
  records INTEGER,
  records_mode TEXT NOT NULL CHECK(records_mode IN ('lines', 'none')),
  content_id BLOB NOT NULL,
  chunk_count INTEGER NOT NULL
) STRICT;
CREATE TABLE file_chunk(
  node INTEGER NOT NULL REFERENCES file(node),
  seq INTEGER NOT NULL,
  chunk BLOB NOT NULL CHECK(length(chunk) = 32),
  offset INTEGER NOT NULL,
  length INTEGER NOT NULL CHECK(length > 0),
  records INTEGER,
  continues INTEGER NOT NULL CHECK(continues IN (0, 1)),
  PRIMARY KEY(node, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX file_chunk_chunk ON file_chunk(chunk);
INSERT INTO node VALUES (1, 'dir');
"""
KEPT = ("store", "txn", "node", "dentry", "file", "file_chunk")


def make_old(folder: Path) -> list[dict[str, int | None]]:
    """A store.db of version 1 with some history; returns the version of every path at every number."""
    with closing(make_namespace(folder / "new")) as namespace:
        bench = Bench(namespace)
        bench.run(PutFolder("logs", {"a": manifest("1"), "deep/er/b": manifest("22")}), PutFile("top", manifest("333")))
        bench.run(Move("logs/deep", "far/away"), MakeDir("empty"))
        bench.run(PutFile("far/away/er/c", manifest("4444")), Remove("logs/a"))
        bench.run(Move("far", "near"), PutFile("near/x", manifest("1")))
        bench.run(PutFile("near/away/er/c", manifest("1")), Remove("empty"))
        bench.run(Remove("logs", recursive=True))
        versions = versions_of(namespace)
        rows = {table: namespace.rows(f"SELECT * FROM {table}") for table in KEPT}
        nodes = namespace.rows("SELECT id, path, weight FROM storage_node")
    create_database(folder / "store.db", SCHEMA_1.replace("INSERT INTO node VALUES (1, 'dir');", ""), 0x4D524446, 1)
    with closing(open_database(folder / "store.db", 0x4D524446, 1)) as db, db:
        for table in ("store", "txn", "node", "dentry", "file", "file_chunk"):
            marks = ", ".join("?" * len(rows[table][0]))
            db.executemany(f"INSERT INTO {table} VALUES ({marks})", rows[table])
        db.executemany("INSERT INTO storage_node VALUES (?, ?, ?)", nodes)
    return versions


def versions_of(namespace: Namespace) -> list[dict[str, int | None]]:
    """Version of every path at every number; also of folders, which the index of changes is for."""
    newest = namespace.last()[0]
    files = {info.path for at in range(newest + 1) for info in namespace.walk("", at)}
    paths = {"/".join(path.split("/")[:depth]) for path in files for depth in range(10)} | {"empty"}
    return [{path: namespace.version(path, at) for path in sorted(paths)} for at in range(newest + 1)]


def structure(namespace: Database) -> set[tuple[object, ...]]:
    found = set()
    for (name,) in namespace.rows("SELECT name FROM sqlite_schema WHERE type IN ('table', 'index')"):
        found |= {(name, *row) for row in namespace.rows(f"SELECT * FROM pragma_table_xinfo('{name}')")}
        found |= {(name, *row) for row in namespace.rows(f"SELECT * FROM pragma_index_list('{name}')")}
        found |= {(name, *row) for row in namespace.rows(f"SELECT * FROM pragma_foreign_key_list('{name}')")}
    return found


def test_version_1_is_migrated_when_it_is_opened(tmp_path: Path) -> None:  # F60
    versions = make_old(tmp_path)
    old = (tmp_path / "store.db").read_bytes()
    with closing(Namespace(tmp_path / "store.db")) as namespace, closing(make_namespace(tmp_path / "fresh")) as fresh:
        assert namespace.rows("PRAGMA user_version") == [(2,)]
        assert structure(namespace) == structure(fresh)
        assert versions_of(namespace) == versions
        assert namespace.check() == []
        assert [(node.id, node.weight, node.capacity, node.state) for node in namespace.nodes()] == [
            ("n", 1, None, "active")
        ]
        bench = Bench(namespace)
        bench.requests = 100
        bench.run(Copy("logs", "back", at=3))
        assert [info.path for info in namespace.find("back", 7)] == []
        assert namespace.version("", 7) == 7
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["store.db", "store.db.v1"]
    with closing(Database(tmp_path / "store.db.v1", 0x4D524446, 1)) as copy:
        assert copy.rows("PRAGMA user_version") == [(1,)]
        assert copy.rows("SELECT count(*) FROM txn") == [(6,)]
        assert copy.check() == []
    assert len((tmp_path / "store.db.v1").read_bytes()) == len(old)


def test_it_is_migrated_once_by_whoever_comes_first(tmp_path: Path) -> None:
    make_old(tmp_path)
    with closing(Namespace(tmp_path / "store.db")) as first, closing(Namespace(tmp_path / "store.db")) as second:
        assert first.rows("PRAGMA user_version") == second.rows("PRAGMA user_version") == [(2,)]


def test_a_failed_migration_leaves_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F60
    versions = make_old(tmp_path)
    monkeypatch.setattr("dfs.migration._TO_2", "DROP INDEX dentry_now; DROP INDEX not_there")
    with pytest.raises(apsw.SQLError):
        Namespace(tmp_path / "store.db")
    with closing(Database(tmp_path / "store.db", 0x4D524446, 1)) as old:
        assert old.rows("SELECT name FROM sqlite_schema WHERE name = 'dentry_now'") == [("dentry_now",)]
    monkeypatch.undo()
    with closing(Namespace(tmp_path / "store.db")) as namespace:
        assert versions_of(namespace) == versions


def test_a_newer_version_is_refused(tmp_path: Path) -> None:  # F60
    make_namespace(tmp_path).close()
    with closing(open_database(tmp_path / "store.db", 0x4D524446, 2)) as db:
        db.pragma("user_version", 3)
    before = (tmp_path / "store.db").read_bytes()
    with pytest.raises(Unsupported, match="format 3 of a newer release; update millrace"):
        Namespace(tmp_path / "store.db")
    assert (tmp_path / "store.db").read_bytes() == before


OPEN = "import sys, pathlib, dfs.metadata; dfs.metadata.Namespace(pathlib.Path(sys.argv[1])).close()"


def killed(folder: Path, calls: str, point: int) -> bool:
    """Migrate a copy of the old database, killed at one system call; whether it was."""
    work = folder / f"{calls}-{point}".replace(",", "-")
    work.mkdir()
    shutil.copy(folder / "store.db", work / "store.db")
    strace = ["strace", "-f", "-qq", "-o", str(folder / "trace"), "-P", str(work), "-P", str(work / "store.db")]
    strace += [part for name in ("store.db-wal", "store.db.v1.new", "store.db.v1") for part in ("-P", str(work / name))]
    strace += ["-e", f"trace={calls}", "-e", f"inject={calls}:signal=SIGKILL:when={point}"]
    done = subprocess.run([*strace, sys.executable, "-c", OPEN, str(work / "store.db")], capture_output=True)
    with closing(Database(work / "store.db", 0x4D524446, 2)) as left:
        assert left.rows("PRAGMA user_version")[0][0] in (1, 2)
        if left.rows("PRAGMA user_version") == [(2,)]:
            assert (work / "store.db.v1").exists()
        assert left.check() == []
    if (work / "store.db.v1").exists():
        with closing(Database(work / "store.db.v1", 0x4D524446, 1)) as copy:
            assert copy.rows("SELECT count(*) FROM txn") == [(6,)]
    with closing(Namespace(work / "store.db")) as namespace:
        assert versions_of(namespace) == versions_of_old[folder]
    shutil.rmtree(work)
    return done.returncode != 0


versions_of_old: dict[Path, list[dict[str, int | None]]] = {}
CALLS = ("pwrite64", "fsync,fdatasync", "rename", "ftruncate,unlink")
needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@needs_strace
@pytest.mark.parametrize(("calls", "point"), [("pwrite64", 9), ("fsync,fdatasync", 3), ("rename", 1)])
def test_a_migration_killed_at_some_points(tmp_path: Path, calls: str, point: int) -> None:  # F60
    versions_of_old[tmp_path] = make_old(tmp_path)
    assert killed(tmp_path, calls, point)


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("calls", CALLS)
def test_a_migration_killed_anywhere_is_version_1_or_2(tmp_path: Path, calls: str) -> None:  # F60
    versions_of_old[tmp_path] = make_old(tmp_path)
    points = 1
    while killed(tmp_path, calls, points):
        points += 1
    assert points > 1
