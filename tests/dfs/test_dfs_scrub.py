"""Scrub: every damage is found and healed, nothing else is; it goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
import random
import resource
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from dfs.changes import DropSnapshot, PutFile, Remove, SetRetention, TakeSnapshot
from dfs.codec import HEADER_BYTES
from dfs.creation import init_store
from dfs.errors import DfsError, NodeFailed, StoreLocked, Unsupported
from dfs.gc import collect
from dfs.health import examine, fault
from dfs.ids import ChunkId
from dfs.pins import alone
from dfs.scrub import Scrubbed, load_cursor, scrub, sweep
from dfs.store import Store, open_store
from dfs.stores.node import newest_small, open_small
from dfs.testing import damage_local

SMALL, LARGE = 60, 40  # files of one chunk each: rows of SQLite, and files


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "s"
    nodes = [path / "n1", path / "n2"]
    with init_store(path, nodes=nodes, replicas=2, chunk_bytes_avg=1 << 18, durability="none") as store:
        rng = random.Random(0)
        contents = [rng.randbytes(rng.randint(1, 6000)) for _ in range(SMALL)]
        contents += [rng.randbytes(66_000) for _ in range(LARGE)]
        changes = [PutFile(f"f{n:03}", manifest) for n, manifest in enumerate(map(store.write_file, contents))]
        store.publish(changes, request_id="1")
    return path


@pytest.fixture
def path(tmp_path: Path, template: Path) -> Path:
    return shutil.copytree(template, tmp_path / "s")


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    with open_store(path) as store:
        yield store


def chunks(store: Store) -> list[ChunkId]:
    return [store.chunks(info.path)[0].id for info in store.find("")]


def nodes(store: Store) -> list[Path]:
    return sorted(store.node_paths().values())


def found(done: Scrubbed) -> set[ChunkId]:
    return {finding.chunk for finding in (*done.damaged, *done.lacking)}


def all_good(store: Store) -> bool:
    """By the nodes' own verified reads."""
    return all(
        [fault(node, chunk) for node in store.replicated.nodes.values()] == [None, None] for chunk in chunks(store)
    )


# -- damage to single copies ------------------------------------------------------------------------------------------

HEADER_FIELDS = {"magic": 0, "version": 4, "codec": 5, "reserved": 6, "raw length": 8, "stored length": 16}
HEADER_FIELDS |= {"payload check": 24, "header check": 32}
Damage = Callable[[random.Random, bytes], bytes | None]


def flip(at: int, bit: int, record: bytes) -> bytes:
    return record[:at] + bytes([record[at] ^ (1 << bit)]) + record[at + 1 :]


DAMAGES: dict[str, Damage] = {
    **{
        f"flip in {field}": lambda rng, record, at=at: flip(at, rng.randrange(8), record)
        for field, at in HEADER_FIELDS.items()
    },
    "flip in header": lambda rng, record: flip(rng.randrange(HEADER_BYTES), rng.randrange(8), record),
    "flip in payload": lambda rng, record: flip(rng.randrange(HEADER_BYTES, len(record)), rng.randrange(8), record),
    "flip in last byte": lambda rng, record: flip(len(record) - 1, rng.randrange(8), record),
    "empty": lambda rng, record: b"",
    "cut in header": lambda rng, record: record[: rng.randrange(1, HEADER_BYTES)],
    "header only": lambda rng, record: record[:HEADER_BYTES],
    "last byte cut": lambda rng, record: record[:-1],
    "cut anywhere": lambda rng, record: record[: rng.randrange(len(record))],
    "extended": lambda rng, record: record + rng.randbytes(rng.randint(1, 99)),
    "zeroed": lambda rng, record: bytes(len(record)),
    "zeroed in part": lambda rng, record: record[: (at := rng.randrange(len(record)))] + b"\0" * (len(record) - at),
    "garbage": lambda rng, record: rng.randbytes(len(record)),
    "deleted": lambda rng, record: None,
}


