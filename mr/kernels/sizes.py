"""How large rows are, as a function of their values alone: never of how their arrays came to be cut or allocated."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mr.kernels.gather import bytes_of
from mr.kernels.keys import Ints
from mr.kernels.types import is_list, list_bounds


def logical_bytes(data: pa.RecordBatch) -> int:
    """Bytes of the rows as Arrow holds them, without validity: the sizes of two slices add up to that of both.

    >>> batch = pa.record_batch({"n": [1, 2], "s": pa.array(["abc", None], pa.large_string())})
    >>> logical_bytes(batch), logical_bytes(batch.slice(0, 1)), logical_bytes(batch.slice(1))
    (35, 19, 16)
    """
    return sum(map(_bytes, data.columns))


def bytes_between(data: pa.RecordBatch, bounds: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """The `logical_bytes` of rows bounds[0] to bounds[1], bounds[1] to bounds[2], ...: int64 (len(bounds) - 1,).

    >>> batch = pa.record_batch({"n": [1, 2, 3], "s": pa.array(["abc", "", "d"], pa.large_string())})
    >>> bytes_between(batch, np.array([0, 1, 3])).tolist()
    [19, 33]
    """
    found = np.zeros(len(bounds) - 1, np.int64)
    for column in data.columns:
        type_ = column.type
        if (pa.types.is_large_string(type_) or pa.types.is_large_binary(type_)) and not column.null_count:
            found += np.diff(bytes_of(column)[0][bounds]) + 8 * np.diff(bounds)
        else:
            starts, stops = bounds[:-1].tolist(), bounds[1:].tolist()
            found += [_bytes(column[start:stop]) for start, stop in zip(starts, stops, strict=True)]
    return found


def row_bytes(data: pa.RecordBatch) -> Ints:
    """The `logical_bytes` of each row, int64[n].

    >>> row_bytes(pa.record_batch({"n": [1, 2], "s": pa.array(["abc", None], pa.large_string())})).tolist()
    [19, 16]
    """
    found = np.zeros(data.num_rows, np.int64)
    for column in data.columns:
        found += _each(column)
    return found


def fitting(costs: Ints, most: int) -> Iterator[tuple[int, int, int]]:
    """Neighbours taken together as long as they cost at most so much, or one that costs more: (first, end, cost).

    >>> list(fitting(np.array([2, 3, 0, 9, 0, 0, 1]), 5))
    [(0, 3, 5), (3, 4, 9), (4, 7, 1)]
    """
    sums, start = np.cumsum(costs), 0
    while start < len(costs):
        before = int(sums[start - 1]) if start else 0
        end = max(start + 1, int(np.searchsorted(sums, before + most, "right")))
        cost = int(sums[end - 1]) - before
        if cost:
            yield start, end, cost
        start = end


def rows_filling(data: pa.RecordBatch, bytes_wanted: int) -> int:
    """The least number of rows, at least one, that has so many `logical_bytes`; all if they have fewer.

    >>> batch = pa.record_batch({"n": [1, 2, 3]})
    >>> rows_filling(batch, 9), rows_filling(batch, 16), rows_filling(batch, 100)
    (2, 2, 3)
    """
    low, high = 1, int(data.num_rows)
    if logical_bytes(data) < bytes_wanted:
        return high
    while low < high:
        middle = (low + high) // 2
        full = logical_bytes(data.slice(0, middle)) >= bytes_wanted
        low, high = (low, middle) if full else (middle + 1, high)
    return low


def _bytes(array: pa.Array) -> int:
    if isinstance(array, pa.ExtensionArray):
        return _bytes(array.storage)
    type_ = array.type
    t = pa.types
    if (t.is_large_string(type_) or t.is_large_binary(type_)) and not array.null_count:
        return 8 * len(array) + len(bytes_of(array)[1])
    if t.is_large_string(type_) or t.is_large_binary(type_) or t.is_string(type_) or t.is_binary(type_):
        return 8 * len(array) + (pc.sum(pc.binary_length(array)).as_py() or 0)
    if pa.types.is_struct(type_):
        return sum(map(_bytes, array.flatten()))
    if pa.types.is_map(type_):
        filled = array.drop_null()
        _, start, stop = list_bounds(filled)
        return 8 * len(array) + _bytes(filled.keys[start:stop]) + _bytes(filled.items[start:stop])
    if is_list(type_):
        return 8 * len(array) + _bytes(array.flatten())
    return 0 if pa.types.is_null(type_) else len(array) * max(1, type_.bit_width // 8)


def _each(array: pa.Array) -> Ints | int:
    """The bytes of each value; one number where all have as many."""
    if isinstance(array, pa.ExtensionArray):
        return _each(array.storage)
    type_ = array.type
    t = pa.types
    if (t.is_large_string(type_) or t.is_large_binary(type_)) and not array.null_count:
        lengths: Ints = np.diff(bytes_of(array)[0])
        return 8 + lengths
    if t.is_large_string(type_) or t.is_large_binary(type_) or t.is_string(type_) or t.is_binary(type_):
        lengths = pc.fill_null(pc.binary_length(array), 0).to_numpy(zero_copy_only=False).astype(np.int64)
        return 8 + lengths
    if t.is_struct(type_):
        found: Ints | int = sum(map(_each, array.flatten()), 0)
        return found
    if t.is_map(type_) or is_list(type_):
        offsets, start, stop = list_bounds(array)
        inner = (array.keys, array.items) if t.is_map(type_) else (array.values,)
        each = sum((_each(values[start:stop]) for values in inner), np.zeros(stop - start, np.int64))
        sizes = np.diff(np.concatenate([[0], np.cumsum(each)])[offsets.to_numpy()])
        return 8 + (np.where(array.is_null(), 0, sizes) if array.null_count else sizes)
    return int(_bytes(array[:1]))
