"""Named points at which a test can make the store fail: `failpoint("commit.logged")`.

Armed by DFS_FAILPOINTS, a comma-separated list of `name=action[@k]`: the k-th hit (1 by default) in a process is killed
(`kill`) or raises (`raise`). Unarmed, a failpoint costs one look at a dictionary. They stand where a crash between two
durable steps must be survived; a name that no test hits fails the suite.
"""

from __future__ import annotations

import os
import signal
from functools import cache

from dfs.errors import DfsError

NAMES = frozenset(
    {
        *("commit.appended", "commit.logged", "checkpoint.copied", "checkpoint.written"),
        *("rebuild.ready", "rebuild.renamed", "gc.expired", "gc.deleting"),
        *("repair.copied", "scrub.found", "drain.marked"),
    }
)
_hits: dict[str, int] = {}


@cache
def _armed() -> dict[str, tuple[str, int]]:
    armed = {}
    for item in filter(None, os.environ.get("DFS_FAILPOINTS", "").split(",")):
        name, _, rest = item.partition("=")
        action, _, count = rest.partition("@")
        if name not in NAMES or action not in ("kill", "raise"):
            raise DfsError(f"DFS_FAILPOINTS: {item!r} is not name=kill|raise[@k] with a name of {sorted(NAMES)}")
        armed[name] = (action, int(count or 1))
    return armed


def failpoint(name: str) -> None:
    """Fail here if the environment says so.

    >>> failpoint("commit.logged")
    """
    armed = _armed()
    if name not in armed:
        return
    _hits[name] = _hits.get(name, 0) + 1
    action, count = armed[name]
    if _hits[name] == count:
        if action == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise DfsError(f"failpoint {name}")
