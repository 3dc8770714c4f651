"""Checkpoints, and the namespace rebuilt from the nodes alone."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import shutil
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pytest

import dfs
from dfs import Store, checkpoint
from dfs.chains import Base, Choice, Link, choose, enough
from dfs.changes import changes_to_json
from dfs.checkpoint_file import ZSTD, listed, parse_header, restore
from dfs.disk import Disk
from dfs.errors import (
    DfsError,
    NodeFailed,
    NoStore,
    NotEnoughNodes,
    StoreDamaged,
    StoreLocked,
    Unsupported,
    UsageProblem,
)
from dfs.oplog import Operation, OpLog
from dfs.options import CHECKPOINT_TXNS
from dfs.rebuild import _records, rebuild
from dfs.testing.fault_disk import FaultDisk

# -- which chain. Records are written "txn:chain<prev@nodes" ----------------------------------------------------------


def link(text: str) -> Link:
    """
    >>> link("2:b<a@xy")
    Link(txn=2, chain='b', prev='a', nodes=frozenset({'x', 'y'}))
    """
    number, rest = text.split(":")
    chain, rest = rest.split("<")
    prev, nodes = rest.split("@")
    return Link(int(number), chain, prev, frozenset(nodes))


def chosen(bases: str, links: str) -> Choice | None:
    made = [Base(int(number), chain) for number, chain in (base.split(":") for base in bases.split())]
    return choose(made, [link(text) for text in links.split()])


@pytest.mark.parametrize(
    ("bases", "links", "base", "path", "aside", "beyond"),
    [
        ("0:r", "", 0, "", "", ""),
        ("0:r", "1:a<r@x 2:b<a@x", 0, "ab", "", ""),
        ("0:r 1:a", "1:a<r@x 2:b<a@x", 1, "b", "", ""),  # the newest checkpoint
        ("0:r 2:b", "1:a<r@x 2:b<a@x", 2, "", "", ""),  # nothing after it
        ("2:b", "1:a<r@x 2:b<a@x", 2, "", "", ""),  # older records of its own history
        ("2:b", "3:c<b@x", 2, "c", "", ""),
        ("0:r", "1:a<r@x 1:z<r@y 2:b<a@x", 0, "ab", "z", ""),  # the longer branch
        ("0:r", "1:a<r@x 1:z<r@xy", 0, "z", "a", ""),  # of equal ones that on more nodes
        ("0:r", "1:a<r@xy 1:z<r@x", 0, "a", "z", ""),
        ("0:r", "1:a<r@x 1:z<r@x", 0, "z", "a", ""),  # and in any case always the same one
        ("0:r 1:z", "1:a<r@x 2:b<a@x 1:z<r@y", 0, "ab", "z", ""),  # a checkpoint on the shorter branch
        ("0:r", "1:a<r@x 3:c<b@x", 0, "a", "c", "c"),  # a hole
        ("0:r", "2:b<a@x 3:c<b@x", 0, "", "bc", "bc"),
        ("2:b", "1:q<r@x 3:c<b@x", 2, "c", "", ""),  # of before the known history nothing can be said
        ("2:b", "2:q<a@x 3:c<q@x", 2, "", "qc", "c"),
        ("3:c", "1:a<r@x 2:b<a@x 2:q<a@y 3:c<b@x", 3, "", "q", ""),
        ("0:r", "2:b<r@x", 0, "", "b", "b"),  # the right chain with a wrong number
    ],
)
def test_the_chain_that_reaches_furthest_is_chosen(
    bases: str, links: str, base: int, path: str, aside: str, beyond: str
) -> None:
    choice = chosen(bases, links)
    assert choice is not None
    assert choice.base.txn == base
    assert "".join(link.chain for link in choice.links) == path
    assert {link.chain for link in choice.aside} == set(aside)
    assert {link.chain for link in choice.beyond} == set(beyond)
    assert choice.txn == base + len(path)


def test_without_a_checkpoint_nothing_is_chosen() -> None:
    assert chosen("", "1:a<r@x") is None


def test_no_other_chain_reaches_further() -> None:
    """Against every path of random trees of records."""
    source = random.Random(20)
    for _ in range(300):
        links = [Link(1, "0", "r", frozenset("x"))]
        for number in range(1, source.randrange(2, 14)):
            above = source.choice(links)
            links.append(Link(above.txn + 1, str(number), above.chain, frozenset("x")))
        links = [link for link in links if source.random() < 0.9]
        known = {link.chain: link for link in links}
        bases = [Base(0, "r"), *(Base(link.txn, link.chain) for link in source.sample(links, min(len(links), 2)))]
        rooted = {base.chain for base in bases}
        reach = max(base.txn for base in bases)
        for link in links:
            at = link
            while at.prev in known and at.prev not in rooted:
                at = known[at.prev]
            if at.prev in rooted:
                reach = max(reach, link.txn)
        choice = choose(bases, links)
        assert choice is not None
        assert choice.txn == reach
        for before, after in zip([choice.base, *choice.links], choice.links, strict=False):
            assert (after.txn, after.prev) == (before.txn + 1, before.chain)


@pytest.mark.parametrize(
    ("read", "nodes", "copies", "is_enough"),
    [
        (1, 1, 1, True),
        (0, 1, 1, False),
        (2, 3, 2, True),
        (1, 3, 2, False),
        (1, 3, 3, True),
        (3, 3, 1, True),
        (2, 3, 1, False),
    ],
)
def test_enough_nodes_are_read_to_have_seen_every_acknowledged_record(
    read: int, nodes: int, copies: int, is_enough: bool
) -> None:
    assert enough(read, nodes, copies) is is_enough


# -- checkpoints ------------------------------------------------------------------------------------------------------

Files = dict[str, bytes]


def make(root: Path, nodes: int = 3, replicas: int = 2, **options: Any) -> Store:
    folders = [root.parent / f"n{number}" for number in range(nodes)]
    return dfs.init_store(root, nodes=folders, replicas=replicas, chunk_bytes_avg=1 << 16, **options)


def put(store: Store, path: str, data: bytes = b"data") -> int:
    return store.publish([dfs.PutFile(path, store.write_file(data))], request_id=f"{path} {store.txn()}")


def held(root: Path) -> Files:
    with dfs.open_store(root) as store:
        return {info.path: store.open(info.path).read() for info in store.find("")}


def lose(root: Path) -> None:
    """The metadata folder is gone; the nodes are not in it."""
    shutil.rmtree(root)


def nodes_of(root: Path) -> list[Path]:
    return sorted(root.parent.glob("n[0-9]"))


def checkpoints(node: Path) -> list[int]:
    return [number for number, _ in listed(node)]


def logged(node: Path) -> list[int]:
    return [record.txn for record in OpLog(node).records()]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "s"


def test_a_new_store_has_a_checkpoint_on_every_node(root: Path) -> None:
    make(root).close()
    assert [checkpoints(node) for node in nodes_of(root)] == [[0], [0], [0]]


def test_two_checkpoints_are_kept_and_the_log_after_the_older(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.oplog.OPLOG_SEGMENT_BYTES_MAX", 1)
    with make(root) as store:
        for number in range(1, 10):
            put(store, f"f{number}")
            if number % 3 == 0:
                assert checkpoint.write(store).txn == number
    for node in nodes_of(root):
        assert checkpoints(node) == [9, 6]
        assert logged(node) == [7, 8, 9]
    lose(root)
    for node in nodes_of(root):  # the newer one is damaged everywhere: the older and the log have all
        file = listed(node)[0][1]
        data = bytearray(file.read_bytes())
        data[3_000] ^= 1
        file.write_bytes(data)
    assert rebuild(root, nodes_of(root)).from_checkpoint == 6
    assert held(root) == {f"f{number}": b"data" for number in range(1, 10)}


def test_a_checkpoint_is_written_when_the_log_has_grown(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.oplog.OPLOG_SEGMENT_BYTES_MAX", 1)
    monkeypatch.setattr("dfs.checkpoint.CHECKPOINT_LOG_BYTES_MIN", 1)
    with make(root) as store:
        size = os.stat(root / "store.db").st_size
        files = {f"{number:0100d}": store.write_file(b"") for number in range(size // 150)}
        for number in range(CHECKPOINT_TXNS * 2):
            store.publish([dfs.PutFolder(f"folder {number}", files)], request_id=f"{number}")
    found = checkpoints(nodes_of(root)[0])
    assert len(found) == 2
    assert all(number % CHECKPOINT_TXNS == 0 for number in found)


def test_a_node_without_a_checkpoint_does_not_make_one_due(root: Path) -> None:
    with make(root) as store:
        for node in nodes_of(root)[:2]:
            (node / "suspect").write_text("a test\n")
            listed(node)[0][1].unlink()
        assert checkpoint.write_if_due(store) is None
        for node in nodes_of(root)[:2]:
            (node / "suspect").unlink()
        listed(nodes_of(root)[2])[0][1].unlink()
        put(store, "a")
    assert [checkpoints(node) for node in nodes_of(root)] == [[1], [1], [1]]


def test_nothing_is_dropped_while_too_few_nodes_take_the_checkpoint(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("dfs.oplog.OPLOG_SEGMENT_BYTES_MAX", 1)
    with make(root) as store:
        for number in range(1, 7):
            put(store, f"f{number}")
            if number % 2 == 0:
                checkpoint.write(store)
    for node in nodes_of(root)[:2]:
        (node / "suspect").write_text("a test\n")
    before = [(checkpoints(node), logged(node)) for node in nodes_of(root)]
    with dfs.open_store(root) as store:
        with pytest.raises(NotEnoughNodes, match="by 1 nodes, 2 are needed"):
            checkpoint.write(store)
        monkeypatch.setattr("dfs.checkpoint._is_due", lambda *_: True)
        assert checkpoint.write_if_due(store) is None
        assert "no checkpoint was written" in caplog.text
    for node, (kept, records) in zip(nodes_of(root), before, strict=True):
        assert set(kept) <= set(checkpoints(node))
        assert logged(node) == records


def test_a_node_that_was_away_while_its_log_was_dropped_begins_anew(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dfs.oplog.OPLOG_SEGMENT_BYTES_MAX", 1)
    with make(root) as store:
        put(store, "first")
    away = nodes_of(root)[0]
    away.rename(root.parent / "away")
    with dfs.open_store(root) as store:
        for number in range(8):
            put(store, f"f{number}")
            if number % 2:
                checkpoint.write(store)
    (root.parent / "away").rename(away)
    with dfs.open_store(root) as store:
        checkpoint.write(store)
        put(store, "last")
    assert logged(away)[-1] == 10
    assert logged(away)[0] > 2
    with dfs.open_store(root) as store:
        assert store.txn() == 10


def test_a_large_checkpoint_is_compressed_and_read_in_bounded_memory(root: Path, tmp_path: Path) -> None:
    with make(root) as store:
        files = {f"{number:07d}": store.write_file(b"x") for number in range(1)}
        manifest = files["0000000"]
        many = {f"a rather long name {number:07d}": manifest for number in range(20_000)}
        store.publish([dfs.PutFolder("many", many)], request_id="many")
        made = checkpoint.write(store)
    file = listed(nodes_of(root)[0])[0][1]
    assert made.codec == ZSTD
    assert file.stat().st_size < made.length
    assert restore(file, tmp_path / "copy.db", Disk()) == made
    assert (tmp_path / "copy.db").stat().st_size == made.length


def test_every_flipped_bit_and_every_end_of_a_checkpoint_is_found(root: Path, tmp_path: Path) -> None:
    with make(root) as store:
        put(store, "a")
        checkpoint.write(store)
    raw = listed(nodes_of(root)[0])[0][1].read_bytes()
    header = parse_header(raw, "raw")
    zipped = pa.Codec("zstd").compress(raw[len(header.header) :], asbytes=True)
    source = random.Random(7)
    for whole in (raw, msgspec.structs.replace(header, codec=ZSTD).header + zipped):
        copies = [bytes(whole[: source.randrange(len(whole))]) for _ in range(20)]
        bits = [*range(0, 108 * 8, 7), *(source.randrange(len(whole) * 8) for _ in range(60))]
        copies += [whole[: at // 8] + bytes([whole[at // 8] ^ 1 << at % 8]) + whole[at // 8 + 1 :] for at in bits]
        for number, copy in enumerate(copies):
            (tmp_path / "copy").write_bytes(copy)
            out = tmp_path / f"out{number}"
            try:
                restore(tmp_path / "copy", out, Disk())
            except (StoreDamaged, Unsupported):
                pass
            else:  # some bits of a zstd frame mean nothing
                assert whole is not raw, "every bit of what is not compressed counts"
                assert out.read_bytes() == raw[len(header.header) :]
            out.unlink(missing_ok=True)


def test_only_one_process_writes_checkpoints_or_rebuilds(root: Path) -> None:  # F20
    with make(root) as store:
        put(store, "a")
        with checkpoint.alone(root), pytest.raises(StoreLocked) as refused:
            checkpoint.write(store)
        assert refused.value.exit_code == 11
    lose(root)
    root.mkdir()
    with open(root / "rebuild.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(StoreLocked, match="being rebuilt"):
            rebuild(root, nodes_of(root))
    rebuild(root, nodes_of(root))
    assert held(root) == {"a": b"data"}


# -- rebuilding -------------------------------------------------------------------------------------------------------


def test_everything_comes_back_from_the_nodes(root: Path) -> None:
    with make(root, retention_days=-1) as store:
        for number in range(6):
            put(store, f"folder/f{number}", bytes([number]) * 70_000 * (number % 2))
            if number == 3:
                checkpoint.write(store)
        store.publish([dfs.TakeSnapshot("kept"), dfs.Move("folder", "moved")], request_id="move")
        store.publish([dfs.Remove("moved/f1"), dfs.SetReplicas("moved", 3)], request_id="remove")
        expected = {at: [(i.path, i.version, i.content_id) for i in store.find("", at)] for at in range(9)}
        settings = store.namespace.settings()
    files = held(root)
    lose(root)
    made = rebuild(root, nodes_of(root)[:2])  # the third is learnt from these
    assert (made.txn, made.from_checkpoint, made.replayed, made.nodes_missing) == (8, 4, 4, ())
    assert len(made.nodes_read) == 3
    assert held(root) == files
    with dfs.open_store(root) as store:
        assert {at: [(i.path, i.version, i.content_id) for i in store.find("", at)] for at in range(9)} == expected
        assert [snapshot.txn for snapshot in store.snapshots()] == [7]
        assert store.replicas_of("moved/f2") == 3
        assert store.namespace.settings() == settings | {"safe_mode": "rebuilt at transaction 8"}
        put(store, "after")
    assert [checkpoints(node)[0] for node in nodes_of(root)] == [8, 8, 8]


def test_a_healthy_store_is_left_alone(root: Path) -> None:
    with make(root) as store:
        put(store, "a")
    with pytest.raises(UsageProblem, match="healthy"):
        rebuild(root)
    assert rebuild(root, force=True).txn == 1
    assert held(root) == {"a": b"data"}
    assert (root / "store.db.damaged-1").exists()
    with pytest.raises(UsageProblem, match="healthy"):
        rebuild(root)


def test_too_few_nodes_are_refused_by_name(root: Path) -> None:  # F36
    with make(root) as store:
        put(store, "a")
    lose(root)
    nodes = nodes_of(root)
    for gone in nodes[1:]:
        gone.rename(gone.with_name(f"gone-{gone.name}"))
    with pytest.raises(NotEnoughNodes, match="1 of 3 nodes") as refused:
        rebuild(root, nodes[:1])
    assert str(nodes[1]) in str(refused.value)
    assert not (root / "store.db").exists()
    gone = nodes[1].with_name("gone-n1")
    made = rebuild(root, [nodes[0], gone])  # two of three, one of them elsewhere now
    assert made.nodes_missing == (str(nodes[2]),)
    with dfs.open_store(root) as store:
        assert gone in store.node_paths().values()
        assert store.open("a").read() == b"data"


def test_force_takes_what_is_there(root: Path) -> None:
    with make(root) as store:
        put(store, "a")
    lose(root)
    for gone in nodes_of(root)[1:]:
        gone.rename(gone.with_name(f"gone-{gone.name}"))
    assert rebuild(root, nodes_of(root), force=True).txn == 1


def test_a_node_of_another_store_is_refused_by_name(root: Path, tmp_path: Path) -> None:
    make(root).close()
    dfs.init_store(tmp_path / "other", nodes=[tmp_path / "foreign"]).close()
    lose(root)
    with pytest.raises(UsageProblem, match="foreign is a node of store"):
        rebuild(root, [*nodes_of(root), tmp_path / "foreign"])
    with pytest.raises(NodeFailed, match="nowhere"):
        rebuild(root, [*nodes_of(root), tmp_path / "nowhere"])
    with pytest.raises(NoStore, match="--node"):
        rebuild(root)
    assert not root.exists() or not (root / "store.db").exists()


def test_another_disk_in_the_place_of_a_node_counts_as_missing(root: Path, tmp_path: Path) -> None:
    with make(root) as store:
        put(store, "a")
    dfs.init_store(tmp_path / "other", nodes=[tmp_path / "foreign"]).close()
    (root / "store.db").unlink()
    last = nodes_of(root)[2]
    last.rename(tmp_path / "away")
    (tmp_path / "foreign").rename(last)
    made = rebuild(root, nodes_of(root)[:1])
    assert made.nodes_missing == (str(last),)
    assert held(root) == {"a": b"data"}


def branch(root: Path, node: Path, text: str) -> None:
    """A transaction that only this node has seen, and nobody acknowledged: another than the one that was committed."""
    oplog = OpLog(node)
    records = list(oplog.records())
    last = records[-1]
    prev = records[-2].chain if len(records) > 1 else last.prev
    for file in (node / "oplog").iterdir():
        file.unlink()
    for record in records[:-1]:
        OpLog(node).append(record)
    OpLog(node).append(Operation(last.txn, text, 0, prev, []).logged())


def test_another_branch_is_told_and_put_in_quarantine(root: Path) -> None:
    with make(root) as store:
        put(store, "a")
        put(store, "b")
    node = nodes_of(root)[0]
    branch(root, node, "never acknowledged")
    with pytest.raises(StoreDamaged, match="dfs rebuild"):
        dfs.open_store(root)
    made = rebuild(root)
    assert any("transaction 2 of another branch" in told for told in made.told)
    assert held(root) == {"a": b"data", "b": b"data"}
    assert logged(node) == [1, 2]
    assert [path.suffix for path in (node / "quarantine").iterdir()] == [".log"]


def test_a_hole_in_the_log_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.oplog.OPLOG_SEGMENT_BYTES_MAX", 1)
    with make(root) as store:
        for number in range(4):
            put(store, f"f{number}")
    lose(root)
    for node in nodes_of(root):
        (node / "oplog" / f"{3:016d}-000.log").unlink()
    with pytest.raises(StoreDamaged, match="ends at transaction 2, but the nodes have seen 4"):
        rebuild(root, nodes_of(root))
    made = rebuild(root, nodes_of(root), force=True)
    assert made.txn == 2
    assert held(root) == {"f0": b"data", "f1": b"data"}
    with dfs.open_store(root) as store:
        assert put(store, "again") == 3


def test_a_damaged_record_is_taken_from_another_node(root: Path) -> None:
    with make(root) as store:
        for number in range(4):
            put(store, f"f{number}")
    files = held(root)
    lose(root)
    for at, node in enumerate(nodes_of(root)):  # each node lacks another record
        segment = node / "oplog" / f"{1:016d}-000.log"
        data = bytearray(segment.read_bytes())
        data[len(data) * (at + 1) // 4] ^= 1
        segment.write_bytes(data)
    assert rebuild(root, nodes_of(root)).txn == 4
    assert held(root) == files


def test_a_flipped_bit_anywhere_in_one_log_changes_nothing(root: Path) -> None:
    with make(root) as store:
        for number in range(2):
            put(store, f"f{number}")
    node = nodes_of(root)[0]
    segment = node / "oplog" / f"{1:016d}-000.log"
    whole = segment.read_bytes()
    good = {record.chain: record.txn for record in OpLog(node).records()}
    for bit in range(0, len(whole) * 8, 11):
        segment.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        assert {record.chain: record.txn for record in _records(segment)}.items() < good.items()


def test_a_logged_but_uncommitted_transaction_is_kept(root: Path) -> None:
    with make(root) as store:
        put(store, "a")
        manifest = store.write_file(b"b")
        changes = changes_to_json([dfs.PutFile("b", manifest)])
        prev = store.namespace.last()[1]
        record = Operation(2, "died", 0, str(prev), changes).logged()
    OpLog(nodes_of(root)[1]).append(record)
    lose(root)
    assert rebuild(root, nodes_of(root)).txn == 2
    assert held(root) == {"a": b"data", "b": b"b"}
    assert [logged(node) for node in nodes_of(root)] == [[1, 2]] * 3


def test_nodes_inside_the_store_are_found(root: Path) -> None:
    with dfs.init_store(root) as store:
        put(store, "a")
    for file in root.glob("store.db*"):
        file.unlink()
    assert rebuild(root).nodes_read == (str(root / "node-1"),)
    assert held(root) == {"a": b"data"}


def test_without_any_checkpoint_there_is_nothing_to_begin_with(root: Path) -> None:
    make(root).close()
    lose(root)
    for node in nodes_of(root):
        listed(node)[0][1].write_bytes(b"")
    with pytest.raises(StoreDamaged, match="no whole checkpoint"):
        rebuild(root, nodes_of(root))


def test_a_publication_after_rebuilding_is_not_lost_in_the_old_database(root: Path) -> None:
    """A process that has the old database open does not go on writing to it."""
    with make(root) as store:
        put(store, "a")
        rebuild(root, force=True)
        with contextlib.suppress(DfsError):
            put(store, "b")
    with dfs.open_store(root) as store:
        put(store, "c")
    assert held(root) in ({"a": b"data", "c": b"data"}, {"a": b"data", "b": b"data", "c": b"data"})


@pytest.mark.parametrize("operation", ["create", "write", "sync", "rename", "sync_folder"])
def test_a_node_that_fails_is_passed_over(root: Path, tmp_path: Path, operation: Any) -> None:  # F8, F10, F11
    (tmp_path / "limbo").mkdir()
    with make(root) as store:
        put(store, "a")
        store.disk = disk = FaultDisk(tmp_path / "limbo")
        disk.fail(operation)
        made = checkpoint.write(store)
        took = [node for node in nodes_of(root) if made.txn in checkpoints(node)]
        failed = [node for node in nodes_of(root) if (node / "suspect").exists()]
        assert len(failed) == (1 if operation in ("sync", "sync_folder") else 0)
        assert len(took) >= 2
        disk.fail(operation, times=2)
        put(store, "b")
        if not failed:
            with pytest.raises(NotEnoughNodes):
                checkpoint.write(store)
        disk.mend()
        checkpoint.write(store)
    assert all(os.listdir(node / "tmp") == [] for node in nodes_of(root))
    assert not (root / "checkpoint.new").exists()
