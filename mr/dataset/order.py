"""Methods that put records in order, keep some of them, or join datasets end to end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from msgspec.structs import replace

from mr.dataset.actions import first_rows
from mr.dataset.arguments import key_columns, ordering, partition_count, united, whole
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.kernels.rows import Shape
from mr.operators.batches import TopRows
from mr.operators.columns import Widen
from mr.operators.grouped import Distinct
from mr.operators.sampling import DropPriority, LowestPriorities, Prioritise, SampleShare
from mr.plan import Apply, First, GroupBy, Node, Sort, Union

if TYPE_CHECKING:
    from mr.dataset import Dataset


class Order(DatasetBase):
    """Base of `Dataset`: limit, sample, top_k, sort, distinct, union."""

    def limit(self, n: int) -> Dataset:
        """The first `n` records in input order.

        >>> import mr
        >>> mr.from_items(range(100)).limit(2).take_all()
        [0, 1]
        """
        return self._with(first_rows(self._node, whole(n, "limit()")))

    def sample(self, fraction: float | None = None, *, n: int | None = None, seed: int = 0) -> Dataset:
        """A random sample in input order: each record with the probability `fraction`, or exactly `n` (all if fewer).

        Which records these are depends on `seed`, the content of the splits, and the record's position among those of
        its split that get here: the same in every run and on any cluster, other ones when a split changes.

        Raises PlanError unless one of `fraction` (0 to 1) and `n` (0 or more) is given.

        >>> import mr
        >>> numbers = mr.from_items(range(1000))
        >>> numbers.sample(n=3).take_all() == numbers.sample(n=3).take_all(), numbers.sample(n=3).count()
        (True, 3)
        """
        if (fraction is None) == (n is None):
            raise PlanError("sample(): give fraction= or n=")
        if fraction is not None:
            if not isinstance(fraction, (int, float)) or not 0 <= fraction <= 1:
                raise PlanError(f"sample(): fraction= is from 0 to 1, not {fraction!r}")
            return self._apply(SampleShare(float(fraction), seed))
        n = whole(n, "sample()")
        drawn = self._apply(Prioritise(seed))._node
        least = First(drawn.shape, drawn, n, LowestPriorities(n), early=False)
        return self._with(Apply(self._node.shape, least, DropPriority(self._node.shape)))

    def top_k(self, k: int, by: str | Sequence[str], descending: bool | Sequence[bool] = True) -> Dataset:
        """The first `k` records in the order of the columns `by`, ties in input order.

        >>> import mr
        >>> mr.from_items([3, 9, 4]).top_k(2, by="value").take_all()
        [9, 4]
        """
        columns, down = ordering(self._node.known(), by, descending, "top_k()")
        return self._with(
            First(self._node.shape, self._node, k, TopRows(whole(k, "top_k()", "k"), columns, down), early=False)
        )

    def sort(
        self, *columns: str, descending: bool | Sequence[bool] = False, num_partitions: int | None = None
    ) -> Dataset:
        """All records in one order, ties in input order: nulls last in both directions, NaN above all numbers.

        `num_partitions` fixes the number of tasks (at most 256), and so of the parts that are written; of a small
        dataset the last ones may be empty. What `agg` or `distinct` has just grouped by the same columns is sorted as
        it is grouped. Raises PlanError for an unknown column.

        >>> import mr
        >>> mr.from_items([2, None, 3]).sort("value", descending=True).take_all()
        [3, 2, None]
        """
        by, down = ordering(self._node.known(), columns, descending, "sort()")
        return self._with(Sort(self._node.shape, self._node, by, down, partition_count(num_partitions)))

    def distinct(self, *columns: str, num_partitions: int | None = None) -> Dataset:
        """The first record of each value of `columns` (all columns by default).

        >>> import mr
        >>> sorted(mr.from_items(["a", "b", "a"]).distinct().take_all())
        ['a', 'b']
        """
        shape = self._node.known()
        key_columns(shape, columns or shape.names, "distinct()")
        return self._with(GroupBy(shape, self._node, Distinct(columns or shape.names), partition_count(num_partitions)))

    def union(self, *others: Dataset) -> Dataset:
        """All records of this dataset, then those of the others. Raises PlanError where columns differ.

        >>> import mr
        >>> mr.from_items([1]).union(mr.from_items([2])).take_all()
        [1, 2]
        """
        shape = self._node.shape
        nodes = [self._node, *(self._other(other, "union()") for other in others)]
        for node in nodes[1:]:
            shape = united(shape, node.shape)
        return self._with(Union(shape, tuple(_as(shape, node) for node in nodes)))


def _as(shape: Shape | None, node: Node) -> Node:
    """`node` with its ints as floats and its nulls typed where `shape` says so: parts of an output have one type."""
    if shape is None or node.shape is None:
        return node
    given = [mine if wanted is None else wanted for mine, wanted in zip(node.shape.types, shape.types, strict=True)]
    op = Widen(replace(node.shape, types=tuple(given)))
    return node if op.output == node.shape else Apply(op.output, node, op)
