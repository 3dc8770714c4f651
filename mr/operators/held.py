"""Batches that an operator keeps until it knows what becomes of them: in memory up to a budget, then in files."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, groupby
from pathlib import Path
from typing import Final

import pyarrow as pa

from mr.spills import spill_file

_NUMBERS: Final = count()
"""Of files: one name is never used twice by a process, for arrays may still lie in the file that had it."""


class Held:
    """Batches in order: in memory up to a budget, the ones before in files of the folder `scratch`.

    >>> held = Held(Path("/nowhere"), 1 << 20)
    >>> held.add(pa.record_batch({"n": [1]}))
    >>> [batch.num_rows for batch in held.batches()]
    [1]
    """

    def __init__(self, scratch: Path, memory_bytes: int) -> None:
        self._scratch = scratch
        self._memory_bytes = memory_bytes
        self._batches: list[pa.RecordBatch] = []
        self._bytes = 0
        self._files: list[Path] = []

    def add(self, data: pa.RecordBatch) -> None:
        """Append a batch."""
        self._batches.append(data)
        self._bytes += data.nbytes
        if self._bytes > self._memory_bytes:
            for schema, some in groupby(self._batches, key=lambda batch: batch.schema):
                path = self._scratch / f"held-{next(_NUMBERS)}"
                self._files.append(path)
                with spill_file(path) as sink, pa.ipc.new_stream(sink, schema) as writer:
                    for batch in some:
                        writer.write_batch(batch)
            self._batches, self._bytes = [], 0

    def batches(self) -> Iterator[pa.RecordBatch]:
        """All batches."""
        for path in self._files:
            with pa.memory_map(str(path)) as source:
                yield from pa.ipc.open_stream(source)
        yield from self._batches

    def drop(self) -> None:
        """Remove all batches; what was given out stays readable."""
        for path in self._files:
            path.unlink(missing_ok=True)
        self._batches, self._bytes, self._files = [], 0, []
