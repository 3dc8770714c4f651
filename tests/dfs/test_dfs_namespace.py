"""The namespace: what changes do and refuse, commits that fail halfway, a full or failing disk, racing writers."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dfs.changes import (
    Change,
    Copy,
    DropNode,
    DropSnapshot,
    Expire,
    MakeDir,
    Move,
    PutFile,
    PutFolder,
    Remove,
    SetNode,
    SetReplicas,
    SetRetention,
    TakeSnapshot,
    canonical_json,
    changes_to_json,
)
from dfs.database import open_database
from dfs.errors import (
    AlreadyExists,
    Conflict,
    DfsError,
    NodeFailed,
    NoStore,
    NotEnoughNodes,
    NotFound,
    OutcomeUnknown,
    StoreDamaged,
    StoreLocked,
    Unsupported,
    UsageProblem,
    WrongKind,
)
from dfs.ids import ChunkId
from dfs.metadata import Namespace, StorageNode, Totals
from dfs.oplog import Logged, Operation, OpLog
from dfs.transactions import Committer, apply_logged
from tests.dfs.test_dfs_history import Bench, make_namespace, manifest

ONE, TWO = manifest("1"), manifest("22")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    with closing(make_namespace(tmp_path)) as namespace:
        yield Bench(namespace)


def paths(bench: Bench, at: int | None = None) -> list[str]:
    return [info.path for info in bench.namespace.find("", bench.now if at is None else at)]


# -- changes ----------------------------------------------------------------------------------------------------------


def test_a_moved_file_replaces_a_file_only_when_asked(bench: Bench) -> None:
    bench.run(PutFile("a", ONE), PutFile("b", TWO), MakeDir("d"), PutFile("e/f", ONE))
    for change in (Move("a", "b"), Move("a", "d"), Move("a", "d", replace=True)):
        with pytest.raises(AlreadyExists, match="exists"):
            bench.run(change)
    with pytest.raises(WrongKind, match="dfs://b is a file; the folder dfs://e cannot replace it"):
        bench.run(Move("e", "b", replace=True))
    with pytest.raises(UsageProblem, match="cannot be moved into itself"):
        bench.run(Move("e", "e/g"))
    bench.run(Move("a", "b", replace=True))
    assert paths(bench) == ["b", "e/f"]
    assert bench.namespace.stat("b", bench.now).content_id == ONE.content_id


def test_a_copy_shares_its_files_and_is_independent_after(bench: Bench) -> None:
    bench.run(PutFolder("a", {"x": ONE, "deep/y": TWO}))
    bench.run(Copy("a", "b"), PutFile("a/x", TWO))
    assert bench.namespace.stat("b/x", bench.now).content_id == ONE.content_id
    bench.run(Remove("b/deep", recursive=True))
    assert paths(bench) == ["a/deep/y", "a/x", "b/x"]
    assert bench.namespace.rows("SELECT count(*) FROM file") == [(3,)]  # no file was made by copying
    with pytest.raises(AlreadyExists):
        bench.run(Copy("a", "b"))
    with pytest.raises(UsageProblem, match="cannot be copied into itself"):
        bench.run(Copy("a", "a/c"))
    with pytest.raises(NotFound):
        bench.run(Copy("nowhere", "c"))


def test_a_removed_folder_is_restored(bench: Bench) -> None:
    bench.run(PutFolder("a", {"x": ONE, "deep/y": TWO}))
    bench.run(Remove("a", recursive=True))
    bench.run(Copy("a", "a", at=1))
    assert paths(bench) == ["a/deep/y", "a/x"]
    bench.run(PutFile("a/z", ONE), PutFile("a/x", TWO))
    bench.run(Copy("a", "a", at=1, replace=True))
    assert paths(bench) == ["a/deep/y", "a/x"]
    assert bench.namespace.stat("a/x", bench.now).content_id == ONE.content_id
    assert paths(bench, 4) == ["a/deep/y", "a/x", "a/z"]


def test_the_whole_tree_is_restored_in_place(bench: Bench) -> None:
    bench.run(PutFile("a", ONE), PutFile("d/b", TWO))
    bench.run(Remove("a"), PutFile("c", ONE))
    with pytest.raises(AlreadyExists, match="the root folder exists"):
        bench.run(Copy("", "", at=1))
    bench.run(Copy("", "", at=1, replace=True))
    assert paths(bench) == ["a", "d/b"]
    bench.run(Copy("", "all/before", at=2))
    assert paths(bench) == ["a", "all/before/c", "all/before/d/b", "d/b"]


def test_the_replica_count_of_the_nearest_folder_counts(bench: Bench) -> None:
    bench.run(PutFile("a/b/c", ONE), PutFile("a/d", TWO), PutFile("e", ONE))
    namespace = bench.namespace
    assert namespace.replicas_of("a/b/c", bench.now) is None
    bench.run(SetReplicas("a", 2), SetReplicas("a/b", 3))
    assert [namespace.replicas_of(path, bench.now) for path in ("a/b/c", "a/d", "e", "")] == [3, 2, None, None]
    assert {chunk: n for chunk, _, n in namespace.needed()} == {ChunkId.of(b"1"): 3, ChunkId.of(b"22"): 2}
    bench.run(PutFolder("a/b", {"c": ONE}, "replace"), SetReplicas("", 1))
    assert namespace.replicas_of("a/b/c", bench.now) == 3  # what replaces a folder takes its count over
    bench.run(Move("a/b", "f"), SetReplicas("a", None), Copy("f", "g"))
    assert [namespace.replicas_of(path, bench.now) for path in ("f/c", "a/d", "g/c")] == [3, 1, 1]
    with pytest.raises(NotFound):
        bench.run(SetReplicas("nowhere", 2))
    bench.run(PutFile("h", ONE), SetReplicas("h", 2), SetReplicas("a/d", 4), Move("a/d", "h", replace=True))
    assert namespace.replicas_of("h", bench.now) == 4  # unless it has its own


def test_snapshots_name_numbers(bench: Bench) -> None:
    bench.run(PutFile("a", ONE))
    bench.run(PutFile("a", TWO), TakeSnapshot("now"))
    bench.run(TakeSnapshot("first", at=1))
    snapshots = bench.namespace.snapshots()
    assert [(snapshot.name, snapshot.txn, snapshot.time_ms) for snapshot in snapshots] == [
        ("first", 1, 3000),
        ("now", 2, 2000),
    ]
    with pytest.raises(AlreadyExists, match="snapshot now exists"):
        bench.run(TakeSnapshot("now"))
    with pytest.raises(UsageProblem, match="there is no transaction 9; the newest is 3"):
        bench.run(TakeSnapshot("later", at=9))
    bench.run(Expire(3))
    with pytest.raises(NotFound, match=r"history begins at 3; snapshots: first = 1, now = 2"):
        bench.run(Copy("a", "b", at=0))
    bench.run(DropSnapshot("first"))
    with pytest.raises(NotFound, match="there is no snapshot first"):
        bench.run(DropSnapshot("first"))
    with pytest.raises(NotFound, match=r"transaction 1 is no longer kept \(history begins at 3; snapshots: now = 2\)"):
        bench.run(TakeSnapshot("again", at=1))


def test_nodes_are_set_and_dropped(bench: Bench) -> None:
    bench.run(SetNode("m", "disk/2", 2.5, 1000, "draining"))
    assert bench.namespace.nodes() == [
        StorageNode("m", "disk/2", 2.5, 1000, "draining"),
        StorageNode("n", "n", 1.0, None, "active"),
    ]
    with pytest.raises(AlreadyExists, match="n is the folder of another node"):
        bench.run(SetNode("m", "n"))
    bench.run(SetNode("m", "elsewhere"), DropNode("n"))
    assert bench.namespace.nodes() == [StorageNode("m", "elsewhere", 1.0, None, "active")]
    with pytest.raises(NotFound, match="there is no node n"):
        bench.run(DropNode("n"))


def test_settings_have_defaults_and_local_keys(bench: Bench) -> None:
    settings = bench.namespace.settings()
    assert (settings["retention_days"], settings["horizon"], settings["durability"]) == (7, 0, "none")
    bench.run(SetRetention(-1))
    bench.namespace.set_local("safe_mode", "rebuilt")
    bench.namespace.set_local("clock_ms", 5)
    bench.namespace.set_local("clock_ms", None)
    settings = bench.namespace.settings()
    assert (settings["retention_days"], settings["safe_mode"], "clock_ms" in settings) == (-1, "rebuilt", False)
    assert bench.now == 1  # local keys are no transaction


@pytest.mark.parametrize(
    "change",
    [
        SetReplicas("a", 0),
        TakeSnapshot(""),
        TakeSnapshot("a/b"),
        TakeSnapshot("12"),
        TakeSnapshot("a\nb"),
        TakeSnapshot("é" * 128),
        TakeSnapshot("a", at=-1),
        SetNode("", "x"),
        SetNode("x", ""),
        SetNode("x", "y", weight=0),
        SetNode("x", "y", weight=float("inf")),
        SetNode("x", "y", capacity=0),
        SetNode("x", "y", state="gone"),  # type: ignore[arg-type]
        SetRetention(-2),
        Expire(-1),
        Expire(1 << 63),
        Copy("a", "b", at=-1),
        PutFolder("a", {"": ONE}),
        PutFolder("a", {}, "other"),  # type: ignore[arg-type]
        "nothing",
    ],
)
def test_values_that_cannot_be_are_refused(change: Change) -> None:
    with pytest.raises(UsageProblem):
        changes_to_json([change])


def test_history_cannot_begin_in_the_future(bench: Bench) -> None:
    with pytest.raises(UsageProblem, match="history cannot begin at 2; this is transaction 1"):
        bench.run(Expire(2))


def test_numbers_that_somebody_reads_survive_an_expiry(bench: Bench) -> None:
    bench.run(PutFile("a", ONE))
    bench.run(PutFile("a", TWO))
    bench.run(Remove("a"))
    bench.run(Expire(4, keep=(1,)))
    assert bench.namespace.stat("a", 1).content_id == ONE.content_id
    assert bench.namespace.resolve("a", 2) is None
    bench.run(Expire(5))
    assert bench.namespace.resolve("a", 1) is None
    assert bench.namespace.usage() == Totals(0, 0, 0, 0, 0)


def test_what_one_transaction_makes_and_removes_is_swept(bench: Bench) -> None:
    bench.run(PutFile("a/x", ONE), TakeSnapshot("s"))
    bench.run(PutFile("a/y", TWO), PutFile("b", TWO), Remove("a", recursive=True), PutFile("b", ONE))
    bench.run(Expire(1))
    assert bench.namespace.rows("SELECT size FROM file ORDER BY node") == [(1,), (1,)]
    assert bench.namespace.rows("SELECT name FROM dentry ORDER BY name") == [("a",), ("b",), ("x",)]
    assert [length for _, length, _ in bench.namespace.needed()] == [1]


def test_one_transaction_sees_its_own_changes(bench: Bench) -> None:
    bench.run(
        PutFile("a", ONE),
        Copy("a", "b"),
        Move("a", "c/d"),
        PutFolder("c", {"e": TWO}, "append"),
        Copy("c", "f"),
        Remove("c/e"),
        PutFile("f/d", TWO),
        Remove("b"),
        TakeSnapshot("s"),
        SetReplicas("f", 2),
    )
    assert paths(bench) == ["c/d", "f/d", "f/e"]
    assert bench.namespace.rows("SELECT count(*) FROM dentry WHERE from_txn >= to_txn") == [(0,)]
    assert bench.namespace.check() == []
    assert bench.namespace.snapshots()[0].txn == 1


def test_a_transaction_is_whole_or_absent(bench: Bench) -> None:
    bench.run(PutFile("a", ONE))
    before = [bench.namespace.rows(f"SELECT * FROM {table}") for table in ("node", "dentry", "file", "changed", "txn")]
    with pytest.raises(NotFound):
        bench.run(PutFolder("b", {"x": ONE, "y/z": TWO}), PutFile("a", TWO), Remove("nowhere"))
    with pytest.raises(AlreadyExists):
        bench.run(PutFile("c", TWO), PutFolder("a", {}, "create"))
    assert before == [
        bench.namespace.rows(f"SELECT * FROM {table}") for table in ("node", "dentry", "file", "changed", "txn")
    ]


@pytest.mark.parametrize(
    "broken",
    [
        {"size": 2},
        {"records": 7},
        {"content_id": "00" * 32},
        {"chunks": [[ChunkId.of(b"1").upper(), 1, 1, 0]]},
    ],
)
def test_a_manifest_that_does_not_fit_its_chunks_is_refused(bench: Bench, broken: dict[str, Any]) -> None:
    change = {"op": "put_file", "path": "a", "manifest": {**ONE.to_json(), **broken}, "expected": "any"}
    with pytest.raises(UsageProblem):
        bench.committer.commit([change], "r", 0)
    assert bench.now == 0


def test_an_operation_of_a_newer_release_is_refused(bench: Bench) -> None:
    with pytest.raises(Unsupported, match="operation 'fly' is of a newer release"):
        bench.committer.commit([{"op": "fly"}], "r", 0)


# -- questions --------------------------------------------------------------------------------------------------------


def test_paths_come_in_bytewise_order(bench: Bench) -> None:
    names = ["a", "a b/c", "a!/x", "a-", "a/b", "a0", "é/ü", "z/\x01", "z/\U0001f600", "zz"]
    names.remove("a")
    bench.run(*(PutFile(name, ONE) for name in names))
    assert paths(bench) == sorted(names, key=str.encode)
    assert [info.path for info in bench.namespace.walk("z", bench.now)] == ["z/\x01", "z/\U0001f600"]
    assert [info.path for info in bench.namespace.walk("zz", bench.now)] == ["zz"]


def test_a_file_and_a_folder_are_told_apart(bench: Bench) -> None:
    bench.run(PutFile("a/x", TWO))
    namespace = bench.namespace
    assert namespace.ls("a/x", 1) == [namespace.stat("a/x", 1)] == namespace.find("a", 1)
    assert [(ref.id, ref.offset, ref.length, ref.records, ref.continues) for ref in namespace.chunks("a/x", 1)] == [
        (ChunkId.of(b"22"), 0, 2, 1, False)
    ]
    with pytest.raises(WrongKind, match="dfs://a is a folder"):
        namespace.chunks("a", 1)
    with pytest.raises(WrongKind, match="dfs://a/x is a file"):
        namespace.need("a/x", 1, "dir")
    with pytest.raises(NotFound, match="no such file or folder: dfs://b"):
        namespace.stat("b", 1)


def test_chunks_lead_to_the_paths_that_hold_them(bench: Bench) -> None:
    bench.run(PutFile("a/x", ONE), PutFile("y", TWO))
    bench.run(Copy("a", "b"), Move("y", "z"))
    bench.run(Remove("a", recursive=True), PutFile("new", TWO))
    one, two = ChunkId.of(b"1"), ChunkId.of(b"22")
    found = bench.namespace.files_of_many([one, two, ChunkId.of(b"other")], bench.now)
    assert found == {
        one: ["b/x", "a/x (until transaction 3)"],
        two: ["new", "z", "y (until transaction 2)"],
        ChunkId.of(b"other"): [],
    }
    assert bench.namespace.files_of(two, 1) == ["y"]


def test_sums_count_each_chunk_once(bench: Bench) -> None:
    bench.run(PutFile("a/x", ONE), PutFile("a/y", TWO), Copy("a", "b"), PutFile("c", ONE))
    namespace = bench.namespace
    assert namespace.totals("", 1) == Totals(5, 2, 7, 2, 3)
    assert namespace.totals("a", 1) == Totals(2, 0, 3, 2, 3)
    assert namespace.totals("c", 1) == Totals(1, 0, 1, 1, 1)
    bench.run(Remove("a", recursive=True), Remove("b", recursive=True), Remove("c"))
    assert namespace.totals("", 2) == Totals(0, 0, 0, 0, 0)
    assert namespace.usage().unique_bytes == 3


def test_times_find_numbers_and_never_run_backwards(bench: Bench) -> None:  # F22
    commit = bench.committer.commit
    for number, time_ms in enumerate((1000, 2000, 500, 2500), 1):
        commit(changes_to_json([MakeDir(f"d{number}")]), f"t{number}", time_ms)
    namespace = bench.namespace
    assert [namespace.time_ms(txn) for txn in range(5)] == [0, 1000, 2000, 2000, 2500]
    assert [namespace.txn_at_time(ms) for ms in (0, 999, 1000, 1999, 2000, 2400, 9999)] == [0, 0, 1, 1, 3, 3, 4]
    bench.run(Expire(3))
    assert namespace.txn_at_time(2000) == 3
    with pytest.raises(NotFound, match="no state of that time is kept any more: history begins at 3"):
        namespace.txn_at_time(1999)


def test_a_difference_below_a_path(bench: Bench) -> None:
    bench.run(PutFile("a/x", ONE), PutFile("b/y", ONE))
    bench.run(Move("a/x", "b/x"), PutFile("b/y", TWO), MakeDir("b/e"))
    told = [
        (d.kind, d.path, d.old_path, d.size_before, d.size_after, d.is_folder) for d in bench.namespace.diff(1, 2, "b")
    ]
    assert told == [
        ("added", "b/e", None, None, None, True),
        ("added", "b/x", None, None, 1, False),
        ("modified", "b/y", None, 1, 2, False),
    ]
    assert [(d.kind, d.old_path) for d in bench.namespace.diff(1, 2)] == [
        ("added", None),
        ("moved", "a/x"),
        ("modified", None),
    ]
    assert [d.kind for d in bench.namespace.diff(2, 1, "b/y")] == ["modified"]
    with pytest.raises(NotFound, match="neither in transaction 1 nor in 2"):
        list(bench.namespace.diff(1, 2, "c"))


def test_what_stays_while_its_folder_moves_is_told_and_what_only_seems_to_is_not(bench: Bench) -> None:
    bench.run(PutFile("x/n/f", ONE), PutFile("x/g", ONE))
    bench.run(Move("x", "y"), Move("y/n", "x/n"))
    told = [(d.kind, d.path, d.old_path) for d in bench.namespace.diff(1, 2)]
    assert told == [("added", "x", None), ("moved", "x/n", "x/n"), ("moved", "y", "x")]
    bench.run(Copy("x/n/f", "y/f"), MakeDir("y/k"))
    bench.run(
        Move("y/k", "z"), Remove("y", recursive=True), Move("z", "y"), Copy("y/f", "y/f", at=3), PutFile("y/g", TWO)
    )
    assert [(d.kind, d.path, d.old_path) for d in bench.namespace.diff(3, 5)] == [
        ("moved", "y", "y/k"),
        ("removed", "y", None),
        ("modified", "y/g", None),
    ]


def test_the_cost_of_a_difference_follows_the_changes(bench: Bench) -> None:
    files = {f"{a}/{b}/{c}": ONE for a in range(10) for b in range(10) for c in range(10)}
    bench.run(PutFolder("big", files))
    bench.run(PutFile("big/5/5/new", TWO))
    steps = 0

    def count() -> bool:
        nonlocal steps
        steps += 1
        return False

    bench.namespace.db().set_progress_handler(count, 10)
    assert [d.path for d in bench.namespace.diff(1, 2)] == ["big/5/5/new"]
    few, steps = steps, 0
    assert len(list(bench.namespace.diff(0, 1))) == 1111
    assert few < steps / 20


def test_a_backup_is_a_namespace_of_its_number(bench: Bench, tmp_path: Path) -> None:
    assert bench.namespace.backup(tmp_path / "copy.db") == (0, "")
    bench.run(PutFile("a", ONE))
    number, chain = bench.namespace.backup(tmp_path / "copy.db")
    bench.run(PutFile("b", TWO))
    with closing(Namespace(tmp_path / "copy.db")) as copied:
        assert copied.last() == (number, chain) == (1, chain)
        assert [info.path for info in copied.find("", 1)] == ["a"]
        assert copied.check() == []


def test_the_journal_is_synced_unless_the_store_is_made_without(tmp_path: Path) -> None:
    for durability, expected in (("fsync", 2), ("none", 0)):
        path = tmp_path / f"{durability}.db"
        Namespace.create(path, {"uuid": "u", "durability": durability}, [])
        with closing(Namespace(path)) as namespace:
            assert namespace.rows("PRAGMA synchronous") == [(expected,)]


def test_a_file_that_is_no_namespace_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F19
    make_namespace(tmp_path).close()
    path = tmp_path / "store.db"
    good = path.read_bytes()
    for data, error, told in (
        (b"", StoreDamaged, "is empty; it is refused"),
        (b"x" * 8192, StoreDamaged, "is not an SQLite database any more"),
        (good[: len(good) // 2], StoreDamaged, "is truncated"),
    ):
        path.write_bytes(data)
        with pytest.raises(error, match=told):
            Namespace(path)
        assert path.read_bytes() == data
    path.write_bytes(good)
    with pytest.raises(NoStore, match="is not a database of this store"):
        open_database(path, 0x1234, 2)
    path.rename(tmp_path / "away.db")
    with pytest.raises(NoStore, match="only `dfs init` makes a store"):
        Namespace(path)
    path.mkdir()
    with pytest.raises(DfsError, match="cannot be opened"):
        Namespace(path)


def test_a_writer_that_waits_too_long_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F20
    monkeypatch.setattr("dfs.database.BUSY_TIMEOUT_MS", 1)
    with closing(make_namespace(tmp_path)) as namespace, closing(Namespace(tmp_path / "store.db")) as other:
        other.db().execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreLocked, match="another process held the lock"):
            Bench(namespace).run(MakeDir("a"))
        other.db().execute("ROLLBACK")
        assert Bench(namespace).run(MakeDir("a")) == 1


def test_damage_of_free_pages_is_found_too(tmp_path: Path) -> None:  # F18
    with closing(make_namespace(tmp_path)) as namespace:
        bench = Bench(namespace)
        bench.run(PutFolder("a", {f"file number {n}": ONE for n in range(500)}))
        bench.run(Remove("a", recursive=True))
        bench.run(Expire(3))
        assert namespace.rows("PRAGMA freelist_count")[0][0] > 3
        assert namespace.check() == []
        pages = namespace.rows("PRAGMA page_count")[0][0]
    good = (tmp_path / "store.db").read_bytes()
    size = len(good) // pages
    for page in range(pages):
        bad = bytearray(good)
        bad[page * size + (page * 37) % size] ^= 1 << page % 8
        (tmp_path / "store.db").write_bytes(bad)
        try:
            with closing(Namespace(tmp_path / "store.db")) as namespace:
                assert any("damaged" in fault for fault in namespace.check()), page
        except (StoreDamaged, DfsError):
            pass


@pytest.mark.parametrize("reader", [False, True])
def test_a_torn_page_whose_good_state_is_in_the_wal_is_no_damage(tmp_path: Path, reader: bool) -> None:  # F19
    with closing(make_namespace(tmp_path)) as namespace, closing(Namespace(tmp_path / "store.db")) as other:
        bench = Bench(namespace)
        if reader:  # what it reads cannot be copied out of the -wal file
            other.db().execute("BEGIN")
            assert other.rows("SELECT count(*) FROM txn") == [(0,)]
        bench.run(PutFile("a", ONE))
        bench.run(PutFile("b", ONE))
        wal = (tmp_path / "store.db-wal").read_bytes()
        written = {int.from_bytes(wal[at : at + 4], "big") for at in range(32, len(wal), 24 + 4096)}
        for page in written - {1}:
            with (tmp_path / "store.db").open("r+b") as file:
                file.seek((page - 1) * 4096 + 100)
                file.write(b"torn")
        assert len(written) > 3
        assert namespace.check() == []
        if reader:
            other.db().execute("ROLLBACK")


def test_the_log_s_json_is_what_the_standard_library_writes() -> None:
    text = "".join(map(chr, [*range(0xD800), *range(0xE000, 0x10000)])) + "\U0001f600"
    value = {"b": [text, None, True, 2**63 - 1, -1, 1.5, 1.0], text: {}, "a": {"z": 1, "é": 2, "\U0001f600": 3}}
    assert (
        canonical_json(value) == json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
    )
    operation = Operation(7, 'a "request"', 5, "chain", changes_to_json([PutFile("é", ONE), SetNode("n", "p", 0.25)]))
    whole = {
        "changes": operation.changes,
        "format": 1,
        "prev": "chain",
        "request": 'a "request"',
        "time_ms": 5,
        "txn": 7,
    }
    assert operation.logged().body == canonical_json(whole)
    assert operation.logged(canonical_json(operation.changes)) == operation.logged()


# -- commits ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def nodes(tmp_path: Path) -> list[OpLog]:
    for name in ("n1", "n2"):
        (tmp_path / name / "oplog").mkdir(parents=True)
    return [OpLog(tmp_path / name) for name in ("n1", "n2")]


def test_the_log_gives_the_same_rows_again(tmp_path: Path, nodes: list[OpLog]) -> None:
    with closing(make_namespace(tmp_path / "one")) as first, closing(make_namespace(tmp_path / "two")) as second:
        bench = Bench(first)
        bench.committer = Committer(first, nodes, 2, "u")
        bench.run(PutFolder("a", {"z": ONE, "b/y": TWO, "b/a": ONE}), MakeDir("e"))
        bench.run(Move("a/b", "e/f"), Copy("a", "c"), SetReplicas("e", 2), TakeSnapshot("s"))
        bench.run(Remove("a", recursive=True), SetNode("m", "p", 0.5), SetRetention(3))
        bench.run(Copy("a", "a", at=2), Expire(3), DropSnapshot("s"))
        with pytest.raises(StoreDamaged, match="record 2 of the log does not follow transaction 0"):
            apply_logged(second, list(nodes[0].records())[1:], "u")
        with pytest.raises(StoreDamaged):
            apply_logged(second, nodes[0].records(), "another store")
        assert second.last() == (0, None)
        assert apply_logged(second, nodes[0].records(), "u") == 4
        for table in (
            "node",
            "dentry",
            "file",
            "file_chunk",
            "changed",
            "replication",
            "snapshot",
            "store",
            "storage_node",
            "txn",
        ):
            assert first.rows(f"SELECT * FROM {table}") == second.rows(f"SELECT * FROM {table}"), table


def test_a_request_is_done_once(bench: Bench) -> None:  # F2
    changes = changes_to_json([PutFile("a", ONE)])
    assert bench.committer.commit(changes, "r", 1) == bench.committer.commit(changes, "r", 2) == 1
    assert (bench.namespace.txn_of("r"), bench.namespace.txn_of("s")) == (1, None)
    with pytest.raises(Conflict, match="request id 'r' was used for other changes in transaction 1"):
        bench.committer.commit(changes_to_json([Remove("a")]), "r", 3)


def test_a_decided_transaction_is_finished_later(tmp_path: Path, nodes: list[OpLog]) -> None:  # F9, F10, F11
    with closing(make_namespace(tmp_path)) as namespace:
        committer = Committer(namespace, nodes, 2, "u")
        committer.commit(changes_to_json([PutFile("a", ONE)]), "r1", 1)
        namespace.db().set_commit_hook(lambda: True)  # the COMMIT of this connection fails
        changes = changes_to_json([PutFile("a", TWO)])
        with pytest.raises(OutcomeUnknown, match=r"transaction 2 is in the log .* same request id 'r2'"):
            committer.commit(changes, "r2", 2)
        assert namespace.stat("a", namespace.last()[0]).content_id == ONE.content_id
        assert committer.commit(changes, "r2", 3) == 2
        assert namespace.stat("a", 2).content_id == TWO.content_id
        assert committer.commit(changes_to_json([Remove("a")]), "r3", 4) == 3


class BrokenLog(OpLog):
    """A log that cannot be appended to, or cannot forget."""

    fails_to = "append"

    def append(self, record: Logged) -> None:
        if self.fails_to == "append":
            raise NodeFailed("no space")
        super().append(record)

    def take_back(self, record: Logged) -> None:
        raise NodeFailed("no such device")


def test_a_log_that_too_few_nodes_take_changes_nothing(tmp_path: Path, nodes: list[OpLog]) -> None:  # F8
    with closing(make_namespace(tmp_path)) as namespace:
        broken = BrokenLog(tmp_path / "n2")
        committer = Committer(namespace, [nodes[0], broken], 2, "u")
        with pytest.raises(NotEnoughNodes, match="needs 2 nodes, 1 took it: no space"):
            committer.commit(changes_to_json([PutFile("a", ONE)]), "r", 1)
        assert namespace.last() == (0, None)
        assert list(nodes[0].tail()) == []
        assert Committer(namespace, nodes, 2, "u").commit(changes_to_json([PutFile("b", ONE)]), "r2", 1) == 1


def test_a_log_that_cannot_forget_leaves_the_outcome_open(tmp_path: Path, nodes: list[OpLog]) -> None:
    with closing(make_namespace(tmp_path)) as namespace:
        stubborn = BrokenLog(tmp_path / "n1")
        stubborn.fails_to = "take_back"
        changes = changes_to_json([PutFile("a", ONE)])
        with pytest.raises(OutcomeUnknown, match="could not forget it: ask again with the same request id"):
            Committer(namespace, [stubborn, BrokenLog(tmp_path / "n2")], 2, "u").commit(changes, "r", 1)
        assert namespace.last() == (0, None)
        assert Committer(namespace, nodes, 2, "u").commit(changes, "r", 2) == 1
        assert len(nodes[1].tail()) == 1  # it was rolled forward, and copied


def logged_but_not_committed(namespace: Namespace, log: OpLog) -> Operation:
    """What a writer leaves that dies before its COMMIT."""
    number, chain = namespace.last()
    assert chain is not None
    operation = Operation(number + 1, "dead", 5, chain, changes_to_json([PutFile("late", TWO)]))
    log.append(operation.logged())
    return operation


def test_what_a_dead_writer_logged_is_rolled_forward(tmp_path: Path, nodes: list[OpLog]) -> None:  # F5
    with closing(make_namespace(tmp_path)) as namespace:
        committer = Committer(namespace, nodes, 2, "u")
        committer.commit(changes_to_json([PutFile("a", ONE)]), "r1", 1)
        operation = logged_but_not_committed(namespace, nodes[1])
        committer.recover()
        committer.recover()
        assert namespace.txn_of("dead") == 2
        assert [len(node.tail()) for node in nodes] == [2, 2]
        assert committer.commit(list(operation.changes), "dead", 9) == 2
        assert committer.commit(changes_to_json([Remove("a")]), "r3", 9) == 3


def test_a_node_that_cannot_be_read_does_not_stop_recovery(tmp_path: Path, nodes: list[OpLog]) -> None:
    class Absent(OpLog):
        def tail(self) -> list[Logged]:
            raise NodeFailed("no such device")

    with closing(make_namespace(tmp_path)) as namespace:
        Committer(namespace, nodes, 2, "u").commit(changes_to_json([PutFile("a", ONE)]), "r1", 1)
        logged_but_not_committed(namespace, nodes[1])
        Committer(namespace, [Absent(tmp_path / "n1"), nodes[1]], 1, "u").recover()
        assert namespace.last()[0] == 2


def test_a_writer_that_dies_while_another_waits_is_rolled_forward_first(
    tmp_path: Path, nodes: list[OpLog], monkeypatch: pytest.MonkeyPatch
) -> None:
    with closing(make_namespace(tmp_path)) as namespace:
        committer = Committer(namespace, nodes, 2, "u")
        committer.commit(changes_to_json([PutFile("a", ONE)]), "r1", 1)
        recover, calls = committer.recover, []

        def recover_then_die() -> None:
            recover()
            if not calls:
                logged_but_not_committed(namespace, nodes[0])
            calls.append(1)

        monkeypatch.setattr(committer, "recover", recover_then_die)
        assert committer.commit(changes_to_json([Remove("a")]), "r3", 9) == 3
        assert (len(calls), namespace.txn_of("dead")) == (2, 2)


def test_a_node_that_was_away_gets_what_it_lacks(
    tmp_path: Path, nodes: list[OpLog], caplog: pytest.LogCaptureFixture
) -> None:
    with closing(make_namespace(tmp_path)) as namespace:
        for number in range(3):
            committer = Committer(namespace, nodes[:1], 1, "u")
            committer.commit(changes_to_json([MakeDir(f"d{number}")]), f"r{number}", 1)
        Committer(namespace, nodes, 2, "u").recover()
        assert list(nodes[1].records()) == list(nodes[0].records())
        (tmp_path / "n3" / "oplog").mkdir(parents=True)
        Committer(namespace, [OpLog(tmp_path / "n3")], 1, "u").recover()  # nobody has what it lacks
        assert "ends with transaction 0 and no other node has what follows" in caplog.text


def test_an_old_or_foreign_namespace_is_refused(tmp_path: Path, nodes: list[OpLog]) -> None:  # F19, F36
    with closing(make_namespace(tmp_path)) as namespace:
        committer = Committer(namespace, nodes, 2, "u")
        committer.commit(changes_to_json([PutFile("a", ONE)]), "r1", 1)
        namespace.backup(tmp_path / "old.db")
        committer.commit(changes_to_json([Remove("a")]), "r2", 2)
        committer.commit(changes_to_json([MakeDir("b")]), "r3", 3)
    with closing(Namespace(tmp_path / "old.db")) as old:
        with pytest.raises(StoreDamaged, match=r"ends at transaction 1, but .* has seen 3: it is an old copy"):
            Committer(old, nodes, 2, "u").recover()
        Committer(old, [], 0, "u").commit(changes_to_json([MakeDir("x")]), "x2", 2)
        Committer(old, [], 0, "u").commit(changes_to_json([MakeDir("y")]), "x3", 3)
        with pytest.raises(StoreDamaged, match="differ on transaction 3: rebuild it"):
            Committer(old, nodes, 2, "u").commit(changes_to_json([MakeDir("z")]), "x4", 4)


@pytest.mark.parametrize("writers", [2, 16])
def test_one_writer_wins_each_version(tmp_path: Path, nodes: list[OpLog], writers: int) -> None:  # F37
    make_namespace(tmp_path).close()
    barrier = threading.Barrier(writers)
    rounds, outcomes = 4, []

    def write(number: int) -> None:
        with closing(Namespace(tmp_path / "store.db")) as namespace:
            committer = Committer(namespace, [OpLog(tmp_path / "n1")], 1, "u")
            for turn in range(rounds):
                barrier.wait()
                seen = namespace.version("a", namespace.last()[0])
                barrier.wait()
                try:
                    change = PutFile("a", manifest(str(number)), expected_version=seen)
                    committer.commit(changes_to_json([change]), f"{number}-{turn}", turn)
                    outcomes.append((turn, "won"))
                except (Conflict, AlreadyExists):
                    outcomes.append((turn, "lost"))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(writers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == sorted(
        [(t, "won") for t in range(rounds)] + [(t, "lost") for t in range(rounds)] * (writers - 1)
    )


# -- a disk that is full, or fails ------------------------------------------------------------------------------------

FULL_DISK = """
import os, pathlib, sys
from dfs.changes import *
from dfs.database import open_database
from dfs.errors import DfsError
from dfs.ids import ChunkId
from dfs.metadata import Namespace
from dfs.oplog import OpLog
from dfs.transactions import Committer

