"""Health, repair and fsck: what is judged, planned and done about copies."""

from __future__ import annotations

import json
import random
import shutil
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from dfs.changes import PutFile, SetReplicas
from dfs.checks import check
from dfs.chunk_store import ChunkStore
from dfs.codec import encode
from dfs.creation import init_store
from dfs.errors import ChunkDamaged, NodeFailed, UsageProblem
from dfs.health import Copies, Finding, Health, Held, examine, finding_of, judge, look, survey
from dfs.ids import ChunkId
from dfs.members import add_node, remove_node
from dfs.oplog import Operation, parse_segment
from dfs.placement import PlacementNode, place
from dfs.render import Output
from dfs.repair import Nodes, plan_repair, repair
from dfs.store import Store, open_store
from dfs.stores.memory import MemoryChunkStore
from dfs.testing import damage_local
from dfs.throttle import Throttle
from dfs.witness import log_faults

ONE = ChunkId.of(b"one")
ALL = Nodes(lambda chunk: ["a", "b", "c", "d"], absent=(), writable=("a", "b", "c", "d"))


def finding(good: str, bad: str = "", replicas: int = 2, chunk: ChunkId = ONE) -> Finding:
    """`good` and `bad`: letters of nodes."""
    return Finding(chunk, 3, replicas, Copies(tuple(good), tuple((node, "hash") for node in bad)))


# -- judging and planning ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (finding("ab"), None),
        (finding(""), "missing"),
        (finding("", "ab"), "missing"),
        (finding("a", "b"), "corrupt"),
        (finding("ab", "c"), "corrupt"),
        (finding("a"), "under_replicated"),
        (finding("ac"), "misplaced"),
        (finding("acd"), "misplaced"),
        (finding("abc"), "over_replicated"),
        (finding("a", replicas=0), "orphaned"),
        (finding("", "a", replicas=0), "orphaned"),
    ],
)
def test_every_chunk_is_judged_as_one_kind(found: Finding, kind: str | None) -> None:
    assert judge(found, ["a", "b"]) == kind
    assert judge(found, ["a", "b"], some_absent=True) == ("waiting" if kind == "missing" else kind)


def test_only_lost_copies_are_damage() -> None:
    one = (finding("a"),)
    assert all(Health(1, **{kind: one}).damaged for kind in ("missing", "waiting", "corrupt", "under_replicated"))
    assert not any(Health(1, **{kind: one}).damaged for kind in ("over_replicated", "misplaced", "orphaned"))


@pytest.mark.parametrize(
    ("found", "copies", "drops", "bad"),
    [
        (finding("a"), "b", "", ""),
        (finding("c"), "ab", "c", ""),
        (finding("ac"), "b", "c", ""),
        (finding("abd"), "", "d", ""),
        (finding("a", "b"), "b", "", ""),
        (finding("ab", "d"), "", "", "d"),
        (finding("ab", replicas=3), "c", "", ""),
    ],
)
def test_a_plan_copies_to_where_placement_wants_it(found: Finding, copies: str, drops: str, bad: str) -> None:
    [action] = plan_repair([found], ALL)
    assert (action.copies, action.drops, action.bad) == (tuple(copies), tuple(drops), tuple(bad))


def test_nothing_is_planned_without_a_good_copy_or_without_need() -> None:
    assert plan_repair([finding("", "ab"), finding("ab")], ALL) == []


def test_the_fewest_good_copies_come_first() -> None:  # F40
    chunks = [ChunkId.of(bytes([n])) for n in range(6)]
    good = ["ab", "a", "abc", "c", "ac", "b"]
    found = [finding(nodes, replicas=4, chunk=chunk) for chunk, nodes in zip(chunks, good, strict=True)]
    planned = [len(action.finding.copies.good) for action in plan_repair(found, ALL)]
    assert planned == sorted(planned) == [1, 1, 1, 2, 2, 3]


