"""Damage to the SQLite files: every flipped bit is found, whatever is wrong is refused, and rebuilding restores all."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

import dfs
from dfs.changes import SetRetention
from dfs.errors import DfsError, NoStore, StoreDamaged
from dfs.gc import collect
from dfs.ids import ChunkId
from dfs.metadata import Namespace
from dfs.rebuild import rebuild
from dfs.repair import repair
from dfs.scrub import scrub
from dfs.stores.local import LocalChunkStore

FLIPS = 250  # in each of the two kinds of database
REBUILT = 6  # of them are rebuilt and read as well

Files = dict[str, bytes]


def make(root: Path, removed: int = 150) -> Files:
    """A store with history, large and small files, and pages that are free since so many were removed; returns what it
    holds."""
    source = random.Random(4)
    files = {f"f{number % 4}/{number}": source.randbytes(source.randrange(200)) for number in range(60)}
    files["large"] = source.randbytes(150_000)
    gone = {f"gone/{number}": source.randbytes(50) for number in range(removed)}
    with dfs.init_store(root, nodes=[root / "n0", root / "n1"], replicas=2, chunk_bytes_avg=1 << 17) as store:
        for name, batch in (("gone", gone), ("files", files)):
            made = zip(batch, store.write_files(batch.items()), strict=True)
            store.publish([dfs.PutFile(path, manifest) for path, manifest in made], request_id=name)
        if removed:
            store.publish([dfs.Remove("gone", recursive=True), SetRetention(0)], request_id="remove")
            collect(store, force=True)
    return files


def held(root: Path) -> Files:
    with dfs.open_store(root) as store:
        return {info.path: store.open(info.path).read() for info in store.find("")}


def flip(data: bytes, source: random.Random) -> bytes:
    bit = source.randrange(len(data) * 8)
    return data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :]


# -- single bits ------------------------------------------------------------------------------------------------------


def test_every_flipped_bit_of_the_namespace_is_found_and_rebuilding_restores_it(memory_path: Path) -> None:  # F18
    root = memory_path / "s"
    files = make(root)
    database = root / "store.db"
    whole, source = database.read_bytes(), random.Random(1)
    missed = []
    for number in range(FLIPS):
        damaged = flip(whole, source)
        database.unlink()
        database.write_bytes(damaged)
        try:
            namespace = Namespace(database)
        except DfsError:
            pass
        else:
            if not namespace.check():
                missed.append(number)
            namespace.close()
        if number < REBUILT:
            rebuild(root)
            assert held(root) == files
    assert missed == []


def test_every_flipped_bit_of_small_chunks_is_found_and_healed(memory_path: Path) -> None:  # F14, F18
    root = memory_path / "s"
    files = make(root, removed=0)  # scrub does not read free pages: nothing of them is ever served
    database = root / "n0" / "small-1.db"
    with dfs.open_store(root) as store:
        node = next(node for node, folder in store.node_paths().items() if folder.name == "n0")
        chunks = [chunk for chunk, _ in store.replicated.nodes[node].listing()]
    whole, source = database.read_bytes(), random.Random(2)
    missed = []
    for number in range(FLIPS):
        for file in root.glob("n0/small-*"):
            file.unlink()
        database.write_bytes(flip(whole, source))
        if number < REBUILT:
            with dfs.open_store(root) as store:
                assert not scrub(store, restart=True).clean
                repair(store, now=True)
                assert scrub(store, restart=True).clean
        elif is_good(LocalChunkStore(root / "n0", node), chunks):
            missed.append(number)
    assert missed == []
    assert held(root) == files


def is_good(node: LocalChunkStore, chunks: Sequence[ChunkId]) -> bool:
    """Whether every chunk of a node can be read."""
    with contextlib.closing(node):
        try:
            return all(node.get(chunk) is not None for chunk in chunks)
        except DfsError:
            return False


# -- files ------------------------------------------------------------------------------------------------------------


def kill_with_wal(root: Path) -> None:
    """Publish `late` and die, so that only the -wal file holds it."""
    program = (
        "import dfs, os, sys\n"
        "store = dfs.open_store(sys.argv[1])\n"
        "for number in range(3):\n"
        "    made = store.write_file(b'late %d' % number)\n"
        "    store.publish([dfs.PutFile(f'late/{number}', made)], request_id=f'late {number}')\n"
        f"os.kill(os.getpid(), {signal.SIGKILL:d})\n"
    )
    assert subprocess.run([sys.executable, "-c", program, str(root)]).returncode == -signal.SIGKILL


def empty(database: Path) -> None:
    database.write_bytes(b"")


def truncate(database: Path) -> None:
    os.truncate(database, database.stat().st_size // 2)


def replace(database: Path) -> None:
    """Another program's database, whole."""
    import apsw

    database.unlink()
    for suffix in ("-wal", "-shm"):
        Path(f"{database}{suffix}").unlink(missing_ok=True)
    other = apsw.Connection(str(database))
    other.execute("CREATE TABLE holiday(day); INSERT INTO holiday VALUES (1)")
    other.close()


