"""The conformance suite of executors: what `mr.executors.base` promises, checked from outside."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cloudpickle
import pyarrow as pa
from msgspec.structs import replace

import mr
from mr.collected import collected
from mr.events import AttemptFailed, AttemptLost, AttemptProgress, AttemptSucceeded, FetchMissed
from mr.executors.base import AttemptEvent, Executor
from mr.executors.inline import InlineExecutor
from mr.fingerprint import digest
from mr.kernels.rows import to_python
from mr.plan import Collect, Items
from mr.program import GatherHead
from mr.stages import compile_plan
from mr.tasks import Attempt, AttemptId, ExchangeInput, SourceFile, Split, TaskId, TaskResult, TaskSpec

DEADLINE_SECONDS = 60.0
WAIT_SECONDS = 0.5


def check_executor(make: Callable[[Path], Executor]) -> None:
    """Check that an executor keeps the contract of `mr.executors.base`; raises AssertionError where it does not.

    `make(home)` starts one, with `home` as its scratch root; it is closed in the end. Takes a second or two.

    >>> check_executor(lambda home: InlineExecutor(home, 1 << 30))
    """
    with TemporaryDirectory(prefix="mr-test-") as folder:
        home = Path(folder)
        with make(home) as executor:
            bench = _Bench(executor, home)
            for check in CHECKS:
                check(bench)
            pids = bench.pids
        executor.close()
        _eventually(lambda: not any(map(_alive, pids)), f"workers {sorted(pids)} outlive close()")


class _Bench:
    """An executor under test, and attempts of a one-stage program for it."""

    def __init__(self, executor: Executor, home: Path) -> None:
        self.executor = executor
        self.home = home
        self.slots = executor.nodes()[0].slots
        self.pids: set[int] = set()
        self._tasks = 0

    def attempt(self, fn: Callable[[Any], Any], items: Sequence[Any]) -> Attempt:
        """An attempt that maps `fn` over `items`, which come as batches of one."""
        source = mr.from_items(list(items))
        node = source.map(fn)._node
        program = compile_plan((Collect(node.shape, node),), lambda _: None, lambda _: None).stages[0].program
        sink = pa.BufferOutputStream()
        assert isinstance(source._node, Items)
        data = source._node.data
        with pa.ipc.new_stream(sink, data.schema) as writer:
            for row in range(data.num_rows):
                writer.write_batch(data.slice(row, 1))
        return self._attempt(program, Split((), digest(items), 0, sink.getvalue().to_pybytes()))

    def gathering(self, path: str, producer: TaskId) -> Attempt:
        """An attempt that reads all rows of a run file."""
        node = mr.from_items([0])._node
        program = compile_plan((Collect(node.shape, node),), lambda _: None, lambda _: None).stages[0].program
        schema = pa.schema({"value": pa.int64()}).serialize().to_pybytes()
        given = ExchangeInput((SourceFile(producer, path),), schema, 0, digest(path))
        attempt = self._attempt(replace(program, head=GatherHead()), None)
        return replace(attempt, spec=replace(attempt.spec, exchanges=(given,)))

    def _attempt(self, program: object, split: Split | None) -> Attempt:
        pickled = cloudpickle.dumps(program)
        self._tasks += 1
        task = TaskId(0, self._tasks)
        spec = TaskSpec(task, pickled, digest(pickled), digest(pickled, task), split=split)
        return Attempt(AttemptId(*task, 1), spec)

    def submit(self, *attempts: Attempt) -> None:
        node = self.executor.nodes()[0].id
        for attempt in attempts:
            started = time.monotonic()
            self.executor.submit(attempt, node)
            assert time.monotonic() - started < WAIT_SECONDS, "submit() waits for the attempt"

    def run(self, *attempts: Attempt) -> list[AttemptEvent]:
        """Submit attempts, no more than there are slots; their endings in order of submission."""
        self.submit(*attempts)
        return self.endings([attempt.id for attempt in attempts])

    def endings(self, ids: Sequence[AttemptId]) -> list[AttemptEvent]:
        """Wait until these attempts have ended, each exactly once."""
        ended = {e.id: e for e in self.listen(lambda seen: set(ids) <= {e.id for e in _endings(seen)})}
        return [ended[id] for id in ids]

    def listen(self, enough: Callable[[list[AttemptEvent]], bool]) -> list[AttemptEvent]:
        """Wait until what was heard is enough; the endings among it."""
        seen: list[AttemptEvent] = []

        def heard() -> bool:
            if not enough(seen):
                seen.extend(self.executor.wait(WAIT_SECONDS))
            return enough(seen)

        _eventually(heard, lambda: f"the executor only told {seen}")
        seen.extend(self.executor.wait(0))
        endings = _endings(seen)
        twice = [id for id, n in Counter(e.id for e in endings).items() if n > 1]
        assert not twice, f"attempts {twice} ended more than once: {seen}"
        return endings

    def values(self, event: AttemptEvent) -> list[Any]:
        """The records that a successful attempt left."""
        assert isinstance(event, AttemptSucceeded), event
        return to_python(collected(event.result.outputs, self.home / "runs"))


def _endings(events: Iterable[AttemptEvent]) -> list[AttemptEvent]:
    return [event for event in events if not isinstance(event, AttemptProgress)]


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _eventually(true: Callable[[], bool], message: str | Callable[[], str]) -> None:
    """Wait until something is true; for what no event announces."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not true():
        assert time.monotonic() < deadline, message if isinstance(message, str) else message()
        time.sleep(0.01)


