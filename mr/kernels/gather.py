"""Rows by index: `take` for record batches, through plain numpy items where all strings of a column are equally long.

Also the two parts that a string column is made of, as numpy, for kernels that work on bytes.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mr.kernels.keys import Ints

_ITEM_BYTES_MAX: Final = 4096  # longer strings gain nothing: copying them is what takes the time


def taken(data: pa.RecordBatch, rows: Ints) -> pa.RecordBatch:
    """The rows of `data` at the indices `rows` (int64), as `data.take`: no buffer holds more than these rows.

    >>> taken(pa.RecordBatch.from_pydict({"k": ["a", "b", "c"]}), np.array([2, 0]))["k"].to_pylist()
    ['c', 'a']
    """
    indices = pa.array(rows)
    columns = [_equally_long(column, rows) or column.take(indices) for column in data.columns]
    return pa.RecordBatch.from_arrays(columns, schema=data.schema)


def bytes_of(column: Any) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.uint8]]:
    """A large_string or large_binary column without copying: (offsets int64[n + 1], bytes uint8); the bytes of row i
    are bytes[offsets[i]:offsets[i + 1]]. The bytes of other rows that share the buffer are left out.

    >>> offsets, data = bytes_of(pa.array(["ab", "", "c"], pa.large_string()).slice(1))
    >>> offsets.tolist(), data.tobytes()
    ([0, 0, 1], b'c')
    """
    if not len(column):
        return np.zeros(1, np.int64), np.zeros(0, np.uint8)
    _, offsets_buffer, data_buffer = column.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int64, len(column) + 1, column.offset * 8)
    first, last = int(offsets[0]), int(offsets[-1])
    if first == last:
        return offsets - first, np.zeros(0, np.uint8)
    return (offsets - first if first else offsets), np.frombuffer(data_buffer, np.uint8, last - first, first)


def _equally_long(column: Any, rows: Ints) -> Any:
    """`column.take(rows)` if it is of equally long strings without nulls, else None."""
    kind = column.type
    if not (pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)) or column.null_count or not len(rows):
        return None
    offsets, data = bytes_of(column)
    width = int(offsets[1] - offsets[0])
    if not 0 < width <= _ITEM_BYTES_MAX or len(data) != width * len(column) or (np.diff(offsets) != width).any():
        return None
    found = data.view(f"V{width}").take(rows)
    bounds = np.arange(0, (len(rows) + 1) * width, width, dtype=np.int64)
    return pa.Array.from_buffers(kind, len(rows), [None, pa.py_buffer(bounds), pa.py_buffer(found.view(np.uint8))])
