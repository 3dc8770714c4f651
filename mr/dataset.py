"""Dataset: what users chain. Lazy: every method returns a new plan, only actions run one.

Column arguments are names or Polars expressions; a callable is a Python function. All that can be checked before
anything runs is checked here, and the message names the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, cast

import polars as pl
import pyarrow as pa

from mr.actions import Actions, first_rows
from mr.aggregates import Aggregate
from mr.aggregates import count as count_rows
from mr.arguments import (
    Column,
    Names,
    check_key_types,
    column_names,
    expressions,
    ordering,
    partition_count,
    united,
    unknown,
)
from mr.errors import PlanError
from mr.grouping import GroupedDataset
from mr.heads import RESOLVED
from mr.kernels.rows import shape_of
from mr.operators.base import ErrorPolicy, OnError, require_columns, rows_shape
from mr.operators.batches import BatchFormat, MapBatches, TopRows
from mr.operators.columns import Explode, FilterExpr, Select, WithColumns, expand, explode_shape
from mr.operators.grouped import Distinct
from mr.operators.joins import How, joined_shape
from mr.operators.pygroups import KEY, VALUE, Folded, MapGroups, PythonCombiner, grouped_shape
from mr.operators.python import Filter, FlatMap, Map
from mr.plan import Apply, First, GroupBy, Join, Node, Read, Rejected, Sort, Strategy, Union

Function = Callable[..., Any]


class Dataset(Actions):
    """A lazy collection of records: of plain *values*, or of *rows* with named columns.

    Made by `mr.read_text` and the other readers, or `mr.from_items`. Records keep their input order until a shuffle.

    >>> import mr
    >>> mr.from_items(["a b"]).flat_map(str.split).take_all()
    ['a', 'b']
    """

    def __init__(self, node: Node) -> None:
        self._node = node

    def __getattr__(self, name: str) -> NoReturn:
        unknown(self, name)

    def __iter__(self) -> NoReturn:
        raise TypeError("a Dataset is not iterated over; use take_all() or take(n) for its records")

    def _with(self, node: Node) -> Dataset:
        return Dataset(node)

    def _apply(self, op: Any) -> Dataset:
        return Dataset(Apply(op.shape(self._node.shape), self._node, op))

    # --- one record at a time ----------------------------------------------------------------------------------------

    def map(
        self,
        fn: Function,
        *,
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """One record for each record: `fn(record) -> record`.

        `names`: a str makes values of that name, a list or a dict name -> type makes rows. `on_error`: what becomes of
        a record for which `fn` raises ("quarantine" needs `rejected()`); `max_bad_records`: a count, or a share of all.
        `pure=False`: the result depends on more than the record; it is never reused.

        Raises PlanError for invalid names or policies.

        >>> import mr
        >>> mr.from_items([1, 2]).map(lambda n: (n, n * n), names=["n", "square"]).take_all()
        [Row(n=1, square=1), Row(n=2, square=4)]
        """
        policy = ErrorPolicy(on_error, max_bad_records)
        return self._apply(Map(fn, shape_of(names, fn, False), policy, pure))

    def flat_map(
        self,
        fn: Function,
        *,
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """Any number of records for each record: `fn(record)` returns or yields an iterable of them.

        The parameters are those of `map`. A str, bytes, dict or None as a result is an error.

        >>> import mr
        >>> mr.from_items(["to be", "or not"]).flat_map(str.split, names="word").take_all()
        ['to', 'be', 'or', 'not']
        """
        policy = ErrorPolicy(on_error, max_bad_records)
        return self._apply(FlatMap(fn, shape_of(names, fn, True), policy, pure))

    def filter(
        self,
        predicate: pl.Expr | Function,
        *,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """The records for which a row-wise Polars expression is true (not null), or a function returns something true.

        Raises PlanError for an unknown column or an expression that is not row-wise.

        >>> import mr, polars as pl
        >>> mr.from_items([1, 5, 9]).filter(pl.col("value") > 4).take_all()
        [5, 9]
        """
        if isinstance(predicate, pl.Expr):
            exprs, shape = expand(self._node.known(), [predicate], "filter()")
            if len(exprs) != 1 or shape.types[0] not in (None, pa.null(), pa.bool_()):
                raise PlanError(f"filter(): {predicate} is not one column of true or false")
            return self._apply(FilterExpr(exprs[0]))
        return self._apply(Filter(predicate, None, ErrorPolicy(on_error, max_bad_records), pure))

    def rejected(self) -> Dataset:
        """What this reader or Python operator left out under on_error="quarantine".

        Rows (path, offset in bytes from 0, line from 1, operator, error, raw); path, offset and line are null behind a
        shuffle. Raises PlanError where nothing is quarantined.

        >>> import mr
        >>> numbers = mr.from_items(["1", "x"]).map(int, on_error="quarantine")
        >>> [row.raw for row in numbers.rejected().take_all()]
        ['x']
        """
        node = self._node
        policy = node.on_error if isinstance(node, Read) else getattr(getattr(node, "op", None), "on_error", None)
        if policy is None or policy.on_error != "quarantine":
            raise PlanError('rejected(): call it on the dataset of a reader or operator with on_error="quarantine"')
        assert isinstance(node, Read | Apply)
        return Dataset(Rejected(rows_shape(RESOLVED.names, RESOLVED.types), node))

    # --- whole columns -----------------------------------------------------------------------------------------------

    def select(self, *columns: Column, **named: Column) -> Dataset:
        """New columns in place of the old ones: names, expressions, or `name=expression`. Gives rows.

        Raises PlanError for an unknown column or an expression that is not row-wise.

        >>> import mr, polars as pl
        >>> mr.from_items([(1, 2)]).select("key", double=pl.col("value") * 2).take_all()
        [Row(key=1, double=4)]
        """
        exprs, shape = expand(self._node.known(), expressions(columns, named), "select()")
        return self._apply(Select(exprs, shape))

    def with_columns(self, *columns: pl.Expr, **named: Column) -> Dataset:
        """The old columns, with new ones added or put in their place. Gives rows. Raises as `select`.

        >>> import mr, polars as pl
        >>> mr.from_items([(1, 2)]).with_columns(total=pl.col("key") + pl.col("value")).take_all()
        [Row(key=1, value=2, total=3)]
        """
        given = self._node.known()
        exprs, made = expand(given, expressions(columns, named), "with_columns()")
        types = dict(zip(given.names, given.types, strict=True))
        types.update(zip(made.names, made.types, strict=True))
        return self._apply(WithColumns(exprs, rows_shape(types.keys(), types.values())))

    def explode(self, column: str) -> Dataset:
        """One record for each element of a list column; an empty or null list gives one null.

        >>> import mr
        >>> mr.from_items([("a", [1, 2])]).explode("value").take_all()
        [Row(key='a', value=1), Row(key='a', value=2)]
        """
        return self._apply(Explode(column, explode_shape(self._node.known(), column)))

    def map_batches(
        self,
        fn: Function,
        *,
        batch_size: int = 65_536,
        batch_format: BatchFormat = "polars",
        names: Names | None = None,
        pure: bool = True,
    ) -> Dataset:
        """`fn(batch) -> batch` over batches of exactly `batch_size` rows of a split (its last may be shorter).

        `batch_format`: "polars" (pl.DataFrame), "arrow" (pa.Table) or "numpy" (dict of arrays); `fn` may return any of
        them. Gives rows; `names` declares their columns. Raises PlanError for an unknown format or size.

        >>> import mr, polars as pl
        >>> mr.from_items([1, 2]).map_batches(lambda df: df.select(pl.col("value") + 1), names=["value"]).take_all()
        [Row(value=2), Row(value=3)]
        """
        if batch_format not in ("polars", "arrow", "numpy") or batch_size < 1:
            raise PlanError('map_batches(): batch_format is "polars", "arrow" or "numpy", batch_size at least 1')
        return self._apply(
            MapBatches(fn, batch_size, batch_format, shape_of(names, fn, False) if names else None, pure)
        )

    # --- several records ---------------------------------------------------------------------------------------------

    def limit(self, n: int) -> Dataset:
        """The first `n` records in input order.

        >>> import mr
        >>> mr.from_items(range(100)).limit(2).take_all()
        [0, 1]
        """
        if n < 0:
            raise PlanError("limit(): n is at least 0")
        return Dataset(first_rows(self._node, n))

    def top_k(self, k: int, by: str | Sequence[str], descending: bool | Sequence[bool] = True) -> Dataset:
        """The first `k` records in the order of the columns `by`, ties in input order.

        >>> import mr
        >>> mr.from_items([3, 9, 4]).top_k(2, by="value").take_all()
        [9, 4]
        """
        columns, down = ordering(self._node.known(), by, descending, "top_k()")
        return Dataset(First(self._node.shape, self._node, k, TopRows(k, columns, down), early=False))

    def sort(self, *columns: str, descending: bool | Sequence[bool] = False) -> Dataset:
        """All records in one order, ties in input order: nulls last in both directions, NaN above all numbers.

        >>> import mr
        >>> mr.from_items([2, None, 3]).sort("value", descending=True).take_all()
        [3, 2, None]
        """
        by, down = ordering(self._node.known(), columns, descending, "sort()")
        return Dataset(Sort(self._node.shape, self._node, by, down))

    def distinct(self, *columns: str, num_partitions: int | None = None) -> Dataset:
        """The first record of each value of `columns` (all columns by default).

        >>> import mr
        >>> sorted(mr.from_items(["a", "b", "a"]).distinct().take_all())
        ['a', 'b']
        """
        shape = require_columns(self._node.known(), columns, "distinct()")
        return Dataset(GroupBy(shape, self._node, Distinct(columns or shape.names), partition_count(num_partitions)))

    def union(self, *others: Dataset) -> Dataset:
        """All records of this dataset, then those of the others. Raises PlanError where columns differ.

        >>> import mr
        >>> mr.from_items([1]).union(mr.from_items([2])).take_all()
        [1, 2]
        """
        shape = self._node.shape
        for other in others:
            shape = united(shape, other._node.shape)
        return Dataset(Union(shape, (self._node, *(other._node for other in others))))

    def value_counts(self) -> Dataset:
        """Rows of each distinct record and its `count`.

        >>> import mr
        >>> mr.from_items(["a", "b", "a"]).value_counts().sort("value").take_all()
        [Row(value='a', count=2), Row(value='b', count=1)]
        """
        shape = self._node.known()
        return self.group_by(*shape.names).agg(count=count_rows())

    # --- keyed -------------------------------------------------------------------------------------------------------

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

    def agg(self, *unnamed: NoReturn, **aggregates: Aggregate) -> Dataset:
        """One row of aggregates over all records.

        >>> import mr
        >>> mr.from_items([1, 2, 3]).agg(total=mr.sum("value"), n=mr.count()).take_all()
        [Row(total=6, n=3)]
        """
        return GroupedDataset(self, [], None).agg(*unnamed, **aggregates)

    def reduce_by_key(self, fn: Function, *, key: str = KEY, value: str = VALUE) -> Dataset:
        """One row (key, value) for each key, its values folded with an associative `fn(a, b)`.

        >>> import mr
        >>> mr.from_items([("a", 1), ("b", 5), ("a", 2)]).reduce_by_key(lambda a, b: a + b).sort("key").take_all()
        [Row(key='a', value=3), Row(key='b', value=5)]
        """
        pairs = self.select(**{KEY: pl.col(key), VALUE: pl.col(value)})
        shape = pairs._node.known()
        op = Folded(fn, cast("tuple[pa.DataType | None, pa.DataType | None]", shape.types))
        return Dataset(GroupBy(op.shape(shape), pairs._node, op))

    def map_reduce(
        self,
        mapper: Function,
        reducer: Function,
        *,
        combiner: Function | None = None,
        partitioner: Callable[[Any, int], int] | None = None,
        num_partitions: int | None = None,
        names: Names | None = None,
    ) -> Dataset:
        """Classic MapReduce: `mapper(record)` yields (key, value), `reducer(key, values)` gives records.

        `combiner(key, values)` gives values early, by blocks of a split; it must not change what the reducer returns.
        `partitioner(key, n) -> int` chooses among `num_partitions` reduce tasks. The reducer's result: an iterator is
        many records, None none, anything else one. Keys come in a fixed order, values in input order.

        Raises PlanError for a partitioner without num_partitions.

        >>> import mr
        >>> def words(line):
        ...     for word in line.split():
        ...         yield word, 1
        >>> lines = mr.from_items(["a b", "a"])
        >>> counts = lines.map_reduce(words, lambda word, ns: (word, sum(ns)), names={"word": str, "n": int})
        >>> counts.sort("word").take_all()
        [Row(word='a', n=2), Row(word='b', n=1)]
        """
        if partitioner is not None and num_partitions is None:
            raise PlanError("map_reduce(): partitioner= needs num_partitions=")
        pairs = self.flat_map(mapper, names=None if shape_of(None, mapper, True) else (KEY, VALUE))
        shape = pairs._node.shape
        if shape is None or shape.names != (KEY, VALUE):
            raise PlanError("map_reduce(): the mapper yields pairs (key, value)")
        early = None if combiner is None else PythonCombiner(combiner)
        declared = grouped_shape(names, reducer)
        op = MapGroups((KEY,), reducer, value=VALUE, declared=declared, combine_with=early)
        return Dataset(GroupBy(declared, pairs._node, op, partition_count(num_partitions), partitioner))

    def join(
        self,
        other: Dataset,
        on: str | Sequence[str] | None = None,
        *,
        left_on: str | Sequence[str] | None = None,
        right_on: str | Sequence[str] | None = None,
        how: How = "inner",
        strategy: Strategy = "auto",
        suffix: str = "_right",
        num_partitions: int | None = None,
    ) -> Dataset:
        """Rows of this dataset with the matching rows of `other`; a null key matches nothing.

        `how`: "inner", or "left" (rows without a match have nulls). `strategy`: "broadcast" sends all of `other` to
        every task, "sort_merge" shuffles both sides, "auto" broadcasts when `other` is known to be at most 10 MB. The
        rows are the same either way; their order is that of the strategy. Columns of `other` whose names repeat get
        the `suffix`.

        Raises PlanError: unknown columns, key columns of unequal types, an unknown option.

        >>> import mr
        >>> left, right = mr.from_items([(1, "x")]), mr.from_items([(1, "y")])
        >>> left.join(right, on="key").take_all()
        [Row(key=1, value='x', value_right='y')]
        """
        if how not in ("inner", "left") or strategy not in ("auto", "broadcast", "sort_merge"):
            raise PlanError('join(): how is "inner" or "left"; strategy is "auto", "broadcast" or "sort_merge"')
        keys = [column_names(side if side is not None else on) for side in (left_on, right_on)]
        if not keys[0] or len(keys[0]) != len(keys[1]):
            raise PlanError("join(): give on=, or left_on= and right_on= with as many columns")
        left = require_columns(self._node.known(), keys[0], "join() on the left")
        right = require_columns(other._node.known(), keys[1], "join() on the right")
        check_key_types(left, right, keys[0], keys[1])
        shape = joined_shape(left, right, keys[1], suffix)
        count = partition_count(num_partitions)
        return Dataset(Join(shape, self._node, other._node, keys[0], keys[1], how, strategy, suffix, count))
