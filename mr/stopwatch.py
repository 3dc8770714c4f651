"""Where the time of an attempt goes: each moment belongs to exactly one kind of work, also within nested iterators."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal, TypeVar, get_args

Kind = Literal["read", "user", "shuffle", "write"]
"""Reading splits; operators and user code; run files, both ways, with sorting and merging; parts of outputs."""

KINDS: tuple[Kind, ...] = get_args(Kind)

T = TypeVar("T")


class Stopwatch:
    """Seconds by kind of work; starts with "user".

    >>> watch = Stopwatch()
    >>> for _ in watch.timed("read", [1, 2]): pass
    >>> [kind for kind, seconds in zip(KINDS, watch.seconds()) if seconds > 0]
    ['read', 'user']
    """

    def __init__(self) -> None:
        self._spent: dict[Kind, float] = dict.fromkeys(KINDS, 0.0)
        self._kind: Kind = "user"
        self._since = time.perf_counter()

    def switch(self, kind: Kind) -> Kind:
        """What comes now is of this kind; returns the kind before."""
        now = time.perf_counter()
        self._spent[self._kind] += now - self._since
        before, self._kind, self._since = self._kind, kind, now
        return before

    @contextmanager
    def doing(self, kind: Kind) -> Iterator[None]:
        """The block is of this kind."""
        before = self.switch(kind)
        try:
            yield
        finally:
            self.switch(before)

    def timed(self, kind: Kind, items: Iterable[T]) -> Iterator[T]:
        """`items` as they are; making each is of this kind, what the caller does with it is not."""
        iterator = iter(items)
        while True:
            with self.doing(kind):
                try:
                    item = next(iterator)
                except StopIteration:
                    return
            yield item

    def seconds(self) -> tuple[float, ...]:
        """What was spent so far, in the order of `KINDS`."""
        self.switch(self._kind)
        return tuple(self._spent.values())
