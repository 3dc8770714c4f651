"""The composition root: options -> a session that can run a plan.

A session owns an executor and the journal. `run` takes written datasets all the way to published outputs; `collect`
brings the records of a dataset here. Everything else in the package is given its collaborators.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa

from mr.assignment import Produced, exchange_schema, read_schema
from mr.errors import ExecutorError, FetchFailed, JobCancelled, MillraceError, OutputError, PlanError
from mr.executors.base import Executor, default_memory_bytes
from mr.failpoints import failpoint
from mr.fingerprint import Unfingerprintable, digest, program_identity
from mr.heads import gathered
from mr.inputs import input_files, splits_of
from mr.journal import Journal, Publication, StartedJob
from mr.kernels.frames import concat
from mr.master import Master, Outcome
from mr.options import LOST_MAX
from mr.parameters import parse_bytes
from mr.plan import Collect, Mode, Node, Read, Write, validate, walk
from mr.progress import Snapshot
from mr.publication import Target, check, check_overlaps, publish, version_of
from mr.scratch import scratch_root, sweep
from mr.stages import Graph, compile_plan
from mr.storage import store_of
from mr.tasks import ExchangeInput, Output, Place, SourceFile, Split, TaskId

On = Literal["inline", "local", "ray"]
Observe = Callable[[Snapshot], None]


@dataclass(frozen=True)
class OutputReport:
    """A published output: how many files, rows and bytes, and the BLAKE3 over the digests of its parts."""

    path: str
    files: int
    rows: int
    bytes: int
    digest: str


@dataclass(frozen=True)
class JobResult:
    """What a job did. `state` is "done" or "up to date"; `seconds` is wall time; `troubles` what was survived; `notes`
    what keeps results from being reused.

    >>> JobResult("done", {}, {"bad lines": 2}, tasks_run=3, tasks_reused=0, seconds=0.1).counters["bad lines"]
    2
    """

    state: str
    outputs: Mapping[str, OutputReport]
    counters: Mapping[str, int]
    tasks_run: int
    tasks_reused: int
    seconds: float
    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    job: int = 0
    stages: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)


class Session:
    """Runs plans with one executor, started when first needed.

    `on`: "inline" (this thread), "local" (processes), "ray". `workers`: attempts at a time (default: cores).
    `memory`: for the whole process tree ("2GB"; default: half of the machine's). `address`: of a running Ray cluster.
    `reuse=False` runs everything again. `home`: where run files and the journal are (default $MR_HOME). `observe` is
    told of progress; `executor`: one that was started already, which the session closes.

    >>> import mr
    >>> with Session(on="inline"):
    ...     mr.from_items([1, 2, 3]).map(lambda x: x * x).take_all()
    [1, 4, 9]
    """

    def __init__(
        self,
        on: On = "local",
        workers: int | None = None,
        memory: str | int | None = None,
        address: str | None = None,
        *,
        reuse: bool = True,
        home: Path | None = None,
        observe: Observe | None = None,
        executor: Executor | None = None,
    ) -> None:
        if on not in ("inline", "local", "ray"):
            raise PlanError(f"on={on!r}: use inline, local or ray")
        self.on = on
        self.workers = workers or os.cpu_count() or 1
        self.memory_bytes = default_memory_bytes() if memory is None else parse_bytes(memory)
        self.address = address
        self.reuse = reuse
        self.home = home or scratch_root()
        self.mode: Mode = "error"
        self.code = ""  # the snapshot that the job's modules come from, if it was loaded from a file
        self._observe = observe or (lambda snapshot: None)
        self._executor = executor
        self._journal: Journal | None = None
        self._outer: list[Session | None] = []

    # --- what it owns ------------------------------------------------------------------------------------------------

    @property
    def journal(self) -> Journal:
        """The journal under `home`, opened when first needed.

        >>> with Session(on="inline") as session:
        ...     session.journal.home == session.home
        True
        """
        if self._journal is None:
            self._journal = Journal(self.home)
        return self._journal

    def start(self) -> Executor:
        """The executor, started when first needed. Raises ExecutorError.

        >>> with Session(on="inline") as session:
        ...     session.start() is session.start()
        True
        """
        if self._executor is None:
            self._executor = self._make()
            atexit.register(self.close)
        return self._executor

    def _make(self) -> Executor:
        sweep(self.home)
        if self.on == "inline":
            from mr.executors.inline import InlineExecutor

            return InlineExecutor(self.home, self.memory_bytes)
        if self.on == "local":
            from mr.executors.local import LocalExecutor

            return LocalExecutor(self.home, self.workers, self.memory_bytes)
        from mr.executors.ray import RayExecutor

        return RayExecutor(self.home, self.workers, self.memory_bytes, self.address)

    def close(self) -> None:
        """End the workers and close the journal. Idempotent; the session starts anew when used again.

        >>> Session(on="inline").close()
        """
        atexit.unregister(self.close)
        if self._executor is not None:
            self._executor.close()
            self._executor = None
        if self._journal is not None:
            self._journal.close()
            self._journal = None

    def __enter__(self) -> Session:
        self._outer.append(_Current.session)
        _Current.session = self
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _Current.session = self._outer.pop()
        self.close()

    # --- plans -------------------------------------------------------------------------------------------------------

    def compile(self, roots: tuple[Node, ...]) -> Graph:
        """The stage graph of a plan. Raises PlanError; looks at sizes of inputs only where a join must choose.

        >>> len(Session(on="inline").compile(()).stages)
        0
        """
        validate(roots)
        return compile_plan(roots, _size_of, store_of)

    def splits(self, graph: Graph) -> dict[int, tuple[Split, ...]]:
        """The splits of every source stage. Raises InputNotFound, InputError.

        >>> session = Session(on="inline")
        >>> session.splits(session.compile(()))
        {}
        """
        return {s.id: splits_of(s.source, self.journal) for s in graph.stages if s.source is not None}

    def run(self, outputs: Mapping[str, Write], name: str) -> JobResult:
        """Run all that `outputs` need and publish them together.

        Raises PlanError, InputError, OutputError, JobFailed, JobCancelled, JournalLocked.

        >>> import mr, tempfile
        >>> job = mr.job(lambda output: mr.from_items([1]).write_json(output))
        >>> with Session(on="inline") as session, tempfile.TemporaryDirectory() as folder:
        ...     session.run(job.plan(folder + "/out"), "ones").outputs["out"].rows
        1
        """
        started = time.monotonic()
        targets = {key: self._target(node) for key, node in outputs.items()}
        check_overlaps(list(targets.values()), [n for n in walk(tuple(outputs.values())) if isinstance(n, Read)])
        graph = self.compile(tuple(outputs.values()))
        splits = self.splits(graph)
        key = _job_key(graph, splits, list(targets.values()))
        if self.reuse and key is not None:
            published = self._up_to_date(targets, key)
            if published is not None:
                reports = {k: OutputReport(**report) for k, report in published.items()}
                return JobResult("up to date", reports, {}, 0, 0, time.monotonic() - started)
        with ExitStack() as stack:
            if key is not None:
                stack.enter_context(self.journal.job_lock(key))
            resumes = key is not None and self.journal.unfinished(key)
            for target in targets.values():
                if not resumes:
                    check(target)
            versions = {t.where: version_of(t) for t in targets.values()}
            job = self.journal.start_job(key or f"once-{os.urandom(8).hex()}", name, versions, time.time())
            return self._run_job(graph, splits, targets, job, key, started)

    def _run_job(
        self,
        graph: Graph,
        splits: Mapping[int, Sequence[Split]],
        targets: Mapping[str, Target],
        job: StartedJob,
        key: str | None,
        started: float,
    ) -> JobResult:
        try:
            master = self._master(graph, splits, str(job.id))
        except MillraceError:
            self.journal.end_job(job.id, "failed", time.time(), {})
            raise
        state = "failed"
        try:
            outcome = master.run()
            state = "running"  # outputs may be visible from here on: whatever happens, submitting again goes on
            pairs = [
                (target, [output for feed in sink.feeds for output in outcome.outputs(feed.stage, feed.outlet)])
                for target, sink in zip(targets.values(), graph.sinks, strict=True)
            ]
            done = publish(pairs, self.home / "runs", job.request, job.versions, failpoint)
            failpoint("publish.done")
            entries = [
                (target.where, Publication(key or "", version, report))
                for (version, report), target in zip(done, targets.values(), strict=True)
            ]
            self.journal.published(entries)
            reports = {k: OutputReport(**report) for k, (_, report) in zip(targets, done, strict=True)}
            result = _result(outcome, reports, time.monotonic() - started, job.id)
            state = "done"
        except OutputError:
            state = "failed"
            raise
        except (JobCancelled, KeyboardInterrupt):
            state = "running" if state == "running" else "cancelled"
            raise
        finally:
            report = report_of(result) if state == "done" else {"troubles": list(master.snapshot.troubles)}
            if state != "running":
                self.journal.end_job(job.id, state, time.time(), report)
            self.journal.log(job.id, master.snapshot.troubles)
        return result

    def _up_to_date(self, targets: Mapping[str, Target], key: str) -> dict[str, dict[str, Any]] | None:
        """The reports of all outputs if this very job published them last and nothing has changed since."""
        reports = {}
        for name, target in targets.items():
            found = self.journal.publication(target.where)
            if target.mode == "append" or found is None or found.job_key != key or version_of(target) != found.version:
                return None
            reports[name] = found.report
        return reports

    def collect(self, node: Node) -> pa.RecordBatch:
        """The records of a dataset, here; without any, the schema is what the plan knows. Raises what `run` raises.

        >>> import mr
        >>> with Session(on="inline") as session:
        ...     session.collect(mr.from_items([1, 2])._node).num_rows
        2
        """
        graph = self.compile((Collect(node.shape, node),))
        found, damaged = None, 0
        while found is None:
            try:
                found = self._collect_once(graph)
            except FetchFailed as error:  # damaged since it was recorded: without the file its task runs again
                damaged += 1
                if damaged == LOST_MAX:
                    raise ExecutorError(f"results are damaged as soon as they are written; last: {error}") from None
                Path(error.path).unlink(missing_ok=True)
        known = node.shape.schema() if node.shape is not None and not found.num_columns else None
        return found if known is None else concat([], known)

    def _collect_once(self, graph: Graph) -> pa.RecordBatch:
        name = f"{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        outcome = self._master(graph, self.splits(graph), name).run()
        feeds = graph.exchanges[graph.collects[0]].feeds
        outputs = [output for feed in feeds for output in outcome.outputs(feed.stage, feed.outlet)]
        return _collected(outputs, self.home / "runs")

    def _master(self, graph: Graph, splits: Mapping[int, Sequence[Split]], name: str) -> Master:
        settings: dict[str, Any] = {"code": self.code, "reuse": self.reuse, "observe": self._observe}
        return Master(graph, splits, self.start(), self.journal, name=name, **settings)

    def _target(self, node: Write) -> Target:
        return Target(node.path, node.mode or self.mode, node.one_file, node.writer.extension)


class _Current:
    """The session that actions outside of `with mr.Session(...)` use."""

    session: Session | None = None


def current() -> Session:
    """The session in use: the innermost `with mr.Session(...)`, else one with default settings."""
    if _Current.session is None:
        _Current.session = Session()
    return _Current.session


def configure(
    on: On = "local",
    workers: int | None = None,
    memory: str | int | None = None,
    address: str | None = None,
    *,
    reuse: bool = True,
) -> None:
    """Set what actions and jobs called from Python run on from now on; the parameters are those of `Session`.

    >>> configure(on="inline")
    """
    if _Current.session is not None:
        _Current.session.close()
    _Current.session = Session(on, workers, memory, address, reuse=reuse)


def _size_of(node: Read) -> int | None:
    return sum(file.size for file in input_files(node))


def _job_key(graph: Graph, splits: Mapping[int, Sequence[Split]], targets: Sequence[Target]) -> str | None:
    """The identity of the job: its plan, inputs, destinations and whether it appends. None if a function has none."""
    try:
        programs = [program_identity(stage.program).digest for stage in graph.stages]
    except Unfingerprintable:
        return None
    shape = [(stage.inputs, stage.sides, stage.limit_rows) for stage in graph.stages]
    inputs = [[split.identity for split in splits[stage]] for stage in sorted(splits)]
    return digest(programs, shape, inputs, [(t.where, t.mode == "append") for t in targets])


def _result(outcome: Outcome, reports: Mapping[str, OutputReport], seconds: float, job: int) -> JobResult:
    stages = tuple(asdict(stage) for stage in outcome.snapshot.stages)
    troubles = outcome.snapshot.troubles
    run, reused = outcome.tasks_run, outcome.tasks_reused
    notes = outcome.snapshot.notes
    return JobResult("done", reports, outcome.counters, run, reused, seconds, troubles, notes, job, stages)


def report_of(result: JobResult) -> dict[str, Any]:
    """A result as plain values, for JSON."""
    return {**asdict(result), "outputs": {key: asdict(value) for key, value in result.outputs.items()}}


def _collected(outputs: Sequence[Output], runs: Path) -> pa.RecordBatch:
    items = [Produced(TaskId(0, i), output, Place(())) for i, output in enumerate(outputs)]
    schema = exchange_schema(items)
    files = tuple(SourceFile(item.task, item.output.path) for item in items if item.output.path)
    given = ExchangeInput(files, schema, 0, "")
    return concat(list(gathered(given, runs)), read_schema(schema))


__all__ = ["JobResult", "On", "OutputReport", "Session", "configure", "current"]
