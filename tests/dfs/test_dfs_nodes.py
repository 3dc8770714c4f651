"""Nodes under failing disks: FaultDisk itself, chunk stores and logs after power cuts, several nodes as one."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import subprocess
import sys
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path

import apsw
import pytest

from dfs.codec import Record, decode, encode
from dfs.disk import Disk
from dfs.errors import ChunkDamaged, ChunkLost, ChunkMissing, DfsError, NodeFailed, NotEnoughNodes, Unsupported
from dfs.ids import ChunkId
from dfs.oplog import Logged, Operation, OpLog, backfill, parse_segment
from dfs.options import NODE_REST_S, OPLOG_SEGMENT_BYTES_MAX
from dfs.placement import PlacementNode
from dfs.replication import ReplicatedChunks
from dfs.stores.local import LocalChunkStore
from dfs.stores.memory import MemoryChunkStore
from dfs.stores.node import create_node, open_small
from dfs.testing import FaultDisk, PowerCut, damage_local

LARGE = 70_000  # bytes: a chunk with a file of its own


@pytest.fixture
def disk(tmp_path: Path) -> FaultDisk:
    (tmp_path / "limbo").mkdir()
    return FaultDisk(tmp_path / "limbo")


def chunk(number: int) -> Record:
    return encode(random.Random(number).randbytes(LARGE))


def node(path: Path, disk: Disk, capacity: int | None = None) -> LocalChunkStore:
    if not path.exists():
        create_node(path, "store")
    return LocalChunkStore(path, Disk().read(path / "node.json").decode().split('"')[5], disk, capacity)


# --- the disk --------------------------------------------------------------------------------------------------------


def test_a_power_cut_keeps_what_was_synced_and_may_lose_the_rest(tmp_path: Path, disk: FaultDisk) -> None:
    folder = tmp_path / "f"
    folder.mkdir()
    seen = set()
    for seed in range(40):
        disk.write_whole(folder / "whole", b"kept")
        with disk.create(folder / "synced") as file:
            file.write(b"x" * 2000)
            file.sync()
        disk.sync_folder(folder)
        with disk.append_to(folder / "synced") as file:
            file.write(b"y" * 2000)
        with disk.create(folder / "unsynced") as file:
            file.write(b"z")
            file.sync()
        disk.rename(folder / "whole", folder / "moved")
        disk.power_cut(seed)
        assert (folder / "synced").read_bytes()[:2000] == b"x" * 2000
        whole, moved = (folder / "whole").exists(), (folder / "moved").exists()
        assert whole != moved, "a rename is done or not"
        assert (folder / ("whole" if whole else "moved")).read_bytes() == b"kept"
        new = (folder / "synced").read_bytes()[2000:]
        kind = "none" if not new else "all" if new == b"y" * 2000 else "zeros" if b"\0" in new else "prefix"
        seen.add((whole, (folder / "unsynced").exists(), kind))
        for name in os.listdir(folder):
            os.unlink(folder / name)
    assert {whole for whole, _, _ in seen} == {name for _, name, _ in seen} == {True, False}
    assert {kind for _, _, kind in seen} == {"none", "all", "zeros", "prefix"}


def test_a_power_cut_drops_folders_names_and_removals(tmp_path: Path, disk: FaultDisk) -> None:
    seen = set()
    for seed in range(20):
        top = tmp_path / str(seed)
        top.mkdir()
        (top / "old").write_bytes(b"old")
        disk.mkdir(top / "new")
        disk.write_whole(top / "new" / "file", b"1")
        disk.unlink(top / "old")
        disk.link(top / "new" / "file", top / "second")
        disk.power_cut(seed)
        seen.add((top / "new").exists())
        assert not (top / "new").exists() or (top / "new" / "file").read_bytes() == b"1"
        assert not (top / "old").exists() or (top / "old").read_bytes() == b"old"
        assert not (top / "second").exists() or (top / "second").read_bytes() == b"1"
    assert seen == {True, False}


def test_a_disk_fails_when_told(tmp_path: Path, disk: FaultDisk) -> None:  # F10
    disk.fail("write", errno.ENOSPC, nth=2)
    with disk.create(tmp_path / "a") as file:
        file.write(b"one")
        with pytest.raises(OSError, match="No space"):
            file.write(b"four")
        file.write(b"!")
    assert (tmp_path / "a").read_bytes() == b"onefo!"
    disk.fail("create", times=None)
    for _ in range(2):
        with pytest.raises(OSError):
            disk.create(tmp_path / "b")
    disk.mend()
    disk.cut_at(1)
    for _ in range(2):
        with pytest.raises(PowerCut):
            disk.create(tmp_path / "b")


def test_write_whole_leaves_the_old_file_or_the_new_one(tmp_path: Path, disk: FaultDisk) -> None:
    disk.write_whole(tmp_path / "a", b"old")
    for operation in ("create", "write", "sync", "rename"):
        disk.fail(operation)
        with pytest.raises(OSError):
            disk.write_whole(tmp_path / "a", b"new")
        assert (tmp_path / "a").read_bytes() == b"old"
        assert sorted(os.listdir(tmp_path)) == ["a", "limbo"]


def test_links_below_a_guarded_folder_lead_nowhere(tmp_path: Path) -> None:  # F54
    disk = Disk()
    (tmp_path / "node").mkdir()
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "file").write_bytes(b"secret")
    (tmp_path / "node" / "planted").symlink_to(tmp_path / "outside")
    assert disk.read(tmp_path / "node" / "planted" / "file") == b"secret"
    disk.guard(tmp_path / "node")
    inside = tmp_path / "node" / "planted" / "file"
    for act in (disk.read, disk.create, disk.append_to, disk.unlink, disk.mkdir, disk.sync_folder):
        with pytest.raises(OSError):
            act(inside)
    with pytest.raises(NotADirectoryError):
        disk.rename(inside, tmp_path / "node" / "taken")
    (tmp_path / "node" / "link").symlink_to(tmp_path / "outside" / "file")
    for act in (disk.read, disk.append_to):
        with pytest.raises(OSError, match="symbolic link"):
            act(tmp_path / "node" / "link")
    os.mkfifo(tmp_path / "node" / "pipe")
    with pytest.raises(IsADirectoryError):
        disk.read(tmp_path / "node" / "pipe")
    assert (tmp_path / "outside" / "file").read_bytes() == b"secret"


def test_folders_are_made_durably_with_those_above(tmp_path: Path, disk: FaultDisk) -> None:
    for seed in range(10):
        disk.make_folders(tmp_path / str(seed) / "b" / "c")
        disk.make_folders(tmp_path / str(seed) / "b" / "c")
        disk.power_cut(seed)
        assert (tmp_path / str(seed) / "b" / "c").is_dir()


# --- one node --------------------------------------------------------------------------------------------------------


def survivors_of_a_cut(folder: Path, disk: FaultDisk, seed: int) -> tuple[set[ChunkId], set[ChunkId]]:
    """(acknowledged chunks, those of them that are good after a power cut somewhere in the middle)."""
    store = node(folder, disk)
    acknowledged: set[ChunkId] = set()
    source = random.Random(seed)
    disk.cut_at(source.randrange(1, 120))
    try:
        for batch in range(6):
            records = [chunk(seed * 100 + batch * 3 + i) for i in range(source.randrange(1, 4))]
            store.put_many(records)
            acknowledged.update(record.id for record in records)
    except PowerCut:
        pass
    store.close()
    disk.power_cut(seed)
    after = node(folder, Disk())
    assert os.listdir(folder / "tmp") == []
    good = set()
    for held, _ in after.listing():
        with contextlib.suppress(ChunkDamaged):
            after.get(held)
            good.add(held)
    assert all(after.put_many([chunk(seed * 100 + i)]) for i in range(3)), "it takes chunks again"
    after.close()
    return acknowledged, good


def test_a_power_cut_loses_no_acknowledged_chunk(tmp_path: Path, disk: FaultDisk) -> None:  # F12, F13
    stored = 0
    for seed in range(25):
        acknowledged, good = survivors_of_a_cut(tmp_path / f"n{seed}", disk, seed)
        assert acknowledged <= good
        stored += len(acknowledged)
    assert stored > 100


def test_without_fsync_a_power_cut_loses_some(tmp_path: Path) -> None:
    """The harness bites."""
    (tmp_path / "limbo").mkdir()
    disk = FaultDisk(tmp_path / "limbo", sync=False)
    lost = 0
    for seed in range(8):
        acknowledged, good = survivors_of_a_cut(tmp_path / f"n{seed}", disk, seed)
        lost += len(acknowledged - good)
    assert lost > 0


def test_what_is_planted_in_a_node_is_never_followed(tmp_path: Path) -> None:  # F54
    store, record = node(tmp_path / "n", Disk()), chunk(1)
    outside = tmp_path / "outside"
    outside.mkdir()
    (tmp_path / "n" / "chunks" / record.id[:2]).symlink_to(outside)
    (outside / record.id).write_bytes(b"mine")
    with pytest.raises(ChunkDamaged):
        store.get(record.id)
    assert store.held([record.id]) == set()
    assert list(store.listing()) == []
    store.quarantine(record.id)
    assert store.delete_many([record.id]) == (0, 0)
    assert store.put_many([record]) == [True], "the planted link is moved away"
    assert store.get(record.id) == decode(record.encoded, record.id)
    assert [path.name for path in outside.iterdir()] == [record.id]
    assert (outside / record.id).read_bytes() == b"mine"
    (tmp_path / "n" / "chunks" / record.id[:2] / record.id).unlink()
    os.mkfifo(tmp_path / "n" / "chunks" / record.id[:2] / record.id)
    with pytest.raises(ChunkDamaged):
        store.get(record.id)
    assert store.put_many([record]) == [True]


@pytest.mark.parametrize("name", ["chunks", "tmp", "quarantine"])
def test_a_linked_folder_of_a_node_takes_nothing(tmp_path: Path, name: str) -> None:  # F54
    store, record = node(tmp_path / "n", Disk()), chunk(1)
    store.put_many([record])
    damage_local(tmp_path / "n", record.id, "zero")
    (tmp_path / "n" / name).rename(tmp_path / "moved")
    (tmp_path / "n" / name).symlink_to(tmp_path / "moved")
    before = {path: path.read_bytes() for path in (tmp_path / "moved").rglob("*") if path.is_file()}
    with pytest.raises(NodeFailed):
        store.put_many([record, chunk(2)])
    if name == "chunks":
        with pytest.raises(ChunkDamaged):
            store.get(record.id)
    if name == "tmp":
        with pytest.raises(NodeFailed):
            node(tmp_path / "n", Disk())
    assert {path: path.read_bytes() for path in (tmp_path / "moved").rglob("*") if path.is_file()} == before


def test_a_planted_file_does_not_hide_a_good_small_chunk(tmp_path: Path) -> None:  # F54
    store, small = node(tmp_path / "n", Disk()), encode(b"small")
    store.put_many([small])
    file = tmp_path / "n" / "chunks" / small.id[:2] / small.id
    file.parent.mkdir()
    file.write_bytes(b"junk")
    assert store.get(small.id) == b"small"
    assert store.put_many([small]) == [False]
    damage_local(tmp_path / "n", small.id, "delete")
    assert not file.exists(), "the kit takes the file for the chunk"
    file.write_bytes(small.encoded)
    damage = store._small.put_many([encode(b"small")], lambda *_: None)
    assert damage == set(), "the row was there all the time"
    store.quarantine(small.id)
    assert file.exists(), "both are good"
    assert store.delete_many([small.id]) == (1, 2 * small.stored_bytes)


def test_a_good_file_stands_in_for_a_damaged_row(tmp_path: Path) -> None:
    store, small = node(tmp_path / "n", Disk()), encode(b"small")
    store.put_many([small])
    damage_local(tmp_path / "n", small.id, "flip")
    with pytest.raises(ChunkDamaged):
        store.get(small.id)
    file = tmp_path / "n" / "chunks" / small.id[:2] / small.id
    file.parent.mkdir()
    file.write_bytes(small.encoded)
    assert store.get(small.id) == b"small"
    store.quarantine(small.id)
    assert store.get(small.id) == b"small"
    assert store.usage().quarantined_bytes == small.stored_bytes


@pytest.mark.parametrize("operation", ["create", "write", "link", "mkdir"])
def test_an_error_while_a_chunk_is_written_leaves_nothing(
    tmp_path: Path, disk: FaultDisk, operation: str
) -> None:  # F10
    store = node(tmp_path / "n", disk)
    disk.fail(operation, errno.ENOSPC)  # type: ignore[arg-type]
    with pytest.raises(NodeFailed, match="No space"):
        store.put_many([chunk(1), chunk(2)])
    assert os.listdir(tmp_path / "n" / "tmp") == []
    assert all(store.get(held) for held, _ in store.listing()), "what is there is whole"
    assert all(store.get(record.id) for record in (chunk(1), chunk(2)) if any(store.put_many([record])))
    store.put_many([chunk(1), chunk(2)])
    assert len(store.held([chunk(1).id, chunk(2).id])) == 2


@pytest.mark.parametrize("operation", ["sync", "sync_folder"])
def test_a_failed_fsync_is_never_acknowledged(tmp_path: Path, disk: FaultDisk, operation: str) -> None:  # F11
    store = node(tmp_path / "n", disk)
    store.put_many([chunk(0)])
    disk.fail(operation)  # type: ignore[arg-type]
    with pytest.raises(NodeFailed, match=r"fsync|Input/output"):
        store.put_many([chunk(1)])
    for write in (lambda: store.put_many([chunk(1)]), lambda: store.delete_many([chunk(0).id])):
        with pytest.raises(NodeFailed, match="suspect"):
            write()
    log = OpLog(tmp_path / "n", disk)
    assert not log.writable()
    with pytest.raises(NodeFailed, match="suspect"):
        log.append(history(1)[0])
    assert store.get(chunk(0).id), "it is still read"
    (tmp_path / "n" / "suspect").unlink()
    store.put_many([chunk(1)])
    assert store.get(chunk(1).id)


def test_a_failed_fsync_of_the_small_chunks_makes_the_node_suspect(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # F11
    class Failed(apsw.IOError):
        extendedresult = apsw.SQLITE_IOERR_FSYNC

    store, small = node(tmp_path / "n", Disk()), encode(b"small")

    def fail(*_: object) -> None:
        raise Failed("disk I/O error")

    with monkeypatch.context() as patch:
        patch.setattr("dfs.stores.small._transaction", fail)
        with pytest.raises(NodeFailed):
            store.put_many([small])
    with pytest.raises(NodeFailed, match="suspect"):
        store.put_many([small])
    with pytest.raises(ChunkMissing):
        store.get(small.id)


def test_damaged_pages_under_a_writer_are_left_behind(tmp_path: Path) -> None:
    store = node(tmp_path / "n", Disk())
    records = [encode(random.Random(i).randbytes(3000)) for i in range(60)]
    store.put_many(records)
    store.close()
    file = tmp_path / "n" / "small-1.db"
    data = bytearray(file.read_bytes())
    for page in range(20, 30):
        data[page * 4096 + 100] ^= 1
    file.write_bytes(data)
    store = node(tmp_path / "n", Disk())
    with pytest.raises(ChunkDamaged):
        list(store.listing())
    with pytest.raises(NodeFailed):
        store.usage()
    flags = store.put_many(records)
    assert 0 < sum(flags) < 40, "what could be read was kept"
    assert all(store.get(record.id) == decode(record.encoded, record.id) for record in records)
    assert sorted(path.name for path in (tmp_path / "n").glob("small-*.db")) == ["small-1.db", "small-2.db"]
    for path in (tmp_path / "n").glob("small-2.db*"):
        path.write_bytes(b"x" * 9000)
    assert store.put_many(records[:1]) == [True], "one that is no database any more is begun anew, while open"
    assert store.get(records[0].id)


def test_a_node_keeps_to_its_capacity(tmp_path: Path) -> None:
    store = node(tmp_path / "n", Disk(), capacity=4 * (LARGE + 100))
    records = [chunk(i) for i in range(3)]
    assert store.put_many([*records, records[0]]) == [True, True, True, False]
    with pytest.raises(NodeFailed, match="is full"):
        store.put_many([chunk(3), chunk(4)])
    assert store.put_many(records) == [False] * 3, "what it has needs no room"
    assert store.put_many([chunk(3)]) == [True]
    with pytest.raises(NodeFailed, match="is full"):
        store.put_many([chunk(4)])
    other = LocalChunkStore(tmp_path / "n", store.node_id)
    other.delete_many([chunk(0).id])
    assert store.put_many([chunk(4)]) == [True], "it counts again before it refuses"
    assert store.delete_many([chunk(1).id, chunk(2).id])[0] == 2
    assert store.put_many([chunk(5), chunk(6)]) == [True, True]
    with pytest.raises(NodeFailed, match="is full"):
        store.put_many([encode(b"small"), chunk(7)])


def test_what_is_there_must_not_be_a_node_to_become_one(tmp_path: Path, disk: FaultDisk) -> None:
    disk.fail("rename")
    with pytest.raises(OSError):
        create_node(tmp_path / "a" / "b", "store", disk)
    create_node(tmp_path / "a" / "b", "store", disk)
    with pytest.raises(FileExistsError):
        create_node(tmp_path / "a" / "b", "store", disk)
    for seed in range(5):
        create_node(tmp_path / str(seed) / "node", "store", disk)
        disk.power_cut(seed)
        assert node(tmp_path / str(seed) / "node", Disk()).put_many([chunk(seed)]) == [True]


IN_A_SMALL_DISK = """
import subprocess, sys
from pathlib import Path
from dfs.codec import encode
from dfs.errors import NodeFailed, NotEnoughNodes
from dfs.placement import PlacementNode
from dfs.replication import ReplicatedChunks
from dfs.stores.local import LocalChunkStore
from dfs.stores.node import create_node, open_small
import os, random
top = Path(sys.argv[1])
(top / "a").mkdir(); (top / "b").mkdir()
subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(top / "a")], check=True)
stores = [LocalChunkStore(top / n / "node", create_node(top / n / "node", "s")) for n in "ab"]
now = [0.0]
members = [PlacementNode(stores[0].node_id, 1000.0), PlacementNode(stores[1].node_id)]
both = ReplicatedChunks(members, {s.node_id: s for s in stores}, 1, lambda: now[0])
records = [encode(random.Random(i).randbytes(150_000)) for i in range(12)]
for size in (150_000, 1_000):
    try:
        for i in range(2000):
            stores[0].put_many([encode(random.Random(size + i).randbytes(size))])
    except NodeFailed as error:
        print("full:", error)
    else:
        raise SystemExit("it never became full")
