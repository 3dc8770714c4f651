"""The scratch root, MR_HOME: where it is, what lies in it, and what crashes leave there.

journal.db   the journal            runs/   run files and parts of outputs, named by fingerprint and outlet
locks/       one file a job key     tmp/    one folder an attempt, and temporary files: `...<pid>-<attempt>`
code/        snapshots of jobs
"""

from __future__ import annotations

import os
import re
import shutil
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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
