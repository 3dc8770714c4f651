"""Nodes that are added, drained and removed."""

from __future__ import annotations

import contextlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from dfs.changes import DropSnapshot, PutFile, Remove, SetNode, SetReplicas, SetRetention, TakeSnapshot
from dfs.checks import check, diagnose
from dfs.creation import init_store
from dfs.errors import AlreadyExists, CareRefused, NodeFailed, NotEnoughNodes, NotFound, UsageProblem
from dfs.gc import collect
from dfs.health import examine
from dfs.members import NodeReport, add_node, drain_node, find_node, node_report, remove_node
from dfs.rebuild import rebuild
from dfs.render import Output
from dfs.repair import repair
from dfs.store import Store, open_store
from dfs.stores.node import open_small
from dfs.testing import damage_local
from dfs.witness import log_faults

CONTENTS = {f"f{n:03}": b"content %d" % n * (1 + n % 50) for n in range(200)}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three nodes in the store's folder, two copies, 200 small files."""
    path = tmp_path_factory.mktemp("template") / "s"
    nodes = [path / f"n{n}" for n in (1, 2, 3)]
    with init_store(
        path, nodes=nodes, replicas=2, chunk_bytes_avg=1 << 14, durability="none", retention_days=0
    ) as store:
        fill(store)
    return path


def fill(store: Store) -> None:
    manifests = store.write_files(list(CONTENTS.items()))
    store.publish([PutFile(name, made) for name, made in zip(CONTENTS, manifests, strict=True)], request_id="fill")


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    return shutil.copytree(template, tmp_path / "s")


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as store:
        yield store


def is_whole(store: Store) -> bool:
    """Every file reads as it was put, every copy is in its place, every node could rebuild the store."""
    assert {name: store.open(name).read() for name in CONTENTS} == CONTENTS
    health = examine(store, read_data=True)
    faults = [fault for folder in store.node_paths().values() for fault in log_faults(store, folder)]
    assert faults == []
    return not (health.damaged or health.misplaced or health.over_replicated)


def node_at(store: Store, folder: Path | str) -> NodeReport:
    [found] = [node for node in node_report(store) if node.path == str(folder)]
    return found


# -- naming -----------------------------------------------------------------------------------------------------------


