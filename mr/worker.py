"""Run one attempt: read its input, push the records through the program, write its outlets, report.

The same function on every executor. Whatever goes wrong becomes an event: nothing that user code does or that an input
holds is raised to the executor.
"""

from __future__ import annotations

import contextlib
import gc
import os
import pickle
import shutil
import threading
import time
import traceback
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pyarrow as pa
from msgspec.structs import replace

from mr import purity, snapshot
from mr import task_context as context
from mr.batch import Batch, Origins
from mr.errors import FetchFailed, FunctionFailed, MillraceError, RecordError, at_line, one_line, user_frames
from mr.events import AttemptFailed, AttemptProgress, AttemptSucceeded, FetchMissed
from mr.executors.base import AttemptEvent
from mr.heads import Reading, mapped, place_of, records_of
from mr.kernels.frames import concat
from mr.operators.base import Run
from mr.operators.python import PythonRun
from mr.outlets import OutletRun, SchemaGrew, open_outlet
from mr.prints import prints_to
from mr.program import HEAD, Outlet, PartOutlet, Port, Program
from mr.scratch import attempt_tag
from mr.stopwatch import Kind
from mr.tasks import Attempt, Rejected, TaskId, TaskResult, TaskSpec

PROGRAMS_KEPT = 64
SIDE_COPIES = 3
"""A broadcast side holds its rows, those in the order of its index, and their keys."""
GROWTHS_MAX = 16
PROGRESS_SECONDS = 0.2
ERROR_LENGTH_MAX = 200
"""Of an error that is kept beside a count of rejects."""

Report = Callable[[AttemptProgress], None]