def test_an_absent_node_counts_as_holding_what_is_its() -> None:  # F40
    without_b = Nodes(ALL.order, absent=("b",), writable=("a", "c", "d"))
    assert plan_repair([finding("a")], without_b) == []
    [now] = plan_repair([finding("a")], without_b, now=True)
    assert now.copies == ("c",)
    assert plan_repair([finding("ac")], without_b) == [], "no copy is dropped on the word of a node that is away"
    [elsewhere] = plan_repair([finding("c")], without_b)
    assert (elsewhere.copies, elsewhere.drops) == (("a",), ())


def test_nothing_is_dropped_when_forbidden_or_while_nodes_are_too_few() -> None:  # F36
    [action] = plan_repair([finding("acd")], ALL, drops=False)
    assert (action.copies, action.drops) == (("b",), ())
    few = Nodes(lambda chunk: ["a"], absent=(), writable=("a", "d"))
    assert plan_repair([finding("ad")], few) == [], "d drains, and no other node can take the second copy"


def test_a_node_that_cannot_be_written_to_is_passed_over() -> None:  # F8
    full = Nodes(ALL.order, absent=(), writable=("a", "c", "d"))
    [action] = plan_repair([finding("a")], full)
    assert action.copies == ("c",)
    assert plan_repair([finding("ac")], full) == [], "it stays where it is until there is room"
    assert plan_repair([finding("ab")], full) == [], "what is there can be read"


def simulate(seed: int, *, replicas: int, rounds: int) -> Iterator[tuple[int, dict[ChunkId, set[str]]]]:
    """Nodes come and go at random, a repair runs after each change; yields (copies made, what each chunk is on)."""
    rng = random.Random(seed)
    members = [PlacementNode(f"n{n}") for n in range(5)]
    chunks = [ChunkId.of(b"%d" % n) for n in range(40)]
    held = {chunk: set(place(chunk, members)[:replicas]) for chunk in chunks}
    absent: set[str] = set()
    for _ in range(rounds):
        absent ^= {rng.choice(members).id}
        present = {member.id for member in members} - absent
        found = [Finding(c, 1, replicas, Copies(tuple(sorted(held[c] & present)))) for c in chunks]
        nodes = Nodes(lambda chunk: place(chunk, members), absent, present)
        copies = 0
        for action in plan_repair(found, nodes):
            copies += len(action.copies)
            held[action.finding.chunk] |= set(action.copies)
            held[action.finding.chunk] -= set(action.drops)
        yield copies, held


@pytest.mark.parametrize("seed", range(5))
def test_nodes_that_come_and_go_cause_no_copies(seed: int) -> None:  # F40
    assert sum(copies for copies, _ in simulate(seed, replicas=2, rounds=60)) == 0


@pytest.mark.parametrize("seed", range(20))
def test_any_state_converges_and_no_step_loses_a_copy(seed: int) -> None:
    """From random copies, bad ones and absent nodes: what could be read can be read after every action; when all nodes
    are back, every chunk is where placement wants it and a second repair does nothing."""
    rng = random.Random(seed)
    members = [PlacementNode(f"n{n}", weight=rng.choice([0.5, 1, 2])) for n in range(6)]
    ids = [member.id for member in members]
    good = {ChunkId.of(b"%d" % n): set(rng.sample(ids, rng.randint(1, 5))) for n in range(30)}
    bad = {chunk: set(rng.sample(ids, 1)) - nodes for chunk, nodes in good.items()}
    for absent in (set(rng.sample(ids, 2)), set()):
        nodes = Nodes(lambda chunk: place(chunk, members), absent, [n for n in ids if n not in absent])
        found = [
            Finding(c, 1, 3, Copies(tuple(sorted(good[c] - absent)), tuple((n, "bad") for n in bad[c] - absent)))
            for c in good
        ]
        for action in plan_repair(found, nodes):
            chunk = action.finding.chunk
            before = len(good[chunk])
            good[chunk] |= set(action.copies)
            bad[chunk] -= {*action.copies, *action.bad}
            assert set(action.wanted) - absent <= good[chunk]
            good[chunk] -= set(action.drops)
            assert len(good[chunk]) >= min(before, 3)
    assert all(good[chunk] == set(place(chunk, members)[:3]) for chunk in good)
    assert not any(bad.values())
    found = [Finding(c, 1, 3, Copies(tuple(good[c]))) for c in good]
    assert plan_repair(found, nodes) == []


