"""Methods over whole columns, by name or expression."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from mr.dataset.arguments import Column, expressions
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.operators.base import rows_shape
from mr.operators.columns import Explode, Select, Unnest, WithColumns, expand, explode_shape, unnest_shape

if TYPE_CHECKING:
    from mr.dataset import Dataset


class Columns(DatasetBase):
    """Base of `Dataset`: select, with_columns, explode, unnest."""

    def select(self, *columns: Column, **named: Column) -> Dataset:
        """New columns in place of the old ones: names, expressions, or `name=expression`. Gives rows.

        Raises PlanError for an unknown column or an expression that is not row-wise.

        >>> import mr, polars as pl
        >>> mr.from_items([(1, 2)]).select("key", double=pl.col("value") * 2).take_all()
        [Row(key=1, double=4)]
        """
        exprs, shape = expand(self._node.known(), expressions(columns, named), "select()")
        if not exprs:
            raise PlanError("select(): name at least one column")
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

    def explode(self, *columns: str) -> Dataset:
        """One record for each element of a list column; an empty or null list gives one null.

        Of several columns the elements are put side by side; their lists must be of one length in each record.

        >>> import mr
        >>> mr.from_items([("a", [1, 2])]).explode("value").take_all()
        [Row(key='a', value=1), Row(key='a', value=2)]
        """
        return self._apply(Explode(columns, explode_shape(self._node.known(), columns)))

    def unnest(self, column: str) -> Dataset:
        """The fields of a struct column (a nested tuple) as columns in its place; a null struct gives nulls.

        Raises PlanError if its type is not known before it runs, or a field is named like another column.

        >>> import mr, polars as pl
        >>> pairs = mr.from_items([("a", 1)]).select("key", both=pl.struct("value", double=pl.col("value") * 2))
        >>> pairs.unnest("both").take_all()
        [Row(key='a', value=1, double=2)]
        """
        return self._apply(Unnest(column, unnest_shape(self._node.known(), column, self._node.site)))
