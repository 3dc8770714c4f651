"""Methods that bring records with equal keys together."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, NoReturn, cast

import polars as pl
import pyarrow as pa

from mr.aggregates import Aggregation
from mr.dataset.arguments import (
    Column,
    Names,
    check_key_types,
    column_names,
    expressions,
    function,
    key_columns,
    partition_count,
)
from mr.dataset.cogrouped import CoGroupedDataset
from mr.dataset.columns import Columns
from mr.dataset.grouped import GroupedDataset
from mr.dataset.records import Function, Records
from mr.errors import PlanError
from mr.kernels.frames import column
from mr.kernels.rows import shape_of
from mr.operators.base import ErrorPolicy, OnError, require_columns
from mr.operators.pygroups import GROUP, KEY, VALUE, Folded, MapReduce, PythonCombiner, Regrouped, grouped_shape
from mr.plan import GroupBy

if TYPE_CHECKING:
    from mr.dataset import Dataset


class Keyed(Records, Columns):
    """Base of `Dataset`: group_by, agg, cogroup, value_counts, reduce_by_key, map_reduce."""

    def group_by(self, *columns: Column, num_partitions: int | None = None, **named: pl.Expr) -> GroupedDataset:
        """Groups of rows with equal keys: column names, expressions, or `name=expression`.

        Nulls form one group, NaNs one. `num_partitions` fixes the number of reduce tasks (at most 256).
        Raises PlanError for an unknown column.

        >>> import mr
        >>> mr.from_items([("a", 1), ("a", 2)]).group_by("key").agg(n=mr.count()).take_all()
        [Row(key='a', n=2)]
        """
        exprs = expressions(columns, named)
        if not exprs:
            raise PlanError("group_by(): name at least one column; use ds.agg(...) for one row over all records")
        return GroupedDataset(self, exprs, partition_count(num_partitions))

    groupby = group_by

    def agg(self, *unnamed: NoReturn, **aggregates: Aggregation) -> Dataset:
        """One row of aggregates over all records.

        >>> import mr
        >>> mr.from_items([1, 2, 3]).agg(total=mr.sum("value"), n=mr.count()).take_all()
        [Row(total=6, n=3)]
        """
        return GroupedDataset(self, [], None).agg(*unnamed, **aggregates)

    def cogroup(
        self,
        other: Dataset,
        on: str | Sequence[str] | None = None,
        *,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
        num_partitions: int | None = None,
    ) -> CoGroupedDataset:
        """The rows of this dataset and of `other` by equal keys, for `.map_groups(fn(key, rows, other_rows))`.

        Raises PlanError: unknown columns, key columns of unequal types.

        >>> import mr
        >>> left, right = mr.from_items([("a", 1), ("a", 2)]), mr.from_items([("a", 5)])
        >>> both = left.cogroup(right, on="key")
        >>> both.map_groups(lambda key, xs, ys: (key, len(list(xs)), len(list(ys)))).take_all()
        [Row(c0='a', c1=2, c2=1)]
        """
        keys = [column_names(side if side is not None else on) for side in (left_on, right_on)]
        if not keys[0] or len(keys[0]) != len(keys[1]):
            raise PlanError("cogroup(): give on=, or left_on= and right_on= with as many columns")
        left = key_columns(self._node.known(), keys[0], "cogroup() on the left")
        right = key_columns(self._other(other, "cogroup()").known(), keys[1], "cogroup() on the right")
        check_key_types(left, right, keys[0], keys[1], "cogroup()")
        return CoGroupedDataset(self, other, keys[0], keys[1], partition_count(num_partitions))

    def value_counts(self) -> Dataset:
        """Rows of each distinct record and its `count`.

        >>> import mr
        >>> mr.from_items(["a", "b", "a"]).value_counts().sort("value").take_all()
        [Row(value='a', count=2), Row(value='b', count=1)]
        """
        return self.group_by(*self._node.known().names).count()

    def reduce_by_key(
        self,
        fn: Function,
        *,
        key: str = KEY,
        value: str = VALUE,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """One row (key, value) for each key, its values folded with an associative `fn(a, b)`.

        `on_error`, `max_bad_records`, `pure`: as in `group_by(...).map_groups`.

        >>> import mr
        >>> mr.from_items([("a", 1), ("b", 5), ("a", 2)]).reduce_by_key(lambda a, b: a + b).sort("key").take_all()
        [Row(key='a', value=3), Row(key='b', value=5)]
        """
        function(fn, "reduce_by_key()")
        key_columns(self._node.known(), [key], "reduce_by_key()")
        require_columns(self._node.known(), [value], "reduce_by_key()")
        pairs = self.select(**{KEY: column(key), VALUE: column(value)})
        shape = pairs._node.known()
        types = cast("tuple[pa.DataType | None, pa.DataType | None]", shape.types)
        op = Folded(fn, types, pure=pure, on_error=ErrorPolicy(on_error, max_bad_records))
        return self._with(GroupBy(op.shape(shape), pairs._node, op))

    def map_reduce(
        self,
        mapper: Function,
        reducer: Function,
        *,
        combiner: Function | None = None,
        partitioner: Callable[[Any, int], int] | None = None,
        sort_values: bool | Literal["descending"] = False,
        grouping: Callable[[Any], Any] | int | None = None,
        num_partitions: int | None = None,
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """Classic MapReduce: `mapper(record)` yields (key, value), `reducer(key, values)` gives records.

        `combiner(key, values)` gives values early, by blocks of a split; it must not change what the reducer returns.
        `partitioner(key, n) -> int` chooses among `num_partitions` reduce tasks. The reducer's result: an iterator is
        many records, None none, anything else one. Keys come in a fixed order, values in input order, or sorted:
        `sort_values=True`, or "descending".

        `grouping` is Hadoop's secondary sort: the reducer is called once a group of keys, `reducer(group, values)`, and
        the values come in the order of their keys (equal keys: as `sort_values` says). It is a function of the key, or
        the number of leading items of a tuple key that make the group (1: the item itself). A partitioner is given the
        group, a combiner the key.

        `on_error`: what becomes of a record for which the mapper raises, and of a key (or group) for which the reducer
        does, as in `group_by(...).map_groups`. Values for which the combiner raises go to the reducer as they are.
        `max_bad_records` holds for mapper and reducer each; `rejected()` has the rejects of both. `pure=False`: one of
        the functions depends on more than it is given, and no result is reused.

        Raises PlanError for a partitioner without num_partitions; one that gives no int from 0 to n - 1 fails the job.

        >>> import mr
        >>> def words(line):
        ...     for word in line.split():
        ...         yield word, 1
        >>> lines = mr.from_items(["a b", "a"])
        >>> counts = lines.map_reduce(words, lambda word, ns: (word, sum(ns)), names={"word": str, "n": int})
        >>> counts.sort("word").take_all()
        [Row(word='a', n=2), Row(word='b', n=1)]
        >>> visits = mr.from_items([("ann", 9, "/b"), ("ann", 3, "/a")], names=["user", "time", "page"])
        >>> def by_time(visit):
        ...     yield (visit.user, visit.time), visit.page
        >>> visits.map_reduce(by_time, lambda user, pages: (user, list(pages)), grouping=1).take_all()
        [Row(key='ann', value=['/a', '/b'])]
        """
        for given in (mapper, reducer, *(fn for fn in (combiner, partitioner) if fn is not None)):
            function(given, "map_reduce()")
        _check_map_reduce(partitioner is None or num_partitions is not None, sort_values, grouping)
        keys: tuple[str, ...] = (KEY,)
        by: tuple[str, ...] = (VALUE,) if sort_values else ()
        down: tuple[bool, ...] = (sort_values == "descending",) * len(by)
        if grouping is not None:
            keys, by, down = (GROUP, KEY), (KEY, *by), (False, *down)
            mapper = Regrouped(mapper, grouping)
        told = None if grouping is None and shape_of(None, mapper, True) else (*keys, VALUE)
        pairs = self.flat_map(mapper, names=told, on_error=on_error, max_bad_records=max_bad_records, pure=pure)
        shape = pairs._node.shape
        if shape is None or shape.names != (*keys, VALUE):
            raise PlanError("map_reduce(): the mapper yields pairs (key, value)")
        policy = ErrorPolicy(on_error, max_bad_records)
        early = None if combiner is None else PythonCombiner(combiner, keys, on_error != "fail")
        declared = grouped_shape(names, reducer)
        op = MapReduce(keys[:1], reducer, by, down, VALUE, declared, early, pure, policy)
        return self._with(GroupBy(declared, pairs._node, op, partition_count(num_partitions), partitioner))


def _check_map_reduce(counted: bool, sort_values: object, grouping: object) -> None:
    """Raise PlanError for options that cannot be. `counted`: the reduce tasks that a partitioner needs are counted."""
    if not counted:
        raise PlanError("map_reduce(): partitioner= needs num_partitions=")
    if sort_values not in (False, True, "descending"):
        raise PlanError(f'map_reduce(): sort_values={sort_values!r}: use True or "descending"')
    if grouping is not None and not callable(grouping) and not (type(grouping) is int and grouping > 0):
        raise PlanError(f"map_reduce(): grouping={grouping!r} is neither a function nor a number of items")
