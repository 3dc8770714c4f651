"""The scheduler: its rules one by one."""

from __future__ import annotations

from collections.abc import Sequence

from mr import events as ev
from mr.options import ATTEMPTS_MAX, LOST_MAX
from mr.scheduler import Scheduler, StageShape, TaskState
from mr.tasks import AttemptId, Output, TaskId, TaskResult

MAP, REDUCE = 0, 1


def result(rows: int = 1) -> TaskResult:
    return TaskResult((Output("", b"", rows, 0),))


def succeeded(stage: int, index: int, number: int = 1, *, rows: int = 1, changed: bool = False) -> ev.AttemptSucceeded:
    return ev.AttemptSucceeded(AttemptId(stage, index, number), result(rows), changed)


def launch(stage: int, index: int, number: int = 1) -> ev.Launch:
    return ev.Launch(AttemptId(stage, index, number), "n")


def planned(stage: int, count: int, needs: Sequence[TaskId] = (), **kept: object) -> ev.StagePlanned:
    tasks = tuple(ev.PlannedTask(TaskId(stage, i), tuple(needs), **kept) for i in range(count))  # type: ignore[arg-type]
    return ev.StagePlanned(stage, tasks)


def one_stage(tasks: int, slots: int, **options: float) -> Scheduler:
    """A scheduler with a planned stage whose first attempts are running."""
    scheduler = Scheduler([StageShape(0, (), publishes=True)], **options)  # type: ignore[arg-type]
    assert scheduler.handle(ev.JobStarted()) == [ev.PlanStage(0)]
    assert scheduler.handle(ev.NodesChanged((("n", slots),))) == []
    assert scheduler.handle(planned(0, tasks)) == [launch(0, i) for i in range(min(tasks, slots))]
    return scheduler


def map_reduce(maps: int, reduces: int, slots: int) -> Scheduler:
    """A scheduler whose map tasks are done and whose reduce tasks run, as many as there are slots."""
    scheduler = Scheduler([StageShape(MAP, ()), StageShape(REDUCE, (MAP,), publishes=True)])
    scheduler.handle(ev.NodesChanged((("n", slots),)))
    scheduler.handle(ev.JobStarted())
    scheduler.handle(planned(MAP, maps))
    for i in range(maps):
        out = scheduler.handle(succeeded(MAP, i))
    assert out == [ev.StageComplete(MAP, maps)]
    assert scheduler.handle(ev.StageSettled(MAP)) == [ev.PlanStage(REDUCE)]
    out = scheduler.handle(planned(REDUCE, reduces, [TaskId(MAP, i) for i in range(maps)]))
    assert out == [launch(REDUCE, i) for i in range(min(reduces, slots))]
    return scheduler


def test_slots_are_given_in_order_and_used_again() -> None:
    scheduler = one_stage(4, 2)
    assert scheduler.handle(succeeded(0, 1)) == [launch(0, 2)]
    assert scheduler.handle(succeeded(0, 0)) == [launch(0, 3)]
    assert scheduler.handle(succeeded(0, 3)) == []
    assert scheduler.handle(succeeded(0, 2)) == [ev.StageComplete(0, 4)]
    assert scheduler.handle(ev.StageSettled(0)) == [ev.Publish()]
    assert scheduler.handle(ev.CancelRequested()) == []


def test_the_node_with_most_free_slots_comes_first() -> None:
    scheduler = Scheduler([StageShape(0, ())])
    scheduler.handle(ev.JobStarted())
    scheduler.handle(ev.NodesChanged((("a", 1), ("b", 3))))
    out = scheduler.handle(planned(0, 9))
    assert [i.node for i in out if isinstance(i, ev.Launch)] == ["b", "b", "b", "a"]


