"""The Ray executor: long-lived worker actors, one per slot, on a cluster of its own or on a running one.

Ray is used for what it is good at, placing and watching processes. Retries and restarts are the master's, and data
stays in run files: only attempts and events go through Ray. Nothing else in the package imports ray.

A cluster of our own listens on the loopback address only, asks for a token that is made anew in every process, and ends
with us. (Where we are killed, workers end within seconds, two small agents of Ray's after about a minute.) Ray reads
most of its settings from the environment at the moment it is imported or started, so they are put there for just that
long; the worker processes inherit them. Workers of a running cluster get them as a runtime environment, which costs
about a second for the first.
"""

from __future__ import annotations

import os
import pickle
import resource
import secrets
import shutil
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
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
    worker_environment,
)
from mr.tasks import Attempt, AttemptId

NODE = "ray"
LOOPBACK = "127.0.0.1"
OBJECT_STORE_BYTES = 80 << 20  # about the least that Ray accepts
SOCKET_FOLDER_MAX = 30  # Ray appends 70 characters, and a Unix socket's path may have 107
CONNECT_SECONDS = 5.0
START_SECONDS = 60.0
POLL_SECONDS = 0.5
LOOK_SECONDS = 0.01
NOT_NEEDED = ("start_monitor", "start_log_monitor", "start_api_server")
"""What every cluster of Ray's starts besides: an autoscaler, a reader of logs, a server that reports usage (which is
off). Each is a Python that imports Ray, 1.5 s of processor time in all while our workers start."""
REPORTS = b"millrace"  # the namespace of progress reports in the cluster's key-value table
_TOKEN = secrets.token_hex(32)


class _Worker:
    """The actor: runs attempts in the main thread of its process, as the other executors do.

    (An actor with a second concurrency group could be asked for its progress, but would run attempts in another thread,
    where user code cannot use signals. So progress is left in the cluster's key-value table instead.)
    """

    def __init__(self, home: str, memory_bytes: int, mailbox: bytes) -> None:
        from mr.executors.zygote import import_engine, keep_freed_memory

        import_engine()
        from mr.worker import WorkerEnv

        keep_freed_memory(memory_bytes)
        self._env = WorkerEnv(Path(home), memory_bytes, logs_prints=True)
        self._mailbox = mailbox

    def pid(self) -> int:
        return os.getpid()

    def run(self, attempt: Attempt) -> AttemptEvent:
        from mr.worker import run_attempt

        return run_attempt(attempt, self._env, self._report)

    def _report(self, event: AttemptProgress) -> None:
        from ray.experimental.internal_kv import _internal_kv_put

        peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        _internal_kv_put(self._mailbox, pickle.dumps((event, peak_kib)), namespace=REPORTS)


class _Slot(Struct):
    """One worker at a time. `pid` and `result` are references to what the actor will answer."""

    mailbox: bytes
    actor: Any
    pid: Any
    attempt: AttemptId | None = None
    result: Any = None
    seen: tuple[AttemptProgress, int] | None = None