def test_a_throttle_spreads_bytes_over_time() -> None:
    now = 100.0
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        nonlocal now
        slept.append(seconds)
        now += seconds

    throttle = Throttle(1000.0, lambda: now, sleep)
    for _ in range(5):
        throttle.spend(500)
    assert slept == [0.5] * 4
    now += 60  # a pause does not entitle to a burst
    throttle.spend(500)
    throttle.spend(500)
    assert slept == [0.5] * 5
    with pytest.raises(UsageProblem):
        Throttle(0)


# -- surveys ----------------------------------------------------------------------------------------------------------


class Unlistable(MemoryChunkStore):
    """Its listing ends at damaged pages, after so many chunks."""

    def __init__(self, node_id: str, after: int) -> None:
        super().__init__(node_id)
        self.after = after

    def listing(self) -> Iterator[tuple[ChunkId, int]]:
        for number, entry in enumerate(super().listing()):
            if number == self.after:
                raise ChunkDamaged("a damaged page")
            yield entry


@pytest.mark.parametrize("after", range(6))
def test_a_node_that_cannot_list_is_asked_for_each_chunk(after: int) -> None:
    records = sorted((encode(b"%d" % n) for n in range(5)), key=lambda record: record.id)
    whole, torn = MemoryChunkStore("whole"), Unlistable("torn", after)
    whole.put_many(records)
    torn.put_many(records[:4])
    orphan = encode(b"orphan")
    torn.put_many([orphan])
    needed = [(record.id, record.length, 0) for record in records]
    nodes: dict[str, ChunkStore] = {"whole": whole, "torn": torn}
    copies = {held.chunk: look(held, nodes, False) for held in survey(needed, nodes)}
    for record in records[:4]:
        assert set(copies[record.id].good) == {"whole", "torn"}
    assert copies[records[4].id].good == ("whole",)


def test_a_survey_goes_through_all_in_one_order() -> None:
    nodes = {name: MemoryChunkStore(name) for name in "ab"}
    records = [encode(b"%d" % n) for n in range(50)]
    nodes["a"].put_many(records[:30])
    nodes["b"].put_many(records[20:])
    needed = sorted((record.id, record.length, n % 3) for n, record in enumerate(records[10:40]))
    held = list(survey(needed, nodes))
    assert [h.chunk for h in held] == sorted(record.id for record in records)
    assert {h.chunk: (h.length, h.replicas) for h in held if h.replicas is not None} == {
        c: (n, r) for c, n, r in needed
    }
    for number, record in enumerate(records):
        [found] = [h for h in held if h.chunk == record.id]
        assert [name for name, _ in found.holders] == ["a"] * (number < 30) + ["b"] * (number >= 20)
        assert all(size == record.stored_bytes for _, size in found.holders)


# -- a real store -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four nodes, two copies; 12 small chunks and 4 of 100 kB."""
    path = tmp_path_factory.mktemp("template") / "s"
    nodes = [path / f"n{n}" for n in range(4)]
    with init_store(path, nodes=nodes, replicas=2, chunk_bytes_avg=1 << 18, durability="none") as store:
        rng = random.Random(0)
        contents = [b"small %d" % n for n in range(12)] + [rng.randbytes(100_000) for _ in range(4)]
        changes = [PutFile(f"f{n:02}", manifest) for n, manifest in enumerate(map(store.write_file, contents))]
        store.publish(changes, request_id="1")
    return path


@pytest.fixture
def store(tmp_path: Path, template: Path) -> Iterator[Store]:
    """A copy of it."""
    with open_store(shutil.copytree(template, tmp_path / "s")) as store:
        yield store


def chunk_of(store: Store, path: str) -> ChunkId:
    return store.chunks(path)[0].id


