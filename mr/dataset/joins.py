"""Methods that match the records of two datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mr.dataset.arguments import check_key_types, column_names, partition_count
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.operators.base import require_columns
from mr.operators.joins import How, joined_shape
from mr.plan import Join, Strategy

if TYPE_CHECKING:
    from mr.dataset import Dataset


class Joins(DatasetBase):
    """Base of `Dataset`: join."""

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
        return self._with(Join(shape, self._node, other._node, keys[0], keys[1], how, strategy, suffix, count))
