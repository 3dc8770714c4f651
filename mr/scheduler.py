"""The scheduler: `handle(event) -> instructions`. Pure: no clock, no I/O, no randomness; time comes in `Tick`.

Two kinds of ending are kept apart. FAILED is the fault of user code or input: a task may fail `attempts_max` times,
then the job fails. LOST is the fault of the infrastructure (a worker killed, a node gone): the task runs again at no
cost, up to a generous bound that stops a task which kills every worker it meets.

A task whose result is recorded is never run for its own sake. If its file is gone it is ABSENT: known, and run again
only when a task that reads it must itself run. Recovery needs nothing more: the master recompiles the job, looks
results up, and this state machine finds out what is left to do.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Sequence
from enum import Enum

from msgspec import Struct, field

from mr import events as ev
from mr.options import ATTEMPTS_MAX, LOST_MAX, NO_PROGRESS_SECONDS
from mr.tasks import AttemptId, TaskId


class StageShape(Struct, frozen=True):
    """What the scheduler knows of a stage: the stages it reads, and whether it publishes parts of an output.

    `limit_rows`: the first tasks whose first outlet together has this many rows are enough.
    """

    id: int
    upstream: tuple[int, ...]
    publishes: bool = False
    limit_rows: int | None = None


class TaskState(Enum):
    """PENDING waits for needs or a slot; ABSENT has a recorded result whose file is gone."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    ABSENT = "absent"


class StageState(Enum):
    """WAITING for inputs; PLANNING asked for; ACTIVE has tasks; COMPLETE awaits the master's word; SETTLED stands."""

    WAITING = "waiting"
    PLANNING = "planning"
    ACTIVE = "active"
    COMPLETE = "complete"
    SETTLED = "settled"


class _Task(Struct):
    id: TaskId
    needs: tuple[TaskId, ...]
    state: TaskState = TaskState.PENDING
    rows: int = 0
    blockers: set[TaskId] = field(default_factory=set)
    failures: int = 0
    losses: int = 0
    running: AttemptId | None = None
    node: str = ""
    last_seen: float = 0.0


