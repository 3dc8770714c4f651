"""Thrift's compact protocol, as far as Parquet's heads of pages and footers need it.

https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

from typing import Any, Final

_DEPTH_MAX: Final = 16


def fields(data: bytes, at: int, depth: int = 0) -> tuple[dict[int, Any], int]:
    """The fields of the struct that begins at `at`, by number, and where it ends.

    Integers, binaries, lists and structs are told, bools and doubles are None. Raises IndexError where the data ends
    before the struct does, ValueError where it is none.

    >>> fields(b"\\x15\\x02\\x18\\x01a\\x00", 0)
    ({1: 1, 2: b'a'}, 6)
    """
    if depth > _DEPTH_MAX:
        raise ValueError("too deep")
    found: dict[int, Any] = {}
    number = 0
    while kind := data[at]:
        at += 1
        if kind >> 4:
            number += kind >> 4
        else:
            number, at = _number(data, at)
        if kind & 15 in (1, 2):  # the kind is the bool
            found[number] = None
        else:
            found[number], at = _value(data, at, kind & 15, depth)
    return found, at + 1


def _value(data: bytes, at: int, kind: int, depth: int) -> tuple[Any, int]:
    if kind == 3:
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _number(data, at)
    if kind == 7:
        return None, at + 8
    if kind == 8:
        size, at = _varint(data, at)
        return data[at : at + size], at + size
    if kind == 9:
        return _list(data, at, depth)
    if kind == 12:
        return fields(data, at, depth + 1)
    raise ValueError("neither Parquet's footer nor its heads of pages have such a field")


def _list(data: bytes, at: int, depth: int) -> tuple[list[Any], int]:
    size, kind = data[at] >> 4, data[at] & 15
    at += 1
    if size == 15:
        size, at = _varint(data, at)
    items = []
    for _ in range(size):
        item, at = (None, at + 1) if kind in (1, 2) else _value(data, at, kind, depth)
        if at > len(data):
            raise IndexError("the data ends in a list")
        items.append(item)
    return items, at


def _number(data: bytes, at: int) -> tuple[int, int]:
    found, at = _varint(data, at)
    return found >> 1 ^ -(found & 1), at


def _varint(data: bytes, at: int) -> tuple[int, int]:
    found = 0
    for shift in range(0, 70, 7):
        byte = data[at]
        at += 1
        found |= (byte & 0x7F) << shift
        if byte < 0x80:
            return found, at
    raise ValueError("a number of more than 64 bits")