def test_a_failed_task_is_tried_four_times() -> None:
    scheduler = one_stage(1, 1)
    for number in range(1, ATTEMPTS_MAX):
        event = ev.AttemptFailed(AttemptId(0, 0, number), "bad", "frames")
        assert scheduler.handle(event) == [launch(0, 0, number + 1)]
    out = scheduler.handle(ev.AttemptFailed(AttemptId(0, 0, ATTEMPTS_MAX), "bad", "frames"))
    assert out == [ev.Fail("task 0.0 failed (attempt 4 of 4): bad", "frames")]
    assert scheduler.handle(ev.Tick(1e9)) == []


def test_a_fatal_failure_ends_the_job_and_what_runs() -> None:
    scheduler = one_stage(2, 2)
    out = scheduler.handle(ev.AttemptFailed(AttemptId(0, 1, 1), "no such file", fatal=True))
    assert out == [ev.Cancel(AttemptId(0, 0, 1)), ev.Fail("task 0.1 failed: no such file")]


def test_a_lost_attempt_costs_the_task_nothing_up_to_a_bound() -> None:
    scheduler = one_stage(1, 1)
    number = 1
    for _ in range(LOST_MAX - 1):
        assert scheduler.handle(ev.AttemptLost(AttemptId(0, 0, number), "gone")) == [launch(0, 0, number + 1)]
        number += 1
    for _ in range(ATTEMPTS_MAX - 1):
        assert scheduler.handle(ev.AttemptFailed(AttemptId(0, 0, number), "bad")) == [launch(0, 0, number + 1)]
        number += 1
    (fail,) = scheduler.handle(ev.AttemptLost(AttemptId(0, 0, number), "signal SIGKILL"))
    assert isinstance(fail, ev.Fail)
    assert fail.message == f"task 0.0 lost its worker {LOST_MAX} times; last: signal SIGKILL"


def test_a_missed_file_runs_its_producer_again_and_nothing_else() -> None:
    scheduler = map_reduce(3, 2, 2)
    missed = ev.FetchMissed(AttemptId(REDUCE, 0, 1), TaskId(MAP, 1), "gone")
    assert scheduler.handle(missed) == [launch(MAP, 1, 2)]
    assert scheduler.handle(succeeded(MAP, 1, 2)) == [launch(REDUCE, 0, 2)]
    assert scheduler.handle(succeeded(REDUCE, 1)) == []
    for number in range(2, 2 + ATTEMPTS_MAX - 1):  # what the miss did not use up
        assert scheduler.handle(ev.AttemptFailed(AttemptId(REDUCE, 0, number), "bad")) == [
            launch(REDUCE, 0, number + 1)
        ]
    assert scheduler.handle(succeeded(REDUCE, 0, number + 1)) == [ev.StageComplete(REDUCE, 2)]


def test_two_readers_that_miss_one_file_run_its_producer_once() -> None:
    scheduler = map_reduce(2, 2, 2)
    assert scheduler.handle(ev.FetchMissed(AttemptId(REDUCE, 0, 1), TaskId(MAP, 1), "gone")) == [launch(MAP, 1, 2)]
    assert scheduler.handle(ev.FetchMissed(AttemptId(REDUCE, 1, 1), TaskId(MAP, 1), "gone")) == []
    assert scheduler.handle(succeeded(MAP, 1, 2)) == [launch(REDUCE, 0, 2), launch(REDUCE, 1, 2)]


def test_other_bytes_of_a_task_that_ran_again_plan_its_consumers_anew() -> None:
    scheduler = map_reduce(2, 2, 2)
    scheduler.handle(ev.FetchMissed(AttemptId(REDUCE, 0, 1), TaskId(MAP, 1), "gone"))
    out = scheduler.handle(succeeded(MAP, 1, 2, changed=True))
    assert out == [ev.Cancel(AttemptId(REDUCE, 1, 1)), ev.StageComplete(MAP, 2)]
    assert scheduler.handle(ev.StageSettled(MAP)) == [ev.PlanStage(REDUCE)]
    out = scheduler.handle(planned(REDUCE, 2, [TaskId(MAP, 0), TaskId(MAP, 1)]))
    assert out == [launch(REDUCE, 0, 2), launch(REDUCE, 1, 2)]  # never again by the name of the cancelled attempt
    assert scheduler.handle(succeeded(REDUCE, 1, 1)) == []
    assert scheduler.counts(REDUCE)[TaskState.DONE] == 0


