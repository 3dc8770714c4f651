"""A node's folder: its identity, and its databases of small chunks (docs/formats/chunk.md)."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Iterator
from pathlib import Path

import apsw

from dfs.database import create_database, open_database
from dfs.disk import Disk
from dfs.errors import NodeFailed, Unsupported
from dfs.options import SMALL_CHECKPOINT_PAGES

FORMAT = 1
_APPLICATION_ID = 0x4D52534D  # "MRSM"
_SMALL_NAME = re.compile(r"small-(\d+)\.db")
_ROW_BYTES_MIN = 32  # the id alone
_SCHEMA = "CREATE TABLE small_chunk(id BLOB PRIMARY KEY CHECK(length(id) = 32), record BLOB NOT NULL) STRICT"


def create_node(path: Path, store_uuid: str, disk: Disk | None = None) -> str:
    """Make a node folder for a store, durably; returns its new uuid. Raises FileExistsError when it is a node already.

    The identity is written last: a folder without it is no node, and may be taken again.
    """
    disk = disk or Disk()
    if os.path.lexists(path / "node.json"):
        raise FileExistsError(errno.EEXIST, "it is a node already", str(path))
    node_id = str(uuid.uuid4())
    for name in ("chunks", "tmp", "quarantine", "oplog"):
        disk.make_folders(path / name)
    create_small(path / "small-1.db")
    identity = json.dumps({"format": FORMAT, "uuid": node_id, "store": store_uuid})
    disk.write_whole(path / "node.json", f"{identity}\n".encode())
    return node_id


def read_identity(path: Path) -> dict[str, object]:
    """A node folder's identity. Raises NodeFailed when it is absent or unreadable, Unsupported when it is newer."""
    try:
        identity = json.loads((path / "node.json").read_text())
    except (OSError, ValueError) as error:
        raise NodeFailed(f"node folder {path} cannot be used: {error}") from None
    if not isinstance(identity, dict) or not isinstance(identity.get("format"), int):
        raise NodeFailed(f"node folder {path} cannot be used: its node.json is damaged")
    if identity["format"] > FORMAT:
        raise Unsupported(f"node folder {path} has format {identity['format']} of a newer release; update millrace")
    return identity


def create_small(path: Path) -> None:
    """Make an empty database of small chunks."""
    create_database(path, _SCHEMA, _APPLICATION_ID, FORMAT)


def open_small(path: Path, sync: bool = True) -> apsw.Connection:
    """Open one; without `sync` its commits are not durable. Raises as `dfs.database.open_database`."""
    db = open_database(path, _APPLICATION_ID, FORMAT, durable=sync)
    db.pragma("wal_autocheckpoint", SMALL_CHECKPOINT_PAGES)
    return db


def newest_small(node: Path) -> int:
    """The number of a node's current database of small chunks: one that is damaged is succeeded by the next.

    A number counts as used while a `-wal` of it is left: SQLite would take that for the new database's.
    """
    names = (_SMALL_NAME.match(name) for name in os.listdir(node))
    return max((int(found[1]) for found in names if found), default=0)


def readable_rows(db: apsw.Connection) -> Iterator[tuple[bytes, bytes]]:
    """What can be read of a database with damaged pages; some of it twice.

    A scan ends at the first damaged page. So the rows are found one by one through the index of ids, which begins again
    for each first byte of an id; where the index is damaged too, they are looked for by their numbers.
    """
    last, whole = 0, True
    for first in range(256):
        rowids, complete = _indexed(db, bytes([first]))
        if not complete:
            whole = False
            for second in range(256):
                rowids |= _indexed(db, bytes([first, second]))[0]
        for rowid in sorted(rowids):
            last = max(last, rowid)
            with contextlib.suppress(apsw.Error):
                row = db.execute("SELECT id, record FROM small_chunk WHERE rowid = ?", (rowid,)).fetchone()
                if row is not None:
                    yield row
    if not whole:
        yield from _numbered(db, last + os.stat(db.db_filename("main")).st_size // _ROW_BYTES_MIN)


def _indexed(db: apsw.Connection, prefix: bytes) -> tuple[set[int], bool]:
    """Numbers of the rows whose ids begin so, and whether these are all."""
    found: set[int] = set()
    try:
        sql = "SELECT rowid FROM small_chunk WHERE id >= ? AND id < ?"
        for row in db.execute(sql, (prefix, prefix + b"\xff" * 32)):
            found.add(row[0])
    except apsw.Error:
        return found, False
    return found, True


def _numbered(db: apsw.Connection, last: int) -> Iterator[tuple[bytes, bytes]]:
    """The rows up to number `last`; in a damaged page, number by number."""
    sql = "SELECT rowid, id, record FROM small_chunk WHERE rowid > ? ORDER BY rowid LIMIT 1"
    rowid = 0
    while rowid < last:
        try:
            row = db.execute(sql, (rowid,)).fetchone()
        except apsw.Error:
            rowid += 1
            continue
        if row is None:
            return
        rowid = row[0]
        yield row[1:]
