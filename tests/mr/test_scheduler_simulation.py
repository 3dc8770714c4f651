"""The scheduler in thousands of random histories: workers die, files vanish, code fails, news comes late or twice."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

import pytest

from mr import events as ev
from mr.options import ATTEMPTS_MAX
from mr.scheduler import Scheduler, StageShape
from mr.tasks import AttemptId, Output, TaskId, TaskResult

HISTORIES = 6000
LOST_MAX_SIMULATED = 6


@dataclass
class World:
    """A job, its files and its workers as they really are, driven by chance; checks every instruction."""

    chance: random.Random
    shapes: list[StageShape] = field(default_factory=list)
    plans: dict[int, list[ev.PlannedTask]] = field(default_factory=dict)
    slots: dict[str, int] = field(default_factory=dict)
    running: dict[AttemptId, str] = field(default_factory=dict)
    over: list[AttemptId] = field(default_factory=list)
    used: set[AttemptId] = field(default_factory=set)
    rows: dict[TaskId, int] = field(default_factory=dict)  # results that stand
    files: set[TaskId] = field(default_factory=set)  # what is on disk
    trusted: set[TaskId] = field(default_factory=set)  # what the scheduler has reason to believe is on disk
    taken: dict[int, int] = field(default_factory=dict)  # tasks of complete stages
    settled: set[int] = field(default_factory=set)
    changed: set[int] = field(default_factory=set)
    awaited: dict[int, ev.Event] = field(default_factory=dict)
    failures: Counter[TaskId] = field(default_factory=Counter)
    losses: Counter[TaskId] = field(default_factory=Counter)
    inbox: list[ev.Event] = field(default_factory=list)
    end: ev.Publish | ev.Fail | None = None
    now: float = 0.0
    reasons: set[str] = field(default_factory=set)

    def build(self) -> None:
        pick = self.chance
        for id in range(pick.randint(1, 4)):
            upstream = tuple(sorted(pick.sample(range(id), pick.randint(min(id, 1), min(id, 2)))))
            limit = pick.choice([None, None, None, pick.randint(1, 12)])
            self.shapes.append(StageShape(id, upstream, pick.random() < 0.4, limit))
        self.slots = {f"n{i}": pick.randint(1, 3) for i in range(pick.randint(1, 3))}
        self.calm = pick.choice([0.5, 0.8, 0.95])
        self.cancels = pick.random() < 0.05
        self.inbox = [ev.JobStarted(), ev.NodesChanged(tuple(self.slots.items()))]

    def draw_plan(self, stage: int) -> ev.StagePlanned:
        """Tasks of a stage, some with recorded results, of which some have lost their files."""
        pick, tasks = self.chance, []
        inputs = [TaskId(up, i) for up in self.shapes[stage].upstream for i in range(self.taken[up])]
        reuse = pick.choice([0.0, 0.0, 0.5, 1.0])
        for index in range(pick.randint(1, 6)):
            needs = tuple(sorted(pick.sample(inputs, pick.randint(0, len(inputs)))))
            rows = pick.randint(0, 5) if pick.random() < reuse else None
            tasks.append(ev.PlannedTask(TaskId(stage, index), needs, rows, rows is not None and pick.random() < 0.5))
        return ev.StagePlanned(stage, tuple(tasks))

    def answer(self, event: ev.StagePlanned | ev.StageSettled) -> None:
        self.awaited[event.stage] = event
        self.inbox.append(event)

    def stale(self, event: ev.Event) -> bool:
        """Whether the question that this answers is no longer asked, or the attempt no longer waited for."""
        if isinstance(event, ev.StagePlanned | ev.StageSettled):
            return self.awaited.get(event.stage) is not event
        return getattr(event, "id", None) in self.over

    def adopt(self, plan: ev.StagePlanned) -> None:
        self.forget(plan.stage)
        self.plans[plan.stage] = list(plan.tasks)
        for task in plan.tasks:
            if task.rows is not None:
                self.rows[task.id] = task.rows
            if task.present:
                self.files.add(task.id)
                self.trusted.add(task.id)

    def forget(self, stage: int) -> None:
        for task in self.plans.pop(stage, []):
            for kept in (self.rows, self.failures, self.losses):
                kept.pop(task.id, None)
            self.files.discard(task.id)
            self.trusted.discard(task.id)

    def invalidate(self, stage: int) -> None:
        """What was computed from a stage is computed anew."""
        for shape in self.shapes:
            if stage in shape.upstream:
                self.forget(shape.id)
                self.settled.discard(shape.id)
                self.awaited.pop(shape.id, None)
                self.invalidate(shape.id)

    def task(self, id: TaskId) -> ev.PlannedTask:
        return self.plans[id.stage][id.index]

    # --- what happens ---

    def next_event(self) -> ev.Event:
        pick = self.chance
        if self.inbox and pick.random() < 0.7:
            return self.inbox.pop(0)
        draw = pick.random()
        if self.cancels and draw < 0.02:
            return ev.CancelRequested()
        if draw < 0.05:
            self.now += pick.choice([1.0, 200.0])
            return ev.Tick(self.now)
        if draw < 0.08:
            return ev.NodesChanged(tuple((node, pick.randint(1, 3)) for node in self.slots))
        if draw < 0.11 and self.files:
            self.files.discard(pick.choice(sorted(self.files)))
        if draw < 0.2 and self.over:
            return self.ending(pick.choice(self.over))  # told twice, or told late
        if self.running:
            id = pick.choice(sorted(self.running))
            return ev.AttemptProgress(id, 1, 1) if pick.random() < 0.2 else self.ending(id)
        return self.inbox.pop(0) if self.inbox else ev.Tick(self.now)

    def ending(self, id: AttemptId) -> ev.Event:
        pick = self.chance
        missing = [need for need in self.task(id.task).needs if need not in self.files] if id in self.running else []
        if missing:
            return ev.FetchMissed(id, pick.choice(missing), "gone")
        draw = pick.random()
        if draw < self.calm:
            changed = pick.random() < 0.05
            rows = self.rows.get(id.task)
            if rows is None or (changed and self.shapes[id.stage].limit_rows is None):
                rows = pick.randint(0, 5)
            return ev.AttemptSucceeded(id, TaskResult((Output("", b"", rows, 0),)), changed)
        if draw < self.calm + (1 - self.calm) / 2:
            return ev.AttemptLost(id, "killed")
        return ev.AttemptFailed(id, "bad", fatal=pick.random() < 0.01)

    def apply(self, event: ev.Event) -> None:
        """Change the world as the event says."""
        match event:
            case ev.NodesChanged(slots):
                self.slots = dict(slots)
            case ev.StagePlanned():
                self.adopt(event)
            case ev.StageSettled(stage):
                self.settled.add(stage)
        id = getattr(event, "id", None)
        if id is None or isinstance(event, ev.AttemptProgress):
            return
        del self.running[id]
        self.over.append(id)
        task = id.task
        match event:
            case ev.AttemptSucceeded(_, outcome, changed):
                assert task not in self.trusted, f"the result of task {task} is taken twice"
                self.rows[task] = outcome.outputs[0].rows
                self.files.add(task)
                self.trusted.add(task)
                if changed:
                    self.changed.add(task.stage)
                    self.settled.discard(task.stage)
                    self.invalidate(task.stage)
            case ev.AttemptFailed(_, _, _, fatal):
                self.failures[task] += 1
                if fatal or self.failures[task] >= ATTEMPTS_MAX:
                    self.reasons.add(f"task {task} failed")
            case ev.AttemptLost() | ev.FetchMissed():
                self.losses[task] += 1
                if self.losses[task] >= LOST_MAX_SIMULATED:
                    self.reasons |= {f"task {task} lost its worker", f"task {task} missed its input"}
                if isinstance(event, ev.FetchMissed):
                    self.trusted.discard(event.producer)

    # --- what the scheduler says ---

    def obey(self, instruction: ev.Instruction) -> None:
        match instruction:
            case ev.PlanStage(stage):
                assert self.settled >= set(self.shapes[stage].upstream)
                self.answer(self.draw_plan(stage))
            case ev.Launch(id, node):
                self.check_launch(id, node)
                self.running[id] = node
            case ev.Cancel(id):
                assert id in self.running
                del self.running[id]
                self.over.append(id)
            case ev.StageComplete(stage, tasks):
                self.check_complete(stage, tasks)
                self.taken[stage] = tasks
                if self.chance.random() < 0.1 and self.shapes[stage].limit_rows is None:
                    self.answer(self.draw_plan(stage))  # its schemas are settled now: partly again
                else:
                    self.answer(ev.StageSettled(stage))
            case ev.Publish() | ev.Fail():
                self.end = instruction

    def check_launch(self, id: AttemptId, node: str) -> None:
        assert id not in self.used, f"attempt {id} is launched twice"
        self.used.add(id)
        task = id.task
        assert all(other.task != task for other in self.running), f"two attempts of task {task} run"
        assert sum(n == node for n in self.running.values()) < self.slots[node], f"node {node} has no free slot"
        assert task not in self.trusted, f"task {task} runs although its result is there"
        assert all(need in self.trusted for need in self.task(task).needs), f"task {task} runs before its inputs"
        if task in self.rows and not self.shapes[task.stage].publishes and task.stage not in self.changed:
            readers = (t for tasks in self.plans.values() for t in tasks if task in t.needs)
            assert any(t.id not in self.trusted for t in readers), f"nobody needs recorded task {task}"

    def check_complete(self, stage: int, tasks: int) -> None:
        known = [self.rows.get(task.id) for task in self.plans[stage]]
        taken = known[:tasks]
        assert None not in taken, f"stage {stage} is complete without {taken}"
        limit, sums = self.shapes[stage].limit_rows, [sum(n or 0 for n in known[:i]) for i in range(tasks + 1)]
        if limit is None:
            assert tasks == len(known)
        else:
            assert sums[-1] >= limit or tasks == len(known)
            assert tasks == 1 or sums[-2] < limit

    def check_end(self) -> None:
        match self.end:
            case ev.Publish():
                assert not self.running
                assert self.settled == {shape.id for shape in self.shapes}
                for shape in self.shapes:
                    if shape.publishes:
                        parts = [task.id for task in self.plans[shape.id]][: self.taken[shape.id]]
                        assert self.trusted >= set(parts), "an output is published in part"
            case ev.Fail(message, _, cancelled):
                assert not self.running
                stalled = "no progress" in message
                assert cancelled or stalled or any(message.startswith(reason) for reason in self.reasons), message


def play(seed: int) -> World:
    """One history from start to end."""
    world = World(random.Random(seed))
    world.build()
    scheduler = Scheduler(world.shapes, lost_max=LOST_MAX_SIMULATED, no_progress_seconds=600.0)
    for _ in range(20_000):
        event = world.next_event()
        stale = world.stale(event)
        if not stale:
            world.apply(event)
        said = scheduler.handle(event)
        assert not (stale and said), f"late news of {event} moved the scheduler: {said}"
        killed = [i.id.task for i in said if isinstance(i, ev.Cancel)] if isinstance(event, ev.Tick) else []
        world.failures.update(killed)
        for instruction in said:
            world.obey(instruction)
        if world.end:
            world.check_end()
            assert scheduler.handle(ev.Tick(world.now)) == []
            return world
    raise AssertionError(f"the job of seed {seed} does not end")


@pytest.mark.parametrize("block", range(4))
def test_every_history_ends_as_it_should(block: int) -> None:
    ends: Counter[str] = Counter()
    for seed in range(block * HISTORIES // 4, (block + 1) * HISTORIES // 4):
        try:
            ends[type(play(seed).end).__name__] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error
    assert min(ends["Publish"], ends["Fail"]) > 20, ends
