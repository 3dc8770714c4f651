"""ChunkStore: one suite, every implementation; and what only a local node can suffer."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
from pathlib import Path
from typing import Any

import apsw
import pytest

from dfs.chunk_store import ChunkStore
from dfs.codec import encode
from dfs.errors import ChunkDamaged, ChunkMissing, NodeFailed, Unsupported
from dfs.ids import ChunkId
from dfs.placement import PlacementNode
from dfs.replication import ReplicatedChunks
from dfs.stores.local import LocalChunkStore
from dfs.stores.memory import MemoryChunkStore
from dfs.stores.node import create_node, newest_small, open_small
from dfs.testing import Damage, check_chunk_store, damage_local

LARGE = random.Random(1).randbytes(100_000)  # cannot be compressed: it gets a file


def local(path: Path) -> LocalChunkStore:
    return LocalChunkStore(path, create_node(path, "store"))


@pytest.mark.parametrize("how", ["zero", "truncate", "extend", "flip"])
def test_local_store_keeps_the_contract(tmp_path: Path, how: Damage) -> None:  # F14
    def damage(store: ChunkStore, chunk: ChunkId) -> None:
        damage_local(tmp_path / "n", chunk, how)

    check_chunk_store(lambda: local(tmp_path / "n"), damage)
    assert os.listdir(tmp_path / "n" / "tmp") == []
    assert len(os.listdir(tmp_path / "n" / "quarantine")) == 8, "kept, but for those discarded"


def test_memory_store_keeps_the_contract() -> None:
    def damage(store: ChunkStore, chunk: ChunkId) -> None:
        assert isinstance(store, MemoryChunkStore)
        store.records[chunk] = bytes(len(store.records[chunk]))

    check_chunk_store(lambda: MemoryChunkStore("n"), damage)


def test_small_chunks_are_rows_and_large_ones_files(tmp_path: Path) -> None:
    store = local(tmp_path / "n")
    small, large = encode(LARGE[:65_499]), encode(LARGE[:65_500])  # with their headers: 65,535 and 65,536 bytes
    store.put_many([small, large])
    files = [path.name for path in (tmp_path / "n" / "chunks").rglob("*") if path.is_file()]
    assert files == [large.id]
    assert (tmp_path / "n" / "chunks" / large.id[:2] / large.id).read_bytes() == large.encoded


def test_a_symlink_in_the_place_of_a_chunk_is_not_followed(tmp_path: Path) -> None:  # F54
    store = local(tmp_path / "n")
    record = encode(LARGE)
    (tmp_path / "secret").write_bytes(record.encoded)
    (tmp_path / "n" / "chunks" / record.id[:2]).mkdir()
    (tmp_path / "n" / "chunks" / record.id[:2] / record.id).symlink_to(tmp_path / "secret")
    with pytest.raises(ChunkDamaged):
        store.get(record.id)
    assert store.put_many([record]) == [True]
    assert store.get(record.id) == LARGE
    assert (tmp_path / "secret").read_bytes() == record.encoded


def test_a_failed_fsync_makes_the_node_suspect(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F11
    store = local(tmp_path / "n")
    before = encode(LARGE)
    store.put_many([before])

    def fail(handle: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr("dfs.disk.os.fsync", fail)
        with pytest.raises(NodeFailed):
            store.put_many([encode(LARGE + b"2")])
    with pytest.raises(NodeFailed, match="suspect"):
        store.put_many([encode(LARGE + b"3")])
    assert store.get(before.id) == LARGE, "it is still read"
    assert os.listdir(tmp_path / "n" / "tmp") == []


def test_running_out_of_descriptors_is_not_corruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F61
    store = local(tmp_path / "n")
    record = encode(LARGE)
    store.put_many([record])

    def fail(*_: object) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    with monkeypatch.context() as patch:
        patch.setattr("dfs.disk.os.open", fail)
        with pytest.raises(NodeFailed):
            store.get(record.id)
    assert store.get(record.id) == LARGE


def test_a_small_db_that_cannot_be_opened_now_is_not_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # F61
    store = local(tmp_path / "n")
    record = encode(b"small")
    store.put_many([record])
    store.close()
    real, calls = apsw.Connection, itertools.count()

    def fail_once(*args: Any, **options: Any) -> apsw.Connection:
        if next(calls) == 0:
            raise apsw.CantOpenError("unable to open database file")
        return real(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr("dfs.database.apsw.Connection", fail_once)
        with pytest.raises(NodeFailed):
            LocalChunkStore(tmp_path / "n", store.node_id)
    assert newest_small(tmp_path / "n") == 1
    assert LocalChunkStore(tmp_path / "n", store.node_id).get(record.id) == b"small"


def test_a_copy_that_another_writer_has_just_healed_is_not_quarantined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, record = local(tmp_path / "n"), encode(LARGE)
    store.put_many([record])
    damage_local(tmp_path / "n", record.id, "zero")
    rename = os.rename

    def heal_first(*args: Any, **options: Any) -> None:
        monkeypatch.undo()
        LocalChunkStore(tmp_path / "n", store.node_id).put_many([record])
        rename(*args, **options)

    monkeypatch.setattr("dfs.disk.os.rename", heal_first)
    store.quarantine(record.id)
    assert store.get(record.id) == LARGE
    assert len(os.listdir(tmp_path / "n" / "quarantine")) == 1


def test_files_of_others_among_the_chunks_are_no_chunks(tmp_path: Path) -> None:
    store, record = local(tmp_path / "n"), encode(LARGE)
    store.put_many([record])
    chunks = tmp_path / "n" / "chunks"
    (chunks / "stray").touch()
    (chunks / record.id[:2] / ("A" * 64)).touch()
    (chunks / "zz").mkdir()
    (chunks / "zz" / ChunkId.of(b"elsewhere")).touch()
    assert [chunk for chunk, _ in store.listing()] == [record.id]


def test_left_over_temp_files_are_swept_and_living_ones_are_not(tmp_path: Path) -> None:  # F12
    import fcntl

    store = local(tmp_path / "n")
    (tmp_path / "n" / "tmp" / "dead").write_bytes(b"torn")
    with open(tmp_path / "n" / "tmp" / "living", "wb") as living:
        living.write(b"half")
        living.flush()
        fcntl.flock(living, fcntl.LOCK_EX)
        LocalChunkStore(tmp_path / "n", store.node_id).close()
        assert os.listdir(tmp_path / "n" / "tmp") == ["living"]


@pytest.mark.parametrize("how", ["delete", "zero", "truncate", "garbage"])
def test_a_lost_small_db_is_begun_anew_while_open(tmp_path: Path, how: str) -> None:
    store = local(tmp_path / "n")
    record = encode(b"small")
    store.put_many([record])
    store.close()
    file = tmp_path / "n" / "small-1.db"
    if how == "delete":
        file.unlink()
    else:
        file.write_bytes({"zero": bytes(file.stat().st_size), "truncate": b"", "garbage": b"x" * 9000}[how])
    store = LocalChunkStore(tmp_path / "n", store.node_id)
    with pytest.raises(ChunkMissing):
        store.get(record.id)
    assert store.put_many([record]) == [True]
    (tmp_path / "n" / f"small-{newest_small(tmp_path / 'n')}.db").unlink()
    assert store.put_many([record]) == [True], "one that is deleted while open is noticed"
    assert LocalChunkStore(tmp_path / "n", store.node_id).get(record.id) == b"small"


def _leaf(file: Path, root: int, *, last: bool) -> int:
    """Number of the first or last leaf page of a tree of SQLite (fileformat2.html, section 1.6)."""
    data, page = file.read_bytes(), root
    while data[(page - 1) * 4096] in (2, 5):  # interior
        at = (page - 1) * 4096
        cell = int.from_bytes(data[at + 12 : at + 14], "big")
        child = at + 8 if last else at + cell
        page = int.from_bytes(data[child : child + 4], "big")
    return page


def test_damaged_pages_are_salvaged_on_a_node_with_a_capacity(tmp_path: Path) -> None:  # F14
    """What it holds cannot be counted, and so not whether there is room; that must not keep it from being healed."""
    records = [encode(LARGE[n * 300 :][:300]) for n in range(100)]
    node = local(tmp_path / "n")
    node.put_many(records)
    node.close()
    file = tmp_path / "n" / "small-1.db"
    with contextlib.closing(open_small(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = dict(db.execute("SELECT type, rootpage FROM sqlite_master").fetchall())
    with open(file, "r+b") as damaged:
        for root in roots.values():
            damaged.seek((_leaf(file, root, last=True) - 1) * 4096 + 2000)
            damaged.write(b"\xff" * 8)
    node = LocalChunkStore(tmp_path / "n", node.node_id, capacity=100_000)
    with pytest.raises(NodeFailed, match="dfs fsck --heal"):
        node.usage()
    node.put_many(records)
    assert [node.get(record.id) for record in records] == [LARGE[n * 300 :][:300] for n in range(100)]
    stored = sum(record.stored_bytes for record in records)
    assert (node.usage().chunks, node.usage().stored_bytes) == (100, stored)
    with pytest.raises(NodeFailed, match="is full"):
        node.put_many([encode(LARGE[: 100_000 - stored])])


@pytest.mark.parametrize("index_too", [False, True])
def test_rows_with_high_numbers_are_salvaged(tmp_path: Path, index_too: bool) -> None:  # F14
    """Rows that come and go: their numbers only grow, far beyond what the file has room for."""
    store = local(tmp_path / "n")
    records = [encode(LARGE[n * 300 :][:300]) for n in range(300)]
    store.put_many(records[:1])
    with contextlib.closing(open_small(tmp_path / "n" / "small-1.db")) as db:
        db.execute("UPDATE small_chunk SET rowid = 100000")
    store.put_many(records[1:])
    store.close()
    file = tmp_path / "n" / "small-1.db"
    with contextlib.closing(open_small(file)) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        roots = dict(db.execute("SELECT type, rootpage FROM sqlite_master").fetchall())
    bad = [_leaf(file, roots["table"], last=True)]
    if index_too:
        bad.append(_leaf(file, roots["index"], last=False))
    with open(file, "r+b") as damaged:
        for page in bad:
            damaged.seek((page - 1) * 4096 + 2000)
            damaged.write(b"\xff" * 8)
    store = LocalChunkStore(tmp_path / "n", store.node_id)
    store.put_many([encode(b"this meets the damaged page")])
    assert newest_small(tmp_path / "n") == 2
    good = 0
    for record in records:
        with contextlib.suppress(ChunkMissing):
            good += len(store.get(record.id)) == 300
    assert 300 - 4096 // 300 <= good < 300, "all but one page"


def test_a_folder_that_is_another_node_is_refused(tmp_path: Path) -> None:
    create_node(tmp_path / "n", "store")
    with pytest.raises(NodeFailed):
        LocalChunkStore(tmp_path / "n", "another uuid")
    (tmp_path / "n" / "node.json").write_text('{"format": 99}')
    with pytest.raises(Unsupported):
        LocalChunkStore(tmp_path / "n", "another uuid")


class Full(MemoryChunkStore):
    """A node whose disk is full."""

    def put_many(self, records: object) -> list[bool]:
        raise NodeFailed(f"node {self.node_id} cannot be written to: No space left on device")


def replicated(*nodes: MemoryChunkStore, replicas: int = 2) -> ReplicatedChunks:
    return ReplicatedChunks([PlacementNode(n.node_id) for n in nodes], {n.node_id: n for n in nodes}, replicas)


def test_a_node_that_is_full_is_passed_over() -> None:  # F8
    chunks = replicated(MemoryChunkStore("a"), Full("b"), MemoryChunkStore("c"))
    records = [encode(b"%d" % i) for i in range(50)]
    assert chunks.put_many(records) == [True] * 50
    assert all(set(chunks.holders(r.id)) == {"a", "c"} for r in records)
    assert all(chunks.get(r.id) == b"%d" % i for i, r in enumerate(records))


def test_a_failing_read_is_served_elsewhere_without_quarantine() -> None:
    class Busy(MemoryChunkStore):
        def get(self, chunk_id: ChunkId) -> bytes:
            raise NodeFailed("too many open files")

    busy, calm = Busy("a"), MemoryChunkStore("b")
    chunks = replicated(busy, calm)
    record = encode(b"x")
    chunks.put_many([record])
    assert chunks.get(record.id) == b"x"
    assert record.id in busy.records
    assert chunks.counts["healed"] == 0
