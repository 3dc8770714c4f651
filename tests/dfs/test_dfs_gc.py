"""Garbage collection: what it may take, when it must not run, and that no race with writers loses anything."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from dfs.changes import DropSnapshot, FileManifest, PutFile, Remove, SetRetention, TakeSnapshot
from dfs.creation import init_store
from dfs.errors import CareRefused, ChunkDamaged, DfsError, NodeFailed, NotFound, StoreLocked, UsageProblem
from dfs.gc import Collected, History, collect, plan_collection, plan_horizon, trusted_now_ms
from dfs.health import Held, examine
from dfs.ids import ChunkId
from dfs.options import DAY_MS
from dfs.pins import alone
from dfs.scrub import scrub
from dfs.store import Store, open_store
from dfs.testing import damage_local
from dfs.transactions import Committer

# -- how much history is kept -----------------------------------------------------------------------------------------


def horizon(times_days: list[float], now_days: float, days: int = 7, **known: object) -> int | None:
    """The new horizon for transactions 1, 2, ... at these times."""
    times = [int(day * DAY_MS) for day in times_days]
    history = History(len(times), times[-1], 0, days, int(now_days * DAY_MS))
    return plan_horizon(
        replace(history, **known),  # type: ignore[arg-type]
        int(now_days * DAY_MS),
        lambda ms: sum(time <= ms for time in times),
    )


@pytest.mark.parametrize(
    ("now_days", "days", "expected"),
    [
        (100, 7, 3),  # what held on day 92 can still be read
        (100.99, 7, 3),
        (101, 7, 4),
        (200, 7, 4),
        (98, 7, 1),
        (97.9, 7, 0),
        (93, 0, 4),
        (200, -1, 0),
        (100, 1, 4),
    ],
)
def test_history_is_kept_for_its_days_and_one_more(now_days: float, days: int, expected: int) -> None:
    assert horizon([90, 91, 92, 93], now_days, days) == expected


@pytest.mark.parametrize(
    ("now", "seen", "last", "trusted"),
    [
        (100, 99.5, 99, 100),  # all is well
        (100, 93, 99, 94),  # a week since the last collection: one day is believed
        (130, 100, 100, 101),  # the clock has jumped ahead
        (130.1, 130, 100, 130.1),  # a second collection saw the same time
        (100, 130, 100, 100),  # it was set right again
        (50, 100, 100, 50),  # it runs behind
        (130, None, 100, 101),  # the first collection goes by the newest transaction
        (100, None, 130, 100),
    ],
)
def test_a_clock_that_jumps_is_not_believed_at_once(
    now: float, seen: float | None, last: float, trusted: float
) -> None:  # F22
    values = [int(day * DAY_MS) if day is not None else None for day in (now, seen, last)]
    assert trusted_now_ms(*values) == int(trusted * DAY_MS)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("commit_off", "collect_off"),
    [(off, other) for off in (-1, -0.5, 0, 0.5, 1) for other in (-1, -0.5, 0, 0.5, 1) if other in (0, off) or off == 0],
)
def test_no_clock_that_is_a_day_off_collects_early(commit_off: float, collect_off: float) -> None:  # F22
    """A file replaced on day 50 must be readable until day 57; the clock is wrong when it is replaced, or when garbage
    is collected, or by the same amount both times."""
    for day in range(51, 57):
        times = [10, 20, max(20, 50 + commit_off)]  # of the put, of another change, of the replacement
        new = horizon(times, day + collect_off, seen_ms=int((day - 1) * DAY_MS))
        assert new is not None
        assert new < 3, f"on day {day} the state before the replacement must be kept"
        assert horizon(times, day + collect_off, seen_ms=None) != 3


def test_the_horizon_never_goes_back() -> None:  # F22
    assert horizon([90, 91, 92], 10, horizon=2) == 2
    assert horizon([90, 91, 92], 92, days=-1, horizon=2) == 2


def test_pinned_numbers_stay_readable() -> None:  # F38
    assert horizon([90, 91, 92, 93], 200, pinned=[2]) == 2
    assert horizon([90, 91, 92, 93], 200, pinned=[2, 3], horizon=1) == 2
    assert horizon([90, 91, 92, 93], 200, pinned=[1], horizon=2, snapshots=[1]) == 4, "a snapshot keeps it anyway"
    assert horizon([90, 91, 92, 93], 200, pinned=[1], horizon=2) is None, "its snapshot was dropped while it is read"


def test_what_is_needed_or_pinned_is_no_garbage() -> None:
    ids = sorted(ChunkId.of(bytes([n])) for n in range(4))
    held = [
        Held(ids[0], 9, 0, (("a", 10), ("b", 10)), ()),
        Held(ids[1], 0, None, (("a", 20), ("b", 20)), ()),
        Held(ids[2], 0, None, (("b", 40),), ()),
        Held(ids[3], 9, 2, (), ()),
    ]
    found = plan_collection(held, {ids[2].digest})
    assert (found.held_copies, found.held_bytes) == (5, 100)
    assert (found.chunks, found.bytes, found.share) == (1, 40, 0.4)
    assert found.copies == {"a": [ids[1]], "b": [ids[1]]}
    assert plan_collection([], set()).share == 0.0


def test_files_are_deleted_before_rows() -> None:  # F8
    """A full disk may have no space for SQLite to delete rows; the files give it."""
    one, two, three = sorted(ChunkId.of(bytes([n])) for n in range(3))
    held = [Held(one, 0, None, (("a", 100), ("b", 65_536)), ()), Held(two, 0, None, (("a", 70_000), ("b", 9)), ())]
    held.append(Held(three, 0, None, (("a", 9),), ()))
    assert plan_collection(held, set()).copies == {"a": [two, one, three], "b": [one, two]}


# -- a real store -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two nodes, two copies, no history; f00 ... f19 of 10 kB, and two large ones of 100 kB."""
    path = tmp_path_factory.mktemp("template") / "s"
    nodes = [path / "n1", path / "n2"]
    with init_store(
        path, nodes=nodes, replicas=2, chunk_bytes_avg=1 << 18, durability="none", retention_days=0
    ) as store:
        rng = random.Random(0)
        contents = [rng.randbytes(10_000) for _ in range(20)] + [rng.randbytes(100_000) for _ in range(2)]
        changes = [PutFile(f"f{n:02}", manifest) for n, manifest in enumerate(map(store.write_file, contents))]
        store.publish(changes, request_id="1")
    return path


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    return shutil.copytree(template, tmp_path / "s")


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as store:
        yield store