# What attempts do. At the top of a module, so that they are pickled by reference.


def _square(n: int) -> int:
    return n * n


def _fail(n: int) -> int:
    raise ValueError(f"bad record {n}")


def _die(path: str, n: int) -> int:
    """Let the first record through, wait for a file at the second and die."""
    Path(f"{path}.pid").write_text(str(os.getpid()))
    if _await(path, n):
        os.kill(os.getpid(), signal.SIGKILL)
    return n


def _hang(path: str, n: int) -> int:
    """Say who hangs, then do so for good."""
    Path(path).write_text(str(os.getpid()))
    while True:
        time.sleep(1)


def _meet(folder: str, n: int, me: int) -> int:
    """Wait until `n` attempts are here."""
    Path(folder, str(me)).touch()
    _eventually(lambda: len(os.listdir(folder)) >= n, f"fewer than {n} attempts run at a time")
    return os.getpid()


def _await(path: str, n: int) -> int:
    """Let the first record through and wait for a file at the second."""
    if n:
        _eventually(Path(path).exists, "nobody heard of progress")
    return n


def _surroundings(n: int) -> list[int]:
    import polars as pl

    return [str.__hash__("x"), pl.thread_pool_size(), os.getpid()]


def _check_nodes(bench: _Bench) -> None:
    nodes = bench.executor.nodes()
    assert nodes
    assert all(node.slots >= 1 and node.attempt_memory_bytes > 0 for node in nodes)


def _check_result(bench: _Bench) -> None:
    attempt = bench.attempt(_square, [1, 2, 3])
    (event,) = bench.run(attempt)
    assert bench.values(event) == [1, 4, 9]
    with TemporaryDirectory() as other:
        inline = InlineExecutor(Path(other), 1 << 30)
        inline.submit(attempt, "inline")
        expected = _endings(inline.wait(0))[0]
    assert isinstance(expected, AttemptSucceeded)
    assert isinstance(event, AttemptSucceeded)
    assert _bytes_of(event.result) == _bytes_of(expected.result)


def _bytes_of(result: TaskResult) -> object:
    return result.digests, result.records_in, result.counters


def _check_failure(bench: _Bench) -> None:
    event, after = (bench.run(attempt)[0] for attempt in (bench.attempt(_fail, [7]), bench.attempt(_square, [2])))
    assert isinstance(event, AttemptFailed), event
    assert "_fail" in event.message
    assert "bad record 7" in event.message
    assert bench.values(after) == [4]


def _check_missing_file(bench: _Bench) -> None:
    (event,) = bench.run(bench.gathering("no-such-file", TaskId(0, 99)))
    assert isinstance(event, FetchMissed), event
    assert event.producer == TaskId(0, 99)
    assert "no-such-file" in event.message


