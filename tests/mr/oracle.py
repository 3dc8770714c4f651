"""Random tables of random schemas, and what SQL's rules make of them in plain Python: the oracle of the properties.

Values come from small pools, so that keys repeat and meet in joins; sums of the floats are exact in any order.
"""

from __future__ import annotations

import datetime as dt
import decimal
import functools
import math
import zoneinfo
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mr
from mr.kernels.rows import to_python

D = decimal.Decimal
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")
NAN, INF = math.nan, math.inf
SUMMER = dt.datetime(2020, 10, 25, 0, 30, tzinfo=dt.UTC).astimezone(BERLIN)  # the clock shows 2:30 ...
WINTER = dt.datetime(2020, 10, 25, 1, 30, tzinfo=dt.UTC).astimezone(BERLIN)  # ... and an hour later again

Rows = list[tuple[Any, ...]]


@dataclass(frozen=True)
class Kind:
    """A kind of columns: what is declared in names=, some values, and whether it can be a key."""

    declared: Any
    values: tuple[Any, ...]
    key: bool = True


KINDS = {
    "int": Kind(int, (0, 1, -3, 7, 2**53 + 1, -(2**40))),
    "float": Kind(float, (0.0, -0.0, NAN, 1.5, -2.25, INF, -INF)),
    "str": Kind(str, ("", "a", "b", "é", "e\u0301", "a\0", "日本語の文字列", "😀", "Z")),
    "bytes": Kind(bytes, (b"", b"a", b"\xff", b"a\0")),
    "bool": Kind(bool, (True, False)),
    "date": Kind(dt.date, (dt.date(1, 1, 1), dt.date(2020, 2, 29), dt.date(1969, 12, 31))),
    "datetime": Kind(dt.datetime, (dt.datetime(2020, 1, 1, 0, 0, 0, 1), dt.datetime(1900, 1, 1))),
    "zoned": Kind(pa.timestamp("us", "Europe/Berlin"), (SUMMER, WINTER)),
    "time": Kind(dt.time, (dt.time(0), dt.time(23, 59, 59, 999999))),
    "timedelta": Kind(dt.timedelta, (dt.timedelta(0), dt.timedelta(days=-1), dt.timedelta(microseconds=3))),
    "decimal": Kind(D, (D(0), D("-1.5"), D("12345678901234567890.25"))),
    "struct": Kind(tuple[int, str], ((1, "a"), (1, None), (0, "é"), (None, None))),
    "named": Kind(pa.struct([("x", pa.int64()), ("é", pa.large_string())]), ((1, "a"), (None, None), (0, ""))),
    "null": Kind(pa.null(), ()),
    "list": Kind(list[int], ([], [1, 2], [None]), key=False),
    "structs": Kind(list[tuple[str, float]], ([], [("a", NAN), None], [("", -0.0)]), key=False),
    "map": Kind(dict[str, int], ({}, {"a": 1}, {"b": None, "é": 2}), key=False),
    "object": Kind(object, (frozenset({1}), 2**70, "a"), key=False),
}
KEYS = [name for name, kind in KINDS.items() if kind.key]


@dataclass(frozen=True)
class Table:
    """Rows of named columns of these kinds, and before which rows there are some that a filter leaves out."""

    kinds: dict[str, str]
    rows: Rows
    holes: tuple[int, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self.kinds)

    def of(self, row: tuple[Any, ...], names: Iterable[str]) -> tuple[Any, ...]:
        """Some columns of a row."""
        return tuple(row[self.names.index(name)] for name in names)

    def dataset(self) -> mr.Dataset:
        """As a dataset, some of whose splits may be left without a record."""
        rows: list[Any] = [(*row, False) for row in self.rows]
        for hole in sorted(self.holes, reverse=True):
            rows[hole:hole] = [(*(None for _ in self.names), True)] * 12
        types = {name: KINDS[kind].declared for name, kind in self.kinds.items()}
        return mr.from_items(rows, names={**types, "is gone": bool}).filter(~pl.col("is gone")).select(*self.names)

    def groups(self, keys: Sequence[str]) -> dict[Any, Rows]:
        """The rows by their keys, groups in the order of their first rows."""
        found: dict[Any, Rows] = {}
        for row in self.rows:
            found.setdefault(ident(self.of(row, keys)), []).append(row)
        return found

    def in_order(self, rows: Rows, by: Sequence[str], descending: Sequence[bool]) -> Rows:
        """The rows stably sorted, nulls last in both directions."""
        for name, down in reversed(list(zip(by, descending, strict=True))):
            place = self.names.index(name)
            rows = sorted(rows, key=functools.cmp_to_key(lambda a, b: compared(a[place], b[place], down)))  # noqa: B023
        return rows