assert os.listdir(top / "a" / "node" / "tmp") == []
held = [chunk for chunk, _ in stores[0].listing()]
assert len(held) > 4 and all(stores[0].get(chunk) for chunk in held), "reads go on"
both.put_many(records)
assert all(stores[1].get(r.id) for r in records), "all went to the other node"
assert list(both.resting()) == [stores[0].node_id]
stores[0].delete_many(held)
more = [encode(random.Random(i).randbytes(100_000)) for i in range(100, 110)]
both.put_many(more[:5])
assert stores[0].usage().chunks == 0
now[0] = 31.0
both.put_many(more[5:8])
assert stores[0].usage().chunks > 0, "there is space again, and it is used"
print("done")
"""


def test_a_disk_that_is_really_full(tmp_path: Path) -> None:  # F8
    if subprocess.run(["unshare", "-Urm", "true"], capture_output=True).returncode != 0:
        pytest.skip("needs unshare -Urm")
    done = subprocess.run(
        ["unshare", "-Urm", sys.executable, "-c", IN_A_SMALL_DISK, str(tmp_path)], capture_output=True, text=True
    )
    assert done.stdout.endswith("done\n"), done.stdout + done.stderr
    assert done.stdout.count("full:") == 2


# --- the operation log -----------------------------------------------------------------------------------------------


def history(count: int, start: int = 1, prev: str = "0" * 64, size: int = 10) -> list[Logged]:
    records = []
    for txn in range(start, start + count):
        records.append(Operation(txn, f'r"prev":"{txn}', 0, prev, [{"op": "x" * size}]).logged())
        prev = records[-1].chain
    return records


def log_in(path: Path, disk: Disk | None = None) -> OpLog:
    (path / "oplog").mkdir(parents=True, exist_ok=True)
    return OpLog(path, disk)


def test_a_log_gives_back_what_was_appended(tmp_path: Path) -> None:
    log, records = log_in(tmp_path), history(40, size=20_000)
    assert log.last() is None
    assert list(log.records()) == []
    for record in records[:20]:
        log.append(record)
        assert log.last() == record
    log.extend(records[20:])
    log.extend([])
    assert len(os.listdir(log.folder)) > 2, "in several segments"
    assert list(log.records()) == records
    assert [r.txn for r in log.records(17)] == list(range(17, 41))
    assert list(log.records(99)) == []
    assert log.bytes() == sum(len(record.frame) for record in records)
    again = OpLog(tmp_path)
    assert again.last() == records[-1]
    assert again.tail() == log.tail()
    assert records[7].prev == records[6].chain == records[7].operation().prev
    assert max(path.stat().st_size for path in log.folder.iterdir()) < OPLOG_SEGMENT_BYTES_MAX + 30_000


def test_a_log_never_skips_a_record(tmp_path: Path) -> None:
    log, records = log_in(tmp_path), history(5)
    log.extend(records[:3])
    other = history(5, prev="1" * 64)
    for wrong in (records[4], records[2], other[3]):
        with pytest.raises(NodeFailed, match="does not follow"):
            log.append(wrong)
    with pytest.raises(NodeFailed):
        log.extend([records[3], records[3]])
    assert list(OpLog(tmp_path).records()) == records[:3]


def test_a_node_that_was_away_is_given_what_it_missed(tmp_path: Path) -> None:
    records = history(30, size=20_000)
    full, half, empty, late = (log_in(tmp_path / name) for name in ("full", "half", "empty", "late"))
    full.extend(records)
    half.extend(records[:12])
    late.extend(records[25:])
    assert backfill(half, [empty, late, full], 30) == 18
    assert list(half.records()) == records
    assert backfill(empty, [half], 28) == 28
    assert backfill(half, [full], 30) == 0
    part = log_in(tmp_path / "part")
    part.extend(records[:3])
    with pytest.raises(NodeFailed, match="no other node"):
        backfill(part, [late], 30)
    stranger = log_in(tmp_path / "stranger")
    stranger.extend(history(3, prev="1" * 64))
    with pytest.raises(NodeFailed, match="no other node"):
        backfill(stranger, [full], 30)
    fresh = log_in(tmp_path / "fresh")
    assert backfill(fresh, [late], 30) == 5, "an empty log begins where the others do"


def test_old_segments_are_dropped_and_the_newest_is_kept(tmp_path: Path) -> None:
    log, records = log_in(tmp_path), history(60, size=20_000)
    log.extend(records)
    starts = sorted(int(name[:16]) for name in os.listdir(log.folder))
    before = log.bytes()
    assert log.drop_before(1) == 0
    freed = log.drop_before(starts[2] + 1)
    assert freed == before - log.bytes() > 0
    kept = list(log.records())
    assert kept == records[starts[2] - 1 :]
    assert list(log.records(1)) == kept
    log.drop_before(10_000)
    assert log.last() == records[-1]
    assert len(os.listdir(log.folder)) == 1
    log.append(history(1, 61, records[-1].chain)[0])


def test_a_torn_segment_is_followed_by_a_new_one(tmp_path: Path) -> None:  # F12
    log, records = log_in(tmp_path), history(4)
    log.extend(records[:2])
    (segment,) = log.folder.iterdir()
    with open(segment, "ab") as file:
        file.write(records[2].frame[:-3])
    assert log.last() == records[1]
    log.append(records[2])
    assert len(os.listdir(log.folder)) == 2
    (log.folder / "0000000000000004-000.log").write_bytes(records[3].frame[:10])
    assert log.last() == records[2], "a segment that holds nothing whole does not hide those before it"
    log.append(records[3])
    assert list(log.records()) == list(OpLog(tmp_path).records()) == records
    assert sorted(os.listdir(log.folder))[-1] == "0000000000000004-001.log"
    (log.folder / "notes.txt").write_text("somebody else's")
    assert log.last() == records[3]


def test_records_that_do_not_follow_each_other_end_a_segment(tmp_path: Path) -> None:
    log, records, other = log_in(tmp_path), history(4), history(4, prev="1" * 64)
    (log.folder / "0000000000000001-000.log").write_bytes(records[0].frame + other[1].frame)
    assert list(log.records()) == records[:1]
    log.append(records[1])
    assert list(log.records()) == records[:2]
    (log.folder / "0000000000000003-000.log").write_bytes(other[2].frame)
    assert list(log.records()) == records[:2]


def test_the_tail_is_read_again_when_another_took_its_place(tmp_path: Path) -> None:
    log, writer = log_in(tmp_path), log_in(tmp_path)
    first, second, same_size = history(1)[0], *history(2, prev="0" * 64)[1:], history(2)[1]
    assert second == same_size
    instead = Operation(2, 'r"prev":"9', 0, first.chain, [{"op": "x" * 10}]).logged()
    assert len(instead.body) == len(second.body)
    writer.extend([first, second])
    assert log.last() == second
    (segment,) = log.folder.iterdir()
    status = segment.stat()
    writer.take_back(second)
    writer.take_back(second)
    writer.append(instead)
    os.utime(segment, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert segment.stat().st_size == status.st_size
    assert log.last() == instead, "size, inode and time are the same"


@pytest.mark.parametrize("operation", ["create", "write", "sync", "sync_folder"])
def test_an_append_that_fails_leaves_the_log_as_it_was(tmp_path: Path, disk: FaultDisk, operation: str) -> None:  # F10
    log, records = log_in(tmp_path / "n", disk), history(3, size=OPLOG_SEGMENT_BYTES_MAX)
    log.append(records[0])
    disk.fail(operation)  # type: ignore[arg-type]
    with pytest.raises(NodeFailed):
        log.append(records[1])
    assert log.last() == records[0]
    suspect = operation.startswith("sync")
    assert log.writable() != suspect
    (tmp_path / "n" / "suspect").unlink(missing_ok=True)
    log.append(records[1])
    assert list(OpLog(tmp_path / "n").records()) == records[:2]


def test_a_power_cut_loses_no_appended_record(tmp_path: Path, disk: FaultDisk) -> None:
    for seed in range(40):
        log, source = log_in(tmp_path / str(seed), disk), random.Random(seed)
        records = history(12, size=source.choice((10, 100_000)))
        disk.cut_at(source.randrange(1, 40))
        done = 0
        try:
            for record in records:
                if source.random() < 0.2:
                    disk.fail("write", errno.ENOSPC)
                    with pytest.raises(NodeFailed):
                        log.append(record)
                    disk.mend()
                log.append(record)
                if source.random() < 0.2:
                    log.take_back(record)
                    log.append(record)
                done += 1
        except PowerCut:
            pass
        disk.power_cut(seed)
        found = list(OpLog(tmp_path / str(seed)).records())
        assert found[:done] == records[:done]
        assert found in (records[:done], records[: done + 1])
        log_in(tmp_path / str(seed)).extend(records[len(found) :])


def test_what_a_dead_writer_left_can_be_made_durable(tmp_path: Path, disk: FaultDisk) -> None:
    for seed in range(10):
        records = history(1)
        log = log_in(tmp_path / str(seed), disk)
        with disk.create(log.folder / "0000000000000001-000.log") as file:
            file.write(records[0].frame)
        log.sync()
        disk.power_cut(seed)
        assert list(log.records()) == records
    log_in(tmp_path / "empty", disk).sync()


def test_a_log_behind_a_link_is_refused(tmp_path: Path) -> None:  # F54
    log = log_in(tmp_path / "n")
    log.append(history(1)[0])
    (tmp_path / "n" / "oplog").rename(tmp_path / "moved")
    (tmp_path / "n" / "oplog").symlink_to(tmp_path / "moved")
    for act in (log.last, lambda: log.append(history(2)[1]), lambda: list(log.records()), log.bytes, log.sync):
        with pytest.raises(NodeFailed):
            act()


def test_a_newer_log_format_is_refused() -> None:  # F60
    record = Logged(1, b'{"changes":[],"format":2,"prev":"","request":"r","time_ms":0,"txn":1}')
    with pytest.raises(Unsupported):
        record.operation()
    assert parse_segment(record.frame[:-1]) == ([], 0)


# --- several nodes ---------------------------------------------------------------------------------------------------


class Sick(MemoryChunkStore):
    """A node that cannot be written to while `sick` says why."""

    sick = ""
    puts = 0

    def put_many(self, records: Sequence[Record]) -> list[bool]:
        self.puts += 1
        if self.sick:
            raise NodeFailed(f"node {self.node_id}: {self.sick}")
        return super().put_many(records)


def several(names: str, replicas: int, draining: str = "", absent: str = "") -> tuple[ReplicatedChunks, list[float]]:
    """(all of them as one, a clock that can be set)."""
    now = [0.0]
    members = [PlacementNode(name, 1.0, name in draining) for name in names]
    nodes = {name: Sick(name) for name in names if name not in absent}
    return ReplicatedChunks(members, nodes, replicas, lambda: now[0]), now


def many(count: int) -> list[Record]:
    return [encode(b"chunk %d" % i) for i in range(count)]


def sick(chunks: ReplicatedChunks, name: str) -> Sick:
    found = chunks.nodes[name]
    assert isinstance(found, Sick)
    return found


def test_a_node_that_fails_rests_and_comes_back() -> None:  # F8
    chunks, now = several("abc", 2)
    sick(chunks, "b").sick = "No space left on device"
    assert chunks.put_many(many(20)) == [True] * 20
    assert all(chunks.holders(r.id) and "b" not in chunks.holders(r.id) for r in many(20))
    assert list(chunks.resting()) == ["b"]
    assert "No space" in chunks.resting()["b"]
    tried = sick(chunks, "b").puts
    chunks.put_many(many(40)[20:])
    assert sick(chunks, "b").puts == tried, "it is left alone"
    assert all("b" not in [node.node_id for node in chunks.order(r.id)] for r in many(20))
    assert {"b"} < {name for r in many(20) for name in chunks.targets(r.id)}, "placement does not change"
    now[0] = NODE_REST_S
    sick(chunks, "b").sick = ""
    chunks.put_many(many(60)[40:])
    assert any("b" in chunks.holders(r.id) for r in many(60)[40:])
    chunks.close()
    chunks.close()


def test_a_resting_node_is_tried_before_a_write_is_given_up() -> None:
    chunks, _ = several("ab", 2)
    sick(chunks, "b").sick = "full"
    with pytest.raises(NotEnoughNodes, match="b: node b: full"):
        chunks.put_many(many(1))
    sick(chunks, "b").sick = ""
    assert chunks.put_many(many(1)) == [False], "a had it already"
    assert set(chunks.holders(many(1)[0].id)) == {"a", "b"}


def test_copies_can_be_asked_for_by_call() -> None:
    chunks, _ = several("abcd", 2)
    one, three = many(2)
    chunks.put_many([one], replicas=1)
    chunks.put_many([three], replicas=3)
    assert chunks.holders(one.id) == chunks.targets(one.id, 1)
    assert chunks.holders(three.id) == chunks.targets(three.id, 3)
    assert chunks.intact([one.id, three.id, ChunkId.of(b"?")], 1) == {one.id, three.id}
    assert chunks.intact([one.id, three.id, ChunkId.of(b"?")]) == {three.id}
    assert chunks.intact([one.id, three.id], 5) == set()
    with pytest.raises(NotEnoughNodes, match="needs 5 nodes"):
        chunks.put_many([one], replicas=5)


def test_a_draining_node_takes_nothing_and_is_read_last() -> None:
    chunks, _ = several("abc", 2, draining="b")
    records = many(20)
    chunks.nodes["b"].put_many(records[:10])
    chunks.put_many(records)
    assert chunks.nodes["b"].usage().chunks == 10
    for record in records:
        assert set(chunks.targets(record.id)) == {"a", "c"}
        assert chunks.reading_order(record.id)[-1].node_id == "b"
        assert chunks.get(record.id)
    assert not chunks.counts
    alone = encode(b"alone")
    chunks.nodes["b"].put_many([alone])
    assert chunks.get(alone.id) == b"alone"
    assert set(chunks.holders(alone.id)) == {"a", "b", "c"}, "a read brought it to where it should be"


def test_absent_nodes_are_neither_written_nor_counted() -> None:
    chunks, _ = several("abc", 2, absent="c")
    records = many(20)
    chunks.put_many(records)
    assert all(chunks.get(r.id) for r in records)
    assert not chunks.counts, "an absent node is no failover"
    assert {"c"} < {name for r in records for name in chunks.targets(r.id)}
    with pytest.raises(NotEnoughNodes, match="c: absent"):
        chunks.put_many(records, replicas=3)
    with pytest.raises(ChunkLost, match="node c: absent"):
        chunks.get(ChunkId.of(b"nowhere"))


def test_reads_count_what_they_met_and_heal_it() -> None:  # F14, F15
    chunks, _ = several("abc", 3)
    (record,) = many(1)
    chunks.put_many([record])
    first, second, third = chunks.reading_order(record.id)
    assert isinstance(first, Sick)
    assert isinstance(second, Sick)
    first.records[record.id] = b"junk"
    del second.records[record.id]
    third.node_id  # noqa: B018 - the one that is good
    assert chunks.get(record.id) == b"chunk 0"
    assert chunks.counts == {"damaged": 1, "missing": 1, "failover": 1, "healed": 2}
    assert chunks.intact([record.id]) == {record.id}
    assert first.usage().quarantined_bytes == 4
    assert chunks.get(record.id) == b"chunk 0"
    assert chunks.counts["failover"] == 1


def test_healing_a_full_node_is_not_tried_at_each_read() -> None:
    chunks, _ = several("ab", 2)
    (record,) = many(1)
    chunks.put_many([record])
    first = chunks.reading_order(record.id)[0]
    assert isinstance(first, Sick)
    del first.records[record.id]
    first.sick = "full"
    tried = first.puts
    for _ in range(3):
        assert chunks.get(record.id) == b"chunk 0"
    assert first.puts == tried + 1
    assert list(chunks.resting()) == [first.node_id]


def test_no_kind_of_bad_node_makes_a_read_fail() -> None:
    class Bad(Sick):
        problem: type[DfsError] = NodeFailed

        def get(self, chunk_id: ChunkId) -> bytes:
            raise self.problem("bad")

        def held(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
            raise self.problem("bad")

    records = many(10)
    for problem in (NodeFailed, ChunkDamaged, ChunkMissing, Unsupported):
        good, bad = Sick("good"), Bad("bad")
        bad.problem = problem
        chunks = ReplicatedChunks([PlacementNode("good"), PlacementNode("bad")], {"good": good, "bad": bad}, 2)
        good.put_many(records)
        assert [chunks.get(r.id) for r in records] == [b"chunk %d" % i for i in range(10)]
        if problem in (NodeFailed, ChunkDamaged):
            assert chunks.held([r.id for r in records]) == {r.id for r in records}
            assert chunks.holders(records[0].id) == ("good",)


def test_copies_are_written_side_by_side() -> None:
    met = threading.Barrier(3, timeout=20)

    class Slow(MemoryChunkStore):
        def put_many(self, records: Sequence[Record]) -> list[bool]:
            met.wait()  # passes only when all three are written at once
            return super().put_many(records)

    nodes = {name: Slow(name) for name in "abc"}
    chunks = ReplicatedChunks([PlacementNode(name) for name in nodes], nodes, 3)
    assert chunks.put_many(many(4)) == [True] * 4
    assert all(len(node.records) == 4 for node in nodes.values())
    chunks.close()


# --- what else a node can suffer -------------------------------------------------------------------------------------


def test_files_are_read_when_the_small_chunks_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F61
    store, record = node(tmp_path / "n", Disk()), chunk(1)
    store.put_many([record])

    def fail(*_: object) -> None:
        raise NodeFailed("unable to open database file")

    monkeypatch.setattr(store._small, "get", fail)
    assert store.get(record.id) == decode(record.encoded, record.id)
    with pytest.raises(NodeFailed):
        store.get(ChunkId.of(b"perhaps a row"))


def test_damaged_pages_do_not_hide_what_lies_in_files(tmp_path: Path) -> None:
    store, large = node(tmp_path / "n", Disk()), chunk(1)
    small = [encode(random.Random(i).randbytes(3000)) for i in range(60)]
    store.put_many([large, *small])
    store.close()
    file = tmp_path / "n" / "small-1.db"
    data = bytearray(file.read_bytes())
    for page in range(2, len(data) // 4096):  # not the first two, or it is no database any more
        data[page * 4096 + 100] ^= 1
    file.write_bytes(data)
    store = node(tmp_path / "n", Disk())
    assert store.held([large.id]) == {large.id}
    with pytest.raises(ChunkDamaged):
        store.held([large.id, *(record.id for record in small)])
    assert store.get(large.id)
    store.quarantine(small[0].id)
    assert store.put_many([large, *small])[0] is False


def test_a_copy_that_cannot_be_quarantined_is_not_taken_for_good(tmp_path: Path) -> None:
    store, record = node(tmp_path / "n", Disk()), chunk(1)
    store.put_many([record])
    damage_local(tmp_path / "n", record.id, "flip")
    (tmp_path / "n" / "quarantine").rmdir()
    with pytest.raises(NodeFailed):
        store.put_many([record])
    (tmp_path / "n" / "quarantine").mkdir()
    assert store.put_many([record]) == [True]


@pytest.mark.parametrize("content", ["", "[1]", "{}", '{"format": "1"}'])
def test_a_damaged_identity_is_no_node(tmp_path: Path, content: str) -> None:
    node_id = node(tmp_path / "n", Disk()).node_id
    (tmp_path / "n" / "node.json").write_text(content)
    with pytest.raises(NodeFailed, match="cannot be used"):
        LocalChunkStore(tmp_path / "n", node_id)
    with pytest.raises(NodeFailed, match="cannot be used"):
        LocalChunkStore(tmp_path / "absent", node_id)


def test_small_chunks_of_a_newer_release_are_refused(tmp_path: Path) -> None:  # F60
    store = node(tmp_path / "n", Disk())
    store.close()
    db = open_small(tmp_path / "n" / "small-1.db")
    db.pragma("user_version", 99)
    db.close()
    with pytest.raises(Unsupported):
        node(tmp_path / "n", Disk())


def test_a_damaged_node_counts_as_nothing_held_in_a_put() -> None:
    class Damaged(MemoryChunkStore):
        def intact(self, chunk_ids: Iterable[ChunkId]) -> set[ChunkId]:
            raise ChunkDamaged("its pages are damaged")

    chunks = ReplicatedChunks([PlacementNode("a")], {"a": Damaged("a")}, 1)
    chunks.put_many(many(2))
    assert chunks.intact([record.id for record in many(2)]) == set()


def test_a_node_that_missed_thousands_of_transactions_catches_up(tmp_path: Path) -> None:
    full, lagging = (OpLog(folder) for folder in (tmp_path / "a", tmp_path / "b"))
    for folder in ("a", "b"):
        (tmp_path / folder / "oplog").mkdir(parents=True)
    record = Operation(1, "r1", 0, "", []).logged()
    lagging.append(record)
    records = [record]
    for txn in range(2, 2_500):
        records.append(Operation(txn, f"r{txn}", 0, records[-1].chain, []).logged())
    full.extend(records)
    assert backfill(lagging, [full], 2_499) == 2_498
    assert [r.txn for r in lagging.records()] == list(range(1, 2_500))


def test_a_chunk_whose_writer_died_before_its_name_was_durable_is_made_so(tmp_path: Path) -> None:  # F13
    limbo = tmp_path / "limbo"
    limbo.mkdir()
    disk = FaultDisk(limbo)
    node = create_node(tmp_path / "n", "store", disk)
    record = encode(random.Random(1).randbytes(300_000))
    writer = LocalChunkStore(tmp_path / "n", node, disk)
    disk.fail("sync_folder", errno.EIO, nth=2)  # the folder of the chunk's own, after its name was linked
    with pytest.raises(NodeFailed):
        writer.put_many([record])
    disk.mend()
    (tmp_path / "n" / "suspect").unlink(missing_ok=True)
    for seed in range(6):
        copy = LocalChunkStore(tmp_path / "n", node, disk)
        assert copy.intact([record.id]) == {record.id}
        disk.power_cut(seed)
        disk = FaultDisk(limbo)
        assert LocalChunkStore(tmp_path / "n", node, disk).get(record.id)
