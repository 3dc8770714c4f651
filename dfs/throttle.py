"""Throttle: spread work that moves bytes over time, so that care does not take the disk from readers and writers."""

from __future__ import annotations

import time
from collections.abc import Callable

from dfs.errors import UsageProblem


class Throttle:
    """At most `rate` bytes a second on average from the first `spend` on; None: no limit. For one thread.

    >>> slept = []
    >>> throttle = Throttle(100.0, clock=lambda: 0.0, sleep=slept.append)
    >>> throttle.spend(50), throttle.spend(1), slept
    (None, None, [0.5])
    """

    def __init__(
        self,
        rate: float | None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        if rate is not None and rate <= 0:
            raise UsageProblem(f"a rate of {rate} bytes a second: it must be above 0")
        self._rate = rate
        self._clock = clock
        self._sleep = sleep
        self._due = 0.0

    def spend(self, size: int) -> None:
        """Account for `size` bytes that are moved next; sleeps until the bytes before them have had their time."""
        if self._rate is None:
            return
        now = self._clock()
        if self._due > now:
            self._sleep(self._due - now)
        self._due = max(self._due, now) + size / self._rate
