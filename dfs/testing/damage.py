"""Ways to do damage to what a node folder holds."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from dfs.ids import ChunkId
from dfs.stores.node import newest_small, open_small

Damage = Literal["delete", "zero", "truncate", "extend", "flip"]


def damage_local(node: Path, chunk_id: ChunkId, how: Damage) -> None:
    """Do damage to what a node folder holds of a chunk, behind the back of everything that has it open."""
    file = node / "chunks" / chunk_id[:2] / chunk_id
    if file.exists():
        damaged = _damaged(file.read_bytes(), how)
        file.unlink()
        if damaged is not None:
            file.write_bytes(damaged)
        return
    db = open_small(node / f"small-{newest_small(node)}.db")
    try:
        digest = chunk_id.digest
        record: bytes = db.execute("SELECT record FROM small_chunk WHERE id = ?", (digest,)).get
        damaged = _damaged(record, how)
        if damaged is None:
            db.execute("DELETE FROM small_chunk WHERE id = ?", (digest,))
        else:
            db.execute("UPDATE small_chunk SET record = ? WHERE id = ?", (damaged, digest))
    finally:
        db.close()


def _damaged(record: bytes, how: Damage) -> bytes | None:
    middle = len(record) // 2
    return {
        "delete": None,
        "zero": bytes(len(record)),
        "truncate": record[:-1],
        "extend": record + b"\0",
        "flip": record[:middle] + bytes([record[middle] ^ 1]) + record[middle + 1 :],
    }[how]
