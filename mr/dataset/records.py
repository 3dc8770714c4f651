"""Methods that look at one record, or one batch, at a time and call a Python function."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import polars as pl
import pyarrow as pa

from mr.dataset.arguments import Names
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.heads.rejected import RESOLVED
from mr.kernels.rows import shape_of
from mr.operators.base import ErrorPolicy, OnError, rows_shape
from mr.operators.batches import BatchFormat, MapBatches
from mr.operators.columns import FilterExpr, expand
from mr.operators.pygroups import MapReduce
from mr.operators.python import Filter, FlatMap, Map
from mr.plan import GroupBy, Rejected, Union, policy_of

if TYPE_CHECKING:
    from mr.dataset import Dataset

Function = Callable[..., Any]


class Records(DatasetBase):
    """Base of `Dataset`: map, flat_map, filter, map_batches, rejected."""

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
        a record for which `fn` raises ("quarantine" needs `rejected()`); `max_bad_records`: a count, or a share (float)
        of the records that it is given.
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

    def map_batches(
        self,
        fn: Function,
        *,
        batch_size: int = 65_536,
        batch_format: BatchFormat = "polars",
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """`fn(batch) -> batch` over batches of exactly `batch_size` rows of a split (its last may be shorter).

        `batch_format`: "polars" (pl.DataFrame), "arrow" (pa.Table) or "numpy" (dict of arrays); `fn` may return any of
        them. Gives rows; `names` declares their columns. Raises PlanError for an unknown format or size.

        `on_error`: as in `map`, but `fn` raises for a whole batch: all of its records count for `max_bad_records`.
        `rejected()` has one row for it, and in `raw` the batch: `pl.read_ipc_stream(raw)`.

        >>> import mr, polars as pl
        >>> mr.from_items([1, 2]).map_batches(lambda df: df.select(pl.col("value") + 1), names=["value"]).take_all()
        [Row(value=2), Row(value=3)]
        """
        if batch_format not in ("polars", "arrow", "numpy") or batch_size < 1:
            raise PlanError('map_batches(): batch_format is "polars", "arrow" or "numpy", batch_size at least 1')
        declared, policy = shape_of(names, fn, False) if names else None, ErrorPolicy(on_error, max_bad_records)
        return self._apply(MapBatches(fn, batch_size, batch_format, declared, pure, policy))

    def rejected(self) -> Dataset:
        """What this reader or Python operator left out under on_error="quarantine".

        Rows (path, offset in bytes from 0, line from 1, operator, error, raw); path, offset and line are null behind a
        shuffle. `raw` is bytes: those of the file, or the record that the function got (a str in UTF-8, other values as
        `repr` writes them); of a record that is too long its beginning. The rest of a damaged file is one row: where
        the damage is, no line, no raw. So is a batch (path, offset and line are those of its first record, `raw` is an
        Arrow IPC stream), a partition (`raw` is the record that the function took last) and a group (`raw` is its key).
        Raises PlanError where nothing is quarantined.

        >>> import mr
        >>> numbers = mr.from_items(["1", "x"]).map(int, on_error="quarantine")
        >>> [row.raw for row in numbers.rejected().take_all()]
        [b'x']
        """
        node = self._node
        if policy_of(node).on_error != "quarantine":
            raise PlanError('rejected(): call it on the dataset of a reader or operator with on_error="quarantine"')
        shape = rows_shape(RESOLVED.names, RESOLVED.types)
        both = isinstance(node, GroupBy) and isinstance(node.op, MapReduce)
        makers = (node.inputs[0], node) if both else (node,)
        rejects = tuple(Rejected(shape, maker) for maker in makers)
        return self._with(Union(shape, rejects) if both else rejects[0])
