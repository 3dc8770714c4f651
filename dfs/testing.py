"""Test kit of the store: the conformance suite of ChunkStore, and ways to do damage. Product code never imports it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Literal

from dfs.chunk_store import ChunkStore
from dfs.codec import encode
from dfs.errors import ChunkDamaged, ChunkMissing
from dfs.ids import ChunkId
from dfs.stores.node import newest_small, open_small

Damage = Literal["delete", "zero", "truncate", "extend", "flip"]


def check_chunk_store(make: Callable[[], ChunkStore], damage: Callable[[ChunkStore, ChunkId], None]) -> None:
    """Assert the contract of ChunkStore for an empty store from `make`; `damage` changes a chunk's stored bytes."""
    store = make()
    small, large = b"small", bytes(range(256)) * 1024
    for data in (small, large, b"x" * 65_535, b"x" * 65_536):
        record = encode(data)
        _raises(ChunkMissing, partial(store.get, record.id))
        assert store.put_many([record]) == [True]
        assert store.get(record.id) == data
        assert store.put_many([record]) == [False], "a put of a good copy writes nothing"
        damage(store, record.id)
        _raises(ChunkDamaged, partial(store.get, record.id))
        assert store.put_many([record]) == [True], "a put heals a damaged copy"
        assert store.get(record.id) == data
        damage(store, record.id)
        store.quarantine(record.id)
        _raises(ChunkMissing, partial(store.get, record.id))
        assert store.put_many([record, record]) == [True, False], "a duplicate in a batch is written once"
        store.quarantine(record.id)
        assert store.get(record.id) == data, "a good copy is not quarantined"
    _check_listing(store)
    _check_threads(store)
    store.close()
    store.close()


def _check_listing(store: ChunkStore) -> None:
    records = [encode(b"listing %d" % i * (1 + i % 2 * 9000)) for i in range(20)]
    assert store.put_many(records) == [True] * 20
    ids = list(store.ids())
    assert ids == sorted(set(ids))
    assert {record.id for record in records} <= set(ids)
    absent = ChunkId.of(b"absent")
    assert store.held([*ids, absent]) == set(ids)
    store.quarantine(absent)


def _check_threads(store: ChunkStore) -> None:
    """The same chunks from several threads at once: each is written exactly once."""
    records = [encode(b"thread %d" % i * (1 + i % 2 * 9000)) for i in range(8)]
    flags: list[bool] = []
    threads = [threading.Thread(target=lambda: flags.extend(store.put_many(records))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flags.count(True) == len(records)
    assert len(flags) == 4 * len(records)
    assert all(record.id.verifies(store.get(record.id)) for record in records)


def _raises(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")


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