def stored(store: Store) -> int:
    return sum(node.usage().chunks for node in store.replicated.nodes.values())


def is_clean(store: Store) -> bool:
    """Nothing is missing or left over: chunks, temp files, pins."""
    health = examine(store, read_data=True)
    left = [name for node in store.node_paths().values() for name in os.listdir(node / "tmp")]
    return not (health.damaged or health.orphaned or left or list(store.pins.folder.glob("*.pin")))


def test_what_was_removed_is_collected_and_the_rest_is_not(store: Store) -> None:
    assert collect(store).chunks == 0
    before = stored(store)
    store.publish([Remove("f00"), Remove("f01")], request_id="2")
    planned = collect(store, dry_run=True)
    done = collect(store)
    assert (done.chunks, done.copies) == (2, 4)
    assert done.held_bytes * done.share == pytest.approx(done.bytes)
    assert done.bytes == pytest.approx(4 * 10_036, abs=8)
    assert replace(planned, dry_run=False) == done, "a dry run says exactly what is done"
    assert stored(store) == before - 4
    assert is_clean(store)
    assert all(store.open(f"f{n:02}").read() for n in range(2, 22))
    again = collect(store)
    assert (again.chunks, again.expired_before) == (0, done.expired_before)
    assert store.txn() == 3, "one transaction for the history, none for the second run"


