"""The scratch root, MR_HOME: where it is, what lies in it, and what crashes leave there.

journal.db   the journal            runs/   run files and parts of outputs, named by fingerprint and outlet
locks/       one file a job key     tmp/    one folder an attempt, and temporary files: `...<pid>-<attempt>`
code/        snapshots of jobs      logs/   what user code printed in a task, by fingerprint
side/        copies of side files and broadcast values, named by content
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import time
from contextlib import suppress
from pathlib import Path


def scratch_root() -> Path:
    """Where this machine keeps MR_HOME: $MR_HOME, else millrace/mr under $XDG_DATA_HOME or ~/.local/share."""
    chosen = os.environ.get("MR_HOME")
    if chosen:
        return Path(chosen).absolute()
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "millrace" / "mr"


def attempt_tag(attempt: object) -> str:
    """What marks the temporary files of an attempt in this process."""
    return f"{os.getpid()}-{attempt}"


def sweep(home: Path) -> None:
    """Remove temporary files and folders of processes that are gone. What living processes write is left alone."""
    for folder in (home / "tmp", home / "runs"):
        for entry in folder.iterdir() if folder.is_dir() else ():
            tagged = re.search(r"(?:^|\.)(\d+)-\d+\.\d+#\d+", entry.name)
            if tagged and not _alive(int(tagged[1])):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)


def prune(home: Path, keep_bytes: int) -> tuple[int, int]:
    """Remove the oldest run and side files until the others have at most `keep_bytes`; returns (files, bytes) removed.

    What is recorded of them stays: a result whose file is gone is computed again when somebody needs it. Old are those
    that were not used for longest. What was written or found since the first job or action (`count`, `take`) that still
    runs began is not removed.
    """
    folders = [folder for folder in (home / "runs", home / "side") if folder.is_dir()]
    found = [(p, p.stat()) for folder in folders for p in folder.iterdir()]
    files = [(max(stat.st_mtime_ns, stat.st_atime_ns), stat.st_size, p) for p, stat in found]
    left = sum(size for _, size, _ in files)
    began = _first_began(home / "locks")
    removed = [0, 0]
    for used_ns, size, path in sorted(files):
        if left <= keep_bytes or (began is not None and used_ns >= began):
            break
        path.unlink(missing_ok=True)
        left -= size
        removed = [removed[0] + 1, removed[1] + size]
    return removed[0], removed[1]


def used(path: Path) -> bool:
    """Whether a file is there; if so it counts as used now, for `prune`. An output may be the same file: no change."""
    try:
        changed = path.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    with suppress(OSError):  # of somebody else, or on a disk that is read only: it can be read all the same
        os.utime(path, ns=(time.time_ns(), changed))
    return True


def _first_began(locks: Path) -> int | None:
    """When the first of the jobs and actions that run now began (ns); None if none runs."""
    began = []
    for path in locks.iterdir() if locks.is_dir() else ():
        with suppress(FileNotFoundError):  # of an action that is over
            at = path.stat().st_mtime_ns
            if is_held(path):
                began.append(at)
    return min(began, default=None)


def is_held(lock: Path) -> bool:
    """Whether some process holds a lock file, and so lives."""
    try:
        handle = os.open(lock, os.O_RDONLY)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(handle)
    return False


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
