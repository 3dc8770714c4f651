"""Methods that say which task holds which records, and that keep them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from mr.dataset.arguments import Names, column_names, partition_count
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.kernels.rows import shape_of
from mr.operators.base import ErrorPolicy, OnError, require_columns
from mr.operators.partitions import MapPartitions
from mr.plan import Repartition
from mr.session import current

if TYPE_CHECKING:
    from mr.dataset import Dataset


class Partitions(DatasetBase):
    """Base of `Dataset`: map_partitions, repartition, materialize."""

    def map_partitions(
        self,
        fn: Callable[..., Any],
        *,
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """`fn(records)` once for each task: it gets an iterator of a split's (or partition's) records, yields records.

        For what is dear to set up, or must see neighbours. Where a split ends depends on the files; nothing may hang on
        it. The records come one by one, whatever their number. `names`, `pure`: as in `map`.

        `on_error`: as in `map`, but `fn` raises for its whole partition: nothing of what it yielded stays, and all
        records of the task count for `max_bad_records`. `rejected()` has one row, with the record taken last.

        >>> import mr
        >>> mr.from_items([1, 2, 3]).map_partitions(lambda records: [sum(records)]).take_all()
        [6]
        """
        policy = ErrorPolicy(on_error, max_bad_records)
        return self._apply(MapPartitions(fn, shape_of(names, fn, True), policy, pure))

    def repartition(self, n: int, by: str | Sequence[str] = ()) -> Dataset:
        """The same records in `n` tasks: by the hash of the columns `by`, else dealt out in turn by each task.

        Tasks begin to deal at different partitions, by what they read, so that many small ones fill all of them.

        With `by`, rows of equal keys lie in one partition, in the order (bucket, key, input order); keys are stored in
        their canonical form (-0.0 is 0.0). Without, a partition's rows are in input order.

        Raises PlanError for an unknown column, or `n` not from 1 to 256.

        >>> import mr
        >>> sorted(mr.from_items(["a", "b", "c"]).repartition(2).take_all())
        ['a', 'b', 'c']
        """
        columns = column_names(by)
        if columns:
            require_columns(self._node.known(), columns, "repartition()")
        count = partition_count(n)
        if count is None:
            raise PlanError("repartition(): give the number of partitions, from 1 to 256")
        return self._with(Repartition(self._node.shape, self._node, count, columns))

    def materialize(self) -> Dataset:
        """Run the plan up to here in the current session, keep the records in run files, and go on from those.

        For results that are used again, as in a loop. The partitioning of `repartition` stays, so that a join of two
        datasets partitioned alike moves nothing. Records are found again when the program is run again. The files
        lie under MR_HOME until `mr prune`; what is lost is made again.

        Raises what running a job raises.

        >>> import mr
        >>> squares = mr.from_items([1, 2]).map(lambda n: n * n).materialize()
        >>> squares.count(), squares.take_all()
        (2, [1, 4])
        """
        return self._with(current().materialize(self._node))

    persist = materialize
