"""The inline executor: attempts run one after the other in the calling thread. For tests and debuggers."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

from mr.executors.base import AttemptEvent, Executor, NodeInfo
from mr.tasks import Attempt, AttemptId
from mr.worker import WorkerEnv, run_attempt


class InlineExecutor(Executor):
    """Runs the oldest submitted attempt whenever it is waited for.

    `memory_bytes` is all for the attempt: what else this process holds is its owner's, and tests give budgets so small
    that everything is spilled.
    """

    can_kill = False
    isolates = False

    def __init__(self, home: Path, memory_bytes: int) -> None:
        self._env = WorkerEnv(home, memory_bytes)
        self._memory_bytes = memory_bytes
        self._queue: deque[Attempt] = deque()

    def nodes(self) -> Sequence[NodeInfo]:
        return (NodeInfo("inline", 1, self._memory_bytes),)

    def submit(self, attempt: Attempt, node: str) -> None:
        self._queue.append(attempt)

    def wait(self, timeout_seconds: float) -> Sequence[AttemptEvent]:
        if not self._queue:
            return ()
        events: list[AttemptEvent] = []
        events.append(run_attempt(self._queue.popleft(), self._env, events.append))
        return events

    def kill(self, attempt: AttemptId) -> None:
        self._queue = deque(a for a in self._queue if a.id != attempt)

    def close(self) -> None:
        self._queue.clear()
