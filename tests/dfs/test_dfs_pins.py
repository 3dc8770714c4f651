"""Pins and the locks of writers and collections (docs/formats/pins.md)."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import pytest

import dfs.pins
from dfs.errors import DfsError, StoreLocked, Unsupported
from dfs.ids import ChunkId
from dfs.pins import Pinned, Pins, alone, collecting

A, B = ChunkId.of(b"a"), ChunkId.of(b"b")


def pinned(folder: Path) -> Pinned:
    with collecting(folder, wait_s=0) as found:
        return found


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.pin"))


def test_what_is_pinned_is_seen_until_close(tmp_path: Path) -> None:
    pins, other = Pins(tmp_path / "pins"), Pins(tmp_path / "pins")
    assert not (tmp_path / "pins").exists(), "a reader needs no pin file"
    with pins.writing():
        pins.add([A])
        pins.add([])
        pins.add([A, B])
    other.hold(7)
    assert pinned(pins.folder) == Pinned(frozenset({A.digest, B.digest}), frozenset({7}))
    pins.close()
    pins.close()
    assert pinned(pins.folder) == Pinned(frozenset(), frozenset({7}))
    pins.add([B])
    other.close()
    assert pinned(pins.folder) == Pinned(frozenset({B.digest}), frozenset())
    pins.close()
    assert files(pins.folder) == []


def test_the_file_is_as_documented(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.add([A])
    pins.hold(12)
    (name,) = files(tmp_path)
    assert (tmp_path / name).read_text() == f"millrace-pins 1\nc {A}\nt 12\n"
    pins.close()


def test_a_collection_waits_for_writers_and_says_so_in_the_end(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    with pins.writing(), pins.writing(), pytest.raises(StoreLocked, match=r"gc\.lock"):
        pinned(tmp_path)
    pinned(tmp_path)


def test_a_writer_waits_for_a_collection(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pins = Pins(tmp_path)
    monkeypatch.setattr(dfs.pins, "WRITER_WAIT_S", 0)
    with collecting(tmp_path):
        with pytest.raises(StoreLocked, match="garbage collection is running"):
            pins.add([A])
        with pytest.raises(StoreLocked, match=r"gc\.intent"):
            pinned(tmp_path)
    pins.add([A])
    assert pinned(tmp_path).chunks == {A.digest}
    pins.close()


def test_a_waiting_collection_comes_before_later_writers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream of writers whose batches overlap would keep a plain shared lock for ever."""
    early, late = Pins(tmp_path), Pins(tmp_path)
    waiting = threading.Event()
    order: list[str] = []

    def pause(seconds: float) -> None:  # takes the place of time.sleep: who polls, waits
        waiting.set()

    monkeypatch.setattr(dfs.pins.time, "sleep", pause)

    def collect() -> None:
        with collecting(tmp_path, wait_s=60):
            order.append("collection")

    def write() -> None:
        with late.writing():
            order.append("late writer")

    with early.writing():
        collection = threading.Thread(target=collect)
        collection.start()
        assert waiting.wait(30)  # it has passed the turnstile and waits for the early writer
        waiting.clear()
        writer = threading.Thread(target=write)
        writer.start()
        assert waiting.wait(30)
    collection.join()
    writer.join()
    assert order == ["collection", "late writer"]


