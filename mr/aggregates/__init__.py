"""Aggregates: what `.agg(name=...)` takes, for each group or for all records. docs/aggregates.md has all on one page.

Each is a class with three steps over columns (`base`), so that map tasks send one state a group and block instead of
rows; those whose values may not fit memory send values in order instead (`ordered`). Users write their own as
`Aggregate`.
"""

from __future__ import annotations

from collections.abc import Sequence

import polars as pl

from mr.aggregates.base import (
    INPUT_SUFFIX,
    Aggregation,
    Ordered,
    States,
    finalise,
    grouped_aggregate,
    merge_states,
    states_of,
)
from mr.aggregates.collected import Collect, First, Last
from mr.aggregates.custom import Aggregate
from mr.aggregates.extremes import AllTrue, AnyTrue, Max, Min, TopK
from mr.aggregates.moments import Deviation, Variance
from mr.aggregates.ordered import CountDistinct, Quantile
from mr.aggregates.sketches import ApproxDistinct, ApproxQuantile, Histogram
from mr.aggregates.sums import Count, Mean, Sum
from mr.errors import PlanError

Column = str | pl.Expr


def count(column: Column | None = None) -> Aggregation:
    """The number of rows, or of the non-null values of `column` (a name or an expression); int64.

    >>> import mr
    >>> mr.from_items([1, None]).agg(rows=mr.count(), values=mr.count("value")).first()
    Row(rows=2, values=1)
    """
    return Count(None if column is None else _column(column, "count"))


def sum(column: Column) -> Aggregation:
    """The sum of the non-null values of `column`; null if there are none.

    int64 for integers and booleans (`RecordError` if it does not fit), float64 for floats, duration for durations,
    decimal(38) for decimals.

    >>> import mr, polars as pl
    >>> mr.from_items([1, 2]).agg(total=mr.sum("value"), twice=mr.sum(pl.col("value") * 2)).first()
    Row(total=3, twice=6)
    """
    return Sum(_column(column, "sum"))


def min(column: Column) -> Aggregation:
    """The smallest non-null value of `column`, of its type; NaN is above all numbers; null if there is none.

    >>> import mr
    >>> mr.from_items(["b", "a"]).agg(low=mr.min("value")).first()
    Row(low='a')
    """
    return Min(_column(column, "min"))


def max(column: Column) -> Aggregation:
    """The largest non-null value of `column`, of its type; NaN is above all numbers; null if there is none.

    >>> import mr
    >>> mr.from_items(["b", "a"]).agg(high=mr.max("value")).first()
    Row(high='b')
    """
    return Max(_column(column, "max"))


def mean(column: Column) -> Aggregation:
    """The mean of the non-null values of `column` as float64 (of durations: duration); null if there are none.

    >>> import mr
    >>> mr.from_items([1, 2]).agg(m=mr.mean("value")).first()
    Row(m=1.5)
    """
    return Mean(_column(column, "mean"))


def var(column: Column) -> Aggregation:
    """The sample variance (n - 1 degrees of freedom) of the non-null values as float64; null for fewer than two.

    >>> import mr
    >>> mr.from_items([1, 2, 3]).agg(v=mr.var("value")).first()
    Row(v=1.0)
    """
    return Variance(_column(column, "var"))


def std(column: Column) -> Aggregation:
    """The sample standard deviation, the square root of `var`; null for fewer than two values.

    >>> import mr
    >>> mr.from_items([1, 2, 3]).agg(s=mr.std("value")).first()
    Row(s=1.0)
    """
    return Deviation(_column(column, "std"))


def any(column: Column) -> Aggregation:
    """Whether a boolean of `column` is true; nulls are left out, null if there is nothing else.

    >>> import mr, polars as pl
    >>> mr.from_items([1, 5]).agg(big=mr.any(pl.col("value") > 3)).first()
    Row(big=True)
    """
    return AnyTrue(_column(column, "any"))


def all(column: Column) -> Aggregation:
    """Whether every boolean of `column` is true; nulls are left out, null if there is nothing else.

    >>> import mr, polars as pl
    >>> mr.from_items([1, 5]).agg(big=mr.all(pl.col("value") > 3)).first()
    Row(big=False)
    """
    return AllTrue(_column(column, "all"))


def first(column: Column) -> Aggregation:
    """The value of `column` in the first row of the input, null if it is null there; of any type.

    >>> import mr
    >>> mr.from_items([3, 1, 2]).agg(x=mr.first("value")).first()
    Row(x=3)
    """
    return First(_column(column, "first"))


def last(column: Column) -> Aggregation:
    """The value of `column` in the last row of the input, null if it is null there; of any type.

    >>> import mr
    >>> mr.from_items([3, 1, 2]).agg(x=mr.last("value")).first()
    Row(x=2)
    """
    return Last(_column(column, "last"))