class Scheduler:
    """Decides what runs where and when a job is finished or failed.

    >>> s = Scheduler([StageShape(0, (), publishes=True)])
    >>> s.handle(ev.JobStarted())
    [PlanStage(stage=0)]
    >>> _ = s.handle(ev.NodesChanged((("here", 1),)))
    >>> s.handle(ev.StagePlanned(0, (ev.PlannedTask(TaskId(0, 0), ()),)))
    [Launch(id=AttemptId(stage=0, index=0, number=1), node='here')]
    """

    def __init__(
        self,
        stages: Sequence[StageShape],
        *,
        attempts_max: int = ATTEMPTS_MAX,
        lost_max: int = LOST_MAX,
        no_progress_seconds: float = NO_PROGRESS_SECONDS,
    ) -> None:
        self._shapes = {s.id: s for s in stages}
        self._downstream: dict[int, list[int]] = {s.id: [] for s in stages}
        for shape in stages:
            for up in shape.upstream:
                self._downstream[up].append(shape.id)
        self._attempts_max = attempts_max
        self._lost_max = lost_max
        self._no_progress_seconds = no_progress_seconds
        self._stages: dict[int, StageState] = {s.id: StageState.WAITING for s in stages}
        self._tasks: dict[TaskId, _Task] = {}
        self._tries: Counter[TaskId] = Counter()  # outlives tasks: no attempt has the name of an earlier one
        self._ids: dict[int, list[TaskId]] = {s.id: [] for s in stages}
        self._counts = {s.id: dict.fromkeys(TaskState, 0) for s in stages}
        self._dependents: dict[TaskId, set[TaskId]] = {}
        self._ready: list[TaskId] = []
        self._free: dict[str, int] = {}
        self._slots: dict[str, int] = {}
        self._now = 0.0
        self._over = False

    # --- the one entrance --------------------------------------------------------------------------------------------

    def handle(self, event: ev.Event) -> list[ev.Instruction]:
        """Take one event in and say what to do. After `Publish` or `Fail` nothing more is ever said."""
        if self._over:
            return []
        match event:
            case ev.JobStarted():
                out = self._advance()
            case ev.NodesChanged(slots):
                out = self._nodes_changed(slots)
            case ev.StagePlanned(stage, tasks):
                out = self._planned(stage, tasks)
            case ev.StageSettled(stage):
                out = self._settled(stage)
            case ev.AttemptSucceeded(id, result, changed):
                out = self._succeeded(id, result.outputs[0].rows if result.outputs else 0, changed)
            case ev.AttemptFailed():
                out = self._failed(event)
            case ev.FetchMissed(id, producer, message):
                out = self._fetch_missed(id, producer, message)
            case ev.AttemptLost(id, reason):
                out = self._lost(id, reason)
            case ev.AttemptProgress(id):
                task = self._running(id)
                if task is not None:
                    task.last_seen = self._now
                out = []
            case ev.CancelRequested():
                out = self._give_up(ev.Fail("interrupted; submit the same job again to resume it", cancelled=True))
            case ev.Tick(now):
                out = self._tick(now)
        return out if self._over else out + self._assign()

    # --- what has not ended ------------------------------------------------------------------------------------------

    def counts(self, stage: int) -> dict[TaskState, int]:
        """How many tasks of a stage are in each state (for display)."""
        return dict(self._counts[stage])

    def _of(self, stage: int) -> Iterable[_Task]:
        """The tasks of a stage, in order."""
        return (self._tasks[id] for id in self._ids[stage] if id in self._tasks)

    def _move(self, task: _Task, state: TaskState) -> None:
        counts = self._counts[task.id.stage]
        counts[task.state] -= 1
        counts[state] += 1
        task.state = state

    def _drop(self, task: _Task) -> list[ev.Instruction]:
        """Forget a task, cancelling it when it runs."""
        out: list[ev.Instruction] = []
        if task.running is not None:
            out.append(ev.Cancel(task.running))
            self._release(task)
        for need in task.blockers:
            self._dependents[need].discard(task.id)
        self._counts[task.id.stage][task.state] -= 1
        del self._tasks[task.id]
        return out

    def _running(self, attempt: AttemptId) -> _Task | None:
        """The task that this attempt is the current one of; None for late news of a cancelled attempt."""
        task = self._tasks.get(attempt.task)
        return task if task is not None and task.running == attempt else None

    # --- stages ------------------------------------------------------------------------------------------------------

    def _advance(self) -> list[ev.Instruction]:
        """Plan every stage whose inputs are settled; publish when nothing is left."""
        out: list[ev.Instruction] = []
        for shape in self._shapes.values():
            inputs_settled = all(self._stages[up] is StageState.SETTLED for up in shape.upstream)
            if self._stages[shape.id] is StageState.WAITING and inputs_settled:
                self._stages[shape.id] = StageState.PLANNING
                out.append(ev.PlanStage(shape.id))
        if all(state is StageState.SETTLED for state in self._stages.values()) and self._whole():
            self._over = True
            out += [ev.Cancel(t.running) for t in self._tasks.values() if t.running is not None]
            out.append(ev.Publish())
        return out

    def _whole(self) -> bool:
        """Whether all that is to be published is there: a part that a reader missed may be running again."""
        return all(t.state is TaskState.DONE for t in self._tasks.values() if self._shapes[t.id.stage].publishes)

    def _settled(self, stage: int) -> list[ev.Instruction]:
        if self._stages[stage] is not StageState.COMPLETE:
            return []  # its inputs turned out to be others meanwhile: it will be planned anew
        self._stages[stage] = StageState.SETTLED
        return self._advance()

    def _planned(self, stage: int, planned: tuple[ev.PlannedTask, ...]) -> list[ev.Instruction]:
        if self._stages[stage] not in (StageState.PLANNING, StageState.COMPLETE):
            return []  # likewise
        out = self._forget(stage)
        publishes = self._shapes[stage].publishes
        for item in planned:
            task = _Task(item.id, item.needs)
            self._tasks[item.id] = task
            self._counts[stage][task.state] += 1
            if item.rows is not None:
                task.rows = item.rows
                self._move(task, TaskState.DONE if item.present else TaskState.ABSENT)
        self._ids[stage] = sorted(item.id for item in planned)
        self._stages[stage] = StageState.ACTIVE
        for item in planned:
            task = self._tasks[item.id]
            if task.state is TaskState.PENDING or (task.state is TaskState.ABSENT and publishes):
                self._want(task)
        return out + self._check_complete(stage)

    def _forget(self, stage: int) -> list[ev.Instruction]:
        """Drop all tasks of a stage."""
        return [instruction for task in list(self._of(stage)) for instruction in self._drop(task)]

    def _check_complete(self, stage: int) -> list[ev.Instruction]:
        if self._stages[stage] is StageState.SETTLED:
            return self._advance()
        if self._stages[stage] is not StageState.ACTIVE:
            return []
        counts, total = self._counts[stage], len(self._ids[stage])
        limit = self._shapes[stage].limit_rows
        if limit is not None:
            return self._check_limit(stage, limit)
        if counts[TaskState.DONE] + counts[TaskState.ABSENT] < total:
            return []
        self._stages[stage] = StageState.COMPLETE
        return [ev.StageComplete(stage, total)]

    def _check_limit(self, stage: int, limit: int) -> list[ev.Instruction]:
        """The shortest prefix of tasks with enough rows is enough: the choice never depends on timing."""
        rows = count = 0
        for task in self._of(stage):
            if task.state not in (TaskState.DONE, TaskState.ABSENT):
                return []
            rows += task.rows
            count += 1
            if rows >= limit:
                break
        surplus = [task for task in self._of(stage) if task.id.index >= count]
        out = [instruction for task in surplus for instruction in self._drop(task)]
        self._stages[stage] = StageState.COMPLETE
        return [*out, ev.StageComplete(stage, count)]

    # --- tasks -------------------------------------------------------------------------------------------------------

    def _want(self, task: _Task) -> None:
        """The task must run: wake the producers whose files are gone, and queue it when nothing blocks it."""
        self._move(task, TaskState.PENDING)
        task.blockers = set()
        for need in task.needs:
            producer = self._tasks[need]
            if producer.state is TaskState.ABSENT:
                self._want(producer)
            if producer.state is not TaskState.DONE:
                task.blockers.add(need)
                self._dependents.setdefault(need, set()).add(task.id)
        if not task.blockers:
            heapq.heappush(self._ready, task.id)

    def _release(self, task: _Task) -> None:
        self._free[task.node] = self._free.get(task.node, 0) + 1
        task.running = None

    def _assign(self) -> list[ev.Instruction]:
        """Give free slots to ready tasks: earlier stages first, then in order, on the node with most free slots."""
        out: list[ev.Instruction] = []
        while self._ready:
            node = max(self._free, key=lambda n: (self._free[n], n), default=None)
            if node is None or self._free[node] <= 0:
                break
            task = self._tasks.get(heapq.heappop(self._ready))
            if task is None or task.state is not TaskState.PENDING or task.blockers:
                continue
            self._tries[task.id] += 1
            self._move(task, TaskState.RUNNING)
            task.node, task.last_seen = node, self._now
            task.running = AttemptId(*task.id, self._tries[task.id])
            self._free[node] -= 1
            out.append(ev.Launch(task.running, node))
        return out

    def _succeeded(self, attempt: AttemptId, rows: int, changed: bool) -> list[ev.Instruction]:
        task = self._running(attempt)
        if task is None:
            return []
        self._release(task)
        self._move(task, TaskState.DONE)
        task.rows = rows
        out: list[ev.Instruction] = []
        if changed:
            out += self._invalidate(task.id.stage)
        for dependent in sorted(self._dependents.pop(task.id, ())):
            waiting = self._tasks.get(dependent)
            if waiting is not None:
                waiting.blockers.discard(task.id)
                if waiting.state is TaskState.PENDING and not waiting.blockers:
                    heapq.heappush(self._ready, dependent)
        return out + self._check_complete(task.id.stage)

    def _invalidate(self, stage: int) -> list[ev.Instruction]:
        """A task gave other bytes than before: everything computed from its stage is planned anew."""
        out: list[ev.Instruction] = []
        if self._stages[stage] is StageState.SETTLED:
            self._stages[stage] = StageState.ACTIVE
        below, seen = list(self._downstream[stage]), set()
        while below:
            current = below.pop()
            if current not in seen:
                seen.add(current)
                out += self._forget(current)
                self._stages[current] = StageState.WAITING
                below += self._downstream[current]
        return out

    def _failed(self, event: ev.AttemptFailed) -> list[ev.Instruction]:
        task = self._running(event.id)
        if task is None:
            return []
        self._release(task)
        task.failures += 1
        if event.fatal or task.failures >= self._attempts_max:
            tries = f" (attempt {task.failures} of {self._attempts_max})" if task.failures > 1 else ""
            return self._give_up(ev.Fail(f"task {task.id} failed{tries}: {event.message}", event.detail))
        self._want(task)
        return []

    def _lost(self, attempt: AttemptId, reason: str) -> list[ev.Instruction]:
        task = self._running(attempt)
        if task is None:
            return []
        self._release(task)
        task.losses += 1
        if task.losses >= self._lost_max:
            return self._give_up(ev.Fail(f"task {task.id} lost its worker {task.losses} times; last: {reason}"))
        self._want(task)
        return []

    def _fetch_missed(self, attempt: AttemptId, producer: TaskId, message: str) -> list[ev.Instruction]:
        task = self._running(attempt)
        if task is None:
            return []
        self._release(task)
        task.losses += 1  # a file that is there but can never be read must not be fetched for ever
        if task.losses >= self._lost_max:
            return self._give_up(ev.Fail(f"task {task.id} missed its input {task.losses} times; last: {message}"))
        source = self._tasks.get(producer)
        if source is not None and source.state is TaskState.DONE:
            self._move(source, TaskState.ABSENT)
            if self._shapes[producer.stage].publishes:
                self._want(source)
            for other in list(self._tasks.values()):
                if other.state is TaskState.PENDING and producer in other.needs:
                    self._want(other)  # it counted on that file
        self._want(task)
        return []

    # --- nodes, time, the end ----------------------------------------------------------------------------------------

    def _nodes_changed(self, slots: tuple[tuple[str, int], ...]) -> list[ev.Instruction]:
        new = dict(slots)
        for node in set(new) | set(self._slots):
            delta = new.get(node, 0) - self._slots.get(node, 0)
            self._free[node] = self._free.get(node, 0) + delta
        self._slots = new
        return []

    def _tick(self, now: float) -> list[ev.Instruction]:
        self._now = now
        out: list[ev.Instruction] = []
        for task in list(self._tasks.values()):
            if task.running is not None and now - task.last_seen > self._no_progress_seconds:
                message = f"no progress for {self._no_progress_seconds:.0f} s; the attempt was killed"
                out.append(ev.Cancel(task.running, message))
                out += self._failed(ev.AttemptFailed(task.running, message))
                if self._over:
                    break
        return out

    def _give_up(self, failure: ev.Fail) -> list[ev.Instruction]:
        self._over = True
        running = [t.running for t in self._tasks.values() if t.running is not None]
        return [*(ev.Cancel(attempt) for attempt in running), failure]