disk, log = map(pathlib.Path, sys.argv[1:])
(log / "oplog").mkdir(parents=True)
Namespace.create(disk / "store.db", {"uuid": "u"}, [])
namespace = Namespace(disk / "store.db")
committer = Committer(namespace, [OpLog(log)], 1, "u")
one = build_manifest([(ChunkId.of(b"1"), 1, 1, False)], "lines", 1)

def put(number):
    files = {f"a file with a long name {n}": one for n in range(300)}
    return committer.commit(changes_to_json([PutFolder(f"f{number}", files)]), f"r{number}", number)

def fill():
    try:
        with open(disk / "more", "ab", buffering=0) as more:
            while more.write(bytes(512)):
                pass
    except OSError:
        pass

acknowledged = 0
for number in range(1, 200):
    try:
        put(number)
        acknowledged = number
    except DfsError as error:
        assert "the disk is full" in str(error), error
        break
assert acknowledged > 3, acknowledged
for _ in range(3):
    try:
        put(number)
        raise SystemExit("a full disk took it")
    except DfsError as error:
        assert "read-only until there is space" in str(error), error
assert namespace.last()[0] == acknowledged
assert len(namespace.find("", acknowledged)) == 300 * acknowledged
assert [info.path for info in namespace.ls("", acknowledged)][0] == "f1"
namespace.close()
fill()
namespace = Namespace(disk / "store.db")
committer = Committer(namespace, [OpLog(log)], 1, "u")
assert len(namespace.find("", namespace.last()[0])) >= 300 * acknowledged
(disk / "ballast").unlink()
assert put(number) == number
assert put(number + 1) == number + 1
assert len(namespace.find("", number + 1)) == 300 * (number + 1)
assert namespace.check() == []
namespace.close()
fill()
try:
    Namespace(disk / "store.db")
    raise SystemExit("there was space")
