"""What user code may ask while it runs: counters, a seeded generator, where it is.

Outside a task the functions work too, so that a user's function can be called from a test: counters go nowhere.
"""

from __future__ import annotations

import random
from collections import Counter as Counts
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from msgspec import Struct, field


class Context(Struct):
    """The task that the calling function runs in. `seed` is its fingerprint, `attempt` names the try, `spilled` counts
    the bytes that did not fit its memory."""

    seed: str = ""
    attempt: str = ""
    counters: Counts[str] = field(default_factory=Counts)
    generator: random.Random | None = None
    spilled: int = 0


_OUTSIDE = Context()
_current: ContextVar[Context] = ContextVar("mr.task_context", default=_OUTSIDE)


@contextmanager
def running(context: Context) -> Iterator[None]:
    """Make `context` the current one."""
    token = _current.set(context)
    try:
        yield
    finally:
        _current.reset(token)


class CounterHandle:
    """A named counter of the job."""

    def __init__(self, name: str) -> None:
        self._name = name

    def add(self, n: int = 1) -> None:
        """Add `n`. Only the attempt whose result is used counts; a reused task contributes its recorded counts.

        >>> counter("bad").add(2)
        """
        _current.get().counters[self._name] += n


def counter(name: str) -> CounterHandle:
    """The counter `name` of the job; its total is in `JobResult.counters` and in `mr status`.

    >>> counter("lines without a date").add()
    """
    return CounterHandle(name)


def rng() -> random.Random:
    """A random generator seeded from the task's fingerprint: the same numbers in every attempt and on every machine.

    >>> 0 <= rng().random() < 1
    True
    """
    current = _current.get()
    if current.generator is None:
        current.generator = random.Random(current.seed)
    return current.generator


def context() -> Context:
    """The running task: `context().attempt` names it in messages.

    >>> context().attempt
    ''
    """
    return _current.get()
