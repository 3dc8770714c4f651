"""What retained history still sees, and the deletion of what it does not (docs/formats/namespace.md, "Retained
numbers").

Every function works on a connection inside a transaction; what it notes are temporary tables of that connection.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from typing import Any

from dfs.database import Connection
from dfs.ids import ChunkId

FOREVER = 1 << 62
ROOT = 1
_TABLES = ("retained", "reach", "gone", "gone_node", "gone_change", "named_txn", "needed_file")

# Whether [{0}, {1}) holds a retained number: those from the horizon on, and single ones.
_SEEN = (
    "({0} < {1} AND ({1} > (SELECT horizon FROM temp.retained_from)"
    " OR EXISTS (SELECT 1 FROM temp.retained k WHERE k.txn >= {0} AND k.txn < {1})))"
)
_DENTRY_SEEN = (
    "EXISTS (SELECT 1 FROM temp.reach p WHERE p.node = d.parent AND "
    + _SEEN.format("max(d.from_txn, p.birth)", "min(d.to_txn, p.death)")
    + ")"
)


@contextlib.contextmanager
def marked(db: Connection, horizon: int | None = None, also: Collection[int] = ()) -> Iterator[None]:
    """Note, for the body, in which intervals each folder is joined to the root (`temp.reach`), and what is retained.

    `horizon` None: the store's; `also`: further numbers that count as retained.
    """
    db.execute("CREATE TEMP TABLE retained_from(horizon INTEGER); CREATE TEMP TABLE retained(txn INTEGER PRIMARY KEY)")
    try:
        stored = "(SELECT coalesce(max(value), 0) FROM store WHERE key = 'horizon')"
        db.execute(f"INSERT INTO temp.retained_from SELECT coalesce(?, {stored})", (horizon,))
        db.execute("INSERT OR IGNORE INTO temp.retained SELECT txn FROM snapshot")
        db.executemany("INSERT OR IGNORE INTO temp.retained VALUES (?)", [(txn,) for txn in also])
        _note_reach(db)
        yield
    finally:
        for table in ("retained_from", *_TABLES):
            db.execute(f"DROP TABLE IF EXISTS temp.{table}")


def _note_reach(db: Connection) -> None:
    """`temp.reach(node, birth, death, replicas)`: one row for each chain of dentries that joins a folder to the root.

    `replicas` is the nearest replica count on that chain, 0 where none is set.
    """
    db.execute("CREATE TEMP TABLE reach(node INTEGER, birth INTEGER, death INTEGER, replicas INTEGER)")
    db.execute(
        "WITH RECURSIVE edge AS MATERIALIZED ("
        "  SELECT d.parent, d.node, d.from_txn, d.to_txn, r.replicas FROM node n JOIN dentry d ON d.node = n.id"
        "  LEFT JOIN replication r ON r.node = n.id WHERE n.kind = 'dir'),"
        " tree(node, birth, death, replicas) AS ("
        "  SELECT ?1, 0, ?2, coalesce((SELECT replicas FROM replication WHERE node = ?1), 0) UNION ALL"
        "  SELECT e.node, max(tree.birth, e.from_txn), min(tree.death, e.to_txn), coalesce(e.replicas, tree.replicas)"
        "  FROM tree JOIN edge e ON e.parent = tree.node"
        "  WHERE max(tree.birth, e.from_txn) < min(tree.death, e.to_txn))"
        " INSERT INTO temp.reach SELECT * FROM tree",
        (ROOT, FOREVER),
    )
    db.execute("CREATE INDEX temp.reach_node ON reach(node)")


def sweep(db: Connection) -> None:
    """Delete what no retained number sees; inside `marked`."""
    db.execute(f"CREATE TEMP TABLE gone AS SELECT parent, name, from_txn FROM dentry d WHERE NOT {_DENTRY_SEEN}")
    db.execute("DELETE FROM dentry WHERE (parent, name, from_txn) IN (SELECT parent, name, from_txn FROM temp.gone)")
    db.execute(
        "CREATE TEMP TABLE gone_node AS SELECT id FROM node"
        " WHERE id <> ? AND NOT EXISTS (SELECT 1 FROM dentry d WHERE d.node = node.id)",
        (ROOT,),
    )
    for table, column in (
        ("replication", "node"),
        ("changed", "node"),
        ("file_chunk", "node"),
        ("file", "node"),
        ("node", "id"),
    ):
        db.execute(f"DELETE FROM {table} WHERE {column} IN (SELECT id FROM temp.gone_node)")
    after = "coalesce((SELECT min(n.txn) FROM changed n WHERE n.node = c.node AND n.txn > c.txn), :forever)"
    db.execute(
        "CREATE TEMP TABLE gone_change AS SELECT node, txn FROM (SELECT c.node, c.txn,"
        f" {after} AS next_txn FROM changed c) c WHERE NOT EXISTS (SELECT 1 FROM temp.reach p WHERE p.node = c.node"
        f" AND {_SEEN.format('max(c.txn, p.birth)', 'min(c.next_txn, p.death)')})",
        {"forever": FOREVER},
    )
    db.execute("DELETE FROM changed WHERE (node, txn) IN (SELECT node, txn FROM temp.gone_change)")
    _sweep_transactions(db)


def _sweep_transactions(db: Connection) -> None:
    db.execute(
        "CREATE TEMP TABLE named_txn AS SELECT txn FROM temp.retained UNION SELECT from_txn FROM dentry"
        " UNION SELECT to_txn FROM dentry UNION SELECT txn FROM changed"
    )
    db.execute(
        "DELETE FROM txn WHERE id < (SELECT horizon FROM temp.retained_from)"
        " AND id NOT IN (SELECT txn FROM temp.named_txn)"
    )


def needed_chunks(db: Connection, default: int) -> Iterator[tuple[ChunkId, int, int]]:
    """(chunk, length in bytes, replicas) of all files that a retained number sees, by chunk; inside `marked`. The most
    that one of its files asks for; 0 when that is one that asks for nothing, and so gets the `default`."""
    seen = _SEEN.format("max(d.from_txn, p.birth)", "min(d.to_txn, p.death)")
    db.execute("CREATE TEMP TABLE needed_file(node INTEGER PRIMARY KEY, replicas INTEGER)")
    db.execute(
        "INSERT INTO temp.needed_file SELECT d.node, coalesce(r.replicas, iif(min(p.replicas) = 0 AND"
        " max(p.replicas) < ?1, 0, max(p.replicas)))"
        " FROM temp.reach p JOIN dentry d ON d.parent = p.node JOIN file f ON f.node = d.node"
        f" LEFT JOIN replication r ON r.node = d.node WHERE {seen} GROUP BY d.node",
        (default,),
    )
    found = db.execute(
        "SELECT c.chunk, max(c.length), iif(min(n.replicas) = 0 AND max(n.replicas) < ?1, 0, max(n.replicas))"
        " FROM temp.needed_file n JOIN file_chunk c ON c.node = n.node GROUP BY c.chunk ORDER BY c.chunk",
        (default,),
    )
    for digest, length, replicas in found:
        yield ChunkId.from_digest(digest), length, replicas


def paths_of(db: Connection, chunks: Collection[ChunkId], at: int) -> dict[ChunkId, list[str]]:
    """Paths of the files that hold these chunks at `at`, then those of older versions with what ended them."""
    db.execute("CREATE TEMP TABLE wanted(chunk BLOB PRIMARY KEY) WITHOUT ROWID")
    db.executemany("INSERT OR IGNORE INTO temp.wanted VALUES (?)", [(chunk.digest,) for chunk in chunks])
    holders: list[tuple[Any, ...]] = db.execute(
        "SELECT DISTINCT c.chunk, c.node FROM file_chunk c WHERE c.chunk IN (SELECT chunk FROM temp.wanted)"
    ).fetchall()
    lives = {node: _paths_of_node(db, node, at) for node in {node for _, node in holders}}
    found: dict[ChunkId, set[tuple[int, str]]] = {chunk: set() for chunk in chunks}
    for digest, node in holders:
        found[ChunkId.from_digest(digest)].update(lives[node])
    db.execute("DROP TABLE temp.wanted")
    return {
        chunk: [path if -ended > at else f"{path} (until transaction {-ended})" for ended, path in sorted(paths)]
        for chunk, paths in found.items()
    }


def _paths_of_node(db: Connection, node: int, at: int) -> list[tuple[Any, ...]]:
    """(minus the transaction that ended it, path) of each chain of dentries from a node to the root."""
    return db.execute(
        "WITH RECURSIVE up(path, parent, birth, death) AS ("
        "  SELECT d.name, d.parent, d.from_txn, d.to_txn FROM dentry d WHERE d.node = ?1 AND d.from_txn <= ?2"
        "  UNION ALL"
        "  SELECT d.name || '/' || up.path, d.parent, max(up.birth, d.from_txn), min(up.death, d.to_txn)"
        "  FROM up JOIN dentry d ON d.node = up.parent"
        "  WHERE max(up.birth, d.from_txn) < min(up.death, d.to_txn) AND d.from_txn <= ?2)"
        " SELECT max(-death, -?3), path FROM up WHERE parent = ?4 GROUP BY path, death",
        (node, at, FOREVER, ROOT),
    ).fetchall()