def test_a_node_is_named_by_its_id_its_first_digits_or_its_path(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    node = store.namespace.nodes()[0]
    folder = store.node_paths()[node.id]
    monkeypatch.chdir(folder.parent)
    for name in (node.id, node.id[:4], node.path, str(folder), f"./{folder.name}", f"{folder}/"):
        assert find_node(store, name) == node
    for name in ("", node.id[:3], "zzzz", "nowhere"):
        with pytest.raises(NotFound, match="dfs nodes list"):
            find_node(store, name)


def test_digits_of_several_nodes_are_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = store.namespace.nodes()
    twins = [type(node)("abcd" + node.id[4:], node.path, 1.0, None, "active") for node in nodes]
    monkeypatch.setattr(store.namespace, "nodes", lambda: twins)
    with pytest.raises(UsageProblem, match="beginning of 3 nodes"):
        find_node(store, "abcd")


# -- reports ----------------------------------------------------------------------------------------------------------


def test_a_report_says_what_nodes_hold(store: Store) -> None:
    found = node_report(store)
    assert [node.id for node in found] == sorted(store.node_paths())
    assert sum(node.chunks or 0 for node in found) == 2 * len(CONTENTS)
    for node in found:
        assert (node.state, node.absent, node.fault, node.capacity_bytes) == ("active", False, None, None)
        assert node.used_bytes == store.replicated.nodes[node.id].usage().stored_bytes
        assert node.free_bytes
        assert (node.needed_chunks, node.removable, node.quarantined_bytes) == (None, False, 0)
        assert json.loads(json.dumps(node.values()))["removable"] is False


def test_a_report_tells_absent_and_suspect_nodes(store: Store, tmp_path: Path) -> None:
    (store.path / "n1" / "suspect").write_text("fsync failed\n")
    shutil.move(store.path / "n2", tmp_path / "away")
    store.close()
    with open_store(store.path) as opened:
        suspect, absent = node_at(opened, store.path / "n1"), node_at(opened, store.path / "n2")
        assert "suspect" in str(suspect.fault)
        assert not suspect.absent
        assert absent.absent
        assert (absent.used_bytes, absent.free_bytes, absent.chunks) == (None, None, None)


def test_doctor_shows_nodes_settings_and_safe_mode(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert diagnose(store, Output(True)) == 0
    store.namespace.set_local("safe_mode", "rebuilt")
    (store.path / "n1" / "suspect").write_text("fsync failed\n")
    assert diagnose(store, Output(True)) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["durability"] for line in lines if line["type"] == "store"] == ["none", "none"]
    assert [line["reason"] for line in lines if line["type"] == "safe_mode"] == ["rebuilt"]
    assert [bool(line["fault"]) for line in lines if line["type"] == "node"].count(True) == 1


def test_a_node_that_cannot_tell_hides_no_other(store: Store, capsys: pytest.CaptureFixture[str]) -> None:  # F19
    store.close()
    spoil_small_chunks(store.path / "n1")
    with open_store(store.path) as opened:
        spoilt, *others = sorted(node_report(opened), key=lambda node: node.path)
        assert "damaged" in str(spoilt.fault)
        assert "`dfs fsck --heal`" in str(spoilt.fault)
        assert (spoilt.absent, spoilt.chunks) == (False, None)
        assert [node.fault for node in others] == [None, None]
        assert diagnose(opened, Output(True)) == 1
        lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
        assert len([line for line in lines if line["type"] == "node"]) == 3
        assert check(opened, Output(True), False, True) == 0
        assert [node.fault for node in node_report(opened)] == [None] * 3


def spoil_small_chunks(node: Path) -> None:
    """Overwrite a leaf page of every table and index."""
    with contextlib.closing(open_small(node / "small-1.db")) as db:
        db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    data = bytearray((node / "small-1.db").read_bytes())
    for at in range(4096, len(data), 4096):
        if data[at] == 13:  # a leaf of a table
            data[at + 1 : at + 12] = b"\xff" * 11
    (node / "small-1.db").write_bytes(data)


# -- adding -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", [2, 3, 5])
def test_a_new_node_takes_its_share_and_no_more(tmp_path: Path, before: int) -> None:
    """At most 1.2 / n of the bytes move to it when it is added to n nodes, and none between the others."""
    nodes = [tmp_path / f"n{n}" for n in range(before)]
    with init_store(tmp_path / "s", nodes=nodes, replicas=2, chunk_bytes_avg=1 << 14, durability="none") as store:
        rng = random.Random(0)
        manifests = store.write_files([("", rng.randbytes(1000)) for _ in range(1500)])
        store.publish([PutFile(f"f{n}", made) for n, made in enumerate(manifests)], request_id="1")
        total = sum(node.used_bytes or 0 for node in node_report(store))
        new = add_node(store, tmp_path / "new")
        assert new.chunks == 0
        done = repair(store)
        moved = node_at(store, tmp_path / "new").used_bytes or 0
        assert done.copies == done.drops == node_at(store, tmp_path / "new").chunks, "only the new node is written to"
        assert 0.8 / (before + 1) <= moved / total <= 1.2 / before
        assert repair(store).copies == 0
        health = examine(store)
        assert not health.damaged
        assert (health.misplaced, health.over_replicated) == ((), ())


def test_a_new_node_is_used_at_once_and_can_rebuild_the_store(store: Store, tmp_path: Path) -> None:
    new = add_node(store, tmp_path / "new", weight=2.5, capacity=10_000_000)
    assert (new.weight, new.capacity_bytes, new.state) == (2.5, 10_000_000, "active")
    assert 0 < (new.free_bytes or 0) <= 10_000_000
    repair(store)
    assert is_whole(store)
    store.publish([PutFile("g", store.write_file(b"after"))], request_id="2")
    assert is_whole(store)
    store.close()
    for name in ("store.db", "store.db-wal", "store.db-shm"):
        (store.path / name).unlink(missing_ok=True)
    for folder in ("n1", "n2"):  # the old ones' logs and checkpoints are gone as well
        shutil.rmtree(store.path / folder / "oplog")
        shutil.rmtree(store.path / folder / "checkpoints")
        (store.path / folder / "oplog").mkdir()
    rebuild(store.path, nodes=[tmp_path / "new"])
    with open_store(store.path) as opened:
        assert opened.open("g").read() == b"after"
        assert {name: opened.open(name).read() for name in CONTENTS} == CONTENTS


def test_a_new_node_inside_the_store_has_a_relative_path(store: Store) -> None:
    add_node(store, store.path / "n4")
    assert "n4" in [node.path for node in store.namespace.nodes()]


def test_a_moved_node_is_taken_up_where_it_lies(store: Store, tmp_path: Path) -> None:
    before = node_at(store, store.path / "n1")
    store.close()
    shutil.move(store.path / "n1", tmp_path / "moved")
    with open_store(store.path) as opened:
        assert list(opened.absent) == [before.id]
        after = add_node(opened, tmp_path / "moved", capacity=1 << 30)
        assert (after.id, after.chunks, after.capacity_bytes) == (before.id, before.chunks, 1 << 30)
        assert opened.absent == {}
        assert is_whole(opened)
        assert repair(opened).copies == 0


def test_folders_that_cannot_be_nodes_are_refused(store: Store, tmp_path: Path) -> None:
    before = store.txn()
    with init_store(tmp_path / "other") as other, pytest.raises(AlreadyExists, match=f"another store .{other.uuid}"):
        add_node(store, other.path / "node-1")
    with pytest.raises(AlreadyExists, match="in use at"):
        add_node(store, store.path / "n1")
    shutil.copytree(store.path / "n1", tmp_path / "twin")
    with pytest.raises(AlreadyExists, match="in use at"):
        add_node(store, tmp_path / "twin")
    (tmp_path / "file").write_text("")
    with pytest.raises(NodeFailed):
        add_node(store, tmp_path / "file")
    for weight in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageProblem):
            add_node(store, tmp_path / "new", weight=weight)
    with pytest.raises(UsageProblem):
        add_node(store, tmp_path / "new", capacity=0)
    assert store.txn() == before
    assert not (tmp_path / "new").exists()