def lose(store: Store, path: str, *, copies: int = 1) -> list[str]:
    """Delete copies of a file's one chunk; returns the nodes that held them."""
    chunk = chunk_of(store, path)
    nodes = list(store.replicated.holders(chunk))[:copies]
    for node in nodes:
        damage_local(store.node_paths()[node], chunk, "delete")
    return nodes


def put_on(store: Store, node: str, path: str) -> None:
    store.replicated.nodes[node].put_many([encode(store.read_chunk(chunk_of(store, path)))])


def others(store: Store, path: str) -> list[str]:
    holders = store.replicated.holders(chunk_of(store, path))
    return [node for node in store.replicated.targets(chunk_of(store, path), 4) if node not in holders]


def counts(health: Health) -> dict[str, int]:
    kinds = ("missing", "waiting", "corrupt", "under_replicated", "over_replicated", "misplaced", "orphaned")
    return {kind: len(getattr(health, kind)) for kind in kinds if getattr(health, kind)}


def spoil(store: Store) -> None:
    """One chunk of each kind of trouble, small ones and large ones."""
    lose(store, "f00", copies=2)
    for path in ("f01", "f12"):
        node = store.replicated.holders(chunk_of(store, path))[1]
        damage_local(store.node_paths()[node], chunk_of(store, path), "flip")
    lose(store, "f02")
    lose(store, "f13")
    put_on(store, others(store, "f03")[0], "f03")
    put_on(store, others(store, "f14")[0], "f14")
    put_on(store, others(store, "f04")[0], "f04")
    lose(store, "f04")
    store.write_file(b"never published")


def test_the_six_kinds_are_told_apart_and_repaired(store: Store) -> None:  # F14, F15, F34, F40
    assert counts(examine(store, read_data=True)) == {}
    spoil(store)
    found = examine(store, read_data=True)
    assert counts(found) == {
        "missing": 1,
        "corrupt": 2,
        "under_replicated": 2,
        "over_replicated": 2,
        "misplaced": 1,
        "orphaned": 1,
    }
    assert [f.chunk for f in found.missing] == [chunk_of(store, "f00")]
    assert {f.chunk for f in found.corrupt} == {chunk_of(store, "f01"), chunk_of(store, "f12")}
    assert found.damaged

    planned = repair(store, dry_run=True, health=found)
    assert (planned.copies, planned.drops, planned.missing, planned.dry_run) == (5, 3, 1, True)
    assert counts(examine(store, read_data=True)) == counts(found), "a dry run changes nothing"

    done = repair(store, health=found)
    assert (done.copies, done.drops, done.missing, done.failures) == (5, 3, 1, ())
    assert not done.complete, "one chunk has no good copy"
    assert done.copied_bytes == planned.copied_bytes
    assert counts(examine(store, read_data=True)) == {"missing": 1, "orphaned": 1}
    again = repair(store)
    assert (again.copies, again.drops) == (0, 0)
    for path in (f"f{n:02}" for n in range(1, 16)):
        assert store.open(path).read()


