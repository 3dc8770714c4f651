"""The least and greatest values of columns in each row group, as the footer of a Parquet file tells them.

Read without Arrow, which may end the process when it is asked for them in a damaged footer. What is not as it should
be says nothing, so that the group is read and what is wrong with it shows there. A footer has no checksum of its own:
statistics that were changed and still make sense are believed, as values on pages without checksums are.
https://github.com/apache/parquet-format/blob/master/src/main/thrift/parquet.thrift
"""

from __future__ import annotations

import io
from collections.abc import Collection, Mapping
from typing import Any, BinaryIO, Final

import pyarrow as pa

from mr.formats.thrift import fields

Extremes = Mapping[str, tuple[Any, Any]]
"""(least, greatest) by column, where both are known."""

_TAIL_BYTES: Final = 8
_MAGIC: Final = b"PAR1"
_INT32, _INT64, _BYTE_ARRAY = 1, 2, 6
"""Physical types. Fields are called by their numbers in the specification:"""
_GROUPS, _ORDERS = 4, 7
_CHUNKS, _COLUMN, _PHYSICAL, _PATH, _STATISTICS, _GREATEST, _LEAST = 1, 3, 1, 3, 12, 5, 6


def extremes(file: BinaryIO, schema: pa.Schema, columns: Collection[str]) -> list[Extremes]:
    """What is known of `columns` in each row group of a Parquet file with the Arrow schema `schema`; [] for nothing.

    Known are those of integers, strings, dates, and times to the millisecond or microsecond. Floats are not: NaN is
    left out of their statistics.
    """
    try:
        file.seek(-_TAIL_BYTES, io.SEEK_END)
        tail = file.read(_TAIL_BYTES)
        if tail[4:] != _MAGIC:
            return []
        file.seek(-_TAIL_BYTES - int.from_bytes(tail[:4], "little"), io.SEEK_END)
        footer, _ = fields(file.read(int.from_bytes(tail[:4], "little")), 0)
        ordered = _ORDERS in footer
        return [_of_group(group[_CHUNKS], schema, columns) if ordered else {} for group in footer[_GROUPS]]
    except (OSError, LookupError, TypeError, ValueError, AttributeError, OverflowError, pa.ArrowException):
        return []


def _of_group(chunks: list[Any], schema: pa.Schema, columns: Collection[str]) -> Extremes:
    found = {}
    for chunk in chunks:
        column = chunk[_COLUMN]
        path, statistics = column[_PATH], column.get(_STATISTICS, {})
        name = path[0].decode()
        if len(path) == 1 and name in columns and _LEAST in statistics and _GREATEST in statistics:
            ends = [_value(statistics[end], column[_PHYSICAL], schema.field(name).type) for end in (_LEAST, _GREATEST)]
            if None not in ends:
                found[name] = (ends[0], ends[1])
    return found


def _value(data: bytes, physical: int, type_: pa.DataType) -> Any:
    """A value of a column of this type as Python has it; None for types whose values are stored in other ways."""
    t = pa.types
    if t.is_string(type_) or t.is_large_string(type_):
        return data.decode() if physical == _BYTE_ARRAY else None
    if len(data) != {_INT32: 4, _INT64: 8}.get(physical):
        return None
    number = int.from_bytes(data, "little", signed=True)
    if t.is_signed_integer(type_):
        return number
    if t.is_date32(type_):
        return pa.scalar(number, type_).as_py()
    if t.is_timestamp(type_) and type_.unit in ("ms", "us"):  # Python compares times of one zone by their clocks, which
        zone = "UTC" if type_.tz else None  # show an hour twice when summer ends
        return pa.scalar(number, pa.timestamp(type_.unit, zone)).as_py()
    return None
