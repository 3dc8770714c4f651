"""The composition root: options -> a session that can run a plan.

A session owns an executor and the journal. `run` takes written datasets all the way to published outputs; `collect`
brings the records of a dataset here. Everything else in the package is given its collaborators.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import pyarrow as pa

from mr.analysis import StageFigures, from_report
from mr.assignment import job_identity
from mr.collected import collect, materialized, restore
from mr.errors import JobCancelled, JobFailed, MillraceError, OutputError, PlanError
from mr.executors.base import Executor, default_memory_bytes
from mr.failpoints import failpoint
from mr.inputs import input_bytes, splits_of
from mr.journal import Journal, Publication, StartedJob
from mr.kernels.frames import concat
from mr.left_out import warn_of_left_out
from mr.master import Master, Outcome
from mr.parameters import parse_bytes
from mr.plan import Collect, Materialized, Mode, Node, Read, Write, validate, walk
from mr.progress import Snapshot
from mr.publication import Target, check, check_overlaps, publish, version_of
from mr.purity import purity_of, still_pure
from mr.results import JobResult, OutputReport, Spent, report_of, result_of, up_to_date
from mr.scratch import scratch_root, sweep
from mr.stages import Graph, compile_plan
from mr.storage import store_of
from mr.tasks import Output, Split

On = Literal["inline", "local", "ray"]
Observe = Callable[[Snapshot], None]


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
        if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
            raise PlanError(f"workers={workers!r} is not a whole number from 1; leave it out for all cores")
        self.workers = workers or os.cpu_count() or 1
        self.memory_bytes = default_memory_bytes() if memory is None else parse_bytes(memory)
        if not self.memory_bytes:
            raise PlanError(f"memory={memory!r} is nothing to work with; say 2GB, or leave it out")
        self.address = address
        self.reuse = reuse
        self.home = home or scratch_root()
        self.mode: Mode = "error"
        self.code = ""  # the snapshot that the job's modules come from, if it was loaded from a file
        self._observe = observe or (lambda snapshot: None)
        self._executor = executor
        self._journal: Journal | None = None
        self._outer: list[Session | None] = []
        self._spent = Spent()
        self._in_job = False

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
        validate(tuple(root for root in roots if isinstance(root, Write)))
        return compile_plan(roots, input_bytes, store_of)

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
        roots = tuple(outputs.values())
        check_overlaps(list(targets.values()), [n for n in walk(roots, made=True) if isinstance(n, Read)])
        graph = self.compile(roots)
        splits = self.splits(graph)
        key = job_identity(graph, splits, [(t.where, t.mode == "append") for t in targets.values()])
        if self.reuse and key is not None:
            published = self._up_to_date(targets, key)
            if published is not None:
                reports = {k: OutputReport(**report) for k, report in published.items()}
                counters = self.journal.last_report(key)["counters"]
                return up_to_date(self.take_spent(), reports, counters, time.monotonic() - started)
        known = key or f"once-{os.urandom(8).hex()}"
        with self.journal.job_lock(known):
            resumes = key is not None and self.journal.unfinished(key)
            for target in targets.values():
                if not resumes:
                    check(target)
            versions = {t.where: version_of(t) for t in targets.values()}
            job = self.journal.start_job(known, name, versions, time.time())
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
            outcome = self._outcome(master, graph, splits, str(job.id))
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
            spent = self.take_spent()
            result = result_of(outcome, spent, reports, time.monotonic() - started, job.id)
            state = "done"
        except OutputError:
            state = "failed"
            raise
        except (JobCancelled, KeyboardInterrupt):
            state = "running" if state == "running" else "cancelled"
            raise
        finally:
            report: dict[str, Any] = {"troubles": list(master.snapshot.troubles)}
            if state == "done":
                report = report_of(result) | purity_of(outcome.results.values())
            if state != "running":
                self.journal.end_job(job.id, state, time.time(), report)
            self.journal.log(job.id, master.snapshot.troubles)
        return result

    def _up_to_date(self, targets: Mapping[str, Target], key: str) -> dict[str, dict[str, Any]] | None:
        """The reports of all outputs if this very job published them last and nothing has changed since."""
        if not still_pure(self.journal.last_report(key)):
            return None
        reports = {}
        for name, target in targets.items():
            found = self.journal.publication(target.where)
            if target.mode == "append" or found is None or found.job_key != key or version_of(target) != found.version:
                return None
            reports[name] = found.report
        return reports

    def figures(self, outputs: Mapping[str, Write]) -> dict[int, StageFigures]:
        """What each stage did in the last finished run of this very job with these inputs and destinations; {} if none.

        >>> Session(on="inline").figures({})
        {}
        """
        graph = self.compile(tuple(outputs.values()))
        targets = [self._target(node) for node in outputs.values()]
        key = job_identity(graph, self.splits(graph), [(t.where, t.mode == "append") for t in targets])
        report = {} if key is None else self.journal.last_report(key)
        return {stage["id"]: from_report(stage) for stage in report.get("stages", ())}

    def collect(self, node: Node) -> pa.RecordBatch:
        """The records of a dataset, here; without any, the schema is what the plan knows. Raises what `run` raises.

        >>> import mr
        >>> with Session(on="inline") as session:
        ...     session.collect(mr.from_items([1, 2])._node).num_rows
        2
        """
        graph = self.compile((Collect(node.shape, node),))
        with self.journal.in_use():
            found = collect(lambda: self._records(graph), self.home / "runs", str(node.site))
        known = node.shape.schema() if node.shape is not None and not found.num_columns else None
        return found if known is None else concat([], known)

    def materialize(self, node: Node) -> Materialized:
        """The records of a dataset as a node that reads them from run files. Raises what `run` raises.

        >>> import mr
        >>> with Session(on="inline") as session:
        ...     len(session.materialize(mr.from_items([1, 2])._node).parts)
        1
        """
        if isinstance(node, Materialized):
            return node
        with self.journal.in_use():
            return materialized(node, self._records(self.compile((Collect(node.shape, node),))))

    @contextmanager
    def counting(self) -> Iterator[None]:
        """What actions run from here on is reported with the next job, that of the job function that asks for them.

        >>> with Session(on="inline") as session, session.counting():
        ...     pass
        """
        self._spent, self._in_job = Spent(), True
        try:
            with self.journal.in_use():
                yield
        finally:
            self._in_job = False

    def take_spent(self) -> Spent:
        """What the actions of the last job function ran, which is told once.

        >>> Session(on="inline").take_spent().tasks_run
        0
        """
        spent, self._spent = self._spent, Spent()
        return spent

    def _records(self, graph: Graph) -> list[Output]:
        """Run a graph that collects one dataset; what its tasks left, in order."""
        name = f"{os.getpid()}-{threading.get_ident()}-{time.monotonic_ns()}"
        started, splits = time.monotonic(), self.splits(graph)
        outcome = self._outcome(self._master(graph, splits, name), graph, splits, name)
        warn_of_left_out(graph, outcome, splits)
        if self._in_job:
            self._spent.add(outcome, time.monotonic() - started)
        feeds = graph.exchanges[graph.collects[0]].feeds
        return [output for feed in feeds for output in outcome.outputs(feed.stage, feed.outlet)]

    def _outcome(self, master: Master, graph: Graph, splits: Mapping[int, Sequence[Split]], name: str) -> Outcome:
        """Run a graph; if it fails because a materialized result was damaged, make that again and run once more."""
        self._restore(graph, verify=False)
        try:
            return master.run()
        except JobFailed:
            if not self._restore(graph, verify=True):
                raise
        return self._master(graph, splits, name).run()

    def _restore(self, graph: Graph, verify: bool) -> bool:
        in_job, self._in_job = self._in_job, False  # what it counts was counted before
        try:
            return restore(graph, self.home / "runs", verify, self.materialize)
        finally:
            self._in_job = in_job

    def _master(self, graph: Graph, splits: Mapping[int, Sequence[Split]], name: str) -> Master:
        settings: dict[str, Any] = {"code": self.code, "reuse": self.reuse, "observe": self._observe}
        return Master(graph, splits, self.start(), self.journal, name=name, **settings)

    def _target(self, node: Write) -> Target:
        return Target(node.path, node.mode or self.mode, node.one_file, node.extension)


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


__all__ = ["JobResult", "On", "OutputReport", "Session", "configure", "current"]
