"""Events that the scheduler is told and instructions that it gives: frozen values, nothing else.

Executors produce `Attempt*` and `NodesChanged`; the master produces the rest and carries out the instructions.
"""

from __future__ import annotations

from dataclasses import dataclass

from mr.tasks import AttemptId, TaskId, TaskResult

# --- events ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class JobStarted:
    """The graph is compiled; nothing has run."""


@dataclass(frozen=True)
class NodesChanged:
    """The executor's free and busy slots together, per node."""

    slots: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class PlannedTask:
    """A task of a stage that can run now.

    `needs` are the tasks whose files it reads. `rows` is set when a recorded result exists (its rows per outlet), and
    `present` says whether the files of that result are still there.
    """

    id: TaskId
    needs: tuple[TaskId, ...]
    rows: int | None = None
    present: bool = False


@dataclass(frozen=True)
class StagePlanned:
    """Answer to `PlanStage`, and a correction of it when the stage must partly run again under settled schemas."""

    stage: int
    tasks: tuple[PlannedTask, ...]


@dataclass(frozen=True)
class StageSettled:
    """Answer to `StageComplete`: the results stand, consumers may be planned."""

    stage: int


@dataclass(frozen=True)
class AttemptSucceeded:
    """An attempt ended well. The master sets `changed` when a task that ran before now has other bytes."""

    id: AttemptId
    result: TaskResult
    changed: bool = False


@dataclass(frozen=True)
class AttemptFailed:
    """User code or input is to blame: counts against the task's attempts. `fatal`: trying again cannot help."""

    id: AttemptId
    message: str
    detail: str = ""
    fatal: bool = False


@dataclass(frozen=True)
class FetchMissed:
    """A file that `producer` wrote is gone or damaged: costs this task nothing, the producer runs again."""

    id: AttemptId
    producer: TaskId
    message: str


@dataclass(frozen=True)
class AttemptLost:
    """The worker is gone (signal, exit code, node): costs the task nothing up to a generous bound."""

    id: AttemptId
    reason: str


@dataclass(frozen=True)
class AttemptProgress:
    """A sign of life: records and bytes read so far by this attempt. `beat` counts the signs."""

    id: AttemptId
    records: int
    bytes: int
    beat: int = 0


@dataclass(frozen=True)
class CancelRequested:
    """The user interrupted the job."""


@dataclass(frozen=True)
class Tick:
    """Time passed; `now` is a monotonic reading in seconds."""

    now: float


Event = (
    JobStarted
    | NodesChanged
    | StagePlanned
    | StageSettled
    | AttemptSucceeded
    | AttemptFailed
    | FetchMissed
    | AttemptLost
    | AttemptProgress
    | CancelRequested
    | Tick
)

# --- instructions ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class PlanStage:
    """All inputs of the stage are settled: enumerate its tasks, look their results up, answer `StagePlanned`."""

    stage: int


@dataclass(frozen=True)
class Launch:
    """Start this attempt on this node."""

    id: AttemptId
    node: str


@dataclass(frozen=True)
class Cancel:
    """Stop this attempt; whatever it still reports is ignored. `why` is told to the user, unless empty."""

    id: AttemptId
    why: str = ""


@dataclass(frozen=True)
class StageComplete:
    """Every task of the stage (the first `tasks` of them, when a limit was met) has a result."""

    stage: int
    tasks: int


@dataclass(frozen=True)
class Publish:
    """All stages are settled: publish the outputs."""


@dataclass(frozen=True)
class Fail:
    """The job cannot succeed. `message` names the task; `detail` shows the user's frames."""

    message: str
    detail: str = ""
    cancelled: bool = False


Instruction = PlanStage | Launch | Cancel | StageComplete | Publish | Fail
