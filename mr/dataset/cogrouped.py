"""CoGroupedDataset: what `cogroup` returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from mr.dataset.arguments import Names, function, unknown
from mr.operators.base import ErrorPolicy, OnError
from mr.operators.cogroups import CoGroups
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

    def __getattr__(self, name: str) -> NoReturn:
        unknown(self, name)

    def map_groups(
        self,
        fn: Callable[..., Any],
        *,
        names: Names | None = None,
        on_error: OnError = "fail",
        max_bad_records: int | float | None = None,
        pure: bool = True,
    ) -> Dataset:
        """`fn(key, rows_left, rows_right)` for each key of either side; results as in `group_by(...).map_groups`.

        Both rows are iterators, read once, in any order or not at all, of whole records in input order; that of a side
        without the key is empty. A group may be larger than memory. Null keys are one group, as in `group_by`.
        `on_error`, `max_bad_records`: as in `group_by(...).map_groups`; a key counts with the records of both sides.

        >>> import mr
        >>> users, visits = mr.from_items([(1, "ann"), (2, "bo")]), mr.from_items([(1, "/"), (1, "/a")])
        >>> def seen(key, users, visits):
        ...     return next(users).value, [visit.value for visit in visits]
        >>> both = users.cogroup(visits, on="key")
        >>> both.map_groups(seen, names=["name", "pages"]).sort("name").take_all()
        [Row(name='ann', pages=['/', '/a']), Row(name='bo', pages=[])]
        """
        function(fn, "map_groups()")
        declared = grouped_shape(names, fn)
        policy = ErrorPolicy(on_error, max_bad_records)
        op = CoGroups(*self._on, fn, self._partitions, declared, pure, policy)
        return self._left._with(CoGroup(declared, self._left._node, self._right._node, op))
