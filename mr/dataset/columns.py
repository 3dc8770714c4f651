"""Methods over whole columns, by name or expression."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import polars as pl

from mr.dataset.arguments import Column, expressions
from mr.dataset.base import DatasetBase
from mr.errors import PlanError
from mr.kernels.frames import column
from mr.kernels.rows import Shape, shape_of
from mr.operators.base import rows_shape
from mr.operators.columns import Explode, Select, Unnest, WithColumns, expand, explode_shape, unnest_shape
from mr.operators.computed import MADE, NewColumn
from mr.operators.python import Function

if TYPE_CHECKING:
    from mr.dataset import Dataset


class Columns(DatasetBase):
    """Base of `Dataset`: select, with_columns, explode, unnest."""

    def select(self, *columns: Column, **named: Column | Function) -> Dataset:
        """New columns in place of the old ones: names, expressions, `name=expression` or `name=function`. Gives rows.

        A function is called with each record, as that of `map`, and its return annotation tells the type of the column.

        Raises PlanError for an unknown column or an expression that is not row-wise.

        >>> import mr, polars as pl
        >>> mr.from_items([(1, 2)]).select("key", double=pl.col("value") * 2).take_all()
        [Row(key=1, double=4)]
        >>> mr.from_items([(1, 2)]).select("key", text=lambda row: f"{row.key}/{row.value}").take_all()
        [Row(key=1, text='1/2')]
        """
        source, made, shape = self._made(columns, named, "select()")
        if not made:
            raise PlanError("select(): name at least one column")
        return source._apply(Select(tuple(made.values()), shape))

    def with_columns(self, *columns: pl.Expr, **named: Column | Function) -> Dataset:
        """The old columns, with new ones added or put in their place. Gives rows. Arguments and errors as in `select`.

        Expressions and functions see the old columns.

        >>> import mr, polars as pl
        >>> mr.from_items([(1, 2)]).with_columns(total=pl.col("key") + pl.col("value")).take_all()
        [Row(key=1, value=2, total=3)]
        >>> mr.from_items([(1, 2)]).with_columns(value=lambda row: hex(row.value)).take_all()
        [Row(key=1, value='0x2')]
        """
        given = self._node.known()
        source, made, shape = self._made(columns, named, "with_columns()")
        types = dict(zip(given.names, given.types, strict=True)) | dict(zip(shape.names, shape.types, strict=True))
        shape = rows_shape(types.keys(), types.values())
        if source is self:
            return self._apply(WithColumns(tuple(made.values()), shape))
        return source._apply(Select(tuple(made.get(name, column(name)) for name in types), shape))

    def _made(
        self, columns: Sequence[Column], named: Mapping[str, Column | Function], call: str
    ) -> tuple[DatasetBase, dict[str, pl.Expr], Shape]:
        """The new columns by name, as expressions over a dataset that has what functions made behind its columns."""
        given, source = self._node.known(), cast(DatasetBase, self)
        functions = {name: fn for name, fn in named.items() if callable(fn)}
        plain = {name: column for name, column in named.items() if not callable(column)}
        exprs, shape = expand(given, expressions(columns, plain), call)
        made = dict(zip(shape.names, exprs, strict=True))
        types = dict(zip(shape.names, shape.types, strict=True))
        for name, fn in functions.items():
            if name in made:
                raise PlanError(f"{call}: two columns are named {name!r}")
            declared = cast(Shape, shape_of(name, fn, False))
            source = source._apply(NewColumn(fn, declared, seen=given))
            made[name], types[name] = pl.col(MADE + name).alias(name), declared.types[0]
        order = [*(name for name in made if name not in named), *named]
        return source, {name: made[name] for name in order}, rows_shape(order, [types[name] for name in order])

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
