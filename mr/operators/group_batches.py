"""map_batches over groups: batches of whole groups in key order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

import numpy as np
import pyarrow as pa

from mr.errors import FunctionFailed, MillraceError, RecordError
from mr.kernels.frames import concat
from mr.kernels.group import group_starts
from mr.kernels.rows import Shape
from mr.operators.base import ErrorPolicy, Grouped, TaskEnv
from mr.operators.batches import BatchFormat, conform, from_format, rejected_batch, to_format
from mr.operators.group_rows import key_values
from mr.operators.grouped import keep
from mr.operators.python import Function, built, described, shorten
from mr.options import GROUP_BATCH_ROWS

_COPIES = 4
"""A batch is gathered, joined and handed to the function, which makes another of it."""


class MapGroupBatches(Grouped, frozen=True):
    """`fn(batch) -> batch` over batches of whole groups; a batch ends with the group that fills it."""

    keys: tuple[str, ...]
    fn: Function
    batch_format: BatchFormat
    sort_by: tuple[str, ...] = ()
    descending: tuple[bool, ...] = ()
    declared: Shape | None = None
    pure: bool = True
    on_error: ErrorPolicy = ErrorPolicy()
    label: ClassVar[str] = "map_batches"

    @property
    def order(self) -> tuple[tuple[str, ...], tuple[bool, ...]]:
        return self.sort_by, self.descending

    def shape(self, given: Shape) -> Shape | None:
        return self.declared

    def reduce(self, rows: Iterator[pa.RecordBatch], env: TaskEnv) -> Iterator[pa.RecordBatch]:
        call, fn = described(self.label, self.fn), built(self.fn)
        for data in self._whole(rows, env.memory_bytes // _COPIES):
            try:
                result = from_format(fn(to_format(data, self.batch_format)))
            except (MillraceError, MemoryError):
                raise
            except Exception as error:
                if self.on_error.on_error != "fail":
                    env.reject(rejected_batch(None, self.fn, error, data))
                    continue
                key = shorten(key_values(data.slice(0, 1), self.keys)[0])
                text = f"{call} raised {type(error).__name__}: {error}"
                raise FunctionFailed(
                    f"{text} for the batch of {data.num_rows} rows that begins with key {key}", None, error
                ) from error
            yield result if self.declared is None else conform(result, self.declared, call)

    def _whole(self, rows: Iterator[pa.RecordBatch], bytes_max: int) -> Iterator[pa.RecordBatch]:
        """The rows cut before the first group that begins after `GROUP_BATCH_ROWS` rows, again and again."""
        held: list[pa.RecordBatch] = []
        count = size = 0
        last: pa.RecordBatch | None = None
        for batch in rows:
            if not batch.num_rows:
                continue
            keys = keep(batch, self.keys)
            starts = group_starts(keys if last is None else concat([last, keys], keys.schema), self.keys)
            starts = starts if last is None else starts[1:] - 1
            last = keys.slice(batch.num_rows - 1)
            while (where := int(np.searchsorted(starts, GROUP_BATCH_ROWS - count))) < len(starts):
                at = int(starts[where])
                yield concat([*held, batch.slice(0, at)], batch.schema)
                batch, starts = batch.slice(at), starts[where + 1 :] - at
                held, count, size = [], 0, 0
            held.append(batch)
            count, size = count + batch.num_rows, size + batch.nbytes
            if size > bytes_max:
                key = shorten(key_values(last, self.keys)[0])
                text = f"map_batches(): the rows up to those of the key {key} do not fit the memory of a task"
                raise RecordError(f"{text}; use map_groups(), which streams them")
        if held:
            yield concat(held, held[0].schema)