except DfsError as error:
    assert "the disk is full, and even reading needs 32 KiB" in str(error), error
(disk / "more").unlink()
assert len(Namespace(disk / "store.db").find("", number + 1)) == 300 * (number + 1)
print("ok")
"""


def has_namespaces() -> bool:
    tried = subprocess.run(["unshare", "-Urm", "true"], capture_output=True) if shutil.which("unshare") else None
    return tried is not None and tried.returncode == 0


@pytest.mark.skipif(not has_namespaces(), reason="needs unshare -Urm for a disk of its own")
def test_a_full_disk_makes_the_namespace_read_only_until_there_is_space(tmp_path: Path) -> None:  # F9
    disk = tmp_path / "disk"
    disk.mkdir()
    (tmp_path / "program.py").write_text(FULL_DISK)
    steps = (
        'mount -t tmpfs -o size=2m none "$1" && head -c 1000000 /dev/zero > "$1/ballast" && exec "$2" "$3" "$1" "$4"'
    )
    done = subprocess.run(
        [
            "unshare",
            "-Urm",
            "sh",
            "-c",
            steps,
            "sh",
            str(disk),
            sys.executable,
            str(tmp_path / "program.py"),
            str(tmp_path / "n"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "ok\n"


FAILING = """
import pathlib, sys
from dfs.changes import *
from dfs.errors import DfsError
from dfs.ids import ChunkId
from dfs.metadata import Namespace
from dfs.oplog import OpLog
from dfs.transactions import Committer

