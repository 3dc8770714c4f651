"""Bytes to lines: where they begin, and the lines themselves as one column without any per-line work.

The lines' bytes are the buffer's without its delimiters, so one `bytes.replace` makes the column's data and the
delimiters' positions make its offsets.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pyarrow as pa

Offsets = npt.NDArray[np.int64]


def split_lines(buffer: bytes | pa.Buffer, delimiter: bytes = b"\n") -> tuple[pa.LargeBinaryArray, Offsets]:
    r"""The lines of `buffer` as large_binary (n,), and the byte offset in `buffer` at which each begins, int64 (n,).

    As `bytes.split`, but a delimiter at the end begins no further line, and with the delimiter b"\n" one b"\r"
    before it is dropped too. To read the column as text, check that it is UTF-8 and use `.view(pa.large_string())`.

    >>> lines, offsets = split_lines(b"one\r\n\ntwo")
    >>> lines.to_pylist(), offsets.tolist()
    ([b'one', b'', b'two'], [0, 5, 6])
    """
    data = buffer if isinstance(buffer, bytes) else buffer.to_pybytes()
    if len(delimiter) != 1:
        return _split_long(data, delimiter)
    ends = np.flatnonzero(np.frombuffer(data, np.uint8) == delimiter[0])
    whole = data.endswith(delimiter) or not data
    starts = np.zeros(len(ends) + (not whole), np.int64)
    np.add(ends[: len(starts) - 1], 1, out=starts[1:])
    bounds = np.empty(len(starts) + 1, np.int64)  # in the data that remains
    np.subtract(starts, np.arange(len(starts)), out=bounds[:-1])
    bounds[-1] = len(data) - len(ends)
    if delimiter == b"\n" and b"\r\n" in data:
        returns = np.zeros(len(bounds), np.int64)
        np.cumsum(_after_return(data, ends, starts), out=returns[1 : len(ends) + 1])
        returns[len(ends) + 1 :] = returns[len(ends)]
        bounds -= returns
        data = data.replace(b"\r\n", b"\n")
    return _column(data.replace(delimiter, b""), bounds), starts


def _after_return(data: bytes, ends: Offsets, starts: Offsets) -> npt.NDArray[np.bool_]:
    """Which of the newlines at `ends` follow a carriage return of their own line."""
    found: npt.NDArray[np.bool_] = np.frombuffer(data, np.uint8)[np.maximum(ends - 1, 0)] == ord("\r")
    return found & (ends > starts[: len(ends)])


def _split_long(data: bytes, delimiter: bytes) -> tuple[pa.LargeBinaryArray, Offsets]:
    parts = data.split(delimiter)
    if not parts[-1]:
        parts.pop()
    bounds = np.zeros(len(parts) + 1, np.int64)
    np.cumsum(np.fromiter(map(len, parts), np.int64, len(parts)), out=bounds[1:])
    return _column(b"".join(parts), bounds), bounds[:-1] + np.arange(len(parts)) * len(delimiter)


def _column(data: bytes, bounds: Offsets) -> pa.LargeBinaryArray:
    buffers = [None, pa.py_buffer(bounds), pa.py_buffer(data)]
    return pa.Array.from_buffers(pa.large_binary(), len(bounds) - 1, buffers)
