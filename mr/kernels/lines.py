"""Bytes to lines: where they begin, and the lines themselves as one column without any per-line work.

The lines' bytes are the buffer's without its delimiters, so one `bytes.replace` makes the column's data and the
delimiters' positions make its offsets.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mr.batch import Batch, Origins
from mr.kernels.bits import Bits

Offsets = npt.NDArray[np.int64]
_NEWLINE = 10


class Lines(Batch):
    r"""The lines of a text as values of the one column of `schema`, cut when somebody looks at `data` or `origins`.

    `text` ends where a line does, and is UTF-8; `is_ascii` says whether it is ASCII. Its first byte is byte `offset` of
    the piece, its first line number `number` in it. `tracked`: there are origins.

    >>> schema = pa.schema([("value", pa.large_string())])
    >>> lines = Lines(b"one\ntwo", True, schema, offset=10, number=5, tracked=True)
    >>> lines.rows, lines.data["value"].to_pylist(), lines.origins.tolist()
    (2, ['one', 'two'], [[10, 5], [14, 6]])
    """

    def __init__(
        self, text: bytes, is_ascii: bool, schema: pa.Schema, *, offset: int, number: int, tracked: bool
    ) -> None:
        self.text = text
        self.is_ascii = is_ascii
        self._schema = schema
        self._offset = offset
        self._number = number
        self._tracked = tracked

    @cached_property
    def rows(self) -> int:
        """How many lines there are."""
        if "_split" in self.__dict__:
            return len(self._split[1])
        ends = int(np.count_nonzero(np.frombuffer(self.text, np.uint8) == _NEWLINE))
        return ends + (not self.text.endswith(b"\n") and self.text != b"")

    @cached_property
    def _split(self) -> tuple[pa.LargeBinaryArray, Offsets]:
        return split_lines(self.text)

    @cached_property
    def data(self) -> pa.RecordBatch:
        """The lines as a column."""
        return pa.RecordBatch.from_arrays([self._split[0].view(pa.large_string())], schema=self._schema)

    def values(self) -> list[str]:
        """The lines as Python sees them."""
        text = self.text.decode()
        if "\r" in text:
            text = text.replace("\r\n", "\n")
        values = text.split("\n")
        if not values[-1]:
            values.pop()
        return values

    @cached_property
    def origins(self) -> Origins | None:  # type: ignore[override]  # nobody sets those of lines
        """Where they lie, if that is tracked."""
        if not self._tracked:
            return None
        starts = self._split[1]
        return np.column_stack([starts + self._offset, np.arange(self._number, self._number + len(starts))])

    def renumbered(self, by: int) -> Lines:
        if not by:
            return self
        return Lines(
            self.text,
            self.is_ascii,
            self._schema,
            offset=self._offset,
            number=self._number + by,
            tracked=self._tracked,
        )


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
    starts, ends = line_bounds(data, delimiter)
    bounds = np.zeros(len(starts) + 1, np.int64)  # in the data that remains
    np.cumsum(ends - starts, out=bounds[1:])
    if delimiter == b"\n" and b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    return _column(data.replace(delimiter, b""), bounds), starts


def line_bounds(data: bytes, delimiter: bytes = b"\n") -> tuple[Offsets, Offsets]:
    r"""Where the lines that `split_lines` finds begin and end in `data`, int64 (n,) each; `delimiter` is one byte.

    >>> starts, ends = line_bounds(b"one\r\n\ntwo")
    >>> starts.tolist(), ends.tolist()
    ([0, 5, 6], [3, 5, 9])
    """
    ends = Bits(np.equal, np.frombuffer(data, np.uint8), delimiter[0]).places
    if data and not data.endswith(delimiter):
        ends = np.append(ends, len(data))
    return bounds_of(data, ends, delimiter)


def bounds_of(data: bytes, ends: Offsets, delimiter: bytes = b"\n") -> tuple[Offsets, Offsets]:
    r"""As `line_bounds`, for lines whose delimiters (the last may lack its own) were found at `ends` already.

    >>> bounds_of(b"one\r\n\ntwo", np.array([4, 5, 9]))[1].tolist()
    [3, 5, 9]
    """
    starts = np.zeros(len(ends), np.int64)
    np.add(ends[:-1], 1, out=starts[1:])
    if delimiter == b"\n" and b"\r" in data:  # one byte is found ten times faster than two
        array = np.frombuffer(data, np.uint8)
        closed = (ends < len(data)) & (ends > starts)  # has a newline, and a byte before it
        ends = ends - (closed & (array[np.maximum(ends - 1, 0)] == ord("\r")))
    return starts, ends


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
