"""Temporary files of a task for what does not fit its memory, counted for `explain --analyze`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa

from mr.task_context import context


@contextmanager
def spill_file(path: Path) -> Iterator[pa.NativeFile]:
    """The file `path` to write, in a folder that is made with it; its bytes count as spilled by the running task.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(path), "wb") as sink:
        yield sink
        context().spilled += sink.tell()