def test_a_dry_run_changes_nothing(store: Store) -> None:
    store.publish([Remove(f"f{n:02}") for n in range(22)], request_id="2")
    dead = store.pins.folder / "dead.pin"
    dead.write_text("millrace-pins 1\n")
    before = (store.txn(), stored(store), store.namespace.settings())
    planned = collect(store, dry_run=True)
    assert (planned.braked, planned.share, planned.chunks, planned.dead_pins) == (True, 1.0, 22, 1)
    assert (store.txn(), stored(store), store.namespace.settings()) == before
    assert dead.exists()


def test_more_than_a_tenth_needs_force(store: Store) -> None:  # F36
    store.publish([Remove("f20")], request_id="2")
    before = (store.txn(), stored(store), store.namespace.settings())
    with pytest.raises(CareRefused, match=r"200,.* of 80.* stored bytes \(25%, 1 chunks\).*10%.*--force") as refused:
        collect(store)
    assert refused.value.exit_code == 1
    assert (store.txn(), stored(store), store.namespace.settings()) == before
    done = collect(store, force=True)
    assert (done.braked, done.chunks) == (True, 1)
    assert is_clean(store)


def test_nothing_is_collected_in_safe_mode_or_while_a_node_is_absent(store: Store, tmp_path: Path) -> None:  # F36
    store.publish([Remove("f00")], request_id="2")
    store.namespace.set_local("safe_mode", "rebuilt from the nodes")
    for dry_run in (True, False):
        with pytest.raises(CareRefused, match=r"safe mode \(rebuilt from the nodes\).*dfs fsck"):
            collect(store, dry_run=dry_run, force=True)
    store.namespace.set_local("safe_mode", None)
    store.close()
    (store.path / "n1").rename(tmp_path / "away")
    with open_store(store.path) as opened:
        with pytest.raises(CareRefused, match="nodes are absent"):
            collect(opened, force=True)
        assert stored(opened) == 22
    (tmp_path / "away").rename(store.path / "n1")
    with open_store(store.path) as opened:
        assert collect(opened).chunks == 1


