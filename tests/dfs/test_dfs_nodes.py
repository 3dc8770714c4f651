"""Nodes under failing disks: FaultDisk itself, chunk stores and logs after power cuts, several nodes as one."""

from __future__ import annotations

import contextlib
import errno
import os
import random
from pathlib import Path

import pytest

from dfs.codec import Record, encode
from dfs.disk import Disk
from dfs.errors import ChunkDamaged
from dfs.ids import ChunkId
from dfs.stores.local import LocalChunkStore
from dfs.stores.node import create_node
from dfs.testing import FaultDisk, PowerCut

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