def _check_slots(bench: _Bench) -> None:
    """As many attempts as there are slots run at the same time, and slots are used again."""
    folder = bench.home / "meeting"
    for _ in range(2):
        folder.mkdir()
        attempts = [bench.attempt(partial(_meet, str(folder), bench.slots), [i]) for i in range(bench.slots)]
        pids = {pid for event in bench.run(*attempts) for pid in bench.values(event)}
        assert len(pids) == bench.slots, "attempts that run at a time share a process"
        for name in os.listdir(folder):
            (folder / name).unlink()
        folder.rmdir()
    if bench.executor.isolates:
        assert os.getpid() not in pids
        bench.pids |= pids


def _check_surroundings(bench: _Bench) -> None:
    """Workers have the hash seed and the threads that outputs depend on."""
    if not bench.executor.isolates:
        return
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-c", "print(hash('x'))"]
    expected = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    (event,) = bench.run(bench.attempt(_surroundings, [0]))
    assert bench.values(event)[0][:2] == [int(expected), 1]


def _check_progress(bench: _Bench) -> None:
    """Reports of a running attempt arrive while it runs."""
    if not bench.executor.isolates:
        return
    path = bench.home / "heard"
    attempt = bench.attempt(partial(_await, str(path)), [0, 1])
    bench.submit(attempt)
    early = bench.listen(lambda seen: any(isinstance(event, AttemptProgress) for event in seen))
    assert not early, early
    path.touch()
    (event,) = bench.endings([attempt.id])
    assert bench.values(event) == [0, 1]


def _check_loss(bench: _Bench) -> None:
    """A worker that dies takes only its own attempt with it, is named with what it last reported, and is replaced."""
    if not bench.executor.isolates:
        return
    doom, rescue = bench.home / "doom", bench.home / "rescue"
    doomed, other = bench.attempt(partial(_die, str(doom)), [0, 1]), bench.attempt(partial(_await, str(rescue)), [0, 1])
    attempts = [doomed, other][: bench.slots]
    bench.submit(*attempts)
    bench.listen(lambda seen: doomed.id in {event.id for event in seen})
    pid = _written(Path(f"{doom}.pid"))
    doom.touch()
    (lost,) = bench.listen(lambda seen: any(event.id == doomed.id for event in _endings(seen)))
    assert isinstance(lost, AttemptLost), lost
    assert str(pid) in lost.reason
    assert "records" in lost.reason, lost.reason
    rescue.touch()
    assert all(bench.values(event) == [0, 1] for event in bench.endings([a.id for a in attempts[1:]]))
    for event in bench.run(*(bench.attempt(_square, [n]) for n in range(bench.slots))):
        assert isinstance(event, AttemptSucceeded), event


def _check_kill(bench: _Bench) -> None:
    """A hung attempt can be ended, which frees its slot; others can always be forgotten."""
    bench.executor.kill(AttemptId(0, 0, 9))
    if not bench.executor.can_kill:
        return
    path = bench.home / "hanging"
    hung = [bench.attempt(partial(_hang, f"{path}{i}"), [i]) for i in range(bench.slots)]
    bench.submit(*hung)
    pids = [_written(Path(f"{path}{i}")) for i in range(bench.slots)]
    for attempt in hung:
        bench.executor.kill(attempt.id)
        bench.executor.kill(attempt.id)
    after = [bench.attempt(_square, [n]) for n in range(bench.slots)]
    bench.submit(*after)
    wanted = {attempt.id for attempt in after}
    ended = bench.listen(lambda seen: wanted <= {event.id for event in _endings(seen)})
    assert sorted(v for e in ended if e.id in wanted for v in bench.values(e)) == [n * n for n in range(bench.slots)]
    _eventually(lambda: not any(map(_alive, pids)), f"killed workers {pids} live on")


def _written(path: Path) -> int:
    _eventually(lambda: path.exists() and bool(path.read_text()), "the attempt does not start")
    return int(path.read_text())


CHECKS: Collection[Callable[[_Bench], None]] = (
    _check_nodes,
    _check_result,
    _check_failure,
    _check_missing_file,
    _check_surroundings,
    _check_progress,
    _check_loss,
    _check_kill,
    _check_slots,
)

__all__ = ["check_executor"]