def change_copy(node: Path, chunk: ChunkId, act: Callable[[bytes], bytes | None]) -> None:
    """Replace what a node has of a chunk; None deletes it."""
    file = node / "chunks" / chunk[:2] / chunk
    if file.exists():
        new = act(file.read_bytes())
        file.unlink()
        if new is not None:
            file.write_bytes(new)
        return
    db = open_small(node / f"small-{newest_small(node)}.db")
    try:
        record: bytes = db.execute("SELECT record FROM small_chunk WHERE id = ?", (chunk.digest,)).get
        new = act(record)
        if new is None:
            db.execute("DELETE FROM small_chunk WHERE id = ?", (chunk.digest,))
        else:
            db.execute("UPDATE small_chunk SET record = ? WHERE id = ?", (new, chunk.digest))
    finally:
        db.close()


def damage_all(store: Store, rng: random.Random, kinds: Iterator[str]) -> set[ChunkId]:
    """Damage one copy of every chunk, each in another way; the last two of each size are swapped with each other."""
    hurt = set()
    ids = chunks(store)
    for group in (ids[:SMALL], ids[SMALL:]):
        rng.shuffle(group)
        *single, one, two = group
        node = rng.choice(nodes(store))
        kept: list[bytes] = []
        change_copy(node, one, lambda record: kept.append(record) or record)  # noqa: B023 - called at once
        change_copy(node, two, lambda record: kept.append(record) or kept[0])  # noqa: B023
        change_copy(node, one, lambda record: kept[1])  # noqa: B023
        for chunk in single:
            kind = next(kinds)

            def act(record: bytes, kind: str = kind) -> bytes | None:
                new = DAMAGES[kind](rng, record)
                return new if new != record else flip(0, 0, record)

            change_copy(rng.choice(nodes(store)), chunk, act)
        hurt |= set(group)
    return hurt


def inject(store: Store, count: int) -> int:
    """Damage, scrub, look, until so many damages were found; after each, as many scans of the healthy store."""
    rng = random.Random(0)
    kinds = iter([kind for _ in range(count) for kind in DAMAGES])
    done = 0
    while done < count:
        hurt = damage_all(store, rng, kinds)
        first = scrub(store)
        assert found(first) == hurt
        assert (first.lost, first.failures, first.healed, first.done) == ((), (), len(hurt), True)
        assert all_good(store)
        clean = scrub(store)
        assert clean.clean, "no false alarm"
        assert clean.copies == 2 * (SMALL + LARGE)
        done += len(hurt)
    return done


def test_every_damage_is_found_and_healed_and_nothing_else(store: Store) -> None:  # F14, F15
    """200 of them: every kind at least four times in rows and in files."""
    before = {info.path: store.open(info.path).read() for info in store.find("")}
    assert scrub(store).clean
    assert inject(store, 200) == 200
    assert {name: store.open(name).read() for name in before} == before


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_thousand_damages_are_found(store: Store) -> None:  # F14, F15
    assert inject(store, 2000) == 2000


@pytest.mark.parametrize("planted", ["folder", "link", "dangling link", "pipe"])
def test_what_was_put_in_the_place_of_a_chunk_is_found(store: Store, tmp_path: Path, planted: str) -> None:  # F54
    chunk = chunks(store)[-1]
    file = nodes(store)[0] / "chunks" / chunk[:2] / chunk
    good = tmp_path / "copy"
    shutil.move(file, good)
    match planted:
        case "folder":
            file.mkdir()
        case "link":
            file.symlink_to(good)
        case "dangling link":
            file.symlink_to(tmp_path / "nothing")
        case _:
            os.mkfifo(file)
    assert found(scrub(store)) == {chunk}
    assert all_good(store)
    assert scrub(store).clean


# -- damage to the file of small chunks -------------------------------------------------------------------------------


FILE_DAMAGES: dict[str, Callable[[bytes], bytes | None]] = {
    "zeroed": lambda data: bytes(len(data)),
    "zeroed from the middle": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "a page cut off": lambda data: data[:-4096],
    "another file": lambda data: b"not a database, " * 1000,
    "deleted": lambda data: None,
}


