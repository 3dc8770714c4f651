"""Events that the scheduler is told and instructions that it gives: frozen values, nothing else.

Executors produce `Attempt*` and `NodesChanged`; the master produces the rest and carries out the instructions.
"""

from __future__ import annotations

from msgspec import Struct

from mr.tasks import AttemptId, TaskId, TaskResult

# --- events ----------------------------------------------------------------------------------------------------------


class JobStarted(Struct, frozen=True):
    """The graph is compiled; nothing has run."""


class NodesChanged(Struct, frozen=True):
    """The executor's free and busy slots together, per node."""

    slots: tuple[tuple[str, int], ...]


class PlannedTask(Struct, frozen=True):
    """A task of a stage that can run now.

    `needs` are the tasks whose files it reads. `rows` is set when a recorded result exists (its rows per outlet), and
    `present` says whether the files of that result are still there.
    """

    id: TaskId
    needs: tuple[TaskId, ...]
    rows: int | None = None
    present: bool = False


class StagePlanned(Struct, frozen=True):
    """Answer to `PlanStage`, and a correction of it when the stage must partly run again under settled schemas."""

    stage: int
    tasks: tuple[PlannedTask, ...]


class StageSettled(Struct, frozen=True):
    """Answer to `StageComplete`: the results stand, consumers may be planned."""

    stage: int


class AttemptSucceeded(Struct, frozen=True):
    """An attempt ended well. The master sets `changed` when a task that ran before now has other bytes."""

    id: AttemptId
    result: TaskResult
    changed: bool = False


class AttemptFailed(Struct, frozen=True):
    """User code or input is to blame: counts against the task's attempts. `fatal`: trying again cannot help."""

    id: AttemptId
    message: str
    detail: str = ""
    fatal: bool = False


class FetchMissed(Struct, frozen=True):
    """A file that `producer` wrote is gone or damaged: costs this task nothing, the producer runs again."""

    id: AttemptId
    producer: TaskId
    message: str


class AttemptLost(Struct, frozen=True):
    """The worker is gone (signal, exit code, node): costs the task nothing up to a generous bound."""

    id: AttemptId
    reason: str


class AttemptProgress(Struct, frozen=True):
    """A sign of life: records and bytes read so far by this attempt. `beat` counts the signs."""

    id: AttemptId
    records: int
    bytes: int
    beat: int = 0


class CancelRequested(Struct, frozen=True):
    """The user interrupted the job."""


class Tick(Struct, frozen=True):
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


class PlanStage(Struct, frozen=True):
    """All inputs of the stage are settled: enumerate its tasks, look their results up, answer `StagePlanned`."""

    stage: int


class Launch(Struct, frozen=True):
    """Start this attempt on this node."""

    id: AttemptId
    node: str


class Cancel(Struct, frozen=True):
    """Stop this attempt; whatever it still reports is ignored. `why` is told to the user, unless empty."""

    id: AttemptId
    why: str = ""


class StageComplete(Struct, frozen=True):
    """Every task of the stage (the first `tasks` of them, when a limit was met) has a result."""

    stage: int
    tasks: int


class Publish(Struct, frozen=True):
    """All stages are settled: publish the outputs."""


class Fail(Struct, frozen=True):
    """The job cannot succeed. `message` names the task; `detail` shows the user's frames."""

    message: str
    detail: str = ""
    cancelled: bool = False


Instruction = PlanStage | Launch | Cancel | StageComplete | Publish | Fail
