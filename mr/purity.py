"""What user code reads beside its records: the files it opens, and what keeps its results from being reused.

A process has one audit hook (PEP 578), which looks at the stack: what the innermost frame outside of libraries is the
user's, or an operator that called a library function for the user, counts; what the engine itself opens does not.
Files are recorded with the BLAKE3 of what is in them at the end of the task. What a task opened counts for every later
task of the same program in this process, too: a function may have kept what it read.

Not seen: files that a library opens outside of Python (Polars, Arrow, DuckDB), listings of folders, environment
variables, the clock. Content that must count goes through `mr.side_file` and `mr.broadcast`, or `pure=False`.
"""

from __future__ import annotations

import os
import stat
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, Final, Literal

from blake3 import blake3
from msgspec import Struct, field

from mr.fingerprint import library_roots
from mr.storage import stamp_of
from mr.tasks import TaskResult

Opened = tuple[tuple[str, str], ...]
"""Files and the BLAKE3 (hex) of their bytes, "" for one that is not there; by path."""

_EFFECTS: Final = {
    "socket.connect": "opened a socket",
    "socket.getaddrinfo": "opened a socket",
    "socket.gethostbyname": "opened a socket",
    "socket.sendto": "opened a socket",
    "subprocess.Popen": "started a process",
    "os.system": "started a process",
    "os.fork": "started a process",
    "os.forkpty": "started a process",
    "os.posix_spawn": "started a process",
    "os.exec": "started a process",
    "os.spawn": "started a process",
    "pty.spawn": "started a process",
}
_SYSTEM: Final = ("/dev/", "/proc/", "/sys/")
_WRITES: Final = os.O_WRONLY | os.O_RDWR
SETTLED_SECONDS: Final = 2.0

Frame = Literal["user", "engine", "library", "source"]