def change_file(path: Path, act: Callable[[bytes], bytes | None]) -> None:
    """Replace a node's file of small chunks while nobody has it open."""
    file = path / "n1" / "small-1.db"
    for rest in (path / "n1").glob("small-1.db-*"):
        rest.unlink()
    new = act(file.read_bytes())
    file.unlink()
    if new is not None:
        file.write_bytes(new)


def check_file_damage(path: Path) -> None:
    with open_store(path) as store:
        ids = set(chunks(store)[:SMALL])
        done = scrub(store)
        hurt = found(done)
        assert hurt
        assert hurt <= ids
        assert (done.lost, done.failures) == ((), ())
        assert all_good(store)  # some of it was saved from the pages that could be read
        assert scrub(store).clean
        assert not examine(store, read_data=True).damaged


@pytest.mark.parametrize("kind", FILE_DAMAGES)
def test_a_lost_file_of_small_chunks_is_healed(path: Path, kind: str) -> None:  # F18, F19
    change_file(path, FILE_DAMAGES[kind])
    check_file_damage(path)


def flips_of_pages(path: Path, tmp_path: Path, count: int) -> None:
    rng = random.Random(1)
    size = (path / "n1" / "small-1.db").stat().st_size
    for number in range(count):
        copy = shutil.copytree(path, tmp_path / f"flip{number}")
        at = (number * size // count + rng.randrange(max(1, size // count))) % size
        change_file(copy, lambda data, at=at: flip(at, rng.randrange(8), data))  # type: ignore[misc]
        check_file_damage(copy)
        shutil.rmtree(copy)


def test_a_flipped_bit_in_a_page_is_found(path: Path, tmp_path: Path) -> None:  # F18
    flips_of_pages(path, tmp_path, 6)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_flipped_bits_in_all_pages_are_found(path: Path, tmp_path: Path) -> None:  # F18
    flips_of_pages(path, tmp_path, 200)


# -- no false alarms --------------------------------------------------------------------------------------------------


def quarantined(store: Store) -> set[ChunkId]:
    return {chunk for node in store.replicated.nodes.values() for chunk in node.quarantined()}


@contextlib.contextmanager
def descriptors_left(count: int) -> Iterator[None]:
    """So many files can be opened in the body."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (used + count + 1, hard))
    hogs = []
    try:
        with contextlib.suppress(OSError):
            while True:
                hogs.append(os.open(os.devnull, os.O_RDONLY))
        for hog in hogs[len(hogs) - count :]:
            os.close(hog)
        del hogs[len(hogs) - count :]
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for hog in hogs:
            os.close(hog)


def scan_with_few_descriptors(store: Store, scans: int) -> tuple[int, list[DfsError]]:
    """Scans with 0, 1, 2, ... descriptors left; how many came to the end, and what stopped the others."""
    ended = 0
    errors: list[DfsError] = []
    for number in range(scans):
        with descriptors_left(number % 16):
            try:
                done = scrub(store)
            except DfsError as error:
                errors.append(error)
                continue
        assert done.clean, "no false alarm"
        ended += 1
    return ended, errors


def test_running_out_of_descriptors_is_not_corruption(store: Store) -> None:  # F61
    ended, errors = scan_with_few_descriptors(store, 32)
    assert ended >= 8
    assert len(errors) >= 8
    assert any(isinstance(error, NodeFailed) for error in errors)
    assert {error.exit_code for error in errors} == {1}, "not that of corruption"
    assert quarantined(store) == set()
    assert store.counts == {}
    assert scrub(store, restart=True).clean
    assert all_good(store)


@pytest.mark.slow
def test_two_hundred_scans_with_few_descriptors(store: Store) -> None:  # F61
    scan_with_few_descriptors(store, 200)
    assert quarantined(store) == set()


class Failing:
    """Lets a node's `get` fail from the n-th call on."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, folder: Path, after: int) -> None:
        self.left = after
        [node] = [store.replicated.nodes[name] for name, path in store.node_paths().items() if path == folder]
        real = node.get

        def get(chunk: ChunkId) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise NodeFailed("Too many open files")
            return real(chunk)

        monkeypatch.setattr(node, "get", get)


@pytest.mark.parametrize("good_copy", ["elsewhere", "on that node"])
def test_a_node_that_does_not_answer_stops_it_and_it_goes_on_later(
    store: Store, monkeypatch: pytest.MonkeyPatch, good_copy: str
) -> None:  # F61
    damaged, other = nodes(store)
    ids = sorted(chunks(store))
    hurt = (ids[3], ids[-3])
    for chunk in hurt:
        damage_local(damaged, chunk, "flip")
    with monkeypatch.context() as patch:
        Failing(store, patch, damaged if good_copy == "elsewhere" else other, after=50)
        with pytest.raises(NodeFailed, match="Too many open files"):
            scrub(store)
    cursor = load_cursor(store)
    rest = scrub(store)
    if good_copy == "elsewhere":
        assert (cursor.after, cursor.copies, cursor.found) == (ids[49], 100, 1)
        assert (found(rest), rest.copies) == ({ids[-3]}, 100), "what was found before is healed"
    else:
        assert cursor.after == "", "what could not be healed is found again"
        assert (found(rest), rest.copies) == (set(hurt), 200)
    assert rest.done
    assert quarantined(store) == set(hurt)
    assert load_cursor(store).after == ""
    assert all_good(store)


# -- the cursor -------------------------------------------------------------------------------------------------------


def test_a_budget_is_kept_and_the_next_run_goes_on(store: Store) -> None:
    total = sum(node.usage().stored_bytes for node in store.replicated.nodes.values())
    runs = []
    for _ in range(20):
        runs.append(scrub(store, budget=total // 5))
        if runs[-1].done:
            break
    assert [run.done for run in runs] == [False] * (len(runs) - 1) + [True]
    assert 4 <= len(runs) <= 6
    assert sum(run.copies for run in runs) == 2 * (SMALL + LARGE)
    assert sum(run.bytes for run in runs) == total
    assert runs[1].cursor.bytes == runs[0].bytes + runs[1].bytes
    again = scrub(store, budget=1)
    assert again.copies == 2, "a new pass"
    assert scrub(store, restart=True).copies == 2 * (SMALL + LARGE)


def test_the_cursor_is_saved_now_and_then(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed goes on from there."""
    monkeypatch.setattr("dfs.scrub.SCRUB_SAVE_BYTES", 1_000_000)
    seen = []
    scrub(store, progress=lambda copies, size: seen.append((copies, size, load_cursor(store).copies)))
    copies, sizes, saved = zip(*seen, strict=True)
    assert copies == tuple(range(2, 2 * (SMALL + LARGE) + 1, 2))
    assert sizes[-1] == sum(node.usage().stored_bytes for node in store.replicated.nodes.values())
    assert sorted(saved) == list(saved)
    assert len(set(saved)) >= 5


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"format": 1, "after": "xyz", "copies": 0, "bytes": 0, "found": 0}'])
def test_a_damaged_cursor_begins_anew(store: Store, text: str) -> None:
    (store.path / "scrub.json").write_text(text)
    assert scrub(store).copies == 2 * (SMALL + LARGE)


def test_a_cursor_of_a_newer_release_is_refused(store: Store) -> None:  # F60
    (store.path / "scrub.json").write_text(json.dumps({"format": 2}))
    with pytest.raises(Unsupported, match="--restart"):
        scrub(store)
    assert scrub(store, restart=True).done
    (store.path / "scrub.json.12ab.new").write_text("left")
    assert (sweep(store), sweep(store)) == (1, 0)


def test_only_one_scrub_at_a_time(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.pins.COLLECTION_WAIT_S", 0)
    with alone(store.pins.folder, "scrub.lock"), pytest.raises(StoreLocked):
        scrub(store)


def test_it_reads_no_faster_than_its_rate(store: Store) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    done = scrub(store, rate=1_000_000, clock=lambda: now, sleep=sleep)
    assert now == pytest.approx(done.bytes / 1_000_000, rel=0.05)


def test_damaged_logs_and_checkpoints_are_told_at_the_end_of_a_pass(store: Store) -> None:  # F18
    [point] = (nodes(store)[0] / "checkpoints").iterdir()
    data = point.read_bytes()
    point.write_bytes(flip(len(data) // 2, 0, data))
    assert scrub(store, budget=1).clean, "not before"
    done = scrub(store)
    assert (done.clean, done.done, done.healed) == (False, True, 0)
    assert "checkpoint" in done.failures[0]


# -- what it makes of other states ------------------------------------------------------------------------------------


def test_what_has_no_good_copy_is_lost_and_told(store: Store) -> None:  # F4
    gone, spoilt = chunks(store)[0], chunks(store)[-1]
    for node in nodes(store):
        damage_local(node, gone, "delete")
        damage_local(node, spoilt, "flip")
    done = scrub(store)
    assert {finding.chunk for finding in done.lost} == {gone, spoilt}
    assert (done.clean, done.healed) == (False, 0)


def test_many_damages_are_healed_in_batches(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dfs.scrub.BATCH_BYTES_MAX", 100_000)
    for chunk in chunks(store):
        damage_local(nodes(store)[0], chunk, "delete")
    assert scrub(store).healed == SMALL + LARGE
    assert all_good(store)


def test_damaged_copies_that_nobody_needs_are_put_aside(store: Store) -> None:
    chunk = store.write_file(b"orphan" * 20_000).chunks[0].id
    assert scrub(store).clean
    damage_local(nodes(store)[0], chunk, "flip")
    done = scrub(store)
    assert (done.spoilt, done.clean, done.healed) == (1, False, 0)
    assert quarantined(store) == {chunk}
    assert scrub(store).clean


def test_what_an_open_store_reads_is_healed_too(path: Path) -> None:  # F35
    """The file is removed and its snapshot dropped, but somebody reads that transaction still."""
    with open_store(path) as store, open_store(path) as reader:
        store.publish([TakeSnapshot("s"), SetRetention(0)], request_id="2")
        chunk = store.chunks("f000")[0].id
        store.publish([Remove("f000")], request_id="3")
        collect(store, force=True)
        reader.hold(store.at("s"))
        store.publish([DropSnapshot("s")], request_id="4")
        damage_local(nodes(store)[0], chunk, "flip")
        done = scrub(store)
        assert (len(done.damaged), done.healed, done.spoilt) == (1, 1, 0)
        assert all(node.get(chunk) for node in store.replicated.nodes.values())


def test_copies_on_absent_nodes_are_not_missed(store: Store, tmp_path: Path) -> None:  # F40
    store.close()
    nodes(store)[0].rename(tmp_path / "away")
    with open_store(store.path) as opened:
        assert replace(scrub(opened), copies=0, bytes=0).clean
        damage_local(nodes(opened)[1], chunks(opened)[0], "delete")
        done = scrub(opened)
        assert (len(done.waiting), done.lost, done.clean) == (1, (), False), "the absent node has it"
    (tmp_path / "away").rename(nodes(store)[0])
    with open_store(store.path) as opened:
        assert scrub(opened).healed == 1


def test_what_was_removed_meanwhile_is_not_lost(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:  # F35
    """A chunk that was needed when the pass began, and has been collected since."""
    chunk = store.chunks("f000")[0].id
    needed = list(store.namespace.needed())
    store.publish([Remove("f000")], request_id="2")
    for node in store.replicated.nodes.values():
        node.delete_many([chunk])
    answers = iter([needed, *[[entry for entry in needed if entry[0] != chunk]] * 3])
    monkeypatch.setattr(store.namespace, "needed", lambda also: next(answers))
    assert scrub(store).clean


def test_what_was_removed_before_it_was_healed_is_no_failure(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Found damaged, then collected, then not to be read for healing."""
    chunk = store.chunks("f000")[0].id
    damage_local(nodes(store)[0], chunk, "flip")
    needed = list(store.namespace.needed())

    def take(copies: int, size: int) -> None:
        for node in store.replicated.nodes.values():
            node.delete_many([chunk])

    answers = iter([needed, *[[entry for entry in needed if entry[0] != chunk]] * 3])
    monkeypatch.setattr(store.namespace, "needed", lambda also: next(answers))
    done = scrub(store, progress=take)
    assert (done.failures, done.lost, done.healed) == ((), (), 0)
