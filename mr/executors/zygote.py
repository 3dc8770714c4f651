"""The process that workers are forked from.

It imports what every worker needs once and then forks a worker in milliseconds whenever it is asked, before Polars or
Arrow start the threads that they compute with (forking after that can hang). It waits for its children and reports how
each ended, with its peak memory. When its owner goes away, it and all workers end.

It is itself forked from the `mr` command, once that has imported the engine and before it loads anything of the user's;
any other process (a script, a notebook) may hold anything, and starts it as a fresh Python.

Protocol, over a Unix socket: the owner sends "fork <number>" (FORK_BYTES long) with one socket attached; the zygote
answers with lines "started <number> <pid>" and later "ended <number> <exit code or -signal> <peak KiB>".
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from multiprocessing import connection
from pathlib import Path
from typing import Any

from mr.executors.base import worker_environment
from mr.options import KEPT_MEMORY_BYTES_MAX

FORK_BYTES = 37
CLOSE_SECONDS = 5
CONTROL_FD = 3
# By name, as most lie above this room: what workers need, and what a job's own modules need when a worker imports them.
ENGINE = (
    *("mr.worker", "mr.operators.columns", "mr.formats.parquet", "mr.formats.text", "mr.readers", "mr.session"),
    "numpy.ma",  # pyarrow asks it for every array of NumPy's
)


class Zygote:
    """The owner's side of a new zygote: its `pid`, and `control`, the owner's end of the socket.

    `home` and `memory_bytes` (of one attempt) are for the workers. `fork`: this process has not imported the engine,
    has no threads, nothing of the user's, and was started as workers are (`options.PINNED`).
    """

    def __init__(self, home: Path, memory_bytes: int, *, fork: bool) -> None:
        self.control, theirs = socket.socketpair()
        arguments = (theirs.fileno(), str(home), memory_bytes)
        self.pid = _fork(*arguments) if fork else _spawn(*arguments)
        self._code: int | None = None
        theirs.close()

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit code (or minus its signal) once it has ended; None if it lives on after `seconds`."""
        deadline = None if seconds is None else time.monotonic() + seconds
        while self._code is None and (deadline is None or time.monotonic() < deadline):
            try:
                pid, status = os.waitpid(self.pid, 0 if deadline is None else os.WNOHANG)
            except ChildProcessError:  # somebody else in this process waits for all children
                pid, status = self.pid, 0
            if pid:
                self._code = os.waitstatus_to_exitcode(status)
            else:
                time.sleep(0.001)
        return self._code

    def close(self) -> None:
        """End it and all its workers."""
        self.control.close()  # it kills what is left of the workers and ends
        if self.wait(CLOSE_SECONDS) is None:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()


def _fork(control_fd: int, home: str, memory_bytes: int) -> int:
    import_engine()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    try:
        os.environ.update(worker_environment(os.environ))
        devnull = os.open(os.devnull, os.O_RDONLY)
        os.dup2(devnull, 0)
        os.closerange(3, control_fd)
        os.closerange(control_fd + 1, os.sysconf("SC_OPEN_MAX"))
        serve(control_fd, home, memory_bytes)
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(1)


def _spawn(control_fd: int, home: str, memory_bytes: int) -> int:
    command = [sys.executable, "-P", "-m", "mr.executors.zygote", str(CONTROL_FD), home, str(memory_bytes)]
    opened = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)
    passed = (os.POSIX_SPAWN_DUP2, control_fd, CONTROL_FD)
    return os.posix_spawn(sys.executable, command, worker_environment(os.environ), file_actions=[opened, passed])


def import_engine() -> None:
    """Import all that a worker may need."""
    from mr.quick_start import defer_pandas

    gc.disable()  # nothing that modules make is garbage
    defer_pandas()
    for name in ENGINE:
        importlib.import_module(name)
    gc.freeze()  # so that no collection goes through it, here and in those forked from here
    gc.enable()


def serve(control_fd: int, home: str, memory_bytes: int) -> None:
    """Fork workers as the owner asks, until it closes its end; never returns."""
    os.dup2(2, 1)  # stdout is for the command's data; what user code prints goes to stderr
    control = socket.socket(fileno=control_fd)
    children: dict[int, int] = {}
    wakeup_read, wakeup_write = os.pipe()
    watched: list[Any] = [control, wakeup_read]
    os.set_blocking(wakeup_write, False)
    signal.set_wakeup_fd(wakeup_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the owner decides what an interrupt means
    while True:
        ready, _, _ = select.select(watched, [], [])
        if wakeup_read in ready:
            os.read(wakeup_read, 4096)
            _reap(control, children)
        if control in ready:
            try:
                message, fds, _, _ = socket.recv_fds(control, FORK_BYTES, 1)
            except ConnectionResetError:  # the owner left before it read what was told
                break
            if not message:
                break
            number = int(message.split()[1])
            zygote, pid = os.getpid(), os.fork()
            if pid == 0:
                _become_worker(zygote, fds[0], (control_fd, wakeup_read, wakeup_write), home, memory_bytes)
            os.close(fds[0])
            children[pid] = number
            _tell(control, f"started {number} {pid}\n")
    for pid in children:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
    os._exit(0)  # the owner waits for this: taking the libraries down in order would cost it a tenth of a second


def _reap(control: socket.socket, children: dict[int, int]) -> None:
    while children:
        pid, status, usage = os.wait4(-1, os.WNOHANG)
        if pid == 0:
            return
        number = children.pop(pid, None)
        if number is not None:
            with suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)  # what the worker's user code may have started
            _tell(control, f"ended {number} {os.waitstatus_to_exitcode(status)} {usage.ru_maxrss}\n")


def _tell(control: socket.socket, line: str) -> None:
    with suppress(BrokenPipeError, ConnectionResetError):
        control.sendall(line.encode())


def _become_worker(zygote: int, fd: int, close: tuple[int, ...], home: str, memory_bytes: int) -> None:
    """Turn this forked child into a worker; never returns."""
    code = 1
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for other in close:
            os.close(other)
        os.setpgid(0, 0)
        _end_with(zygote)
        keep_freed_memory(memory_bytes)
        _work(fd, home, memory_bytes)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        code = 0  # the owner is gone or has enough
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _work(fd: int, home: str, memory_bytes: int) -> None:
    """Run attempts that come through the socket until the owner closes it (EOFError)."""
    from mr.worker import WorkerEnv, run_attempt

    link: Any = connection.Connection(fd)
    env = WorkerEnv(Path(home), memory_bytes, logs_prints=True)
    while True:
        attempt = link.recv()
        link.send(run_attempt(attempt, env, link.send))


def _end_with(parent: int) -> None:
    """Have this process killed when its parent is: a worker in a long call of a library sees no socket close.

    No effect but on Linux.
    """
    pr_set_pdeathsig = 1
    with suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it was killed before that
        os._exit(1)


def keep_freed_memory(memory_bytes: int) -> None:
    """Let glibc keep freed blocks: touching fresh pages is the first bottleneck of batch work.

    Both thresholds come from the memory budget, as kept pages count against it. No effect with another libc.
    """
    import pyarrow as pa

    keep = min(KEPT_MEMORY_BYTES_MAX, memory_bytes // 4)
    m_trim_threshold, m_mmap_threshold = -1, -3
    with suppress(OSError, AttributeError):
        libc = ctypes.CDLL("libc.so.6")
        libc.mallopt(m_mmap_threshold, min(keep, 1 << 30))
        libc.mallopt(m_trim_threshold, keep)
    pa.set_memory_pool(pa.system_memory_pool())
    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)


if __name__ == "__main__":
    import_engine()
    serve(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]))
