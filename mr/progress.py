"""What a running job looks like: a snapshot of its stages, folded from events. Pure."""

from __future__ import annotations

from msgspec import Struct
from msgspec.structs import replace

from mr.events import AttemptProgress
from mr.tasks import AttemptId, TaskResult


class StageProgress(Struct, frozen=True):
    """One stage: tasks (`total` None before it is planned), records and bytes read by tasks that ended."""

    id: int
    label: str
    total: int | None = None
    done: int = 0
    reused: int = 0
    records: int = 0
    bytes: int = 0


class Snapshot(Struct, frozen=True):
    """All stages, what running attempts report, what went wrong so far and what the user should know (a line each)."""

    stages: tuple[StageProgress, ...]
    running: tuple[tuple[AttemptId, int, int], ...] = ()
    troubles: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def planned(self, stage: int, total: int, reused: int) -> Snapshot:
        """A stage has its tasks, so many of which have results already."""
        return self._with(stage, total=total, done=reused, reused=reused)

    def launched(self, attempt: AttemptId) -> Snapshot:
        """An attempt was started."""
        return replace(self, running=(*self.running, (attempt, 0, 0)))

    def reported(self, event: AttemptProgress) -> Snapshot:
        """A running attempt reported."""
        running = tuple(
            (e.id, e.records, e.bytes) if a == e.id else (a, r, b) for a, r, b in self.running for e in [event]
        )
        return replace(self, running=running)

    def ended(self, attempt: AttemptId, result: TaskResult | None, trouble: str = "") -> Snapshot:
        """An attempt ended, with a result or with trouble."""
        snapshot = replace(self, running=tuple(item for item in self.running if item[0] != attempt))
        if trouble:
            snapshot = replace(snapshot, troubles=(*self.troubles, trouble))
        if result is None:
            return snapshot
        stage = self.stages[attempt.stage]
        return snapshot._with(
            stage.id,
            done=stage.done + 1,
            records=stage.records + result.records_in,
            bytes=stage.bytes + result.bytes_in,
        )

    def _with(self, stage: int, **changes: object) -> Snapshot:
        stages = list(self.stages)
        stages[stage] = replace(stages[stage], **changes)
        return replace(self, stages=tuple(stages))