def test_recorded_tasks_without_files_run_only_for_a_task_that_runs() -> None:
    shapes = [StageShape(MAP, ()), StageShape(REDUCE, (MAP,), publishes=True)]
    needs = [TaskId(MAP, 0), TaskId(MAP, 1)]
    for kept, runs in ((True, []), (False, [launch(MAP, 0), launch(MAP, 1)])):
        scheduler = Scheduler(shapes)
        scheduler.handle(ev.NodesChanged((("n", 9),)))
        scheduler.handle(ev.JobStarted())
        assert scheduler.handle(planned(MAP, 3, rows=1)) == [ev.StageComplete(MAP, 3)]
        scheduler.handle(ev.StageSettled(MAP))
        out = scheduler.handle(planned(REDUCE, 1, needs, rows=1 if kept else None, present=kept))
        assert [i for i in out if isinstance(i, ev.Launch)] == runs
    for i in range(2):
        out = scheduler.handle(succeeded(MAP, i))
    assert out == [launch(REDUCE, 0)]


def test_parts_of_an_output_whose_files_are_gone_run_again() -> None:
    scheduler = Scheduler([StageShape(0, (), publishes=True)])
    scheduler.handle(ev.NodesChanged((("n", 9),)))
    scheduler.handle(ev.JobStarted())
    assert scheduler.handle(planned(0, 2, rows=1)) == [launch(0, 0), launch(0, 1)]


def test_a_limit_takes_the_shortest_prefix_whatever_ends_first() -> None:
    scheduler = Scheduler([StageShape(0, (), limit_rows=10)])
    scheduler.handle(ev.NodesChanged((("n", 4),)))
    scheduler.handle(ev.JobStarted())
    scheduler.handle(planned(0, 6))
    assert scheduler.handle(succeeded(0, 2, rows=99)) == [launch(0, 4)]
    assert scheduler.handle(succeeded(0, 0, rows=4)) == [launch(0, 5)]
    out = scheduler.handle(succeeded(0, 1, rows=6))
    cancelled = [ev.Cancel(AttemptId(0, i, 1)) for i in (3, 4, 5)]
    assert out == [*cancelled, ev.StageComplete(0, 2)]


def test_a_cancelled_job_ends_what_runs_and_says_nothing_more() -> None:
    scheduler = one_stage(3, 2)
    *cancels, fail = scheduler.handle(ev.CancelRequested())
    assert cancels == [ev.Cancel(AttemptId(0, 0, 1)), ev.Cancel(AttemptId(0, 1, 1))]
    assert isinstance(fail, ev.Fail)
    assert fail.cancelled
    assert scheduler.handle(succeeded(0, 0)) == []


def test_an_attempt_without_progress_is_killed_and_counts_as_failed() -> None:
    scheduler = one_stage(2, 2, no_progress_seconds=10.0)
    assert scheduler.handle(ev.Tick(6.0)) == []
    scheduler.handle(ev.AttemptProgress(AttemptId(0, 1, 1), 5, 5))
    out = scheduler.handle(ev.Tick(12.0))
    why = "no progress for 10 s; the attempt was killed"
    assert out == [ev.Cancel(AttemptId(0, 0, 1), why), launch(0, 0, 2)]
    assert scheduler.handle(ev.Tick(16.0)) == []
    assert scheduler.handle(ev.Tick(17.0)) == [ev.Cancel(AttemptId(0, 1, 1), why), launch(0, 1, 2)]


def test_a_node_with_fewer_slots_gets_no_more_until_enough_are_free() -> None:
    scheduler = one_stage(5, 3)
    assert scheduler.handle(ev.NodesChanged((("n", 1),))) == []
    assert scheduler.handle(succeeded(0, 0)) == []
    assert scheduler.handle(succeeded(0, 1)) == []
    assert scheduler.handle(succeeded(0, 2)) == [launch(0, 3)]
