"""The master: the loop that joins scheduler, executor, journal and clock. One instance runs one graph.

It decides nothing that the scheduler decides. What it adds is what needs the outside: enumerating tasks when a stage's
inputs are known, looking their fingerprints up, recording results, and settling the schemas of outputs.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence

from msgspec import Struct, field
from msgspec.structs import replace

from mr import events as ev
from mr.analysis import StageFigures, figures
from mr.assignment import (
    Draft,
    Produced,
    check_join_keys,
    draft_tasks,
    exchange_schema,
    places_of,
    task_identity,
)
from mr.errors import JobCancelled, JobFailed, at_line
from mr.executors.base import AttemptEvent, Executor
from mr.fingerprint import Identity, Unfingerprintable, program_identity
from mr.graph import Feed, Graph, Stage
from mr.joining import skew_notes
from mr.journal import Journal
from mr.outlets import digest_file
from mr.program import GroupHead, JoinHead, Outlet, PartOutlet, ReadHead, pickled
from mr.progress import Snapshot, StageProgress
from mr.purity import FileDigests, why_stale
from mr.scheduler import Scheduler, StageShape
from mr.scratch import used
from mr.settling import Left, check_rejects, check_types, settled_schemas, sharing, waiting
from mr.storage import store_keep
from mr.tasks import Attempt, Output, Place, Split, TaskId, TaskResult, TaskSpec

WAIT_SECONDS = 0.5
TICK_SECONDS = 1.0


class Outcome(Struct, frozen=True):
    """What a run left: results by task (every task of every stage), counters, how much was run and reused, and the
    figures of each stage."""

    results: Mapping[TaskId, TaskResult]
    tasks: Mapping[int, int]
    tasks_run: int
    tasks_reused: int
    counters: Mapping[str, int]
    snapshot: Snapshot
    stages: tuple[StageFigures, ...]

    def outputs(self, stage: int, outlet: int) -> list[Output]:
        """What the tasks of a stage left at an outlet, in order."""
        return [self.results[TaskId(stage, i)].outputs[outlet] for i in range(self.tasks[stage])]


class _Planned(Struct):
    """A stage that has tasks. `twins` are tasks whose input equals that of an earlier one: its result is theirs."""

    drafts: list[Draft]
    specs: list[TaskSpec] = field(default_factory=list)
    identities: list[Identity | None] = field(default_factory=list)
    twins: dict[int, int] = field(default_factory=dict)
    schemas: tuple[bytes | None, ...] = ()
    tasks: int = 0


class Master:
    """Runs a graph to its end on an executor.

    `splits` are those of the source stages, by stage. `reuse`: look recorded results up. `observe` is told of every
    change. `name` distinguishes files of tasks that have no fingerprint; `code` is the job's snapshot ("" for none).
    """

    def __init__(
        self,
        graph: Graph,
        splits: Mapping[int, Sequence[Split]],
        executor: Executor,
        journal: Journal,
        *,
        name: str,
        code: str,
        reuse: bool,
        observe: Callable[[Snapshot], None],
    ) -> None:
        self._graph = graph
        self._splits = splits
        self._executor = executor
        self._journal = journal
        self._name = name
        self._code = code
        self._reuse = reuse
        self._observe = observe
        self._home = journal.home / "runs"
        self._folder = os.getcwd()
        shapes = [StageShape(s.id, graph.upstream(s), graph.publishes(s), s.limit_rows) for s in graph.stages]
        self._scheduler = Scheduler(shapes)
        self._planned: dict[int, _Planned] = {}
        self._results: dict[TaskId, TaskResult] = {}
        self._programs = {stage.id: pickled(stage.program) for stage in graph.stages}
        self._identities: dict[int, Identity | None] = {}
        self._sharing, self._waiting = sharing(graph), waiting(graph)
        self._complete: dict[int, bool] = {}  # stages that have all results; whether these are settled
        notes = []
        for stage in graph.stages:
            try:
                self._identities[stage.id] = program_identity(stage.program)
            except Unfingerprintable as error:
                self._identities[stage.id] = None
                notes.append(f"stage {stage.id} always runs: {error}")
        self._fresh: list[tuple[Identity, str, TaskResult]] = []
        self._files = FileDigests()
        self._ran: set[TaskId] = set()
        self._inbox: deque[ev.Event] = deque()
        self._snapshot = Snapshot(tuple(StageProgress(s.id, s.label) for s in graph.stages), notes=tuple(notes))
        self._finished = False

    @property
    def snapshot(self) -> Snapshot:
        """What the job looks like now."""
        return self._snapshot

    def run(self) -> Outcome:
        """Run everything. Raises JobFailed, JobCancelled, and what planning raises (TypeConflict, PlanError)."""
        slots = tuple((node.id, node.slots) for node in self._executor.nodes())
        ticked = time.monotonic()
        self._inbox += [ev.Tick(ticked), ev.JobStarted(), ev.NodesChanged(slots)]
        try:
            while not self._finished:
                while self._inbox and not self._finished:
                    self._handle(self._inbox.popleft())
                self._record()
                self._observe(self._snapshot)
                if not self._finished and not self._inbox:
                    self._next()
                now = time.monotonic()
                if now - ticked >= TICK_SECONDS:
                    ticked = now
                    self._inbox.append(ev.Tick(now))
        except KeyboardInterrupt:
            self._record()
            self._handle(ev.CancelRequested())  # raises JobCancelled, with what runs cancelled
            raise
        except BaseException:
            for attempt, _, _ in self._snapshot.running:
                self._executor.kill(attempt)
            self._record()
            raise
        return self._outcome()

    # --- events ------------------------------------------------------------------------------------------------------

    def _next(self) -> None:
        """Wait for what runs; if nothing does, stages wait for each other in a circle, and one must go first."""
        unsettled = [stage for stage, done in self._complete.items() if not done]
        if unsettled and not self._snapshot.running:
            self._settle(unsettled[:1])
        else:
            self._inbox += self._executor.wait(WAIT_SECONDS)

    def _handle(self, event: ev.Event) -> None:
        if isinstance(event, AttemptEvent) and all(id != event.id for id, _, _ in self._snapshot.running):
            return  # of an attempt that was given up, or told twice
        match event:
            case ev.AttemptSucceeded(id, result):
                event = self._note(event)
                self._snapshot = self._snapshot.ended(id, result)
            case ev.AttemptFailed(id, message):
                self._snapshot = self._snapshot.ended(id, None, f"attempt {id} failed: {message}")
            case ev.AttemptLost(id, reason):
                self._snapshot = self._snapshot.ended(id, None, f"attempt {id} lost: {reason}")
            case ev.FetchMissed(id, producer, message):
                trouble = f"attempt {id} missed the file of task {producer}, which runs again: {message}"
                self._snapshot = self._snapshot.ended(id, None, trouble)
            case ev.AttemptProgress():
                self._snapshot = self._snapshot.reported(event)
        for instruction in self._scheduler.handle(event):
            self._carry_out(instruction)

    def _note(self, event: ev.AttemptSucceeded) -> ev.AttemptSucceeded:
        """Keep a result; a task that ran before and now gave other bytes is told to the scheduler."""
        task = event.id.task
        before = self._results.get(task)
        changed = before is not None and before.digests != event.result.digests
        self._results[task] = event.result
        self._ran.add(task)
        planned = self._planned[task.stage]
        if event.result.impure:
            text = f"stage {task.stage} always runs: a function in it {event.result.impure}"
            self._snapshot = replace(self._snapshot, notes=tuple(dict.fromkeys((*self._snapshot.notes, text))))
        for output, outlet in zip(event.result.outputs, self._graph.stages[task.stage].program.outlets, strict=True):
            if isinstance(outlet.spec, PartOutlet) and outlet.spec.store is not None:
                for part in output.parts:
                    store_keep(outlet.spec.store, part.manifest)  # the worker's own pin ends with the worker
        identity = planned.identities[task.index]
        if identity is not None:
            self._fresh.append((identity, self._graph.stages[task.stage].label, event.result))
        if changed:
            text = f"task {task} gave other bytes than before: a function in it is not deterministic"
            self._snapshot = replace(self._snapshot, troubles=(*self._snapshot.troubles, text))
        return replace(event, changed=changed)

    def _record(self) -> None:
        if self._fresh:
            fresh, self._fresh = self._fresh, []
            self._journal.record(fresh, time.time())

    # --- instructions ------------------------------------------------------------------------------------------------

    def _carry_out(self, instruction: ev.Instruction) -> None:
        match instruction:
            case ev.PlanStage(stage):
                self._inbox.append(self._plan(self._graph.stages[stage], ()))
            case ev.Launch(id, node):
                self._snapshot = self._snapshot.launched(id)
                self._executor.submit(Attempt(id, self._planned[id.stage].specs[id.index], self._folder), node)
            case ev.Cancel(id, why):
                self._executor.kill(id)
                self._snapshot = self._snapshot.ended(id, None, f"attempt {id}: {why}" if why else "")
            case ev.StageComplete(stage, tasks):
                self._completed(self._graph.stages[stage], tasks)
            case ev.Publish():
                self._finished = True
            case ev.Fail(message, detail, cancelled):
                raise JobCancelled(message) if cancelled else JobFailed(message, detail or None)

    def _plan(self, stage: Stage, schemas: tuple[bytes | None, ...]) -> ev.StagePlanned:
        """Enumerate the tasks of a stage and look their results up."""
        self._complete.pop(stage.id, None)
        produced = {e: self._produced(e) for e in (*stage.inputs, *stage.sides)}
        with at_line(stage.program.sites.head):
            if isinstance(stage.program.head, JoinHead) and stage.inputs:
                join, sides = stage.program.head.op.layout, [exchange_schema(produced[e]) for e in stage.inputs]
                check_join_keys(sides[0], sides[1], join.left_on, join.right_on)
            drafts = draft_tasks(stage, self._graph, produced, self._splits.get(stage.id, ()))
        kept = self._planned.get(stage.id)
        planned = self._planned[stage.id] = _Planned(drafts, schemas=schemas)
        first: dict[str, int] = {}
        for index, draft in enumerate(drafts):
            identity = self._identify(stage, draft, schemas)
            fingerprint = identity.digest if identity else f"once-{self._name}-{stage.id}-{index}"
            planned.identities.append(identity)
            planned.specs.append(self._spec(stage, index, draft, fingerprint, schemas))
            if identity is not None and stage.limit_rows is None:
                twin = first.setdefault(fingerprint, index)
                if twin != index:
                    planned.twins[index] = twin
        found = self._journal.results([s.fingerprint for s in planned.specs]) if self._reuse else {}
        known = {name: result for name, result in found.items() if not why_stale(result, self._files)}
        tasks = []
        for index, (spec, draft) in enumerate(zip(planned.specs, drafts, strict=True)):
            if index in planned.twins:
                continue
            result = known.get(spec.fingerprint)
            if result is None and kept is not None and len(kept.drafts) == len(drafts):
                result = self._fits(spec.id, schemas)
            self._results.pop(spec.id, None)
            if result is not None:
                self._results[spec.id] = result
            present = result is not None and all(map(self._present, result.outputs, stage.program.outlets))
            rows = result.outputs[0].rows if result is not None else None
            tasks.append(ev.PlannedTask(spec.id, self._primaries(draft.needs), rows, present))
        self._snapshot = self._snapshot.planned(stage.id, len(tasks), sum(t.rows is not None for t in tasks))
        return ev.StagePlanned(stage.id, tuple(tasks))

    def _fits(self, task: TaskId, schemas: tuple[bytes | None, ...]) -> TaskResult | None:
        """The result of a task that ran before the schemas were settled, if it has them anyway."""
        result = self._results.get(task)
        if result is None:
            return None
        pairs = zip(result.outputs, schemas, strict=True)
        return result if all(s is None or out.schema == s or out.rows == 0 for out, s in pairs) else None

    def _identify(self, stage: Stage, draft: Draft, schemas: tuple[bytes | None, ...]) -> Identity | None:
        program = self._identities[stage.id]
        return None if program is None else task_identity(program, draft, schemas)

    def _spec(
        self, stage: Stage, index: int, draft: Draft, fingerprint: str, schemas: tuple[bytes | None, ...]
    ) -> TaskSpec:
        program = self._programs[stage.id]
        name = hashlib.blake2b(program, digest_size=16).hexdigest()
        id = TaskId(stage.id, index)
        return TaskSpec(id, program, name, fingerprint, self._code, draft.split, draft.exchanges, draft.sides, schemas)

    def _primaries(self, needs: Sequence[TaskId]) -> tuple[TaskId, ...]:
        return tuple(sorted({self._primary(task) for task in needs}))

    def _primary(self, task: TaskId) -> TaskId:
        return TaskId(task.stage, self._planned[task.stage].twins.get(task.index, task.index))

    def _present(self, output: Output, outlet: object) -> bool:
        """Whether the files of a recorded output are still there and, if they will be published, unchanged."""
        store = outlet.spec.store if isinstance(outlet, Outlet) and isinstance(outlet.spec, PartOutlet) else None
        if store is not None:
            return all(store_keep(store, part.manifest) for part in output.parts)
        files = [(self._home / part.path, part.digest) for part in output.parts]
        if not all(used(path) and digest_file(path) == digest for path, digest in files):
            return False
        return not output.path or used(self._home / output.path)

    def _produced(self, exchange: int) -> list[Produced]:
        items = []
        for feed in self._graph.exchanges[exchange].feeds:
            planned = self._planned[feed.stage]
            places = self._places(feed.stage)
            for index in range(planned.tasks):
                task = self._primary(TaskId(feed.stage, index))
                items.append(Produced(task, self._results[task].outputs[feed.outlet], places[index]))
        return items

    def _places(self, stage: int) -> list[Place]:
        planned = self._planned[stage]
        if not isinstance(self._graph.stages[stage].program.head, ReadHead):
            return [Place(())] * planned.tasks
        lines = [self._results[self._primary(TaskId(stage, i))].piece_lines for i in range(planned.tasks)]
        return places_of(self._splits[stage][: planned.tasks], lines)

    # --- settling ----------------------------------------------------------------------------------------------------

    def _completed(self, stage: Stage, tasks: int) -> None:
        planned = self._planned[stage.id]
        planned.tasks = len(planned.specs) if stage.limit_rows is None else tasks
        results = [self._results[self._primary(TaskId(stage.id, i))] for i in range(planned.tasks)]
        check_rejects(stage, results)
        check_types(stage, results)
        self._complete[stage.id] = False
        self._settle(
            [s for s, done in self._complete.items() if not done and self._waiting[s] <= self._complete.keys()]
        )

    def _settle(self, stages: Sequence[int]) -> None:
        """Accept the results of complete stages, or ask for what was written under too narrow a schema again."""
        found = {s: settled_schemas(self._graph.stages[s], self._left(self._graph.stages[s])) for s in stages}
        for stage, schemas in found.items():
            self._complete[stage] = True
            again = any(schemas)
            self._inbox.append(self._plan(self._graph.stages[stage], schemas) if again else ev.StageSettled(stage))

    def _left(self, stage: Stage) -> list[Left]:
        """What is known of the rows that must have the same types as those of each outlet of a stage."""
        planned = self._planned[stage.id]
        left = []
        for i in range(len(stage.program.outlets)):
            here = Feed(stage.id, i)
            beside = {f: self._outputs(f) for f in self._sharing.get(here, (here,)) if f.stage in self._complete}
            final = [one for f, outputs in beside.items() if self._complete[f.stage] for one in outputs]
            asked = planned.schemas[i] if planned.schemas else None
            left.append(Left(beside[here], [one for outputs in beside.values() for one in outputs], final, asked))
        return left

    def _outputs(self, feed: Feed) -> list[Output]:
        tasks = range(self._planned[feed.stage].tasks)
        return [self._results[self._primary(TaskId(feed.stage, i))].outputs[feed.outlet] for i in tasks]

    def _outcome(self) -> Outcome:
        tasks = {stage: planned.tasks for stage, planned in self._planned.items()}
        used = {TaskId(s, i): self._primary(TaskId(s, i)) for s, count in tasks.items() for i in range(count)}
        results = {task: self._results[primary] for task, primary in used.items()}
        counters: Counter[str] = Counter()
        for result in results.values():  # equal splits ran once, but each counts
            counters.update(dict(result.counters))
        primaries = sorted(set(used.values()))
        reused = [task for task in primaries if task not in self._ran]
        stages = tuple(
            self._figures(stage, [task for task in primaries if task.stage == stage.id]) for stage in self._graph.stages
        )
        totals = dict(sorted(counters.items()))
        return Outcome(results, tasks, len(self._ran), len(reused), totals, self._snapshot, stages)

    def _figures(self, stage: Stage, tasks: Sequence[TaskId]) -> StageFigures:
        reused = sum(task not in self._ran for task in tasks)
        hashed = isinstance(stage.program.head, GroupHead | JoinHead) and stage.inputs
        notes = skew_notes(draft.exchanges for draft in self._planned[stage.id].drafts) if hashed else ()
        return figures(stage.id, stage.label, [self._results[task] for task in tasks], reused, notes)


__all__ = ["Master", "Outcome"]
