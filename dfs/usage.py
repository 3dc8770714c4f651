"""`dfs du`: how many bytes files have, how many of them are unique, and how many the nodes store for them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from msgspec import Struct
from msgspec.structs import asdict

from dfs.health import survey
from dfs.ids import ChunkId
from dfs.render import ratio
from dfs.store import Store

_CHUNKS = (
    "WITH RECURSIVE tree(node) AS (SELECT ?1 UNION ALL SELECT d.node FROM tree JOIN dentry d"
    " ON d.parent = tree.node WHERE d.from_txn <= ?2 AND d.to_txn > ?2)"
    " SELECT c.chunk, max(c.length) FROM tree JOIN file_chunk c ON c.node = tree.node GROUP BY c.chunk ORDER BY c.chunk"
)


class Usage(Struct, frozen=True):
    """Of the files at or below a path: bytes as they are read (`logical`), with equal chunks once (`unique`), and as
    the nodes hold them, over all copies (`stored`). `held_bytes` are the uncompressed bytes of what is stored."""

    files: int
    folders: int
    logical_bytes: int
    unique_bytes: int
    unique_chunks: int
    stored_bytes: int
    held_bytes: int

    @property
    def deduplication(self) -> float | None:
        """Logical to unique bytes; None without any."""
        return ratio(self.logical_bytes, self.unique_bytes)

    @property
    def compression(self) -> float | None:
        """Uncompressed bytes to stored ones, copy by copy; None without any."""
        return ratio(self.held_bytes, self.stored_bytes)

    def values(self) -> dict[str, Any]:
        """For JSON."""
        return {**asdict(self), "deduplication": self.deduplication, "compression": self.compression}


def measure(store: Store, path: str, at: int) -> Usage:
    """Add up a path after transaction `at`. Raises NotFound, NodeFailed when a node cannot say what it holds."""
    totals = store.namespace.totals(path, at)
    stored = held = 0
    for chunk in survey(_chunks(store, path, at), store.replicated.nodes):
        if chunk.replicas is not None:
            stored += sum(size for _, size in chunk.holders)
            held += chunk.length * len(chunk.holders)
    return Usage(
        totals.files, totals.folders, totals.logical_bytes, totals.unique_bytes, totals.unique_chunks, stored, held
    )


def _chunks(store: Store, path: str, at: int) -> Iterator[tuple[ChunkId, int, int]]:
    for digest, length in store.namespace.rows(_CHUNKS, store.namespace.need(path, at).node, at):
        yield ChunkId.from_digest(digest), length, 1
