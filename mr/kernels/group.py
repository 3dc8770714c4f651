"""Groups: where runs of equal keys begin, and reductions that go over the rows of a group strictly in row order.

A reduction takes the values, `ids` (int64, the group of each row) and the number of groups. Float sums are one
sequential addition per row, starting at 0.0, so the bytes depend on nothing but the rows; integers are exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from mr.kernels.keys import Ints, Mask, codes, leaves, leaves_of
from mr.kernels.sort import number_part, order_by, ordered_words, parts_of
from mr.options import SAMPLE_ROWS

Floats = npt.NDArray[np.float64]
_LOW: Final = np.int64(0xFFFFFFFF)


def group_starts(data: pa.RecordBatch, key_names: Sequence[str]) -> Ints:
    """The first row (int64) of each run of equal keys in `data`; null equals null and NaN equals NaN.

    >>> group_starts(pa.RecordBatch.from_pydict({"k": [None, None, 1.0, 2.0, 2.0]}), ["k"]).tolist()
    [0, 2, 3]
    """
    rows = data.num_rows
    differs = np.zeros(max(0, rows - 1), bool)
    for leaf in leaves(data, key_names) if rows > 1 else []:
        if leaf.nulls is not None:
            differs |= leaf.nulls[1:] != leaf.nulls[:-1]
        if leaf.kind == "bytes":
            unequal = pc.not_equal(leaf.values.slice(1), leaf.values.slice(0, rows - 1))
            differs |= unequal.fill_null(False).to_numpy(zero_copy_only=False)
        else:
            unequal = leaf.values[1:] != leaf.values[:-1]
            differs |= unequal.any(axis=1) if leaf.kind == "wide" else unequal
    return np.flatnonzero(np.concatenate([np.ones(min(1, rows), bool), differs]))


def ids_of(starts: Ints, rows: int) -> Ints:
    """The group of each of `rows` rows, given where groups start.

    >>> ids_of(np.array([0, 2]), 3).tolist()
    [0, 0, 1]
    """
    return np.repeat(np.arange(len(starts), dtype=np.int64), np.diff(starts, append=rows))


def count(ids: Ints, groups: int, among: Mask | None = None) -> Ints:
    """How many rows each group has, int64[groups]; only those where `among` is true, if given.

    >>> count(np.array([1, 0, 1]), 3).tolist()
    [1, 2, 0]
    """
    return np.bincount(ids if among is None else ids[among], minlength=groups).astype(np.int64, copy=False)


def sum_floats(values: Floats, ids: Ints, groups: int) -> Floats:
    """The sums by group, one addition per row in row order from 0.0; float64[groups], NaN with one bit pattern.

    >>> sum_floats(np.array([1e16, 1.0, -1e16]), np.zeros(3, np.int64), 1).tolist()
    [0.0]
    """
    sums = np.bincount(ids, weights=values, minlength=groups).astype(np.float64, copy=False)  # sequential, in C
    sums[np.isnan(sums)] = np.nan
    return sums


def sum_ints(values: npt.NDArray[np.integer], ids: Ints, groups: int) -> tuple[Ints, Ints]:
    """The exact sums by group of signed or unsigned integers, as (low, carry): the sum is carry * 2^64 + low.

    Both int64[groups]; a sum fits int64 exactly where its carry is 0. Exact for up to 2^31 rows at a time.

    >>> [part.tolist() for part in sum_ints(np.array([2**63 - 1, 1, 5]), np.array([0, 0, 1]), 2)]
    [[-9223372036854775808, 5], [1, 0]]
    """
    low, high = np.zeros(groups, np.int64), np.zeros(groups, np.int64)
    if not len(values):
        return low, high
    bound = max(abs(int(values.max())), abs(int(values.min()))) * len(values)
    if bound < 1 << 63:
        np.add.at(low, ids, values.astype(np.int64, copy=False))
        return low, high
    wide = values.astype(np.uint64 if values.dtype.kind == "u" else np.int64, copy=False)
    np.add.at(high, ids, (wide >> wide.dtype.type(32)).astype(np.int64))
    np.add.at(low, ids, (wide & wide.dtype.type(_LOW)).astype(np.int64))
    high += low >> np.int64(32)
    total = (high << np.int64(32)) | (low & _LOW)  # wraps on purpose: what is lost is in `high`
    return total, (high >> np.int64(32)) + (total < 0)


def sum_decimals(column: Any, ids: Ints, groups: int) -> Any:
    """The exact sums by group of a decimal256 array without nulls, as decimal256; `OverflowError` above 256 bits.

    >>> column = pa.array([1, 2]).cast(pa.decimal256(76, 0))
    >>> sum_decimals(column, np.zeros(2, np.int64), 1).to_pylist()
    [Decimal('3')]
    """
    buffer = column.buffers()[1] if len(column) else b""
    limbs = np.frombuffer(buffer, "<u4", 8 * len(column), column.offset * 32)
    parts = limbs.astype(np.int64).reshape(-1, 8)
    parts[:, 7] = parts[:, 7].astype(np.int32)  # the highest limb holds the sign
    out, carry = np.zeros((groups, 8), np.uint32), np.zeros(groups, np.int64)
    for k in range(8):  # of 32 bits: 2^31 rows cannot overflow 63
        np.add.at(carry, ids, parts[:, k])
        out[:, k] = (carry & _LOW).astype(np.uint32)
        carry >>= np.int64(32)
    total = pa.Array.from_buffers(pa.decimal256(76, column.type.scale), groups, [None, pa.py_buffer(out)])
    if (carry != -(out[:, 7] >> np.uint32(31)).astype(np.int64)).any():
        raise OverflowError("the sum does not fit 76 digits")
    return total


def firsts(ids: Ints, groups: int, among: Mask | None = None) -> Ints:
    """The first row of each group, int64[groups], -1 where a group has none; only rows where `among` is true.

    >>> firsts(np.array([1, 0, 1]), 3).tolist()
    [1, 0, -1]
    """
    rows = np.arange(len(ids), dtype=np.int64) if among is None else np.flatnonzero(among)
    found = np.full(groups, -1, np.int64)
    found[ids[rows[::-1]]] = rows[::-1]  # the last write, the first row, stays
    return found


def extremes(column: Any, ids: Ints, groups: int, largest: bool) -> Ints:
    """The row with the smallest (or largest) value of each group, the first of equals; -1 where all are null.

    `column` is an Arrow array of any type that can be a key; NaN is above all numbers.

    >>> extremes(pa.array([3, 1, None, 1]), np.array([0, 0, 1, 0]), 2, largest=False).tolist()
    [1, -1]
    """
    parts = leaves_of(column)
    valid = None if column.null_count == 0 else ~np.asarray(column.is_null())
    if len(parts) == 1 and parts[0].kind in ("signed", "unsigned", "float"):
        words = ordered_words(parts[0].values, parts[0].kind)
        best = np.zeros(groups, np.uint64) if largest else np.full(groups, ~np.uint64(0))
        rows = slice(None) if valid is None else valid
        (np.maximum if largest else np.minimum).at(best, ids[rows], words[rows])
        wins = words == best[ids]
        return firsts(ids, groups, wins if valid is None else wins & valid)
    data = pa.RecordBatch.from_arrays([column], ["value"])
    in_order = order_by(len(ids), [number_part(ids.astype(np.uint64)), *parts_of(data, ["value"], [largest])])
    found = firsts(ids[in_order], groups, None if valid is None else valid[in_order])
    return np.where(found < 0, found, in_order[found]) if len(in_order) else found


def order_of(ids: Ints) -> Ints | None:
    """The rows (int64) that bring those of a group together, stable; None where they are in order as they are.

    >>> order_of(np.array([1, 0, 1])).tolist(), order_of(np.array([0, 0, 1]))
    ([1, 0, 2], None)
    """
    if not len(ids) or (ids[1:] >= ids[:-1]).all():
        return None
    return order_by(len(ids), [number_part(ids.view(np.uint64))])


def rounds(ids: Ints, groups: int) -> Iterator[Ints]:
    """The first row of every group, then the second row of those that have one, and so on: for folds over rows.

    >>> [rows.tolist() for rows in rounds(np.array([0, 1, 0]), 2)]
    [[0, 1], [2]]
    """
    order = order_of(ids)
    rows = np.arange(len(ids), dtype=np.int64) if order is None else order
    sizes = count(ids, groups)
    starts = np.cumsum(sizes) - sizes
    rank = 0
    while len(starts):
        yield rows[starts + rank]
        rank += 1
        more = sizes > rank
        starts, sizes = starts[more], sizes[more]


def lists(values: Any, ids: Ints, groups: int) -> Any:
    """The values of each group as a list; `ids` are in ascending order.

    >>> lists(pa.array([1, 2, 3]), np.array([0, 0, 2]), 3).to_pylist()
    [[1, 2], [], [3]]
    """
    offsets = np.zeros(groups + 1, np.int64)
    np.cumsum(count(ids, groups), out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values)


def joined_lists(values: Any, ids: Ints, groups: int) -> Any:
    """The lists of each group one after the other, in row order, as one list.

    >>> joined_lists(pa.array([[1], [2], [3]], pa.large_list(pa.int64())), np.array([1, 0, 1]), 2).to_pylist()
    [[2], [1, 3]]
    """
    order = order_of(ids)
    if order is not None:
        values, ids = values.take(pa.array(order)), ids[order]
    offsets = np.zeros(groups + 1, np.int64)
    np.cumsum(sum_ints(values.value_lengths().fill_null(0).to_numpy(), ids, groups)[0], out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), values.flatten())


def hardly_repeats(data: pa.RecordBatch, key_names: Sequence[str]) -> bool:
    """Whether grouping `data` by these columns would leave nine rows in ten or more, judged by a sample of its rows.

    The sample has the first rows and some from all over, so that neighbours that are equal show as well as others. Of a
    pair of rows in `SAMPLE_ROWS` there are (rows / SAMPLE_ROWS)^2 in all rows. False for small data.

    >>> hardly_repeats(pa.RecordBatch.from_pydict({"k": np.arange(100_000)}), ["k"])
    True
    >>> hardly_repeats(pa.RecordBatch.from_pydict({"k": np.arange(100_000) // 2}), ["k"])
    False
    """
    rows = data.num_rows
    if rows < 4 * SAMPLE_ROWS or not key_names:
        return False
    half = SAMPLE_ROWS // 2
    places = np.concatenate([np.arange(half), np.arange(half, rows, (rows - half) // half)[:half]])
    keys = pa.RecordBatch.from_arrays([data.column(name) for name in key_names], list(key_names))
    pairs_max = SAMPLE_ROWS * SAMPLE_ROWS // (10 * rows)
    for sample in (places[: SAMPLE_ROWS // 8], places):  # where some of it has pairs enough, all of it has
        if len(sample) - len(codes(keys.take(pa.array(sample)), key_names)[1]) > pairs_max:
            return False
    return True
