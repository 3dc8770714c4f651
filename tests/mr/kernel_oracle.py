"""What the kernels' tests share: key columns of every type with awkward values, and the order in plain Python."""

from __future__ import annotations

import datetime as dt
import math
from decimal import Decimal
from functools import cmp_to_key

import pyarrow as pa
from hypothesis import strategies as st

UTC = dt.UTC
STRUCT = pa.struct([("a", pa.int64()), ("b", pa.large_string()), ("c", pa.float64())])
TEXTS = [
    "",
    "a",
    "a\0",
    "a\0\0",
    "ab",
    "b",
    "aaaaaaaa",
    "aaaaaaaab",
    "aaaaaaaa\0",
    "é",
    "\U0001f600",
    "\uffff",
    "x" * 75 + "y",
]
FLOATS = [0.0, -0.0, math.nan, -math.nan, math.inf, -math.inf, 1.5, -1.5, 5e-324, 1e300]

POOLS: dict[pa.DataType, list[object]] = {
    pa.null(): [],
    pa.bool_(): [True, False],
    pa.int8(): [-128, -1, 0, 1, 127],
    pa.int64(): [-(2**63), -1, 0, 1, 2**63 - 1],
    pa.uint64(): [0, 1, 2**63, 2**64 - 1],
    pa.float32(): [0.0, -0.0, math.nan, math.inf, -1.5, 2.5],
    pa.float64(): FLOATS,
    pa.large_string(): TEXTS,
    pa.large_binary(): [b"", b"\0", b"\0\0", b"\xff", b"\xff\xff", b"abcdefghi", b"abcdefgh", b"\x80"],
    pa.binary(3): [b"abc", b"ab\0", b"\xff\0\0"],
    pa.date32(): [dt.date(1969, 1, 1), dt.date(1970, 1, 1), dt.date(2026, 2, 3)],
    pa.timestamp("us", "UTC"): [dt.datetime(1900, 1, 1, tzinfo=UTC), dt.datetime(2026, 1, 1, tzinfo=UTC)],
    pa.duration("ms"): [dt.timedelta(seconds=-1), dt.timedelta(0), dt.timedelta(days=9)],
    pa.time64("us"): [dt.time(0), dt.time(23, 59, 59, 999999)],
    pa.decimal128(12, 2): [Decimal("-1.50"), Decimal("0.00"), Decimal("1.50"), Decimal("9999999999.99")],
    pa.decimal256(50, 0): [Decimal(-(10**40)), Decimal(-1), Decimal(0), Decimal(10**40)],
    STRUCT: [
        {"a": 1, "b": "x", "c": 0.0},
        {"a": 1, "b": "x", "c": -0.0},
        {"a": None, "b": None, "c": None},
        {"a": 1, "b": None, "c": math.nan},
        {"a": 2, "b": "", "c": 1.0},
    ],
}


@st.composite
def columns(draw: st.DrawFn, rows: int, types: list[pa.DataType] | None = None) -> pa.Array:
    """An array of `rows` rows of some type that can be a key, sometimes a slice of a longer one."""
    dtype = draw(st.sampled_from(types or list(POOLS)))
    values = st.sampled_from([None, *POOLS[dtype]])
    skip = draw(st.integers(0, 2))
    return pa.array(draw(st.lists(values, min_size=rows + skip, max_size=rows + skip)), dtype).slice(skip)


@st.composite
def key_batches(draw: st.DrawFn, columns_max: int = 3, rows_max: int = 24) -> pa.RecordBatch:
    """One to three key columns `k0`, `k1`, ... and `row`, the number of each row."""
    rows = draw(st.integers(0, rows_max))
    keys = [draw(columns(rows)) for _ in range(draw(st.integers(1, columns_max)))]
    names = [f"k{i}" for i in range(len(keys))]
    return pa.RecordBatch.from_arrays([*keys, pa.array(range(rows), pa.int64())], [*names, "row"])


def key_names(batch: pa.RecordBatch) -> list[str]:
    return [name for name in batch.schema.names if name.startswith("k")]


def parts(value: object) -> list[tuple[bool, object]]:
    """A key value as flat (is null, comparable) pairs under our rules: struct children one by one, NaN above all."""
    if isinstance(value, dict):
        return [(False, 0), *(part for child in value.values() for part in parts(child))]
    if value is None:
        return [(True, 0)]
    if isinstance(value, float):
        return [(False, (1, 0.0) if math.isnan(value) else (0, value + 0.0))]
    return [(False, value.encode() if isinstance(value, str) else value)]


def row_parts(values: list[object], dtypes: list[pa.DataType]) -> list[tuple[bool, object]]:
    """The parts of a row; a null struct has null children, so that all rows have equally many."""
    found = []
    for value, dtype in zip(values, dtypes, strict=True):
        if pa.types.is_struct(dtype) and value is None:
            found += [(True, 0)] + [(True, 0)] * dtype.num_fields
        else:
            found += parts(value)
    return found


def identity(batch: pa.RecordBatch, names: list[str]) -> list[tuple[object, ...]]:
    """Each row's key as something hashable: equal exactly where keys are equal."""
    columns = [batch.column(name).to_pylist() for name in names]
    dtypes = [batch.schema.field(name).type for name in names]
    return [tuple(row_parts(list(row), dtypes)) for row in zip(*columns, strict=True)] if names else []


def expected_order(batch: pa.RecordBatch, names: list[str], descending: list[bool]) -> list[int]:
    """A stable sort in plain Python."""
    dtypes = [batch.schema.field(name).type for name in names]
    downs = [
        down
        for down, t in zip(descending, dtypes, strict=True)
        for _ in range(1 + (t.num_fields if pa.types.is_struct(t) else 0))
    ]
    keys = identity(batch, names)

    def compare(i: int, j: int) -> int:
        for (null_a, a), (null_b, b), down in zip(keys[i], keys[j], downs, strict=True):
            if null_a or null_b:
                if null_a != null_b:
                    return 1 if null_a else -1
            elif a != b:
                return (1 if a > b else -1) * (-1 if down else 1)
        return 0

    return sorted(range(batch.num_rows), key=cmp_to_key(compare))