class RayExecutor(Executor):
    """`workers` actors that share `memory_bytes` with this process, ready in about two seconds.

    There are fewer where that has no room for so many. What Ray's own processes hold comes on top.

    `address`: host:port of a running cluster of one node, this machine, which runs the same Python environment; None: a
    cluster of our own. A process is connected to one cluster at a time, and cannot attach to another after its own.
    Raises ExecutorError when Ray cannot be started or reached.
    """

    can_kill = True
    isolates = True

    def __init__(self, home: Path, workers: int, memory_bytes: int, address: str | None) -> None:
        if workers < 1:
            raise ExecutorError("--workers must be at least 1")
        self._temporary = _short_folder() if address is None else None
        self._ray: Any = None
        self._closed = False
        self._slots: list[_Slot] = []
        self._polled = 0.0
        try:
            self._ray = _start(workers, self._temporary) if address is None else _attach(address)
            cores = int(self._ray.cluster_resources().get("CPU", 0))
            count = min(workers, cores)
            if count < 1:
                raise ExecutorError(f"the Ray cluster at {address} has no CPU to run workers on")
            count = slots_within(memory_bytes, count)
            self._memory_bytes = attempt_memory_bytes(memory_bytes, count)
            environment = {} if address is None else {"runtime_env": {"env_vars": worker_environment({})}}
            options = {"num_cpus": 1, "max_restarts": 0, "max_task_retries": 0, **environment}
            self._make = self._ray.remote(**options)(_Worker)
            self._home = str(home)
            for number in range(count):
                mailbox = f"{secrets.token_hex(8)}-{number}".encode()
                self._slots.append(_Slot(mailbox, *self._hire(mailbox)))
            self._await_workers(address)
        except BaseException:
            self.close()
            raise

    def _hire(self, mailbox: bytes) -> tuple[Any, Any]:
        """A new actor, and the reference to its pid."""
        actor = self._make.remote(self._home, self._memory_bytes, mailbox)
        return actor, actor.pid.remote()

    def _await_workers(self, address: str | None) -> None:
        pids = [slot.pid for slot in self._slots]
        ready, late = self._ray.wait(pids, num_returns=len(pids), timeout=START_SECONDS)
        if late:
            where = "the Ray cluster" if address is None else f"the Ray cluster at {address}"
            text = f"{where} started only {len(ready)} of {len(pids)} workers in {START_SECONDS:.0f} s; ask for fewer"
            raise ExecutorError(f"{text} with --workers, or wait until others have left it")
        try:
            self._ray.get(pids)
        except self._ray.exceptions.RayError as error:
            raise ExecutorError(f"a Ray worker did not start: {_said(error)}") from None

    def nodes(self) -> Sequence[NodeInfo]:
        return (NodeInfo(NODE, len(self._slots), self._memory_bytes),)

    def pids(self) -> dict[int, AttemptId | None]:
        """The process ids of workers that have started and what each works on (for tests and fault injection)."""
        return {pid: slot.attempt for slot in self._slots if (pid := self._pid(slot))}

    def _pid(self, slot: _Slot) -> int:
        """The process id, 0 while it is not known."""
        with suppress(self._ray.exceptions.RayError):
            return int(self._ray.get(slot.pid, timeout=0))
        return 0

    def submit(self, attempt: Attempt, node: str) -> None:
        slot = next((s for s in self._slots if s.attempt is None), None)
        if slot is None:
            raise ExecutorError(f"attempt {attempt.id}: all {len(self._slots)} Ray workers are busy")
        slot.attempt, slot.seen = attempt.id, None
        slot.result = slot.actor.run.remote(attempt)

    def wait(self, timeout_seconds: float) -> Sequence[AttemptEvent]:
        running = {slot.result: slot for slot in self._slots if slot.result is not None}
        events: list[AttemptEvent] = []
        if running:
            ready, _ = self._ray.wait(list(running), timeout=timeout_seconds)
            if ready:
                ready, _ = self._ray.wait(list(running), num_returns=len(running), timeout=0)
            events += [self._ended(running[result]) for result in ready]
        now = time.monotonic()
        if now - self._polled >= POLL_SECONDS:
            self._polled = now
            events += [event for slot in self._slots if slot.attempt is not None for event in self._news(slot)]
        return events

    def _ended(self, slot: _Slot) -> AttemptEvent:
        attempt, result, slot.result = slot.attempt, slot.result, None
        assert attempt is not None
        try:
            event: AttemptEvent = self._ray.get(result)
        except self._ray.exceptions.RayError as error:
            self._news(slot)
            seen = "nothing reported yet"
            if slot.seen is not None:
                progress, peak_kib = slot.seen
                seen = f"{progress.records:,} records ({progress.bytes:,} bytes) read"
                seen = f"peak memory {peak_kib / 1024:,.0f} MiB when it last reported; {seen}"
            event = AttemptLost(
                attempt, f"worker {self._pid(slot) or 'that was starting'} ended: {_said(error)}; {seen}"
            )
            self._replace(slot)
        slot.attempt = None
        return event

    def _news(self, slot: _Slot) -> list[AttemptProgress]:
        """What the worker reported since it was last asked."""
        stored = self._ray.experimental.internal_kv._internal_kv_get(slot.mailbox, namespace=REPORTS)
        report = None if stored is None else pickle.loads(stored)
        if report is None or report == slot.seen or report[0].id != slot.attempt:
            return []
        slot.seen = report
        return [report[0]]

    def _replace(self, slot: _Slot) -> None:
        self._ray.kill(slot.actor)
        slot.actor, slot.pid = self._hire(slot.mailbox)

    def kill(self, attempt: AttemptId) -> None:
        for slot in self._slots:
            if slot.attempt == attempt:
                slot.attempt = slot.result = None
                self._replace(slot)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._ray is not None:
            for slot in self._slots:
                self._ray.experimental.internal_kv._internal_kv_del(slot.mailbox, namespace=REPORTS)
            self._ray.shutdown()
        self._slots.clear()
        if self._temporary is not None:
            shutil.rmtree(self._temporary, ignore_errors=True)


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    return tempfile.mkdtemp(prefix="mr-", dir=folder if len(folder) <= SOCKET_FOLDER_MAX else "/tmp")


