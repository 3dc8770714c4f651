"""Numbers as a dataset, without a list of them."""

from __future__ import annotations

import builtins

import pyarrow as pa

from mr.dataset import Dataset
from mr.errors import PlanError
from mr.operators.base import rows_shape
from mr.operators.partitions import Counted
from mr.plan import Apply, Items

RANGE_SPLIT_ROWS = 1 << 20
"""Numbers in one split: 8 MiB of them."""


def range(start: int, stop: int | None = None, step: int = 1) -> Dataset:
    """The integers of Python's `range`, as values: range(stop), range(start, stop), range(start, stop, step).

    Nothing is held in memory: tasks make the numbers of their split. Raises PlanError for a step of 0 and for numbers
    beyond 64 bits.

    >>> import mr
    >>> mr.range(3).take_all(), mr.range(10, 0, -4).take_all()
    ([0, 1, 2], [10, 6, 2])
    """
    if step == 0:
        raise PlanError("range(): step is not 0")
    numbers = builtins.range(start, stop, step) if stop is not None else builtins.range(0, start, step)
    count = len(numbers)
    if count and not -(1 << 63) <= min(numbers[0], numbers[-1]) <= max(numbers[0], numbers[-1]) < 1 << 63:
        raise PlanError(f"range(): {numbers} has numbers of more than 64 bits")
    firsts = builtins.range(0, count, RANGE_SPLIT_ROWS)
    blocks = {
        "start": pa.array([numbers[first] for first in firsts], pa.int64()),
        "count": pa.array([min(RANGE_SPLIT_ROWS, count - first) for first in firsts], pa.int64()),
    }
    data = pa.record_batch(blocks)
    items = Items(rows_shape(data.schema.names, data.schema.types), data, split_rows=1, made_bytes=8 * count)
    op = Counted(step)
    return Dataset(Apply(op.shape(items.shape), items, op))