def test_a_node_that_cannot_list_stops_it(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish([Remove("f00")], request_id="2")
    node = next(iter(store.replicated.nodes.values()))

    def damaged() -> Iterator[tuple[ChunkId, int]]:
        raise ChunkDamaged("a damaged page")
        yield

    monkeypatch.setattr(node, "listing", damaged)
    with pytest.raises(CareRefused, match="damaged pages"):
        collect(store)
    assert stored(store) == 44


def test_a_node_that_cannot_delete_is_left_to_the_next_run(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.publish([Remove("f00")], request_id="2")
    first, _ = store.replicated.nodes.values()

    def broken(chunks: object) -> tuple[int, int]:
        raise NodeFailed("the disk does not answer")

    with monkeypatch.context() as patch:
        patch.setattr(first, "delete_many", broken)
        done = collect(store)
    assert (done.copies, done.failures) == (1, ("the disk does not answer",))
    assert collect(store).copies == 1
    assert is_clean(store)


def test_history_and_snapshots_keep_their_chunks(store: Store) -> None:
    now = store.time_ms(1)
    store.publish([SetRetention(7)], request_id="2")
    store.publish([TakeSnapshot("keep", 1), Remove("f01")], request_id="3")
    store.publish([PutFile("f00", store.write_file(b"new"))], request_id="4")
    store.pins.close()
    old = store.open("f00", 1).read()
    for day in range(8):
        done = collect(store, clock_ms=now + day * DAY_MS)
        assert (done.chunks, store.open("f00", 1).read()) == (0, old)
    collect(store, clock_ms=now + 20 * DAY_MS)
    done = collect(store, clock_ms=now + 20 * DAY_MS)
    assert store.open("f00", "keep").read() == old
    assert store.open("f01", "keep").read()
    with pytest.raises(NotFound, match="no longer kept"):
        store.open("f00", 2)
    store.publish([DropSnapshot("keep")], request_id="5")
    done = collect(store, clock_ms=now + 20 * DAY_MS)
    assert done.chunks == 2
    with pytest.raises(NotFound):
        store.open("f00", 1)
    assert store.open("f00").read() == b"new"
    assert is_clean(store)


def test_a_longer_retention_begins_where_history_does(store: Store) -> None:
    store.publish([Remove("f00")], request_id="2")
    before = collect(store).expired_before
    store.publish([SetRetention(7)], request_id="3")
    store.publish([Remove("f01")], request_id="4")
    done = collect(store)
    assert (done.chunks, done.expired_before) == (0, before)
    assert store.open("f01", before).read()


def test_what_an_open_store_reads_is_kept(path: Path) -> None:  # F38
    with open_store(path) as job, open_store(path) as other:
        job.hold(1)
        content = job.open("f00", 1).read()
        other.publish([Remove("f00")], request_id="2")
        assert collect(other).chunks == 0
        assert job.open("f00", 1).read() == content
        job.pins.close()
        assert collect(other).chunks == 1


def test_a_snapshot_dropped_while_it_is_read_stays_readable(path: Path) -> None:  # F38
    with open_store(path) as job, open_store(path) as other:
        other.publish([TakeSnapshot("one", 1), Remove("f00")], request_id="2")
        other.publish([Remove("f01")], request_id="3")
        assert collect(other).expired_before > 1
        job.hold(job.at("one"))
        other.publish([DropSnapshot("one")], request_id="4")
        assert collect(other).chunks == 0
        assert job.open("f00", 1).read()
        job.pins.close()
        assert collect(other).chunks == 2


def test_left_overs_of_the_dead_are_swept(store: Store) -> None:  # F12, F34
    with open_store(store.path) as writer:
        writer.write_file(b"x" * 5000)
    (store.path / "n1" / "tmp" / "left").write_bytes(b"x")
    (store.path / "scrub.json.0011.new").write_bytes(b"x")
    (store.pins.folder / "dead.pin").write_text(f"millrace-pins 1\nc {ChunkId.of(b'x')}\n")
    done = collect(store)
    assert (done.chunks, done.temp_files, done.dead_pins) == (1, 2, 1)
    assert is_clean(store)
    assert not list(store.path.glob("*.new"))


def test_quarantine_is_emptied_when_all_copies_are_good_again(store: Store) -> None:
    small, large = (store.chunks(path)[0].id for path in ("f00", "f20"))
    for chunk in (small, large):
        damage_local(store.path / "n1", chunk, "flip")
    assert scrub(store).healed == 2
    [node] = [node for node in store.replicated.nodes.values() if node.quarantined()]
    assert node.quarantined() == {small, large}
    damage_local(store.path / "n2", large, "flip")  # not all its copies are good
    assert collect(store).quarantined_copies == 0
    done = collect(store, quarantine=True)
    assert (done.quarantined_copies, node.quarantined()) == (1, {large})
    assert done.quarantined_bytes == pytest.approx(10_036, abs=4)
    store.publish([Remove("f20")], request_id="2")
    assert collect(store, quarantine=True, force=True).quarantined_copies == 1, "nobody needs it any more"
    assert node.quarantined() == set()


def test_only_one_at_a_time_beside_a_repair(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.pins.COLLECTION_WAIT_S", 0)
    with alone(store.pins.folder, "repair.lock"), pytest.raises(StoreLocked):
        collect(store)


# -- F35: collection beside writers -----------------------------------------------------------------------------------


def collect_elsewhere(path: Path) -> Collected:
    """As another process does it: with a store of its own, which pins nothing."""
    with open_store(path) as store:
        return collect(store, force=True)


def test_what_is_stored_and_not_yet_published_is_kept(store: Store) -> None:  # F35
    small, large = store.write_file(b"new" * 1000), store.write_file(os.urandom(100_000))
    assert collect_elsewhere(store.path).chunks == 0
    store.publish([PutFile("s", small), PutFile("l", large)], request_id="2")
    assert store.open("s").read() == b"new" * 1000
    assert is_kept(store)


def is_kept(store: Store) -> bool:
    """No reference dangles."""
    return not examine(store, read_data=True).damaged


def test_what_was_found_stored_already_is_kept(store: Store) -> None:  # F35
    """A dedup hit is a pin: the only file with these chunks goes, then garbage is collected, then it is published."""
    content = store.open("f20").read()
    manifest = store.write_file(content)
    assert manifest.new_chunks == 0
    with open_store(store.path) as other:
        other.publish([Remove("f20")], request_id="2")
    assert collect_elsewhere(store.path).chunks == 0
    store.publish([PutFile("again", manifest)], request_id="3")
    assert store.open("again").read() == content


def test_what_was_collected_can_be_stored_again(store: Store) -> None:  # F35
    content = store.open("f20").read()
    store.publish([Remove("f20")], request_id="2")
    assert collect_elsewhere(store.path).chunks == 1
    manifest = store.write_file(content)
    assert manifest.new_chunks == 1
    assert collect_elsewhere(store.path).chunks == 0
    store.publish([PutFile("f20", manifest)], request_id="3")
    assert store.open("f20").read() == content


def test_a_manifest_whose_pins_are_gone_is_refused(path: Path) -> None:  # F35
    with open_store(path) as writer:
        manifest = writer.write_file(b"forgotten" * 1000)
    assert collect_elsewhere(path).chunks == 1
    with open_store(path) as publisher:
        assert publisher.pin([manifest]) is False
        with pytest.raises(UsageProblem, match="store the file again"):
            publisher.publish([PutFile("x", manifest)], request_id="2")


class Meeting:
    """Makes a collection stop at a chosen point of a writer's work, or a writer at one of a collection's."""

    def __init__(self) -> None:
        self.reached, self.go_on = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.go_on.wait(30)


def at(monkeypatch: pytest.MonkeyPatch, target: object, name: str, meeting: Callable[[], None], before: bool) -> None:
    """Call `meeting` at the first call of `target.name`, before or after it."""
    real = getattr(target, name)
    used: list[bool] = []

    def wrapped(*args: object, **values: object) -> object:
        first = not used
        used.append(True)
        if first and before:
            meeting()
        answer = real(*args, **values)
        if first and not before:
            meeting()
        return answer

    monkeypatch.setattr(target, name, wrapped)


def asked_again(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Set when somebody had to ask for a lock a second time."""
    asked = threading.Event()
    monkeypatch.setattr("dfs.pins.time.sleep", lambda seconds: asked.set())
    return asked


class Outcome:
    """Runs a function in a thread and keeps what came of it."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.answer: object = None
        self.error: DfsError | None = None
        self._act = act
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.answer = self._act()
        except DfsError as error:
            self.error = error

    def wait(self) -> None:
        self._thread.join(30)
        assert not self._thread.is_alive()


@pytest.mark.parametrize(
    ("name", "point"),
    [
        *((name, point) for name in ("f00", "f20") for point in ("add:before", "add:after", "intact:after")),
        *(("new", point) for point in ("add:after", "put_many:before", "put_many:after")),
    ],
)
def test_a_collection_at_any_point_of_a_put_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, name: str, point: str
) -> None:  # F35
    """The bytes are garbage, or not there, when the put begins; the collection is asked for in the middle of it."""
    with open_store(path) as store:
        content = b"new" * 30_000
        if name != "new":
            content = store.open(name).read()
            store.publish([Remove(name)], request_id="2")
        meeting = Meeting()
        where, when = point.split(":")
        at(monkeypatch, store.pins if where == "add" else store.replicated, where, meeting, when == "before")
        put = Outcome(lambda: store.write_file(content))
        assert meeting.reached.wait(10)
        asked = asked_again(monkeypatch)
        collection = Outcome(lambda: collect_elsewhere(path))
        assert asked.wait(10), "the collection waits for the put"
        meeting.go_on.set()
        put.wait()
        collection.wait()
        assert collection.error is None
        assert isinstance(put.answer, FileManifest)
        store.publish([PutFile("again", put.answer)], request_id="3")
        assert store.open("again").read() == content
        assert is_kept(store)
        store.pins.close()
        collect_elsewhere(path)
        assert is_clean(store)


@pytest.mark.parametrize("point", ["needed:after", "commit:before", "commit:after", "delete_many:before"])
def test_a_put_at_any_point_of_a_collection_loses_nothing(
    path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:  # F35
    """The put of the very bytes that are being collected waits until that is done, and stores them anew."""
    with open_store(path) as collector, open_store(path) as store:
        content = store.open("f20").read()
        store.publish([Remove("f20")], request_id="2")
        meeting = Meeting()
        where, when = point.split(":")
        owner = {"needed": collector.namespace, "commit": collector.committer}.get(where)
        at(monkeypatch, owner or next(iter(collector.replicated.nodes.values())), where, meeting, when == "before")
        collection = Outcome(lambda: collect(collector, force=True))
        assert meeting.reached.wait(10)
        asked = asked_again(monkeypatch)
        put = Outcome(lambda: store.write_file(content))
        assert asked.wait(10), "the put waits for the collection"
        meeting.go_on.set()
        put.wait()
        collection.wait()
        assert collection.error is None
        assert isinstance(put.answer, FileManifest)
        assert put.answer.new_chunks == 1
        store.publish([PutFile("again", put.answer)], request_id="3")
        assert store.open("again").read() == content
        assert is_kept(store)


def test_a_publication_is_not_parted_by_a_collection(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F35
    """Between its look at the chunks and its commit no collection runs, though nothing pins them any more."""
    with open_store(path) as writer:
        manifest = writer.write_file(b"soon" * 2000)
    with open_store(path) as store:
        meeting = Meeting()
        at(monkeypatch, Committer, "commit", meeting, before=True)
        publication = Outcome(lambda: store.publish([PutFile("x", manifest)], request_id="2"))
        assert meeting.reached.wait(10)
        asked = asked_again(monkeypatch)
        collection = Outcome(lambda: collect_elsewhere(path))
        assert asked.wait(10), "the collection waits for the publication"
        meeting.go_on.set()
        publication.wait()
        collection.wait()
        assert publication.error is None
        assert collection.error is None
        assert store.open("x").read() == b"soon" * 2000


WRITER = """
import random, sys
from pathlib import Path
from dfs.store import open_store
from dfs.changes import PutFile, Remove
seed = int(sys.argv[2])
rng = random.Random(seed)
with open_store(sys.argv[1]) as store:
    for n in range(20):
        shared = random.Random(rng.randrange(6)).randbytes(rng.choice([3000, 70000]))
        manifest = store.write_file(shared)
        store.publish([PutFile(f"w{seed}", manifest)], request_id=f"{seed} {n}")
        assert store.open(f"w{seed}").read() == shared
        print(n, flush=True)
"""


def test_processes_that_put_and_collect_lose_nothing(path: Path) -> None:  # F35
    """Writers put the same few contents over and over, each replacing its own file, so that chunks become garbage and
    are needed again all the time."""
    command = [sys.executable, "-c", WRITER, str(path)]
    writers = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE) for seed in range(2)]
    with open_store(path) as store:
        for writer in writers:
            assert writer.stdout is not None
            for _ in writer.stdout:  # after each publication, that is during the next put
                collect(store, force=True)
            assert writer.wait() == 0
            writer.stdout.close()
        assert is_kept(store)
        collect(store, force=True)
        assert is_clean(store)
