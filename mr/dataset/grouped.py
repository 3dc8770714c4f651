"""GroupedDataset: what `group_by` returns."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NoReturn, cast

import polars as pl
import pyarrow as pa
from msgspec.structs import replace

import mr.aggregates
from mr.aggregates import INPUT_SUFFIX, Aggregation, Ordered
from mr.aggregates import count as count_rows
from mr.dataset.arguments import Names, function, key_columns, ordering, unknown, whole
from mr.errors import PlanError, TypeConflict
from mr.kernels.frames import bare, column
from mr.kernels.rows import Shape, shape_of
from mr.operators.base import ErrorPolicy, OnError, rows_shape
from mr.operators.batches import BatchFormat
from mr.operators.columns import Select, expand
from mr.operators.group_batches import MapGroupBatches
from mr.operators.grouped import AggregateBy, TopByKey
from mr.operators.ordered import AggregateOrdered, OneRow
from mr.operators.pygroups import MapGroups, grouped_shape
from mr.plan import Apply, GroupBy, Node

if TYPE_CHECKING:
    from mr.dataset import Dataset
    from mr.dataset.keyed import Keyed


Named = tuple[tuple[str, Aggregation], ...]

ALL = ".all"
"""The constant key of all records, where an aggregate without keys needs a shuffle."""

OURS = {
    "len": "count",
    "n_unique": "count_distinct",
    "approx_n_unique": "approx_distinct",
    "implode": "collect",
    "median": "quantile",
}


def _ours(expr: pl.Expr) -> str:
    """The aggregate that a user of Polars means by an expression such as pl.col("x").sum()."""
    root = next(iter(expr.meta.root_names()), None)
    if root is None:
        return "mr.count()"
    called = re.findall(r"\.(\w+)\(", str(expr))
    name = OURS.get(called[-1], called[-1]) if called else "sum"
    if not hasattr(mr.aggregates, name):
        name = "sum"
    return f"mr.{name}({root!r}{', 0.5' if name == 'quantile' else ''})"


def _is_plain(key: pl.Expr) -> bool:
    """Whether a key is a column as it is, under its own name."""
    return bare(key) == key.meta.output_name()


class GroupedDataset:
    """Rows grouped by keys: what `group_by` returns.

    >>> import mr
    >>> type(mr.from_items([("a", 1)]).group_by("key")).__name__
    'GroupedDataset'
    """

    def __init__(self, dataset: Keyed, keys: Sequence[pl.Expr], partitions: int | None) -> None:
        self._dataset = dataset
        self._node: Node = dataset._node
        self._partitions = partitions
        self._keyed: tuple[pl.Expr, ...] = ()
        self._keys: tuple[str, ...] = ()
        if keys:
            self._keyed, shape = expand(self._node.known(), keys, "group_by()")
            self._keys = key_columns(shape, shape.names, "group_by()").names

    def __repr__(self) -> str:
        """The dataset and the keys."""
        return f"<{repr(self._dataset)[1:-1]}, grouped by {', '.join(self._keys)}>"

    def __getattr__(self, name: str) -> NoReturn:
        unknown(self, name)

    def agg(self, *unnamed: NoReturn, **aggregates: Aggregation) -> Dataset:
        """One row for each key: the keys and `name=aggregate`, as `n=mr.count()` or `total=mr.sum("x")`.

        Raises PlanError for an unknown column, a name used twice, or a Polars aggregation instead of ours.

        >>> import mr
        >>> mr.from_items([("a", 1), ("a", 2)]).group_by("key").agg(total=mr.sum("value")).take_all()
        [Row(key='a', total=3)]
        """
        given: list[tuple[str, Any]] = [("x", given) for given in cast("tuple[Any, ...]", unnamed)]
        given += aggregates.items()
        for name, aggregate in given:
            if isinstance(aggregate, pl.Expr):
                raise PlanError(f"agg(): {aggregate} is not ours: use {name}={_ours(aggregate)}")
            if not isinstance(aggregate, Aggregation):
                raise PlanError(f"agg(): {name}={aggregate!r} is not an aggregate; use mr.count(), mr.sum(...) ...")
            if name in self._keys:
                raise PlanError(f"agg(): {name!r} is a key already; choose another name")
            if mixed := [key for key in self._keys if key.startswith(f"{name}.")]:
                raise PlanError(f"agg(): {name!r} cannot stand beside the key {mixed[0]!r}; choose another name")
        if unnamed:
            raise PlanError("agg(): an aggregate has no name; give it one, as x=mr.sum('x')")
        if not aggregates:
            raise PlanError("agg(): name at least one aggregate, as n=mr.count()")
        self._check_types(aggregates)
        if any(isinstance(aggregate, Ordered) for aggregate in aggregates.values()):
            return self._ordered(aggregates)
        ours, exprs = self._inputs(aggregates)
        op = AggregateBy(self._keys, ours)
        if not exprs:  # only counts rows: whatever columns there are
            return self._dataset._with(GroupBy(op.shape(rows_shape((), ())), self._node, op))
        rows, shape = self._selected(exprs)
        return self._dataset._with(GroupBy(op.shape(shape), rows, op, self._partitions))

    def _inputs(self, aggregates: Mapping[str, Aggregation]) -> tuple[Named, list[pl.Expr]]:
        """The aggregates over columns of their own, and these columns, keys first, as expressions."""
        exprs = list(self._keyed)
        ours: list[tuple[str, Aggregation]] = []
        for name, aggregate in aggregates.items():
            if aggregate.column is not None:
                expr = column(aggregate.column) if isinstance(aggregate.column, str) else aggregate.column
                exprs.append(expr.alias(name + INPUT_SUFFIX))
                aggregate = replace(aggregate, column=name + INPUT_SUFFIX)
            ours.append((name, aggregate))
        return tuple(ours), exprs

    def _selected(self, exprs: Sequence[pl.Expr]) -> tuple[Node, Shape]:
        """The rows with these columns alone."""
        single, shape = expand(self._node.known(), exprs, "agg()")
        rows = self._node
        if shape.names == rows.known().names and all(e.meta.is_column() for e in single):
            return rows, shape
        return Apply(shape, rows, Select(single, shape)), shape

    def _ordered(self, aggregates: Mapping[str, Aggregation]) -> Dataset:
        """Aggregates of which some need their values in order; without keys those of one group, `ALL`."""
        ours, exprs = self._inputs(aggregates)
        if not self._keys:
            exprs = [pl.lit(0).alias(ALL), *exprs]
        rows, shape = self._selected(exprs)
        op = AggregateOrdered(self._keys or (ALL,), ours)
        groups = GroupBy(op.shape(shape), rows, op, self._partitions)
        if self._keys:
            return self._dataset._with(groups)
        one = OneRow(op, shape)
        return self._dataset._with(GroupBy(one.shape(op.shape(shape)), groups, one))

    def _check_types(self, aggregates: Mapping[str, Aggregation]) -> None:
        """Raise PlanError where a column is known to be of a type that cannot be aggregated so."""
        types = (
            {} if self._node.shape is None else dict(zip(self._node.shape.names, self._node.shape.types, strict=True))
        )
        for name, aggregate in aggregates.items():
            type_ = types.get(aggregate.column) if isinstance(aggregate.column, str) else None
            try:
                _ = None if type_ is None else aggregate.output_type(type_)
            except TypeConflict as error:
                cure = " (for CSV, null_values= may be what is missing)" if type_ == pa.large_string() else ""
                raise PlanError(f"agg(): {name}: {error.message}{cure}") from None

    def _with_keys(self) -> tuple[Node, Shape]:
        """The whole rows, with computed keys added as columns. Raises PlanError where one would replace a column."""
        given = self._node.known()
        computed = [e for e in self._keyed if not _is_plain(e)]
        if not computed:
            return self._node, given
        for name in (e.meta.output_name() for e in computed):
            if name in given.names:
                cure = f"give it a name of its own, as group_by({name}_key=...)"
                raise PlanError(f"group_by(): the key {name!r} would take the place of the column {name!r}; {cure}")
        added = self._dataset.with_columns(*computed)
        return added._node, added._node.known()

    def count(self) -> Dataset:
        """One row for each key with its number of rows, `count`.

        >>> import mr
        >>> mr.from_items([("a", 1), ("a", 2)]).group_by("key").count().take_all()
        [Row(key='a', count=2)]
        """
        if "count" in self._keys:
            raise PlanError("count(): 'count' is a key already; use agg(n=mr.count())")
        return self.agg(count=count_rows())

    def head(self, n: int = 5) -> Dataset:
        """The first `n` rows of each key, in input order.

        >>> import mr
        >>> mr.from_items([("a", 3), ("a", 1), ("a", 2)]).group_by("key").head(2).take_all()
        [Row(key='a', value=3), Row(key='a', value=1)]
        """
        rows, shape = self._with_keys()
        return self._dataset._with(
            GroupBy(shape, rows, TopByKey(self._keys, whole(n, "head()"), (), ()), self._partitions)
        )

    def map_batches(
        self,
        fn: Callable[..., Any],
        *,
        sort_by: str | Sequence[str] = (),
        descending: bool | Sequence[bool] = False,
        batch_format: BatchFormat = "polars",
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """`fn(batch) -> batch` over batches of whole groups in key order, so that Polars' `.over(key)` is valid in it.

        A batch ends with the group that has its 65,536th row. Rows of a group are in input order, or in that of
        `sort_by`. Formats as in `Dataset.map_batches`. A group that does not fit the memory of a task is an error that
        names its key: use `map_groups`, which streams. `on_error`, `max_bad_records`: as in `Dataset.map_batches`.

        Raises PlanError for an unknown column or format.

        >>> import mr, polars as pl
        >>> data = mr.from_items([("a", 1), ("a", 3)]).group_by("key")
        >>> shares = lambda df: df.with_columns(share=pl.col("value") / pl.col("value").sum().over("key"))
        >>> data.map_batches(shares, names=["key", "value", "share"]).take_all()
        [Row(key='a', value=1, share=0.25), Row(key='a', value=3, share=0.75)]
        """
        if batch_format not in ("polars", "arrow", "numpy"):
            raise PlanError('map_batches(): batch_format is "polars", "arrow" or "numpy"')
        function(fn, "map_batches()")
        rows, shape = self._with_keys()
        by, down = ordering(shape, sort_by, descending, "map_batches()") if sort_by else ((), ())
        declared = shape_of(names, fn, False) if names else None
        policy = ErrorPolicy(on_error, max_bad_records)
        op = MapGroupBatches(self._keys, fn, batch_format, by, down, declared, pure, policy)
        return self._dataset._with(GroupBy(declared, rows, op, self._partitions))

    def map_groups(
        self,
        fn: Callable[..., Any],
        *,
        sort_by: str | Sequence[str] = (),
        descending: bool | Sequence[bool] = False,
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """`fn(key, rows)` for each group: an iterator is many records, None none, anything else one record.

        `key` is the value for one key column, a Row for several. `rows` is an iterator, read once, of whole records in
        input order, or in that of `sort_by`. A group may be larger than memory.

        `on_error`: what becomes of a group for which `fn` raises: with "skip" or "quarantine" nothing that it yielded
        stays, and all records of the group count for `max_bad_records`. `rejected()` has one row for it, `raw` the key.

        Raises PlanError for an unknown column.

        >>> import mr
        >>> def last(key, rows):
        ...     *_, row = rows
        ...     return row
        >>> data = mr.from_items([("a", 3), ("a", 1)]).group_by("key")
        >>> data.map_groups(last, sort_by="value").take_all()
        [Row(key='a', value=3)]
        """
        function(fn, "map_groups()")
        rows, shape = self._with_keys()
        by, down = ordering(shape, sort_by, descending, "map_groups()") if sort_by else ((), ())
        declared = grouped_shape(names, fn)
        policy = ErrorPolicy(on_error, max_bad_records)
        op = MapGroups(self._keys, fn, by, down, declared=declared, pure=pure, on_error=policy)
        return self._dataset._with(GroupBy(declared, rows, op, self._partitions))

    def top_k(self, k: int, by: str | Sequence[str], descending: bool | Sequence[bool] = True) -> Dataset:
        """The first `k` rows of each key in the order of `by`, ties in input order.

        >>> import mr
        >>> mr.from_items([("a", 1), ("a", 3), ("a", 2)]).group_by("key").top_k(2, by="value").take_all()
        [Row(key='a', value=3), Row(key='a', value=2)]
        """
        rows, shape = self._with_keys()
        columns, down = ordering(shape, by, descending, "top_k()")
        return self._dataset._with(
            GroupBy(shape, rows, TopByKey(self._keys, whole(k, "top_k()", "k"), columns, down), self._partitions)
        )
