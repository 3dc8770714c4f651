"""Types that users declare, as Python, Arrow or Polars types, to the types in which columns travel."""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import datetime as dt
import decimal
import types
import typing
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mr.errors import PlanError
from mr.kernels.types import DECIMAL, PICKLE, display, homeless, plain

_SCALARS: Final[dict[object, pa.DataType]] = {
    int: pa.int64(),
    float: pa.float64(),
    str: pa.large_string(),
    bytes: pa.large_binary(),
    bool: pa.bool_(),
    dt.datetime: pa.timestamp("us"),
    dt.date: pa.date32(),
    dt.time: pa.time64("us"),
    dt.timedelta: pa.duration("us"),
    decimal.Decimal: DECIMAL,
    type(None): pa.null(),
}

_NUMPY: Final[list[tuple[type, pa.DataType]]] = [
    (np.timedelta64, pa.duration("us")),  # before np.integer, of which it is a subclass
    (np.integer, pa.int64()),
    (np.floating, pa.float64()),
    (np.bool_, pa.bool_()),
    (np.str_, pa.large_string()),
    (np.bytes_, pa.large_binary()),
    (np.datetime64, pa.timestamp("us")),
]


def arrow_type(declared: Any) -> pa.DataType | None:
    """The column type for a declared Python, Arrow or Polars type; None where it says nothing (`Any`, None).

    `T | None` is T; `int | float` is float; a tuple or NamedTuple is a struct, a list a large_list, a dict a map; any
    other class travels pickled. Datetimes are in microseconds; declare `pl.Datetime("us", "UTC")` or an Arrow
    type for one with a time zone.

    Raises `PlanError` when `declared` is not a type.

    >>> arrow_type(int), arrow_type(list[str]), arrow_type(str | None)
    (DataType(int64), LargeListType(large_list<item: large_string>), DataType(large_string))
    """
    if declared is Any or declared is None or isinstance(declared, typing.TypeVar):
        return None
    if isinstance(declared, pa.DataType):
        return _checked(declared)
    polars_type = _from_polars(declared)
    if polars_type is not None:
        return polars_type
    if isinstance(declared, abc.Hashable) and declared in _SCALARS:
        return _SCALARS[declared]
    origin, args = typing.get_origin(declared), typing.get_args(declared)
    if origin is typing.Annotated:
        return arrow_type(args[0])
    if origin in (typing.Union, types.UnionType):
        return _union(args)
    if origin is typing.Literal:
        return _union(tuple({type(arg) for arg in args}))
    if isinstance(declared, typing.NewType):
        return arrow_type(declared.__supertype__)
    if origin is not None or declared in (list, tuple, dict):
        return _nested(origin or declared, args)
    fields = fields_of(declared)
    if fields is not None and isinstance(declared, type) and issubclass(declared, tuple):
        return _struct(list(fields), list(fields.values()))
    if isinstance(declared, type):
        return next((to for numpy_type, to in _NUMPY if issubclass(declared, numpy_type)), PICKLE)
    raise PlanError(
        f"{declared!r} is not a type: use a Python type (int, str, list[int], ...), an Arrow or a Polars type"
    )


def _union(args: tuple[Any, ...]) -> pa.DataType | None:
    members = [arg for arg in args if arg is not type(None)]
    if len(members) == 1:
        return arrow_type(members[0])
    return pa.float64() if set(members) == {int, float} else PICKLE


def _nested(origin: Any, args: tuple[Any, ...]) -> pa.DataType | None:
    if origin is list:
        item = arrow_type(args[0]) if args else None
        return None if item is None else pa.large_list(item)
    if origin is dict:
        inner = [arrow_type(arg) for arg in args]
        return pa.map_(*inner) if len(inner) == 2 and None not in inner else None
    if origin is tuple:
        if not args or args[-1] is Ellipsis:
            return None
        return _struct([str(i) for i in range(len(args))], list(args))
    return PICKLE


def _struct(names: list[str], declared: list[Any]) -> pa.DataType | None:
    inner = [arrow_type(one) for one in declared]
    return None if None in inner else pa.struct(list(zip(names, inner, strict=True)))


def _from_polars(declared: Any) -> pa.DataType | None:
    modules = {type(declared).__module__.partition(".")[0], str(getattr(declared, "__module__", "")).partition(".")[0]}
    if "polars" not in modules:
        return None
    import polars as pl

    if not isinstance(declared, (pl.DataType, type(pl.Int64))):
        return None
    if declared == pl.Object:
        return PICKLE
    return _checked(pl.Series([], dtype=declared).to_arrow().type)


def _checked(type_: pa.DataType) -> pa.DataType:
    lost = homeless(type_)
    if lost is not None:
        raise PlanError(f"no column can be declared {display(lost)}: use a str, a number or a tuple")
    return plain(type_)


def fields_of(declared: Any) -> dict[str, Any] | None:
    """Field names and types of a NamedTuple, dataclass or TypedDict class; None for any other object.

    >>> from typing import NamedTuple
    >>> fields_of(NamedTuple("Hit", [("host", str), ("n", int)]))
    {'host': <class 'str'>, 'n': <class 'int'>}
    """
    if not isinstance(declared, type):
        return None
    if dataclasses.is_dataclass(declared):
        names = [field.name for field in dataclasses.fields(declared)]
    elif issubclass(declared, tuple) and isinstance(getattr(declared, "_fields", None), tuple):
        names = list(declared._fields)  # type: ignore[attr-defined]
    elif typing.is_typeddict(declared):
        names = list(declared.__annotations__)
    else:
        return None
    try:
        hints = typing.get_type_hints(declared)
    except (NameError, TypeError, AttributeError):  # a forward reference that only a type checker can follow
        hints = {}
    return {name: hints.get(name, Any) for name in names}
