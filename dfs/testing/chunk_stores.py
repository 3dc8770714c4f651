"""The conformance suite of ChunkStore."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from functools import partial

from dfs.chunk_store import ChunkStore, Usage
from dfs.codec import HEADER_BYTES, encode
from dfs.errors import ChunkDamaged, ChunkMissing
from dfs.ids import ChunkId
from dfs.options import SMALL_CHUNK_BYTES


def check_chunk_store(make: Callable[[], ChunkStore], damage: Callable[[ChunkStore, ChunkId], None]) -> None:
    """Assert the contract of ChunkStore for an empty store from `make`; `damage` changes a chunk's stored bytes."""
    store = make()
    limit = SMALL_CHUNK_BYTES - HEADER_BYTES
    for data in (b"small", b"x" * 300_000, _noise(1, limit - 1), _noise(2, limit), _noise(3, 300_000)):
        record = encode(data)
        _raises(ChunkMissing, partial(store.get, record.id))
        assert store.put_many([record]) == [True]
        assert store.get(record.id) == data
        blocks = store.get_blocks(record.id, 1000)
        assert b"".join(blocks) == data
        assert {len(block) for block in blocks[:-1]} <= {1000}
        assert store.put_many([record]) == [False], "a put of a good copy writes nothing"
        assert store.intact([record.id, ChunkId.of(b"absent")]) == {record.id}
        damage(store, record.id)
        assert store.intact([record.id]) == set()
        _raises(ChunkDamaged, partial(store.get, record.id))
        _raises(ChunkDamaged, partial(store.get_blocks, record.id, 1000))
        assert store.put_many([record]) == [True], "a put heals a damaged copy"
        assert store.get(record.id) == data
        damage(store, record.id)
        store.quarantine(record.id)
        _raises(ChunkMissing, partial(store.get, record.id))
        assert store.put_many([record, record]) == [True, False], "a duplicate in a batch is written once"
        store.quarantine(record.id)
        assert store.get(record.id) == data, "a good copy is not quarantined"
    _check_listing(store)
    _check_deletion(store)
    _check_threads(store)
    store.close()
    store.close()


def _check_listing(store: ChunkStore) -> None:
    records = [encode(_noise(10 + i, 100 + i % 2 * SMALL_CHUNK_BYTES)) for i in range(20)]
    assert store.put_many(records) == [True] * 20
    listing = list(store.listing())
    ids = [chunk for chunk, _ in listing]
    assert ids == sorted(set(ids)), "ascending, each once"
    assert {(record.id, record.stored_bytes) for record in records} <= set(listing)
    absent = ChunkId.of(b"absent")
    assert store.held([*ids, absent]) == set(ids)
    assert store.held([]) == set()
    store.quarantine(absent)
    usage = store.usage()
    assert (usage.chunks, usage.stored_bytes) == (len(ids), sum(size for _, size in listing))
    assert usage.quarantined_bytes > 0, "what was damaged above is kept"
    kept = store.quarantined()
    assert len(kept) == 5
    first = min(kept)
    count, size = store.discard_quarantined({first, absent})
    assert 1 <= count <= 2, "it was damaged twice"
    assert size > 0
    assert store.quarantined() == kept - {first}
    assert store.discard_quarantined({first}) == (0, 0)
    assert store.usage().quarantined_bytes == usage.quarantined_bytes - size
    assert store.sweep() == 0


def _check_deletion(store: ChunkStore) -> None:
    records = [encode(_noise(40 + i, 100 + i % 2 * SMALL_CHUNK_BYTES)) for i in range(10)]
    before = store.usage()
    store.put_many(records)
    gone, kept = records[:6], records[6:]
    size = sum(record.stored_bytes for record in gone)
    wanted = [record.id for record in gone]
    assert store.delete_many([*wanted, wanted[0], ChunkId.of(b"absent")]) == (6, size)
    assert store.delete_many(wanted) == (0, 0), "deleting again does nothing"
    assert store.delete_many([]) == (0, 0)
    assert store.held([record.id for record in records]) == {record.id for record in kept}
    for record in gone:
        _raises(ChunkMissing, partial(store.get, record.id))
    assert store.delete_many([record.id for record in kept])[0] == 4
    assert store.usage() == Usage(before.chunks, before.stored_bytes, before.quarantined_bytes)
    assert store.put_many(records) == [True] * 10, "what was deleted can be stored again"


def _check_threads(store: ChunkStore) -> None:
    """The same chunks from several threads at once: each is written exactly once."""
    records = [encode(_noise(60 + i, 100 + i % 2 * SMALL_CHUNK_BYTES)) for i in range(8)]
    flags: list[bool] = []
    threads = [threading.Thread(target=lambda: flags.extend(store.put_many(records))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert flags.count(True) == len(records)
    assert len(flags) == 4 * len(records)
    assert all(record.id.verifies(store.get(record.id)) for record in records)


def _noise(seed: int, size: int) -> bytes:
    """Bytes that cannot be compressed: they are stored as many as they are."""
    return random.Random(seed).randbytes(size)


def _raises(kind: type[Exception], call: Callable[[], object]) -> None:
    try:
        call()
    except kind:
        return
    raise AssertionError(f"{kind.__name__} was not raised")