root = pathlib.Path(sys.argv[1])
one = build_manifest([(ChunkId.of(b"1"), 1, 1, False)], "lines", 1)
try:
    namespace = Namespace(root / "store.db")
    for number in range(3):
        changes = changes_to_json([PutFile(f"f{number}", one)])
        Committer(namespace, [OpLog(root / "n1")], 1, "u").commit(changes, f"r{number}", number)
        print("acknowledged", number, flush=True)
except DfsError as error:
    print("refused", type(error).__name__, error, flush=True)
"""


def commit_with_fault(folder: Path, calls: str, error: str, point: int) -> bool:
    """Three commits, one system call of which fails; whether any did. Nothing acknowledged may be lost."""
    work = folder / f"{calls}-{error}-{point}".replace(",", "-")
    (work / "n1" / "oplog").mkdir(parents=True)
    Namespace.create(work / "store.db", {"uuid": "u"}, [])
    strace = ["strace", "-f", "-qq", "-o", str(folder / "trace")]
    for name in ("store.db", "store.db-wal"):
        strace += ["-P", str(work / name)]
    strace += ["-e", f"trace={calls}", "-e", f"inject={calls}:error={error}:when={point}"]
    done = subprocess.run([*strace, sys.executable, "-c", FAILING, str(work)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    acknowledged = done.stdout.count("acknowledged")
    with closing(Namespace(work / "store.db")) as namespace:
        Committer(namespace, [OpLog(work / "n1")], 1, "u").recover()
        last = namespace.last()[0]
        assert acknowledged <= last <= acknowledged + 1
        assert len(namespace.find("", last)) == last
        assert namespace.check() == []
    shutil.rmtree(work)
    injected = (folder / "trace").read_text().count("(INJECTED)")
    assert injected == 0 or acknowledged == 3 or "refused" in done.stdout
    return injected > 0


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")


@needs_strace
@pytest.mark.parametrize(("calls", "error", "point"), [("pwrite64", "ENOSPC", 2), ("fdatasync", "EIO", 1)])
def test_some_failing_calls_lose_nothing_acknowledged(
    tmp_path: Path, calls: str, error: str, point: int
) -> None:  # F10, F11
    assert commit_with_fault(tmp_path, calls, error, point)


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("error", ["ENOSPC", "EIO"])
@pytest.mark.parametrize("calls", ["pwrite64", "fsync,fdatasync", "ftruncate", "pread64"])
def test_no_failing_call_loses_what_was_acknowledged(tmp_path: Path, calls: str, error: str) -> None:  # F10, F11
    point = 1
    while commit_with_fault(tmp_path, calls, error, point):
        point += 1
    assert point > 1