class FileDigests:
    """BLAKE3 of files, remembered while their inode, size and time of change stay; safe for one thread."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, str]] = {}

    def digest(self, path: str) -> str:
        """The digest of a file, "" where there is none that could be read."""
        try:
            info = os.stat(path)
            stamp = stamp_of(info)
            known = self._known.get(path)
            if known is not None and known[0] == stamp:
                return known[1]
            if not stat.S_ISREG(info.st_mode):
                return ""
            hasher = blake3()
            with open(path, "rb") as file:
                while block := file.read(1 << 20):
                    hasher.update(block)
            found = str(hasher.hexdigest())
        except OSError:
            return ""
        if time.time() - info.st_mtime > SETTLED_SECONDS:  # else it could change again without its stamp changing
            self._known[path] = (stamp, found)
        return found


def why_stale(result: TaskResult, files: FileDigests) -> str:
    """Why a recorded result cannot be used again, "" if it can.

    >>> why_stale(TaskResult((), impure="opened a socket"), FileDigests())
    'a function in it opened a socket'
    """
    if result.impure:
        return f"a function in it {result.impure}"
    return _changed(result.opened, files)


def _changed(opened: Iterable[tuple[str, str]], files: FileDigests) -> str:
    """Which of the files that functions opened is another one by now, in words; "" if none is."""
    path = next((path for path, digest in opened if files.digest(path) != digest), None)
    return "" if path is None else f"{path}, which a function in it reads, has changed"


def purity_of(results: Iterable[TaskResult]) -> dict[str, Any]:
    """What a finished job is up to date under, for its report: the files that its functions opened, and whether they
    did anything else that keeps results from being reused.

    >>> purity_of([TaskResult((), opened=(("/a", "12"),))])
    {'opened': [('/a', '12')], 'impure': False}
    """
    found = list(results)
    return {"opened": sorted({file for r in found for file in r.opened}), "impure": any(r.impure for r in found)}


def still_pure(report: Mapping[str, Any]) -> bool:
    """Whether what `purity_of` put into the report of a finished job still holds.

    >>> still_pure({"opened": [], "impure": False}), still_pure({"opened": [["/nothing/there", "12"]], "impure": False})
    (True, False)
    """
    return not report.get("impure") and not _changed(report.get("opened", ()), FileDigests())


# --- watching --------------------------------------------------------------------------------------------------------


class Watch(Struct):
    """What the user code of one task did so far. `stamps`: what the files looked like when they were opened; `earlier`
    those that tasks of its program opened before in this process, and may have kept the content of."""

    home: str
    inputs: frozenset[str]
    threads: frozenset[int]
    earlier: dict[str, str] = field(default_factory=dict)
    stamps: dict[str, str] = field(default_factory=dict)
    written: set[str] = field(default_factory=set)
    impure: str = ""

    def opens(self, path: str, writes: bool) -> None:
        """User code opens a file."""
        path = os.path.abspath(path)
        if path in self.inputs or path.startswith((*_SYSTEM, self.home, *library_roots())) or "/__pycache__/" in path:
            return
        if writes:
            self.written.add(path)
        elif path not in self.written and (os.path.isfile(path) or not os.path.exists(path)):
            self.stamps.setdefault(path, _stamp(path))

    def finish(self, files: FileDigests) -> tuple[Opened, str]:
        """What was opened, with digests, and why the task is not pure ("": it is)."""
        impure, stamps = self.impure, self.all_stamps()
        moved = next((path for path, stamp in sorted(stamps.items()) if _stamp(path) != stamp), None)
        if moved is not None and not impure:
            impure = f"read {moved}, which changed meanwhile"
        left = next((path for path in sorted(self.written) if os.path.isfile(path)), None)
        if left is not None and not impure:
            impure = f"wrote {left}"
        return tuple((path, files.digest(path)) for path in sorted(stamps)), impure

    def all_stamps(self) -> dict[str, str]:
        """The stamps of all files whose content may be in the result: the last time that each was opened."""
        return self.earlier | self.stamps


def _stamp(path: str) -> str:
    try:
        return stamp_of(os.stat(path))
    except OSError:
        return ""


class _Process:
    """What this process keeps: whether the hook is there, the task that runs, and what programs did before."""

    hooked = False
    watch: Watch | None = None
    before: dict[str, Watch] = {}  # noqa: RUF012  (one for the process, as its hook is)
    files = FileDigests()
    PROGRAMS_KEPT: Final = 64


@contextmanager
def watching(program: str, home: Path, inputs: Iterable[str]) -> Iterator[Watch]:
    """Watch the user code of a task of `program` that reads `inputs`; one task at a time in a process."""
    if not _Process.hooked:
        sys.addaudithook(_hook)
        _Process.hooked = True
    others = frozenset(thread.ident or 0 for thread in threading.enumerate()) - {threading.get_ident()}
    watch = Watch(os.path.join(os.path.abspath(home), ""), frozenset(map(os.path.abspath, inputs)), others)
    before = _Process.before.get(program)
    if before is not None:
        watch.earlier = before.all_stamps()
        watch.impure = before.impure
    _Process.watch = watch
    try:
        yield watch
    finally:
        _Process.watch = None
        if watch.all_stamps() or watch.impure:
            _Process.before[program] = watch
            while len(_Process.before) > _Process.PROGRAMS_KEPT:
                _Process.before.pop(next(iter(_Process.before)))


def finished(watch: Watch) -> tuple[Opened, str]:
    """What `Watch.finish` says, with the digests that this process remembers."""
    return watch.finish(_Process.files)


def _hook(event: str, args: tuple[Any, ...]) -> None:
    watch = _Process.watch
    if watch is None or (event != "open" and event not in _EFFECTS) or threading.get_ident() in watch.threads:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(path, int) or path is None or not _by_user(sys._getframe(1), alone=False):
            return
        watch.opens(os.fsdecode(path), bool(flags & _WRITES))
    elif not watch.impure and _by_user(sys._getframe(1), alone=not any("://" in path for path in watch.inputs)):
        watch.impure = _EFFECTS[event]


def _by_user(frame: FrameType | None, alone: bool) -> bool:
    """Whether user code, or the engine for it, called what runs in `frame`; `alone` if there are only libraries."""
    while frame is not None:
        kind = _kinds.get(frame.f_code.co_filename) or _kind(frame.f_code.co_filename)
        if kind != "library":
            return kind == "user"
        frame = frame.f_back
    return alone


_kinds: dict[str, Frame] = {}


def _kind(file: str) -> Frame:
    """Whose code a file holds. Operators call library functions that users gave them: what they open is the user's."""
    engine = os.path.dirname(__file__)
    if file.startswith(("<frozen importlib", "<frozen zipimport")) or file.endswith("/linecache.py"):
        kind: Frame = "source"  # of modules: code, which is in fingerprints
    elif file.startswith(os.path.join(engine, "operators", "")):
        kind = "user"
    elif file.startswith((os.path.join(engine, ""), os.path.join(os.path.dirname(engine), "dfs", ""))):
        kind = "engine"
    elif file.startswith(("<frozen", *library_roots())):
        kind = "library"
    else:
        kind = "user"
    _kinds[file] = kind
    return kind
