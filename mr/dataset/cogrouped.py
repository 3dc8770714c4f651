"""CoGroupedDataset: what `cogroup` returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from mr.dataset.arguments import Names, function, ordering, unknown
from mr.operators.base import ErrorPolicy, OnError
from mr.operators.cogroups import CoGroups, Order
from mr.operators.pygroups import grouped_shape
from mr.plan import CoGroup

if TYPE_CHECKING:
    from mr.dataset import Dataset
    from mr.dataset.base import DatasetBase


class CoGroupedDataset:
    """Rows of two datasets brought together by equal keys: what `cogroup` returns.

    >>> import mr
    >>> type(mr.from_items([("a", 1)]).cogroup(mr.from_items([("a", 2)]), on="key")).__name__
    'CoGroupedDataset'
    """

    def __init__(
        self,
        left: DatasetBase,
        right: DatasetBase,
        left_on: tuple[str, ...],
        right_on: tuple[str, ...],
        partitions: int | None,
    ) -> None:
        self._left = left
        self._right = right
        self._on = left_on, right_on
        self._partitions = partitions

    def __repr__(self) -> str:
        """Both datasets and their keys."""
        sides = zip((self._left, self._right), self._on, strict=True)
        told = " and ".join(f"{repr(side)[1:-1]}, by {', '.join(on)}" for side, on in sides)
        return f"<cogroup of {told}>"

    def __getattr__(self, name: str) -> NoReturn:
        unknown(self, name)

    def map_groups(
        self,
        fn: Callable[..., Any],
        *,
        sort_by: str | Sequence[str] = (),
        left_sort_by: str | Sequence[str] = (),
        right_sort_by: str | Sequence[str] = (),
        descending: bool | Sequence[bool] = False,
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """`fn(key, rows_left, rows_right)` for each key of either side; results as in `group_by(...).map_groups`.

        Both rows are iterators, read once, in any order or not at all, of whole records in input order; that of a side
        without the key is empty. A group may be larger than memory. Null keys are one group, as in `group_by`.
        `sort_by`: records come in the order of these columns, on both sides; `left_sort_by`, `right_sort_by`: on one.
        `on_error`, `max_bad_records`: as in `group_by(...).map_groups`; a key counts with the records of both sides.

        Raises PlanError for an unknown column.

        >>> import mr
        >>> users, visits = mr.from_items([(1, "ann"), (2, "bo")]), mr.from_items([(1, "/a"), (1, "/")])
        >>> def seen(key, users, visits):
        ...     return next(users).value, [visit.value for visit in visits]
        >>> both = users.cogroup(visits, on="key")
        >>> both.map_groups(seen, right_sort_by="value", names=["name", "pages"]).sort("name").take_all()
        [Row(name='ann', pages=['/', '/a']), Row(name='bo', pages=[])]
        """
        function(fn, "map_groups()")
        declared = grouped_shape(names, fn)
        policy = ErrorPolicy(on_error, max_bad_records)
        wanted = ((self._left, left_sort_by or sort_by), (self._right, right_sort_by or sort_by))
        left, right = (_order(side, by, descending) for side, by in wanted)
        op = CoGroups(*self._on, fn, self._partitions, declared, pure, policy, orders=(left, right))
        return self._left._with(CoGroup(declared, self._left._node, self._right._node, op))


def _order(side: DatasetBase, by: str | Sequence[str], descending: bool | Sequence[bool]) -> Order:
    return ordering(side._node.known(), by, descending, "map_groups()") if by else ((), ())