def test_files_of_dead_owners_are_swept_with_their_pins(tmp_path: Path) -> None:
    code = (
        "import sys, os; from pathlib import Path; from dfs.pins import Pins; from dfs.ids import ChunkId;"
        "pins = Pins(Path(sys.argv[1])); pins.add([ChunkId.of(b'a')]); print('pinned', flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert pinned(tmp_path).chunks == {A.digest}
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert len(files(tmp_path)) == 1
    assert pinned(tmp_path) == Pinned(frozenset(), frozenset(), dead=1)
    assert files(tmp_path) == []


def test_a_forked_child_leaves_its_parents_pins_alone_and_makes_its_own(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    pins.add([A])
    (mine,) = files(tmp_path)
    ask, answer = os.pipe(), os.pipe()
    with pins.writing():
        child = os.fork()
        if child == 0:
            status = 1
            try:
                assert pins._handles == set()
                pins.add([B])
                os.write(answer[1], b"x")
                os.read(ask[0], 1)
                pins.close()
                status = 0
            finally:
                os._exit(status)
        os.read(answer[0], 1)
    # the child was forked inside our `writing` and lives: neither that lock nor anything else is left behind in it
    assert pinned(tmp_path).chunks == {A.digest, B.digest}
    os.write(ask[1], b"x")
    assert os.waitpid(child, 0)[1] == 0
    for end in (*ask, *answer):
        os.close(end)
    assert files(tmp_path) == [mine]
    assert pinned(tmp_path).chunks == {A.digest}
    pins.close()


def test_a_child_that_leaves_the_body_does_not_unlock_its_parent(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    with pins.writing():
        child = os.fork()
        if child:
            assert os.waitpid(child, 0)[1] == 0
            with pytest.raises(StoreLocked):
                pinned(tmp_path)
    if not child:
        os._exit(0)
    pinned(tmp_path)


def test_a_child_lets_go_without_removing_or_unlocking(tmp_path: Path) -> None:
    """What a forked child does first, seen from inside: its descriptors are closed, the files stay as they are."""
    pins = Pins(tmp_path)
    pins.add([A])
    [path] = tmp_path.glob("*.pin")
    handles = set(pins._handles)
    twins = {handle: os.dup(handle) for handle in handles}  # they stand for the parent's
    dfs.pins._forget_all()
    assert pins._handles == set()
    for handle, twin in twins.items():
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(handle)
        assert os.fstat(twin).st_ino == path.stat().st_ino
    assert pinned(tmp_path).chunks == {A.digest}, "the lock is still held"
    for twin in twins.values():
        os.close(twin)
    assert pinned(tmp_path).dead == 1


def test_a_file_that_its_owner_removes_meanwhile_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [self / "closed.pin"])
    assert pinned(tmp_path) == Pinned(frozenset(), frozenset())


def test_only_one_holds_a_lock_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dfs.pins, "COLLECTION_WAIT_S", 0)
    with alone(tmp_path, "repair.lock"):
        with pytest.raises(StoreLocked, match=r"repair\.lock"), alone(tmp_path, "repair.lock"):
            pass
        with alone(tmp_path, "scrub.lock"):
            pass
    with alone(tmp_path, "repair.lock"):
        pass


def test_a_torn_last_line_is_passed_over_and_other_lines_are_refused(tmp_path: Path) -> None:
    with open(tmp_path / "x.pin", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(f"millrace-pins 1\nc {A}\nc {B}")
        file.flush()
        assert pinned(tmp_path).chunks == {A.digest}
        for text in (
            "millrace-pins 2\n",
            "millrace-pins 1\nz 1\n",
            "millrace-pins 1\nc 12\n",
            "millrace-pins 1\nt x\n",
        ):
            file.seek(0)
            file.truncate()
            file.write(text)
            file.flush()
            with pytest.raises(Unsupported, match=r"x\.pin"):
                pinned(tmp_path)
        file.seek(0)
        file.truncate()
        assert pinned(tmp_path) == Pinned(frozenset(), frozenset()), "its owner has not written the first line yet"


def test_a_failed_append_leaves_whole_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F10
    pins = Pins(tmp_path)
    pins.add([A])
    real = os.write
    with monkeypatch.context() as patch:
        patch.setattr(dfs.pins.os, "write", lambda handle, data: real(handle, data[:5]))
        with pytest.raises(DfsError, match="disk full"):
            pins.add([B])
    pins.add([B])
    assert pinned(tmp_path).chunks == {A.digest, B.digest}
    pins.close()


def test_a_pin_file_that_cannot_be_begun_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:  # F10
    pins = Pins(tmp_path)

    def full(handle: int, data: bytes) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(dfs.pins.os, "write", full)
        with pytest.raises(DfsError, match="No space left"):
            pins.add([A])
    assert files(tmp_path) == []
    assert pins._handles == set()


def test_a_folder_that_cannot_be_used_is_a_typed_error(tmp_path: Path) -> None:
    (tmp_path / "pins").write_text("a file")
    with pytest.raises(DfsError, match="cannot be kept"):
        Pins(tmp_path / "pins").add([A])
    with pytest.raises(DfsError, match="cannot be kept"):
        pinned(tmp_path / "pins")


def test_many_threads_pin_at_once_while_collections_run(tmp_path: Path) -> None:
    pins = Pins(tmp_path)
    chunks = [[ChunkId.of(b"%d %d" % (thread, n)) for n in range(40)] for thread in range(4)]

    def work(mine: list[ChunkId]) -> None:
        for chunk in mine:
            with pins.writing():
                pins.add([chunk])

    threads = [threading.Thread(target=work, args=(mine,)) for mine in chunks]
    for thread in threads:
        thread.start()
    seen = []
    for _ in range(5):
        with collecting(tmp_path) as found:
            seen.append(found.chunks)
    for thread in threads:
        thread.join()
    assert all(before <= after for before, after in pairwise(seen))
    assert pinned(tmp_path).chunks == {chunk.digest for mine in chunks for chunk in mine}
    pins.close()
