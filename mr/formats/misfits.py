"""Blocks of lines through a fast parser, and the lines that it refuses, found by halving.

Arrow's CSV and JSON parsers take a block as a whole or fail as a whole. Where one fails, or makes other than one
record of each line, the block is halved until the lines to blame stand alone: clean data costs nothing, a bad line
costs about twenty small parses.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from msgspec import Struct


class Lines(Struct, frozen=True):
    """Whole records in `data`: record i is `data[starts[i]:ends[i]]` without its newline, int64 (n,) each."""

    data: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]

    def raw(self, i: int) -> bytes:
        """Record `i` without its newline."""
        return self.data[self.starts[i] : self.ends[i]]

    def span(self, first: int, stop: int) -> bytes:
        """Records `first` to `stop`, as they stand in the file."""
        return self.data[self.starts[first] : self.starts[stop] if stop < len(self.starts) else len(self.data)]


class Parser(Struct, frozen=True):
    """`parse(data)` makes a table of records, or raises. Records for which `blank` is true make none.

    `blame(raw)` says in words why a record does not fit; it may raise where no record could be trusted.
    """

    parse: Callable[[bytes], pa.Table]
    blank: Callable[[bytes], bool]
    blame: Callable[[bytes], str]


class Parsed(Struct, frozen=True):
    """Consecutive records as a table, with their numbers (rows,); or, with no table, one misfit and its `error`."""

    numbers: npt.NDArray[np.int64]
    table: pa.Table | None
    error: str = ""


def parse_lines(lines: Lines, parser: Parser, numbers: npt.NDArray[np.int64]) -> Iterator[Parsed]:
    """The records `numbers` (ascending) in order: tables of those that fit, one by one those that do not.

    The others of `lines` must be such that `parser.parse` makes no record of them (empty lines).
    """
    if not len(numbers):
        return
    first, last = int(numbers[0]), int(numbers[-1])
    try:
        table = parser.parse(lines.span(first, last + 1))
    except (pa.ArrowInvalid, UnicodeDecodeError):
        table = None
    if table is not None and table.num_rows == len(numbers):
        yield Parsed(numbers, table)
    elif len(numbers) > 1:
        middle = len(numbers) // 2
        yield from parse_lines(lines, parser, numbers[:middle])
        yield from parse_lines(lines, parser, numbers[middle:])
    elif not parser.blank(lines.raw(first)):
        yield Parsed(numbers, None, parser.blame(lines.raw(first)))
