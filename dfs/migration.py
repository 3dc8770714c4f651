"""Bringing `store.db` of an older release to the present format: one transaction, after a copy of what was there
(docs/formats/namespace.md, "Opening version 1")."""

from __future__ import annotations

from typing import Final

from dfs.database import Database

FORMAT: Final = 2

_TO_2 = """
ALTER TABLE storage_node ADD COLUMN capacity INTEGER CHECK(capacity > 0);
ALTER TABLE storage_node ADD COLUMN state TEXT NOT NULL DEFAULT 'active' CHECK(state IN ('active', 'draining'));
CREATE TABLE snapshot(name TEXT PRIMARY KEY, txn INTEGER NOT NULL, time_ms INTEGER NOT NULL) STRICT;
CREATE TABLE changed(
  node INTEGER NOT NULL REFERENCES node(id),
  txn INTEGER NOT NULL,
  PRIMARY KEY(node, txn)
) STRICT, WITHOUT ROWID;
CREATE INDEX changed_txn ON changed(txn);
CREATE TABLE replication(
  node INTEGER PRIMARY KEY REFERENCES node(id),
  replicas INTEGER NOT NULL CHECK(replicas >= 1)
) STRICT;
DROP INDEX dentry_now;
DROP INDEX file_chunk_chunk;
INSERT INTO changed WITH RECURSIVE up(node, txn) AS (
  SELECT parent, from_txn FROM dentry UNION SELECT parent, to_txn FROM dentry WHERE to_txn < 4611686018427387904
  UNION SELECT d.parent, up.txn FROM up JOIN dentry d ON d.node = up.node
    WHERE d.from_txn <= up.txn AND d.to_txn >= up.txn
) SELECT node, txn FROM up;
PRAGMA user_version = 2;
"""


def migrate(database: Database) -> None:
    """Do it, if it is needed. Raises DfsError (disk full): the database is then as it was."""
    if _version(database) >= FORMAT:
        return
    with database.write() as db:
        if _version(database) < FORMAT:  # nobody was faster
            database.copy_to(database.path.with_name(f"{database.path.name}.v1"))
            db.execute(_TO_2)


def _version(database: Database) -> int:
    return int(database.rows("PRAGMA user_version")[0][0])
