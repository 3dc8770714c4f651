"""Methods that match the records of two datasets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from mr.dataset.arguments import check_key_types, column_names, key_columns, partition_count
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.joining import alike
from mr.kernels.joined import HOWS, How
from mr.operators.joins import joined_shape, layout_of
from mr.plan import STRATEGIES, Join, Strategy

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
        """Rows of this dataset with the matching rows of `other`; a null key matches nothing, NaN equals NaN.

        `how`: "inner"; "left", "right" and "full" keep the rows of that side (of both) that match nothing, beside
        nulls; "semi" and "anti" keep the rows of this dataset that match something (nothing), once and as they are.
        The result has all columns of this dataset, then those of `other` but its keys; repeated names get the
        `suffix`. The key columns hold the key of whichever side has one.

        `strategy`: "broadcast" sends all of `other` to every task (not for "right" and "full"); "sort_merge" shuffles
        both sides; "partitioned" demands that `materialize()` has left both sides partitioned alike by the keys, and
        shuffles nothing; "auto" takes "partitioned" where it can, and broadcasts when `other` is known to have at most
        10 MB. The rows are the same; their order is that of the strategy. Broadcast: by left row, then right row.
        Sort-merge: by bucket of the key, key, left row, right row (of a key with nulls the left rows come first).
        Partitioned: as broadcast within a partition, then its right rows that match nothing.

        `num_partitions` fixes the number of tasks of a sort-merge join.

        Raises PlanError: unknown columns, key columns of unequal types, an unknown option, a strategy that cannot be.

        >>> import mr
        >>> left, right = mr.from_items([(1, "x"), (2, "z")]), mr.from_items([(1, "y")])
        >>> left.join(right, on="key").take_all()
        [Row(key=1, value='x', value_right='y')]
        >>> left.join(right, on="key", how="anti").take_all()
        [Row(key=2, value='z')]
        """
        _check_options(how, strategy)
        keys = [column_names(side if side is not None else on) for side in (left_on, right_on)]
        if not keys[0] or len(keys[0]) != len(keys[1]):
            raise PlanError("join(): give on=, or left_on= and right_on= with as many columns")
        left = key_columns(self._node.known(), keys[0], "join() on the left")
        right = key_columns(self._other(other, "join()").known(), keys[1], "join() on the right")
        check_key_types(left, right, keys[0], keys[1])
        shape = joined_shape(left, right, layout_of(left, right, keys[0], keys[1], how, suffix))
        count = partition_count(num_partitions)
        node = Join(shape, self._node, other._node, keys[0], keys[1], how, strategy, suffix, count)
        why_not = alike(node) if strategy == "partitioned" else ""
        if why_not:
            raise PlanError(f'join(): strategy="partitioned": {why_not}; repartition(n, by=) and materialize() both')
        return self._with(node)


def _check_options(how: str, strategy: str) -> None:
    if how in ("outer", "full_outer"):
        raise PlanError(f'join(): how="{how}" is called "full" here')
    if how not in HOWS or strategy not in STRATEGIES:
        known = f"how is one of {', '.join(HOWS)}; strategy is one of {', '.join(STRATEGIES)}"
        raise PlanError(f"join(): how={how!r}, strategy={strategy!r}: {known}")
    if strategy == "broadcast" and how in ("right", "full"):
        text = "each task sees all of the right side but only its part of the left"
        raise PlanError(f'join(): a {how} join cannot be broadcast: {text}; use strategy="sort_merge", or swap sides')