def test_the_place_of_an_absent_node_is_not_given_away(store: Store, tmp_path: Path) -> None:
    """An empty disk mounted where a node was."""
    store.close()
    shutil.move(store.path / "n1", tmp_path / "away")
    with open_store(store.path) as opened, pytest.raises(AlreadyExists, match="remove --lost"):
        add_node(opened, store.path / "n1")
    assert not (store.path / "n1" / "node.json").exists()


def test_an_adding_that_was_cut_off_can_be_repeated(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("dfs.checkpoint.save", lambda *args: (_ for _ in ()).throw(OSError("No space left on device")))
        with pytest.raises(NodeFailed, match="No space left"):
            add_node(store, tmp_path / "new")
    assert len(node_report(store)) == 3
    made = json.loads((tmp_path / "new" / "node.json").read_text())
    assert add_node(store, tmp_path / "new").id == made["uuid"]


def test_what_is_left_of_a_killed_adding_is_removed(store: Store, tmp_path: Path) -> None:  # F12
    (tmp_path / "new" / "chunks").mkdir(parents=True)
    (tmp_path / "new" / "node.json.0a1b.new").write_text("{")
    add_node(store, tmp_path / "new")
    assert not list((tmp_path / "new").glob("*.new"))


# -- draining and removing --------------------------------------------------------------------------------------------


@pytest.fixture(params=[2, 3])
def sick(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    """A store with as many copies as nodes, 2 or 3, the first of which has failed to fsync."""
    nodes = [tmp_path / f"n{n}" for n in range(1, request.param + 1)]
    with init_store(tmp_path / "s", nodes=nodes, chunk_bytes_avg=1 << 14, durability="none") as store:
        fill(store)
        (tmp_path / "n1" / "suspect").write_text("fsync failed\n")
        yield store


def test_a_suspect_node_is_drained_and_removed(sick: Store, tmp_path: Path) -> None:  # F11
    """Its own copies cannot be deleted; that they are elsewhere is enough."""
    done = drain_node(sick, str(tmp_path / "n1"))
    assert (done.repaired.failures, done.node.chunks, done.node.needed_chunks) == ((), len(CONTENTS), 0)
    assert done.node.removable
    remove_node(sick, done.node.id)
    assert is_whole(sick)
    sick.publish([PutFile("g", sick.write_file(b"after"))], request_id="2")
    assert add_node(sick, tmp_path / "new").state == "active"


def test_a_suspect_node_is_replaced(sick: Store, tmp_path: Path) -> None:  # F11
    add_node(sick, tmp_path / "new")
    repair(sick)
    done = drain_node(sick, str(tmp_path / "n1"))
    assert done.node.removable
    remove_node(sick, done.node.id)
    assert is_whole(sick)


def test_a_suspect_node_is_given_up(sick: Store, tmp_path: Path) -> None:  # F11
    gone = remove_node(sick, str(tmp_path / "n1"), lost=True)
    assert gone.lost_chunks == 0
    assert is_whole(sick)


def test_a_suspect_node_with_the_last_good_copies_is_kept(sick: Store, tmp_path: Path) -> None:  # F11
    chunk = sick.chunks("f007")[0].id
    others = [node for node in node_report(sick) if node.path != str(tmp_path / "n1")]
    for node in others:
        damage_local(Path(node.path), chunk, "flip")
    drain_node(sick, str(tmp_path / "n1"))
    before = sick.txn()
    with pytest.raises(CareRefused, match=r"1 chunks .* are damaged; `dfs fsck --read-data --heal` first"):
        remove_node(sick, str(tmp_path / "n1"))
    assert sick.txn() == before
    assert check(sick, Output(True), True, True) == 12, "the log of the suspect node lags"
    remove_node(sick, str(tmp_path / "n1"))
    assert is_whole(sick)


def test_a_node_is_added_while_another_is_absent(tmp_path: Path) -> None:  # F40
    nodes = [tmp_path / "n1", tmp_path / "n2"]
    init_store(tmp_path / "s", nodes=nodes, replicas=2, durability="none").close()
    shutil.move(nodes[0], tmp_path / "away")
    with open_store(tmp_path / "s") as store:
        with pytest.raises(NotEnoughNodes):
            store.publish([SetRetention(3)], request_id="1")
        add_node(store, tmp_path / "n3")
        store.publish([PutFile("g", store.write_file(b"two are there"))], request_id="2")


def test_no_node_changes_when_no_log_can_be_written(tmp_path: Path) -> None:  # F11
    with init_store(tmp_path / "s", nodes=[tmp_path / "n1"]) as store:
        (tmp_path / "n1" / "suspect").write_text("fsync failed\n")
        with pytest.raises(NotEnoughNodes):
            add_node(store, tmp_path / "n2")
        assert len(node_report(store)) == 1


def test_what_an_open_store_reads_is_moved_too(path: Path, tmp_path: Path) -> None:  # F35
    """The files are removed and their snapshot dropped, but somebody reads that transaction still."""
    with open_store(path) as store, open_store(path) as reader:
        store.publish([TakeSnapshot("s")], request_id="2")
        store.publish([Remove(name) for name in CONTENTS], request_id="3")
        collect(store, force=True)
        txn = store.at("s")
        reader.hold(txn)
        store.publish([DropSnapshot("s")], request_id="4")
        node = node_at(store, store.path / "n1")
        store.publish([SetNode(node.id, "n1", state="draining")], request_id="5")
        with pytest.raises(CareRefused, match=f"{node.chunks} chunks that are needed"):
            remove_node(store, "n1")
        drain_node(store, "n1")
        remove_node(store, "n1")
        shutil.rmtree(store.path / "n1")
        reader.reload()
        assert {name: reader.open(name, at=txn).read() for name in CONTENTS} == CONTENTS


def test_the_last_copies_of_what_an_open_store_reads_are_not_given_up(path: Path) -> None:  # F35
    with open_store(path) as store, open_store(path) as reader:
        store.publish([TakeSnapshot("s")], request_id="2")
        store.publish([Remove(name) for name in CONTENTS], request_id="3")
        collect(store, force=True)
        held = list(store.namespace.needed())
        assert len(held) == len(CONTENTS)
        reader.hold(store.at("s"))
        store.publish([DropSnapshot("s")], request_id="4")
        lost = node_at(store, store.path / "n1")
        for name, node in store.replicated.nodes.items():
            if name != lost.id:
                node.delete_many(chunk for chunk, _, _ in held)
        (store.path / "n1" / "suspect").write_text("fsync failed\n")
        with pytest.raises(CareRefused, match="no copy on the other nodes"):
            remove_node(store, "n1", lost=True)


def test_a_drained_node_is_empty_and_can_be_removed(store: Store, tmp_path: Path) -> None:
    node = node_at(store, store.path / "n1")
    held = node.chunks
    done = drain_node(store, "n1")
    assert (done.repaired.copies, done.repaired.drops, done.repaired.failures) == (held, held, ())
    assert (done.node.state, done.node.chunks, done.node.needed_chunks) == ("draining", 0, 0)
    assert done.node.removable
    assert is_whole(store)
    store.publish([PutFile("g", store.write_file(b"after"))], request_id="2")
    assert node_at(store, store.path / "n1").chunks == 0, "it takes nothing new"
    gone = remove_node(store, "n1")
    assert (gone.id, gone.lost_chunks) == (node.id, 0)
    assert len(node_report(store)) == 2
    assert is_whole(store)
    shutil.rmtree(store.path / "n1")
    with open_store(store.path) as opened:
        assert opened.absent == {}
        assert is_whole(opened)


def test_a_removed_node_can_come_back(store: Store) -> None:
    drain_node(store, "n1")
    gone = remove_node(store, "n1")
    assert add_node(store, store.path / "n1").id == gone.id
    repair(store)
    assert is_whole(store)


def test_a_drain_that_is_interrupted_goes_on(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.repair.BATCH_CHUNKS_MAX", 10)
    steps = iter(range(100))

    def interrupted(done: int, of: int) -> None:
        if next(steps) == 5:
            raise KeyboardInterrupt

    held = node_at(store, store.path / "n1").chunks
    with pytest.raises(KeyboardInterrupt):
        drain_node(store, "n1", progress=interrupted)
    half = node_at(store, store.path / "n1")
    assert (half.state, half.chunks, half.removable) == ("draining", held, False)
    assert 0 < (half.needed_chunks or 0) < (held or 0), "the others are elsewhere already"
    with pytest.raises(CareRefused, match=r"drain .* again"):
        remove_node(store, "n1")
    assert {name: store.open(name).read() for name in CONTENTS} == CONTENTS
    done = drain_node(store, "n1")
    assert (done.node.removable, done.repaired.drops) == (True, held)
    assert 0 < done.repaired.copies < (held or 0)
    assert is_whole(store)


def test_a_draining_node_can_be_taken_back(store: Store) -> None:
    drain_node(store, "n1")
    back = add_node(store, store.path / "n1")
    assert back.state == "active"
    repair(store)
    assert is_whole(store)
    assert node_at(store, store.path / "n1").chunks


def test_a_node_whose_copies_have_no_other_place_is_not_drained(store: Store, tmp_path: Path) -> None:
    drain_node(store, "n1")
    with pytest.raises(CareRefused, match="1 are left for 2 copies"):
        drain_node(store, "n2")
    remove_node(store, "n1")
    with pytest.raises(CareRefused, match="add a node first"):
        drain_node(store, "n2")
    add_node(store, tmp_path / "new")
    assert drain_node(store, "n2").node.removable
    assert is_whole(store)


def test_copies_of_one_path_count_too(store: Store) -> None:
    store.publish([SetReplicas("f000", 3)], request_id="2")
    with pytest.raises(CareRefused, match="2 are left for 3 copies"):
        drain_node(store, "n1")


def test_copies_for_which_no_node_has_room_stay_where_they_are(store: Store, tmp_path: Path) -> None:  # F8
    """The report says that the drained node is still needed, until there is room."""
    add_node(store, tmp_path / "tiny", capacity=1)
    drain_node(store, "n1")
    remove_node(store, "n1")
    done = drain_node(store, "n2")
    assert "is full" in done.repaired.failures[0]
    assert not done.node.removable
    assert done.node.needed_chunks == done.node.chunks == len(CONTENTS)
    with pytest.raises(CareRefused, match="200 chunks that are needed"):
        remove_node(store, "n2")
    assert not examine(store).damaged
    add_node(store, tmp_path / "roomy")
    assert drain_node(store, "n2").node.removable
    remove_node(store, "n2")
    assert {name: store.open(name).read() for name in CONTENTS} == CONTENTS
    assert node_at(store, tmp_path / "tiny").chunks == 0


def test_a_node_in_use_is_not_removed(store: Store, tmp_path: Path) -> None:
    with pytest.raises(CareRefused, match=r"drain .* first"):
        remove_node(store, "n1")
    with pytest.raises(CareRefused, match="not lost"):
        remove_node(store, "n1", lost=True, force=True)
    with init_store(tmp_path / "one") as single, pytest.raises(CareRefused, match="only node"):
        remove_node(single, str(single.path / "node-1"), lost=True, force=True)


def test_a_node_is_not_removed_from_under_a_writer(store: Store) -> None:
    """A program that opened the store before the drain has just stored something there."""
    with open_store(store.path) as writer:
        drain_node(store, "n1")
        for n in range(8):
            writer.write_file(b"unpublished %d" % n)
        assert node_at(store, store.path / "n1").chunks, "it has not looked at the nodes since"
        with pytest.raises(CareRefused, match="needed"):
            remove_node(store, "n1")
    collect(store)
    remove_node(store, "n1")
    assert is_whole(store)


def test_what_an_old_writer_stored_on_a_removed_node_is_not_published(store: Store) -> None:
    """It opened the store before the drain, and learns of it when it publishes."""
    with open_store(store.path) as writer:
        drain_node(store, "n1")
        remove_node(store, "n1")
        contents = [b"new %d" % n for n in range(12)]
        manifests = [writer.write_file(content, replicas=1) for content in contents]
        refused = 0
        for n, (content, manifest) in enumerate(zip(contents, manifests, strict=True)):
            try:
                writer.publish([PutFile(f"new{n}", manifest)], request_id=f"new{n}")
            except UsageProblem:
                refused += 1
                writer.publish([PutFile(f"new{n}", writer.write_file(content))], request_id=f"again{n}")
    assert refused
    assert [store.open(f"new{n}").read() for n in range(12)] == contents


def test_a_lost_node_is_removed_and_its_copies_are_made_anew(store: Store) -> None:
    lost = node_at(store, store.path / "n1")
    store.close()
    shutil.rmtree(store.path / "n1")
    with open_store(store.path) as opened:
        with pytest.raises(CareRefused, match="--lost"):
            drain_node(opened, lost.id)
        with pytest.raises(CareRefused, match="--lost"):
            remove_node(opened, lost.id)
        gone = remove_node(opened, lost.id, lost=True)
        assert (gone.id, gone.lost_chunks) == (lost.id, 0)
        assert repair(opened).copies == lost.chunks
        assert is_whole(opened)


def test_a_lost_node_with_the_last_copies_is_kept_unless_forced(store: Store) -> None:
    lost = node_at(store, store.path / "n1")
    for chunk, _, _ in list(store.namespace.needed())[:40]:
        for name, node in store.replicated.nodes.items():
            if name != lost.id:
                node.delete_many([chunk])
    mine = len(store.replicated.nodes[lost.id].held([c for c, _, _ in list(store.namespace.needed())[:40]]))
    store.close()
    shutil.rmtree(store.path / "n1")
    with open_store(store.path) as opened:
        before = opened.txn()
        with pytest.raises(CareRefused, match="no copy on the other nodes; nothing was changed"):
            remove_node(opened, lost.id, lost=True)
        assert opened.txn() == before
        gone = remove_node(opened, lost.id, lost=True, force=True)
        assert gone.lost_chunks == 40 >= mine > 0
        assert len(examine(opened).missing) == 40
        opened.publish([Remove(name) for name in CONTENTS], request_id="2")


def test_a_store_of_two_nodes_can_replace_one_that_is_lost(tmp_path: Path) -> None:
    nodes = [tmp_path / "n1", tmp_path / "n2"]
    with init_store(tmp_path / "s", nodes=nodes, replicas=2, durability="none") as store:
        fill(store)
        lost = node_at(store, nodes[0])
    shutil.rmtree(nodes[0])
    with open_store(tmp_path / "s") as store:
        with pytest.raises(NotEnoughNodes):
            store.write_file(b"needs two")
        remove_node(store, lost.id, lost=True)
        add_node(store, tmp_path / "n3")
        assert repair(store).copies == len(CONTENTS)
        assert is_whole(store)
        store.publish([PutFile("g", store.write_file(b"needs two"))], request_id="2")