def overwrite(database: Path) -> None:
    database.write_bytes(b"to do: buy milk\n" * 1_000)


def lose_wal(database: Path) -> None:
    Path(f"{database}-wal").unlink()


def flip_wal(database: Path) -> None:
    wal = Path(f"{database}-wal")
    data = bytearray(wal.read_bytes())
    data[32 + 24 + 100] ^= 1  # in the page of its first frame: all that follow count as never written
    wal.write_bytes(data)


@pytest.mark.parametrize("damage", [empty, truncate, replace, overwrite, os.unlink, lose_wal, flip_wal])
def test_a_broken_namespace_is_refused_and_rebuilt(  # F19
    memory_path: Path, damage: Callable[[Path], object]
) -> None:
    root = memory_path / "s"
    files = make(root)
    kill_with_wal(root)
    files |= {f"late/{number}": b"late %d" % number for number in range(3)}
    assert (root / "store.db-wal").stat().st_size > 4_000
    if damage not in (lose_wal, flip_wal):
        dfs.open_store(root).close()
    damage(root / "store.db")
    before = {path.name: path.read_bytes() for path in root.glob("store.db*")}
    for _ in range(2):  # the refusal changes nothing
        with pytest.raises((StoreDamaged, NoStore), match="dfs rebuild") as refused:
            dfs.open_store(root)
        assert "\n" not in str(refused.value)
    made = rebuild(root)
    assert held(root) == files
    assert made.nodes_missing == ()
    if "store.db" in before:
        assert (root / "store.db.damaged-1").read_bytes() == before["store.db"]
    with dfs.open_store(root) as store:
        assert store.safe_mode is not None
        assert store.check_namespace() == []


def test_a_namespace_truncated_beside_its_wal_is_found_by_the_check_and_rebuilt(memory_path: Path) -> None:  # F19
    root = memory_path / "s"
    files = make(root, removed=0)
    kill_with_wal(root)
    truncate(root / "store.db")
    with dfs.open_store(root) as store:  # its first half is there, and what was changed last is in the -wal
        assert store.check_namespace() != []
    rebuild(root)
    assert held(root) == files | {f"late/{number}": b"late %d" % number for number in range(3)}


def test_an_old_copy_of_the_namespace_is_refused_and_rebuilt(memory_path: Path) -> None:  # F36
    root = memory_path / "s"
    make(root)
    shutil.copy(root / "store.db", memory_path / "backup.db")
    with dfs.open_store(root) as store:
        for number in range(3):
            made = store.write_file(b"new %d" % number)
            store.publish([dfs.PutFile("new", made)], request_id=f"new {number}")
    files = held(root)
    shutil.copy(memory_path / "backup.db", root / "store.db")
    with pytest.raises(StoreDamaged, match="dfs rebuild"):
        dfs.open_store(root)
    rebuild(root)
    assert held(root) == files
    with dfs.open_store(root) as store, pytest.raises(DfsError, match="safe mode"):
        collect(store, force=True)