class WorkerEnv:
    """What a worker process keeps between attempts: unpickled programs and built broadcast sides, a few of each.

    `home` is the scratch root that run files lie under; `memory_bytes` is what one attempt may use. `logs_prints`: this
    process is a worker's own, whose stdout nobody reads: what user code prints goes to the task's log.
    """

    def __init__(self, home: Path, memory_bytes: int, *, logs_prints: bool = False) -> None:
        self.home = home
        self.logs_prints = logs_prints
        self.memory_bytes = memory_bytes
        self._code = ""
        self._programs: OrderedDict[str, Program] = OrderedDict()
        self._sides: OrderedDict[tuple[str, str], tuple[int, object]] = OrderedDict()
        for folder in (home / "runs", home / "tmp"):
            folder.mkdir(parents=True, exist_ok=True)

    def program(self, spec: TaskSpec) -> Program:
        """The program of a task."""
        if spec.code and spec.code != self._code:
            self._programs.clear()  # what they refer to belongs to another snapshot
            snapshot.activate(self.home, spec.code)
            self._code = spec.code
        made: Program = _kept(self._programs, spec.program_digest, PROGRAMS_KEPT, lambda: pickle.loads(spec.program))
        return made

    def side(self, identity: str, key: str, size: int, build: Callable[[], object]) -> object:
        """A broadcast side of `size` bytes, built once for equal content; all have half of an attempt's memory."""
        if (identity, key) not in self._sides:
            held = size * SIDE_COPIES
            self.trim_sides(self.memory_bytes // 2 - held)
            self._sides[identity, key] = held, build()
        self._sides.move_to_end((identity, key))
        return self._sides[identity, key][1]

    def trim_sides(self, bytes_max: int) -> None:
        """Keep broadcast sides of at most so many bytes; the least recently used go first."""
        while self._sides and sum(held for held, _ in self._sides.values()) > bytes_max:
            self._sides.popitem(last=False)


def _kept(cache: OrderedDict[Any, Any], key: Any, most: int, make: Callable[[], Any]) -> Any:
    """The value of `key`, made if it is not there; the least recently used goes first."""
    if key not in cache:
        cache[key] = make()
        while len(cache) > most:
            cache.popitem(last=False)
    cache.move_to_end(key)
    return cache[key]


def run_attempt(attempt: Attempt, env: WorkerEnv, report: Report) -> AttemptEvent:
    """Run an attempt to its end and say how it ended. Never raises but for interrupts."""
    spec = attempt.spec
    try:
        os.chdir(attempt.folder)  # the master's may have changed since this worker started, or user code did that
        log = env.home / "logs" / f"{spec.fingerprint}.log"
        inputs = [piece.path for piece in spec.split.pieces] if spec.split else ()
        with (
            prints_to(log, f"task {spec.id}") if env.logs_prints else contextlib.nullcontext(),
            purity.watching(spec.program_digest, env.home, inputs) as watch,
        ):
            result = _run(attempt, env, report)
        opened, impure = purity.finished(watch)
        return AttemptSucceeded(attempt.id, replace(result, opened=opened, impure=impure))
    except FetchFailed as error:
        if error.producer is not None:
            return FetchMissed(attempt.id, TaskId(*error.producer), str(error))
        return AttemptFailed(attempt.id, str(error))
    except MillraceError as error:
        detail = error.detail if isinstance(error, FunctionFailed) else ""
        return AttemptFailed(attempt.id, one_line(str(error)), detail, fatal=not isinstance(error, FunctionFailed))
    except MemoryError:
        return AttemptFailed(attempt.id, f"out of memory (an attempt may use {env.memory_bytes >> 20} MiB)")
    except BaseException as error:
        if isinstance(error, KeyboardInterrupt) and not env.logs_prints:
            raise  # Ctrl-C: nobody sends it to a process that is a worker's own
        text = one_line(f"task {spec.id}: {type(error).__name__}: {error}")
        ended = not isinstance(error, Exception)  # by the user's code; of what else comes here the engine's frames tell
        return AttemptFailed(attempt.id, text, user_frames(error) if ended else traceback.format_exc())


def _run(attempt: Attempt, env: WorkerEnv, report: Report) -> TaskResult:
    settled: list[pa.Schema | None] = [None] * len(env.program(attempt.spec).outlets)
    settled[: len(attempt.spec.schemas)] = [_schema(s) for s in attempt.spec.schemas]
    for _ in range(GROWTHS_MAX):
        task = _Task(attempt, env, settled)
        try:
            with context.running(task.context), _collector_off(), _reporting(task, report):
                return task.run()
        except SchemaGrew as grown:  # rows of a wider type came late: again, knowing it from the start
            settled[grown.outlet] = grown.schema
        finally:
            task.clean()
    raise RecordError("the types of a column keep changing; declare them with names=")


def _schema(serialised: bytes | None) -> pa.Schema | None:
    return None if serialised is None else pa.ipc.read_schema(pa.py_buffer(serialised))


@contextlib.contextmanager
def _reporting(task: _Task, report: Report) -> Iterator[None]:
    """Report progress from a thread while it is made: a hung task falls silent, however alive its process is."""
    over = threading.Event()

    def watch() -> None:
        last: tuple[int, ...] = ()
        beat = 0
        while not over.wait(PROGRESS_SECONDS):
            event, marks = task.progress()
            if marks != last:
                last, beat = marks, beat + 1
                report(replace(event, beat=beat))

    thread = threading.Thread(target=watch, name="progress", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@contextlib.contextmanager
def _collector_off() -> Any:
    """Without the cyclic collector, which would walk millions of live records for nothing."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Task:
    """One try: a `TaskEnv` for its operators, and the loop that pushes batches from port to port."""

    def __init__(self, attempt: Attempt, env: WorkerEnv, settled: list[pa.Schema | None]) -> None:
        self._attempt = attempt
        self._spec = attempt.spec
        self._env = env
        self._program = env.program(attempt.spec)
        self._sites = self._program.sites
        self._counters: Counter[str] = Counter()
        self._reading = Reading()
        split = attempt.spec.split
        self.identity = split.identity if split else " ".join(given.identity for given in attempt.spec.exchanges)
        self.memory_bytes = env.memory_bytes
        self.home = str(env.home / "runs")
        tag = attempt_tag(attempt.id)
        self.scratch = str(env.home / "tmp" / tag)
        self.context = context.Context(attempt.spec.fingerprint, str(attempt.id), self._counters)
        self._users: dict[Port, list[int]] = {}
        self._leaving: dict[Port, list[int]] = {}
        self._runs: list[Run] = []
        self._outlets: list[OutletRun] = []
        self._watched: Iterator[Any] = iter(())
        self._steps = 0
        self._rejected = {step: Rejected() for step in range(HEAD, len(self._program.steps))}
        self._given = dict.fromkeys(self._rejected, 0)  # records, to the head and to each step
        if not attempt.spec.sides:
            env.trim_sides(env.memory_bytes // 8)  # what other tasks need again soon, beside what this one may use
        for i, outlet in enumerate(self._program.outlets):
            path = env.home / "runs" / f"{attempt.spec.fingerprint}.{i}"
            schema = settled[i]
            share = env.memory_bytes // len(self._program.outlets)
            self._outlets.append(open_outlet(i, outlet.spec, path, tag, schema, share, self.identity))
            self._leaving.setdefault(outlet.source, []).append(i)
        for i, step in enumerate(self._program.steps):
            self._users.setdefault(step.source, []).append(i)

    # --- TaskEnv -----------------------------------------------------------------------------------------------------

    def side(self, index: int, build: Callable[[Sequence[pa.RecordBatch]], object], key: str) -> object:
        given = self._spec.sides[index]

        def load() -> object:
            schema = pa.ipc.read_schema(pa.py_buffer(given.schema)) if given.schema else pa.schema([])
            return build(mapped(given, Path(self.home)) or [concat([], schema)])

        return self._env.side(given.identity, key, given.bytes, load)

    def count(self, name: str, n: int) -> None:
        self._counters[name] += n

    def reject(self, rows: pa.RecordBatch) -> None:
        self._leave_out(HEAD, rows)

    def where(self, origins: Origins | None, row: int | None) -> str:
        if origins is None or row is None or row >= len(origins) or self._spec.split is None:
            return ""
        offset, line = origins[row].tolist()
        return f" at {place_of(self._spec.split, offset, line)}"

    def watch(self, records: Iterator[Any]) -> None:
        self._watched, self._steps = records, self._steps + 1

    def progress(self) -> tuple[AttemptProgress, tuple[int, ...]]:
        """What to report, and marks that change whenever the task gets on, also within a batch."""
        reading = self._reading
        left = getattr(self._watched, "__length_hint__", int)()
        report = AttemptProgress(self._attempt.id, reading.records, reading.bytes)
        return report, (reading.records, reading.bytes, self._steps, left)

    # --- the loop ----------------------------------------------------------------------------------------------------

    def run(self) -> TaskResult:
        started = time.perf_counter()
        self._runs = [step.op.start(self, step.track) for step in self._program.steps]
        head, watch = self._program.head, self._reading.watch
        records = records_of(head, self._spec, self, self._reading)
        with _at([self._sites.head], 0):
            for batch in watch.timed("user" if self._spec.split is None else "read", records):
                self._push(Port(), batch)
        for i, run in enumerate(self._runs):
            with _at(self._sites.steps, i):
                for batch in run.end():
                    self._push(Port(i), batch)
            self._drain(i)
        outputs = []
        for i, outlet in enumerate(self._program.outlets):
            with watch.doing(_kind_of(outlet)), _at(self._sites.outlets, i):
                outputs.append(self._outlets[i].finish())
        counters = tuple(sorted(self._counters.items()))
        seconds = time.perf_counter() - started
        reading, lines = self._reading, tuple(self._reading.piece_lines)
        self._given[HEAD] = reading.records
        rejected = tuple(found._replace(given=self._given[step]) for step, found in self._rejected.items())
        timing = watch.seconds()
        made = (run.types.serialize().to_pybytes() if isinstance(run, PythonRun) else b"" for run in self._runs)
        counts = (reading.records, reading.bytes, seconds, lines, rejected, timing)
        types = tuple(data.hex() for data in made)
        return TaskResult(tuple(outputs), counters, *counts, types=types, spilled=self.context.spilled)

    def _push(self, port: Port, batch: Batch) -> None:
        for i in self._users.get(port, ()):
            with _at(self._sites.steps, i):
                self._given[i] += batch.rows
                for output in self._runs[i].feed(batch):
                    self._push(Port(i), output)
            self._drain(i)
        for i in self._leaving.get(port, ()):
            with self._reading.watch.doing(_kind_of(self._program.outlets[i])), _at(self._sites.outlets, i):
                self._outlets[i].take(batch)

    def _drain(self, step: int) -> None:
        rejects, self._runs[step].rejects = self._runs[step].rejects, []
        for data in rejects:
            self._leave_out(step, data)

    def _leave_out(self, step: int, rows: pa.RecordBatch) -> None:
        """Count rejects of the head or a step, and pass them on to whoever looks at them."""
        before, records = self._rejected[step], sum(rows.column("records").to_pylist())
        if not before.records:
            first = rows.slice(0, 1).to_pylist()[0]
            before = Rejected(0, first["offset"], first["line"], first["error"][:ERROR_LENGTH_MAX])
        self._rejected[step] = before._replace(records=before.records + records)
        self._counters["rejected records"] += records
        self._push(Port(step, rejects=True), Batch(rows))

    def clean(self) -> None:
        """Remove temporary files; finished outlets stay."""
        for outlet in self._outlets:
            outlet.abort()
        shutil.rmtree(self.scratch, ignore_errors=True)


def _at(sites: Sequence[str], i: int) -> AbstractContextManager[None]:
    """An error of a record is one of the user's line `sites[i]`, unless something within has said where it is."""
    return at_line("".join(sites[i : i + 1]))


def _kind_of(outlet: Outlet) -> Kind:
    return "write" if isinstance(outlet.spec, PartOutlet) else "shuffle"