def compared(a: Any, b: Any, down: bool = False) -> int:
    """Where `a` lies from `b` in the order of keys: -1 before, 0 equal, 1 behind. None is last also when `down`."""
    if a is None or b is None:
        return (a is None) - (b is None)
    if isinstance(a, tuple):
        return next((way for pair in zip(a, b, strict=True) if (way := compared(*pair, down))), 0)
    a, b = instant(a), instant(b)
    if isinstance(a, float):
        a, b = ((math.isnan(x), 0.0 if math.isnan(x) else x) for x in (a, b))
    if isinstance(a, str):
        a, b = a.encode(), b.encode()
    return ((a > b) - (a < b)) * (-1 if down else 1)


def instant(value: Any) -> Any:
    """A datetime of a zone as one of UTC: Python compares those of one zone by what the clock shows."""
    return value.astimezone(dt.UTC) if isinstance(value, dt.datetime) and value.tzinfo else value


def ident(value: Any) -> Any:
    """A key as something hashable that is equal exactly where the engine's keys are: NaN is one, -0.0 is 0.0."""
    value = instant(value)
    if isinstance(value, tuple):
        return tuple(map(ident, value))
    if isinstance(value, float):
        return "NaN" if math.isnan(value) else value + 0.0
    return value


def exact(value: Any) -> Any:
    """A value as text that shows type, sign of zero and NaN at every depth; a row is a tuple."""
    if isinstance(value, tuple):
        return f"({', '.join(map(exact, value))})"
    if isinstance(value, list):
        return f"[{', '.join(map(exact, value))}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{exact(k)}: {exact(v)}' for k, v in value.items())}}}"
    return f"{type(value).__name__} {value.normalize() if isinstance(value, D) else repr(value)}"


def exacts(rows: Iterable[Any]) -> list[str]:
    return [exact(tuple(row)) for row in rows]


def cells(kind: str) -> st.SearchStrategy[Any]:
    """Values of a kind, and now and then a null."""
    return st.sampled_from((*KINDS[kind].values, None))


NAMES = ("k", "key", "value", "count", "a b", "é", "mr.priority", "mr.rows", "mr.run", ".tag", "n.n", "n", "*", "^.*$")
"""Column names, some of which the engine uses for itself elsewhere."""


@st.composite
def tables(draw: st.DrawFn, keys: int = 1, others: int = 3, size: int = 16) -> Table:
    """Tables whose first `keys` columns are of kinds that can be keys, and up to `others` more of any kind."""
    kinds = [draw(st.sampled_from(KEYS)) for _ in range(keys)]
    kinds += draw(st.lists(st.sampled_from(list(KINDS)), max_size=others))
    names = draw(st.permutations(NAMES))[: len(kinds)]
    return Table(dict(zip(names, kinds, strict=True)), *draw(rows_and_holes(kinds, size)))


@st.composite
def rows_and_holes(draw: st.DrawFn, kinds: Sequence[str], size: int = 16) -> tuple[Rows, tuple[int, ...]]:
    """Rows of columns of these kinds, perhaps most of them with the first one's key, and where there are holes."""
    row = st.tuples(*map(cells, kinds))
    rows = draw(st.lists(row, max_size=size))
    if rows:
        hot = draw(st.integers(0, size))
        rows += [(rows[0][0], *draw(row)[1:]) for _ in range(hot)] if draw(st.booleans()) else []
    return rows, tuple(draw(st.lists(st.integers(0, len(rows)), max_size=2)))


@dataclass(frozen=True)
class Run:
    """How a dataset is run: how many items a split has, and the memory of a task."""

    split: int
    memory: int

    def take(self, data: mr.Dataset) -> list[Any]:
        """All records, once their columns are known to be those that were said before anything ran."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("mr.inputs.ITEMS_PER_SPLIT", self.split)
            with mr.Session(on="inline", memory=self.memory, reuse=False) as session:
                found = session.collect(data._node)
        known = None if data._node.shape is None else data._node.shape.schema()
        assert known is None or known.equals(found.schema)
        return to_python(found)


runs = st.builds(Run, st.integers(1, 9), st.sampled_from([1, 5_000, 1 << 30]))  # F45


def prop(quick: int, *strategies: Any, **named: Any) -> Callable[[Callable[..., None]], Any]:
    """A property as a test: of `quick` examples, and of thirty times as many when slow tests run."""

    def decorate(check: Callable[..., None]) -> Any:
        @pytest.mark.parametrize("examples", [quick, pytest.param(30 * quick, marks=pytest.mark.slow)])
        def test(examples: int) -> None:
            health = list(HealthCheck)
            settings(max_examples=examples, deadline=None, suppress_health_check=health)(
                given(*strategies, **named)(check)
            )()

        test.__name__, test.__doc__ = check.__name__, check.__doc__
        return test

    return decorate
