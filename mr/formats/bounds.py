"""What a filter asks of single columns, as far as their least and greatest values can say that no row passes."""

from __future__ import annotations

import datetime as dt
import io
import json
import operator
from collections.abc import Callable, Iterator
from typing import Any, Final

import polars as pl
from msgspec import Struct

_COMPARISONS: Final[dict[str, Callable[[Any, Any], bool]]] = {
    "Lt": operator.lt,
    "LtEq": operator.le,
    "Gt": operator.gt,
    "GtEq": operator.ge,
}
_KINDS: Final = (int, str, dt.datetime, dt.date)
"""No floats: to compare with them Polars rounds integers."""


class Bound(Struct, frozen=True):
    """Rows pass only where `column` compares so with `value`; `comparison` is a key of `_COMPARISONS`, or "Eq"."""

    column: str
    comparison: str
    value: Any

    def possible(self, least: Any, greatest: Any) -> bool:
        """Whether a value from `least` to `greatest` may pass; True where the types say nothing of each other.

        >>> bound = Bound("n", "Gt", 5)
        >>> bound.possible(1, 6), bound.possible(1, 5), bound.possible("a", "b")
        (True, False, True)
        """
        if not _comparable(self.value, least) or not _comparable(self.value, greatest):
            return True
        if self.comparison == "Eq":
            return bool(least <= self.value <= greatest)
        return _COMPARISONS[self.comparison](least if self.comparison.startswith("Lt") else greatest, self.value)


def _comparable(one: Any, other: Any) -> bool:
    if type(one) is not type(other):
        return False
    return not isinstance(one, dt.datetime) or (one.tzinfo is None) == (other.tzinfo is None)


def bounds_of(expr: pl.Expr) -> tuple[Bound, ...]:
    """The bounds that all rows pass for which `expr` is true: of comparisons of a column with a value, joined by &.

    >>> [(bound.column, bound.comparison, bound.value) for bound in bounds_of((pl.col("n") > 5) & (pl.col("k") == "a"))]
    [('n', 'Gt', 5), ('k', 'Eq', 'a')]
    >>> bounds_of((pl.col("n") > 5) | (pl.col("k") == "a"))
    ()
    """
    return tuple(_bounds(json.loads(expr.meta.serialize(format="json"))))


def _bounds(tree: Any) -> Iterator[Bound]:
    node = tree.get("BinaryExpr") if isinstance(tree, dict) else None
    if node is None:
        return
    left, right = node["left"], node["right"]
    if node["op"] in ("And", "LogicalAnd"):
        yield from _bounds(left)
        yield from _bounds(right)
    elif (node["op"] in _COMPARISONS or node["op"] == "Eq") and "Column" in left and "Literal" in right:
        value = _value(right)
        if type(value) in _KINDS:
            yield Bound(left["Column"], node["op"], value)


def _value(literal: Any) -> Any:
    """The value of a serialised literal; None for what JSON cannot hold, such as infinity."""
    try:
        return pl.select(pl.Expr.deserialize(io.StringIO(json.dumps(literal)), format="json")).item()
    except pl.exceptions.PolarsError:
        return None