def collect(column: Column) -> Aggregation:
    """All values of `column` as a list in input order, nulls included; of no rows the empty list.

    A list is one value: that of a group is held in memory, and `RecordError` names the key of one that is too long.

    >>> import mr
    >>> mr.from_items([("a", 2), ("a", 1)]).group_by("key").agg(xs=mr.collect("value")).first()
    Row(key='a', xs=[2, 1])
    """
    return Collect(_column(column, "collect"))


def count_distinct(column: Column) -> Aggregation:
    """The exact number of different non-null values of `column`; int64. There may be more than memory holds.

    >>> import mr
    >>> mr.from_items(["a", "b", "a"]).agg(n=mr.count_distinct("value")).first()
    Row(n=2)
    """
    return CountDistinct(_column(column, "count_distinct"))


def approx_distinct(column: Column) -> Aggregation:
    """About how many different non-null values `column` has; int64, with a standard error of 0.8 %.

    HyperLogLog with 2^14 registers (Flajolet et al., 2007) over XXH3-64 and the estimator of Ertl, 2017.

    >>> import mr
    >>> mr.from_items(["a", "b", "a"]).agg(n=mr.approx_distinct("value")).first()
    Row(n=2)
    """
    return ApproxDistinct(_column(column, "approx_distinct"))


def quantile(column: Column, q: float | Sequence[float]) -> Aggregation:
    """The exact quantile `q` (from 0 to 1) of the non-null numbers of `column` as float64; a list of them for several.

    Interpolates linearly between the two nearest values, as SQL's percentile_cont; NaN is above all numbers; null if
    there are no values. There may be more values than memory holds.

    >>> import mr
    >>> mr.from_items([1, 2, 4]).agg(median=mr.quantile("value", 0.5), ends=mr.quantile("value", [0, 1])).first()
    Row(median=2.0, ends=[1.0, 4.0])
    """
    return Quantile(_column(column, "quantile"), _shares(q, "quantile"))


def approx_quantile(column: Column, q: float | Sequence[float]) -> Aggregation:
    """About the quantile `q` (from 0 to 1) of the non-null numbers of `column`, otherwise as `quantile`.

    A t-digest (Dunning and Ertl, 2019): closest at both ends, exact for groups of up to 256 values.

    >>> import mr
    >>> mr.from_items(range(101)).agg(p90=mr.approx_quantile("value", 0.9)).first()
    Row(p90=90.0)
    """
    return ApproxQuantile(_column(column, "approx_quantile"), _shares(q, "approx_quantile"))


def top_k(column: Column, k: int, descending: bool = True) -> Aggregation:
    """The `k` largest non-null values of `column` as a list, the largest first; the smallest if not `descending`.

    For whole rows use `group_by(...).top_k(k, by=...)`.

    >>> import mr
    >>> mr.from_items([3, 9, 4]).agg(best=mr.top_k("value", 2)).first()
    Row(best=[9, 4])
    """
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise PlanError(f"top_k(): k={k!r} is not a whole number from 1")
    return TopK(_column(column, "top_k"), k, descending)


def histogram(column: Column, bins: Sequence[float]) -> Aggregation:
    """How many numbers of `column` fall between each two neighbours of the edges `bins`, as a list.

    A bin has its lower edge and not its upper one, the last has both; what lies outside, null and NaN count nowhere.

    >>> import mr
    >>> mr.from_items([0, 1, 5, 10, 11]).agg(h=mr.histogram("value", [0, 5, 10])).first()
    Row(h=[2, 2])
    """
    try:
        edges = tuple(map(float, bins))
    except (TypeError, ValueError):
        raise PlanError(f"histogram(): bins={bins!r} are not edges, as [0, 10, 100]") from None
    if len(edges) < 2 or not edges == tuple(sorted(set(edges))):
        raise PlanError(f"histogram(): bins={list(bins)} are not at least two edges in ascending order")
    return Histogram(_column(column, "histogram"), edges)


def _column(column: object, name: str) -> Column:
    if isinstance(column, str | pl.Expr):
        return column
    raise PlanError(f"{name}() takes a column name or a Polars expression, not {type(column).__name__}")


def _shares(q: float | Sequence[float], name: str) -> float | tuple[float, ...]:
    given = (q,) if isinstance(q, (int, float)) else tuple(q)
    wrong = [one for one in given if not 0 <= one <= 1]
    if wrong or not given:
        raise PlanError(f"{name}(): q={q!r}: quantiles are from 0 to 1, as 0.5 for the median")
    return float(q) if isinstance(q, (int, float)) else tuple(map(float, given))


__all__ = [
    "INPUT_SUFFIX",
    "Aggregate",
    "Aggregation",
    "Ordered",
    "States",
    "all",
    "any",
    "approx_distinct",
    "approx_quantile",
    "collect",
    "count",
    "count_distinct",
    "finalise",
    "first",
    "grouped_aggregate",
    "histogram",
    "last",
    "max",
    "mean",
    "merge_states",
    "min",
    "quantile",
    "states_of",
    "std",
    "sum",
    "top_k",
    "var",
]
