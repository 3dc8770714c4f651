"""Makes a program do everything in one thread, from the import of this module on; imported before `dfs` is.

strace counts system calls for each thread by itself, and a database without shared memory is locked by one connection.
"""

from __future__ import annotations

import concurrent.futures
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any


class Inline(concurrent.futures.Executor):
    """Runs what is submitted at once, in the caller's thread."""

    def __init__(self, *_: object, **__: object) -> None:
        pass

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:
            future.set_exception(error)
        return future


concurrent.futures.ThreadPoolExecutor = Inline  # type: ignore[misc, assignment]
threading.Lock = threading.RLock  # type: ignore[assignment]  # who submits may hold one that the work takes as well
