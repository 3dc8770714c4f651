"""The local executor: a small pool of processes on this machine, forked from one that has imported everything.

A worker that dies takes only its own attempt with it: the loss is reported with signal or exit code, peak memory and
last progress, and another worker takes its place. (The standard pools lose all workers when one dies, and cannot kill
a hung task.) See `zygote` for how workers are made.
"""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import Any

from msgspec import Struct

from mr.errors import ExecutorError
from mr.events import AttemptLost, AttemptProgress
from mr.executors.base import (
    AttemptEvent,
    Executor,
    NodeInfo,
    attempt_memory_bytes,
    slots_within,
)
from mr.executors.zygote import Zygote
from mr.tasks import Attempt, AttemptId

NODE = "local"


class _Worker(Struct):
    number: int
    link: Any  # connection.Connection
    pid: int = 0
    attempt: AttemptId | None = None
    seen: AttemptProgress | None = None
    killed: bool = False


class LocalExecutor(Executor):
    """`workers` processes, ready in about a third of a second; fewer where `memory_bytes` has no room for so many.

    `memory_bytes` is for all processes together, this one included. Raises ExecutorError if it is too little for one.
    `fork`: see `Zygote`.
    """

    can_kill = True
    isolates = True

    def __init__(self, home: Path, workers: int, memory_bytes: int, *, fork: bool = False) -> None:
        if workers < 1:
            raise ExecutorError("--workers must be at least 1")
        try:
            (home / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:  # said once, here, and not by each worker
            raise ExecutorError(f"MR_HOME {home} cannot be used: {error}") from None
        self._slots = slots_within(memory_bytes, workers)
        self._memory_bytes = attempt_memory_bytes(memory_bytes, workers)
        self._zygote = Zygote(home, self._memory_bytes, fork=fork)
        self._unread = b""
        self._next = 0
        self._workers: dict[int, _Worker] = {}
        self._closed = False
        for _ in range(self._slots):
            self._fork()

    def _fork(self) -> _Worker:
        ours, theirs = connection.Pipe(duplex=True)
        self._next += 1
        try:
            socket.send_fds(self._zygote.control, [f"fork {self._next:>32}".encode()], [theirs.fileno()])
        except OSError:
            raise ExecutorError(f"the worker factory ended with code {self._zygote.wait()}; see its output") from None
        theirs.close()
        worker = self._workers[self._next] = _Worker(self._next, ours)
        return worker

    def nodes(self) -> Sequence[NodeInfo]:
        return (NodeInfo(NODE, self._slots, self._memory_bytes),)

    def pids(self) -> dict[int, AttemptId | None]:
        """The process ids of living workers and what each works on (for tests and fault injection)."""
        return {w.pid: w.attempt for w in self._workers.values() if w.pid}

    def submit(self, attempt: Attempt, node: str) -> None:
        idle = (w for w in self._workers.values() if w.attempt is None and not w.killed and not w.link.closed)
        worker = next(idle, None)
        if worker is None:
            worker = self._fork()
        worker.attempt, worker.seen = attempt.id, None
        with suppress(BrokenPipeError, ConnectionResetError):  # its death is on the way to us through the zygote
            worker.link.send(attempt)

    def wait(self, timeout_seconds: float) -> Sequence[AttemptEvent]:
        links = {w.link: w for w in self._workers.values() if not w.link.closed}
        ready = connection.wait([*links, self._zygote.control], timeout_seconds)
        events: list[AttemptEvent] = []
        for link in ready:
            if link is not self._zygote.control:
                self._receive(links[link], events)
        if self._zygote.control in ready:
            self._hear(events)
        return events

    def _receive(self, worker: _Worker, events: list[AttemptEvent]) -> None:
        """Everything a worker has said; a closed link is left to the zygote's report."""
        try:
            while worker.link.poll():
                event = worker.link.recv()
                if event.id != worker.attempt:
                    continue
                if isinstance(event, AttemptProgress):
                    worker.seen = event
                else:
                    worker.attempt = None
                events.append(event)
        except (EOFError, OSError):
            worker.link.close()

    def _hear(self, events: list[AttemptEvent]) -> None:
        try:
            data = self._zygote.control.recv(65536)
        except ConnectionResetError:
            data = b""
        if not data:
            raise ExecutorError(f"the worker factory ended with code {self._zygote.wait()}; see its output")
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            word, number, *rest = line.decode().split()
            worker = self._workers.get(int(number))
            if worker is None:
                continue
            if word == "started":
                worker.pid = int(rest[0])
                if worker.killed:
                    self._signal(worker)
            else:
                self._ended(worker, int(rest[0]), int(rest[1]), events)

    def _ended(self, worker: _Worker, code: int, peak_kib: int, events: list[AttemptEvent]) -> None:
        if not worker.link.closed:
            self._receive(worker, events)  # what it had said before it died
            worker.link.close()
        del self._workers[worker.number]
        if worker.attempt is not None:
            how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
            seen = "nothing reported yet"
            if worker.seen is not None:
                seen = f"{worker.seen.records:,} records ({worker.seen.bytes:,} bytes) read"
            reason = f"worker {worker.pid} ended with {how}; peak memory {peak_kib / 1024:,.0f} MiB; {seen}"
            events.append(AttemptLost(worker.attempt, reason))
        if not self._closed and len([w for w in self._workers.values() if not w.killed]) < self._slots:
            self._fork()

    def kill(self, attempt: AttemptId) -> None:
        for worker in self._workers.values():
            if worker.attempt == attempt:
                worker.attempt, worker.killed = None, True
                if worker.pid:
                    self._signal(worker)

    def _signal(self, worker: _Worker) -> None:
        with suppress(ProcessLookupError):
            os.kill(worker.pid, signal.SIGKILL)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        for worker in self._workers.values():
            worker.link.close()
        self._zygote.close()
