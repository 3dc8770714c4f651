"""The executor contract.

An executor runs attempts and reports what became of them as events. It takes no decision: what runs where, and what is
tried again, is the scheduler's. Every executor runs attempts through `worker.run_attempt`, which is why their output
is the same; `testing.check_executor` is the suite they all pass.

Rules. `submit` never blocks on the attempt. Each submitted attempt gives exactly one ending event (succeeded, failed,
lost, fetch missed), unless it was killed: then it may give one, which the scheduler ignores. `wait` returns as soon as
there is something to tell, at the latest after its timeout. Not thread-safe: one master thread calls. `close` ends
everything that the executor started, and is idempotent.
"""

from __future__ import annotations

import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

from msgspec import Struct

from mr.errors import ExecutorError
from mr.events import AttemptFailed, AttemptLost, AttemptProgress, AttemptSucceeded, FetchMissed
from mr.options import ATTEMPT_MEMORY_BYTES_MIN, MASTER_MEMORY_BYTES, MIB, PINNED, WORKER_MEMORY_BYTES
from mr.tasks import Attempt, AttemptId

AttemptEvent = AttemptSucceeded | AttemptFailed | AttemptLost | AttemptProgress | FetchMissed


class NodeInfo(Struct, frozen=True):
    """A place that runs attempts: how many at a time, and the bytes of memory that each may use."""

    id: str
    slots: int
    attempt_memory_bytes: int


class Executor(ABC):
    """Runs attempts. `can_kill`: a hung attempt can be ended. `isolates`: a crash of user code spares the rest."""

    can_kill: bool
    isolates: bool

    @abstractmethod
    def nodes(self) -> Sequence[NodeInfo]:
        """The nodes there are now. Raises ExecutorError when none can be had."""

    @abstractmethod
    def submit(self, attempt: Attempt, node: str) -> None:
        """Start an attempt on a free slot of a node."""

    @abstractmethod
    def wait(self, timeout_seconds: float) -> Sequence[AttemptEvent]:
        """What happened since the last call."""

    @abstractmethod
    def kill(self, attempt: AttemptId) -> None:
        """End an attempt, freeing its slot. Unknown or ended attempts are ignored."""

    @abstractmethod
    def close(self) -> None:
        """End all workers and give back all resources."""

    def __enter__(self) -> Executor:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def worker_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with everything pinned that could reach a byte: the hash seed and threads of kernel libraries.

    Workers find the modules that this process finds: those beside a script or notebook, too.
    """
    found = os.pathsep.join(dict.fromkeys(os.path.abspath(entry) for entry in sys.path if os.path.isdir(entry or ".")))
    return {**environment, "PYTHONPATH": found, **PINNED, "POLARS_MAX_THREADS": "1"}


def default_memory_bytes() -> int:
    """Memory for a whole process tree when nobody says: half of what the machine has."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def slots_within(memory_bytes: int, workers: int) -> int:
    """How many of `workers` can work at a time within `memory_bytes` for the whole process tree; at least one.

    Raises ExecutorError, naming the least that is enough, if there is no room for one.

    >>> slots_within(1000 << 20, 2), slots_within(500 << 20, 64)
    (2, 1)
    """
    fit = (memory_bytes - MASTER_MEMORY_BYTES) // (WORKER_MEMORY_BYTES + ATTEMPT_MEMORY_BYTES_MIN)
    if fit < 1:
        least = MASTER_MEMORY_BYTES + WORKER_MEMORY_BYTES + ATTEMPT_MEMORY_BYTES_MIN
        text = f"{memory_bytes / MIB:,.1f} MiB of memory are too few for the master and one worker"
        raise ExecutorError(f"{text}: give --memory {least // MIB}MiB or more")
    return min(workers, fit)


def attempt_memory_bytes(memory_bytes: int, workers: int) -> int:
    """What each of `workers` attempts at a time may hold, if all processes together may hold `memory_bytes`.

    What processes hold before any attempt runs is taken off first. Where that leaves too little for so many, fewer run
    (`slots_within`), and the figure is for those. Raises ExecutorError as `slots_within`.

    >>> attempt_memory_bytes(1000 << 20, 2) >> 20
    396
    """
    slots = slots_within(memory_bytes, workers)
    return (memory_bytes - MASTER_MEMORY_BYTES) // slots - WORKER_MEMORY_BYTES