def _start(workers: int, folder: str | None) -> Any:
    """Start a cluster of our own; the ray module."""
    settings = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # what keeps Ray on the loopback address, on Linux too
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": _TOKEN,
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    with _environment(worker_environment(settings)):
        import ray

        found = ray.util.get_node_ip_address()
        if found != LOOPBACK and not ray.is_initialized():
            text = f"ray was imported before Millrace could keep it on this machine: it would listen on {found}"
            raise ExecutorError(f"{text}; set RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER=0 before importing ray")
        cluster = {"num_cpus": workers, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES}
        with _bare(ray._private.node.Node):
            _connect(ray, address="local", _temp_dir=folder, **cluster)
    return ray


@contextmanager
def _bare(node: Any) -> Iterator[None]:
    """While this lasts, a node of this class (Ray's `Node`) starts without NOT_NEEDED, and goes on as soon as it is up:
    Ray itself looks once a second."""
    start_all = node.start_ray_processes

    def start(self: Any) -> None:
        start_all(self)
        gcs, deadline = self.get_gcs_client(), time.monotonic() + START_SECONDS
        while not gcs.get_all_node_info() and time.monotonic() < deadline:
            time.sleep(LOOK_SECONDS)

    methods: dict[str, Any] = {name: lambda self, **_: None for name in NOT_NEEDED if hasattr(node, name)}
    methods["start_ray_processes"] = start
    before = {name: getattr(node, name) for name in methods}
    try:
        for name, method in methods.items():
            setattr(node, name, method)
        yield
    finally:
        for name, method in before.items():
            setattr(node, name, method)


def _attach(address: str) -> Any:
    """Join a running cluster; the ray module. Ray itself would try for ten minutes where nobody listens."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "/" in host:
        raise ExecutorError(f"--address {address}: give the host:port that `ray start` or ray.init() printed")
    try:
        socket.create_connection((host, int(port)), CONNECT_SECONDS).close()
    except OSError as error:
        raise ExecutorError(f"no Ray cluster answers at {address}: {error}") from None
    settings = {"RAY_NUM_REDIS_GET_RETRIES": "1"}
    if host in ("localhost", LOOPBACK):
        settings["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # else Ray looks for it at the machine's other address
    with _environment(settings):
        import ray

        _connect(ray, address=address)
    try:
        refuse_many_nodes(address, ray.nodes())
    except ExecutorError:
        ray.shutdown()
        raise
    return ray


def refuse_many_nodes(address: str, nodes: Sequence[Mapping[str, Any]]) -> None:
    """Raise ExecutorError if a cluster has more than one living node: run files are read from the local disk.

    >>> refuse_many_nodes("10.0.0.1:6379", [{"Alive": True}, {"Alive": False}])
    """
    alive = sum(bool(node["Alive"]) for node in nodes)
    if alive > 1:
        text = f"the Ray cluster at {address} has {alive} nodes, but tasks can only read files of their own node yet"
        raise ExecutorError(f"{text}; use a cluster of one node, or --on local")


def _connect(ray: Any, **arguments: Any) -> None:
    if ray.is_initialized():
        raise ExecutorError("this process is connected to a Ray cluster already; call ray.shutdown() first")
    main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM) if main else None
    try:
        ray.init(log_to_driver=False, logging_level="ERROR", **arguments)
    except BaseException as error:
        ray.shutdown()
        if isinstance(error, Exception):
            hint = "" if "_temp_dir" in arguments else "; is its token in RAY_AUTH_TOKEN, and RAY_AUTH_MODE=token set?"
            raise ExecutorError(f"Ray cannot be started or reached: {error}{hint}") from error
        raise
    finally:
        if before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray installs its own
    ray._private.worker._worker_logs_enabled = False  # it would print deaths of workers to stdout, which is for data


@contextmanager
def _environment(settings: Mapping[str, str]) -> Iterator[None]:
    """Have these environment variables for a while; what Ray adds to them (a debugger of its own) goes too."""
    before = dict(os.environ)
    os.environ.update(settings)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


def _said(error: Exception) -> str:
    """The part of Ray's message that says what happened, without its general advice."""
    text = str(error).split("Worker exit detail: ")[-1].split(" Some common causes")[0]
    return text.strip().splitlines()[-1].strip().rstrip(".")