def test_all_copies_are_written_before_the_first_is_dropped(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_on(store, others(store, "f03")[0], "f03")
    lose(store, "f02")
    lose(store, "f13")
    acts: list[str] = []
    for node in store.replicated.nodes.values():
        put, delete = node.put_many, node.delete_many
        monkeypatch.setattr(node, "put_many", lambda r, put=put: acts.append("copy") or put(r))
        monkeypatch.setattr(node, "delete_many", lambda c, delete=delete: acts.append("drop") or delete(c))
    repair(store)
    assert acts == sorted(acts)
    assert set(acts) == {"copy", "drop"}


def test_no_copy_is_dropped_unless_those_that_stay_are_good(store: Store) -> None:
    extra = others(store, "f14")[0]
    put_on(store, extra, "f14")
    chunk = chunk_of(store, "f14")
    target = store.replicated.targets(chunk)[1]
    damage_local(store.node_paths()[target], chunk, "flip")
    done = repair(store)  # it only asks what is held, so it does not know of the damage
    assert done.drops == 0
    assert extra in store.replicated.holders(chunk)
    assert counts(examine(store, read_data=True)) == {"corrupt": 1}
    done = repair(store, health=examine(store, read_data=True))
    assert (done.copies, done.drops) == (1, 1)
    assert counts(examine(store, read_data=True)) == {}


def test_safe_mode_forbids_drops_and_not_copies(store: Store) -> None:  # F36
    put_on(store, others(store, "f03")[0], "f03")
    lose(store, "f02")
    store.namespace.set_local("safe_mode", "restored")
    assert (repair(store).copies, counts(examine(store))) == (1, {"over_replicated": 1})
    store.namespace.set_local("safe_mode", None)
    assert (repair(store).drops, counts(examine(store))) == (1, {})


def test_an_absent_node_is_waited_for_unless_now(store: Store, tmp_path: Path) -> None:  # F40
    away = store.replicated.targets(chunk_of(store, "f05"))[0]
    store.close()
    store.node_paths()[away].rename(tmp_path / "away")
    with open_store(store.path) as opened:
        mine = len(examine(opened).under_replicated)
        assert mine > 0
        waiting = repair(opened)
        assert (waiting.copies, waiting.drops, waiting.waiting) == (0, 0, mine)
        now = repair(opened, now=True)
        assert (now.copies, now.waiting, now.complete) == (mine, 0, True)
        assert counts(examine(opened)).get("under_replicated", 0) == 0
    (tmp_path / "away").rename(store.node_paths()[away])
    with open_store(store.path) as opened:
        assert counts(examine(opened)) == {"over_replicated": mine}
        assert repair(opened).drops == mine
        assert counts(examine(opened)) == {}


def test_a_node_that_fails_is_replaced_by_the_next(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # F8
    [lost] = lose(store, "f13")
    chunk = chunk_of(store, "f13")

    def full(records: object) -> list[bool]:
        raise NodeFailed(f"node {lost} is full")

    monkeypatch.setattr(store.replicated.nodes[lost], "put_many", full)
    done = repair(store)
    assert (done.copies, done.failures) == (1, (f"node {lost} is full",))
    assert len(store.replicated.holders(chunk)) == 2
    assert lost not in store.replicated.holders(chunk)
    assert counts(examine(store)) == {"misplaced": 1}
    monkeypatch.undo()
    assert repair(store).complete
    assert set(store.replicated.holders(chunk)) == set(store.replicated.targets(chunk))


def test_a_copy_that_turns_out_bad_is_passed_over_when_copying(store: Store) -> None:
    put_on(store, others(store, "f13")[0], "f13")
    chunk = chunk_of(store, "f13")
    first, second = store.replicated.targets(chunk)
    damage_local(store.node_paths()[first], chunk, "flip")
    damage_local(store.node_paths()[second], chunk, "delete")
    done = repair(store)
    assert (done.copies, done.drops, done.failures) == (1, 0, ())
    lose(store, "f00", copies=1)
    last = store.replicated.holders(chunk_of(store, "f00"))[0]
    damage_local(store.node_paths()[last], chunk_of(store, "f00"), "flip")
    done = repair(store)
    assert len(done.failures) == 1
    assert "cannot be read" in done.failures[0]


def test_a_copy_of_a_newer_release_is_told_and_never_overwritten(store: Store) -> None:  # F60
    chunk = chunk_of(store, "f13")
    node = store.replicated.holders(chunk)[1]
    file = store.node_paths()[node] / "chunks" / chunk[:2] / chunk
    record = bytearray(file.read_bytes())
    record[4] = 9  # the version
    record[32:36] = zlib.crc32(record[:32]).to_bytes(4, "little")
    file.write_bytes(record)
    done = repair(store, health=examine(store, read_data=True))
    assert not done.complete
    assert "newer release" in done.failures[0]
    assert file.read_bytes() == record


def test_nodes_that_fail_in_the_middle_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # F10
    def broken(*args: object) -> None:
        raise NodeFailed("the disk does not answer")

    put_on(store, others(store, "f03")[0], "f03")
    surplus = list(store.replicated.nodes.values())
    with monkeypatch.context() as patch:
        for node in surplus:
            patch.setattr(node, "delete_many", broken)
        assert repair(store).failures == ("the disk does not answer",)
    with monkeypatch.context() as patch:
        for node in surplus:
            patch.setattr(node, "get", broken)
        assert repair(store).drops == 0, "what cannot be verified is no reason to drop another copy"
    put_on(store, others(store, "f14")[0], "f14")
    damage_local(store.node_paths()[others_but(store, "f14")], chunk_of(store, "f14"), "flip")
    found = examine(store, read_data=True)
    with monkeypatch.context() as patch:
        for node in surplus:
            patch.setattr(node, "quarantine", broken)
        assert "the disk does not answer" in repair(store, health=found).failures
    assert repair(store, health=examine(store, read_data=True)).complete


def others_but(store: Store, path: str) -> str:
    """The node with a copy that placement does not want."""
    [node] = set(store.replicated.holders(chunk_of(store, path))) - set(store.replicated.targets(chunk_of(store, path)))
    return node


def test_nodes_that_change_after_the_survey_are_surveyed_anew(store: Store, tmp_path: Path) -> None:
    lose(store, "f13")
    old = examine(store)
    with open_store(store.path) as other:
        add_node(other, tmp_path / "new")
    done = repair(store, health=old)
    assert done.complete
    assert any(path == tmp_path / "new" for path in store.node_paths().values())
    assert counts(examine(store)) == {}


def test_replicas_of_a_path_are_kept(store: Store) -> None:
    store.publish([SetReplicas("f06", 3), SetReplicas("f13", 1)], request_id="2")
    assert counts(examine(store)) == {"under_replicated": 1, "over_replicated": 1}
    done = repair(store)
    assert (done.copies, done.drops) == (1, 1)
    assert len(store.replicated.holders(chunk_of(store, "f06"))) == 3
    assert len(store.replicated.holders(chunk_of(store, "f13"))) == 1


def test_a_repair_is_slowed_down_to_its_rate(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in ("f12", "f13", "f14", "f15"):
        lose(store, path)
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    seen: list[tuple[int, int]] = []
    done = repair(store, rate=50_000, clock=lambda: now, sleep=sleep, progress=lambda done, of: seen.append((done, of)))
    assert done.copies == 4
    assert seen[-1] == (4, 4)
    assert now == 0.0, "all of it was one batch"
    lose(store, "f12")
    lose(store, "f13")
    monkeypatch.setattr("dfs.repair.BATCH_CHUNKS_MAX", 1)
    assert repair(store, rate=50_000, clock=lambda: now, sleep=sleep).copies == 2
    assert now == pytest.approx(2.0), "the second waits until the first 100 kB have had their two seconds"


def test_what_is_collected_during_a_survey_is_not_missing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """`examine` reads what is needed first; what a collection takes before the nodes are asked is no damage."""
    chunk = chunk_of(store, "f07")
    needed = list(store.namespace.needed())
    for node in store.replicated.nodes.values():
        node.delete_many([chunk])
    answers = iter([needed, [entry for entry in needed if entry[0] != chunk]])
    monkeypatch.setattr(store.namespace, "needed", lambda also: next(answers))
    assert counts(examine(store)) == {}


def test_what_is_moved_during_a_survey_is_not_missing(store: Store) -> None:
    chunk = chunk_of(store, "f07")
    assert finding_of(store, Held(chunk, 7, 0, (), ()), False) is None


# -- fsck -------------------------------------------------------------------------------------------------------------


def test_what_only_an_absent_node_holds_is_waited_for(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # F40
    away = lose_all_but_one(store, "f05")
    store.close()
    store.node_paths()[away].rename(tmp_path / "away")
    with open_store(store.path) as opened:
        found = examine(opened)
        assert (found.missing, [f.chunk for f in found.waiting], found.damaged) == (
            (),
            [chunk_of(store, "f05")],
            True,
        )
        done = repair(opened, now=True)
        assert (done.missing, done.waiting, done.complete) == (0, 1, True)
        assert check(opened, Output(False), False, False) == 12
        shown = capsys.readouterr()
        assert "waiting          " in shown.out
        assert "0 missing, 1 waiting," in shown.out
        assert f"absent node {away}: bring it back, or `dfs nodes remove --lost {away}`" in shown.err
        remove_node(opened, away, lost=True, force=True)
        assert [f.chunk for f in examine(opened).missing] == [chunk_of(store, "f05")]


def lose_all_but_one(store: Store, path: str) -> str:
    """Returns the node that still has the copy."""
    kept, *others = store.replicated.holders(chunk_of(store, path))
    for node in others:
        store.replicated.nodes[node].delete_many([chunk_of(store, path)])
    return kept


def test_more_copies_than_there_are_nodes_wait_for_none(store: Store) -> None:
    store.publish([SetReplicas("f05", 9)], request_id="2")
    done = repair(store)
    assert (done.waiting, done.unplaced, done.complete) == (0, 1, True)
    assert set(store.replicated.holders(chunk_of(store, "f05"))) == set(store.replicated.nodes)
    again = repair(store, dry_run=True)
    assert (again.copies, again.waiting, again.unplaced) == (0, 0, 1)


def fsck(store: Store, capsys: pytest.CaptureFixture[str], *, heal: bool = False) -> tuple[int, list[dict[str, Any]]]:
    code = check(store, Output(True), True, heal)
    return code, [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_fsck_names_the_files_and_heals(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert fsck(store, capsys)[0] == 0
    spoil(store)
    code, lines = fsck(store, capsys)
    assert code == 12
    assert {(line["type"], *line["files"]) for line in lines if "chunk" in line} == {
        ("missing", "f00"),
        ("corrupt", "f01"),
        ("corrupt", "f12"),
        ("under-replicated", "f02"),
        ("under-replicated", "f13"),
        ("over-replicated", "f03"),
        ("over-replicated", "f14"),
        ("misplaced", "f04"),
        ("orphaned",),
    }
    assert lines[-1] == {
        "type": "result",
        "state": "damaged",
        "chunks": 16,
        "missing": 1,
        "waiting": 0,
        "corrupt": 2,
        "under_replicated": 2,
        "over_replicated": 2,
        "misplaced": 1,
        "orphaned": 1,
    }
    assert fsck(store, capsys, heal=True)[0] == 12, "what has no good copy is not healed"
    store.publish([PutFile("f00", store.write_file(b"small 0"))], request_id="2")
    code, lines = fsck(store, capsys)
    assert (code, lines[-1]["state"], lines[-1]["orphaned"]) == (0, "healthy", 1)


def test_misplaced_and_surplus_copies_are_no_damage(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    put_on(store, others(store, "f03")[0], "f03")
    store.write_file(b"never published")
    assert fsck(store, capsys)[0] == 0
    code, lines = fsck(store, capsys, heal=True)
    assert (code, lines[-1]["type"], lines[-1]["drops"]) == (0, "healed", 1)


def test_fsck_ends_safe_mode_when_every_node_was_read(
    store: Store, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:  # F36
    store.namespace.set_local("safe_mode", "rebuilt")
    store.close()
    folder = sorted(store.node_paths().values())[0]
    folder.rename(tmp_path / "away")
    with open_store(store.path) as opened:
        code, lines = fsck(opened, capsys)
        assert code == 12
        assert [line["type"] for line in lines[:1]] == ["absent"]
        assert [line["ended"] for line in lines if line["type"] == "safe_mode"] == [False]
        assert opened.safe_mode == "rebuilt"
    (tmp_path / "away").rename(folder)
    with open_store(store.path) as opened:
        code, lines = fsck(opened, capsys)
        assert code == 0
        assert [line["ended"] for line in lines if line["type"] == "safe_mode"] == [True]
        assert opened.safe_mode is None


def test_fsck_tells_of_suspect_nodes_and_faulty_logs(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:  # F11, F18
    first, second, third, fourth = (store.node_paths()[node] for node in sorted(store.node_paths()))
    for n in range(5):
        store.publish([PutFile(f"g{n}", store.write_file(b"g"))], request_id=f"g{n}")
    (first / "suspect").write_text("fsync failed\n")
    [segment] = (second / "oplog").iterdir()
    data = bytearray(segment.read_bytes())
    data[len(data) // 2] ^= 1
    segment.write_bytes(data)
    [point] = (third / "checkpoints").iterdir()
    point.write_bytes(point.read_bytes()[:-1])
    [segment] = (fourth / "oplog").iterdir()
    segment.unlink()
    code, lines = fsck(store, capsys)
    assert code == 12
    told = {line["type"]: line["node"] for line in lines if line["type"] == "suspect"}
    assert told == {"suspect": sorted(store.node_paths())[0]}
    faulty = {line["node"] for line in lines if line["type"] == "log"}
    assert faulty == set(sorted(store.node_paths())[1:])
    assert list(log_faults(store, first)) == []


def test_what_a_node_lacks_to_rebuild_from_is_told(store: Store, tmp_path: Path) -> None:
    for n in range(5):
        store.publish([PutFile(f"g{n}", store.write_file(b"g"))], request_id=f"g{n}")
    folder = next(iter(store.node_paths().values()))
    [segment] = (folder / "oplog").iterdir()
    [point] = (folder / "checkpoints").iterdir()
    log, database = segment.read_bytes(), point.read_bytes()
    records, _ = parse_segment(log)

    def told(*, read_data: bool = False) -> str:
        return "; ".join(log_faults(store, folder, read_data))

    assert told(read_data=True) == ""
    segment.write_bytes(b"".join(record.frame for record in records[:3]))
    assert "ends with transaction 3" in told()
    segment.write_bytes(b"".join(record.frame for record in records[2:]))
    assert "begins with transaction 3" in told()
    segment.write_bytes(log)
    other = Operation(6, "other", 0, records[-1].prev, []).logged()
    segment.write_bytes(b"".join(record.frame for record in [*records[:5], other]))
    assert "another transaction 6" in told()
    segment.write_bytes(log)
    point.write_bytes(database[:-1] + bytes([database[-1] ^ 1]))
    assert told() == "", "its header is good"
    assert "does not have" in told(read_data=True) or "damaged" in told(read_data=True)
    point.write_bytes(b"")
    assert "no checkpoint" in told()
    point.write_bytes(database)
    segment.unlink()
    segment.mkdir()
    assert told()
    segment.rmdir()
    point.unlink()
    point.symlink_to(tmp_path / "gone")
    assert "no checkpoint" in told(), "one that has just been replaced is passed over"


def test_a_damaged_namespace_is_told(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:  # F18
    monkeypatch.setattr(store.namespace, "check", lambda: ["page 7 is damaged"])
    code, lines = fsck(store, capsys)
    assert (code, lines[0]) == (12, {"type": "namespace", "fault": "page 7 is damaged"})


def test_what_could_not_be_healed_is_told(
    store: Store, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lose(store, "f13")

    def full(records: object) -> list[bool]:
        raise NodeFailed("all nodes are full")

    for node in store.replicated.nodes.values():
        monkeypatch.setattr(node, "put_many", full)
    code, lines = fsck(store, capsys, heal=True)
    assert code == 12
    assert {"type": "not_healed", "reason": "all nodes are full"} in lines


def test_fsck_stops_at_a_node_that_does_not_answer(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # F61
    node = store.replicated.nodes[sorted(store.node_paths())[0]]

    def broken() -> Iterator[tuple[ChunkId, int]]:
        raise NodeFailed("Too many open files")

    monkeypatch.setattr(node, "listing", broken)
    with pytest.raises(NodeFailed, match="Too many open files"):
        check(store, Output(True), False, True)
