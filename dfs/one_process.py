"""What a forked child inherits and must not use: connections of SQLite, locks, pools whose threads are not there."""

from __future__ import annotations

import os

from dfs.errors import UsageProblem


class OneProcess:
    """Belongs to the process that made it."""

    def __init__(self) -> None:
        self._pid = os.getpid()

    def check(self) -> None:
        """Raise UsageProblem in a forked child."""
        if os.getpid() != self._pid:
            raise UsageProblem(
                f"this store was opened in process {self._pid} and cannot be used in process {os.getpid()}, which was "
                "forked from it: open it again there"
            )
