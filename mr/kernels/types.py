"""Types of columns: from Python, Arrow and Polars types to the few Arrow types that travel between operators.

Operators exchange plain columns only: large_string, large_binary and large_list instead of their small, view and
dictionary forms, so that any two batches of one dataset can be concatenated. Python objects that Arrow cannot hold
travel as the extension type `mr.pickle`, between tasks only.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import datetime as dt
import decimal
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mr.batch import kind_of, with_kind
from mr.errors import PlanError, TypeConflict

DECIMAL: Final = pa.decimal128(38, 18)
"""One decimal type for all of them: a scale taken from the data would differ from batch to batch."""


class PickleType(pa.ExtensionType):  # type: ignore[misc]
    """Pickled Python objects over large_binary. Allowed in run files only, never as a key or in an output."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "mr.pickle")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""

    @classmethod
    def __arrow_ext_deserialize__(cls, storage_type: pa.DataType, serialized: bytes) -> PickleType:
        return cls()

    def __reduce__(self) -> tuple[object, ...]:
        return PickleType, ()

    def __hash__(self) -> int:  # pyarrow's extension types compare, but have no hash
        return hash(PickleType)


PICKLE: Final = PickleType()
try:
    pa.register_extension_type(PICKLE)
except pa.ArrowKeyError:  # the module was imported a second time in this process (under a reloader or a test)
    pa.unregister_extension_type("mr.pickle")
    pa.register_extension_type(PICKLE)

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
        return plain(declared)
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
    return plain(pl.Series([], dtype=declared).to_arrow().type)


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


def plain(type_: pa.DataType) -> pa.DataType:
    """The form in which a type travels: small, view and dictionary encodings are widened, also when nested.

    >>> plain(pa.list_(pa.dictionary(pa.int8(), pa.string())))
    LargeListType(large_list<item: large_string>)
    """
    if pa.types.is_string(type_) or pa.types.is_string_view(type_):
        return pa.large_string()
    if pa.types.is_binary(type_) or pa.types.is_binary_view(type_) or pa.types.is_fixed_size_binary(type_):
        return pa.large_binary()
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return plain(type_.value_type)
    if pa.types.is_time(type_):
        return pa.time64("us")
    if pa.types.is_map(type_):
        return pa.map_(plain(type_.key_type), plain(type_.item_type))
    if is_list(type_):
        return pa.large_list(plain(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, plain(field.type)) for field in type_])
    return type_


def is_list(type_: pa.DataType) -> bool:
    """Whether `type_` is any of Arrow's list types; a map is not a list.

    >>> is_list(pa.large_list(pa.int8())), is_list(pa.map_(pa.int8(), pa.int8()))
    (True, False)
    """
    checks = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    views = (pa.types.is_list_view, pa.types.is_large_list_view)
    return any(check(type_) for check in (*checks, *views))


def holds_objects(type_: pa.DataType) -> bool:
    """Whether values of `type_` hold pickled objects, at any depth: then it can be neither a key nor in a file.

    >>> holds_objects(pa.large_list(PICKLE)), holds_objects(pa.int64())
    (True, False)
    """
    if isinstance(type_, PickleType):
        return True
    return any(holds_objects(type_.field(i).type) for i in range(type_.num_fields))


_SHORT: Final[list[tuple[Callable[[pa.DataType], bool], str]]] = [
    (pa.types.is_null, "null"),
    (pa.types.is_int64, "int"),
    (pa.types.is_float64, "float"),
    (pa.types.is_large_string, "str"),
    (pa.types.is_large_binary, "bytes"),
    (pa.types.is_boolean, "bool"),
    (pa.types.is_date32, "date"),
    (pa.types.is_time64, "time"),
    (pa.types.is_duration, "timedelta"),
    (pa.types.is_decimal128, "Decimal"),
    (lambda type_: isinstance(type_, PickleType), "object"),
]


def display(type_: pa.DataType) -> str:
    """The type in words that a Python user knows; Arrow's own name for those that Python lacks.

    >>> display(pa.large_list(pa.large_string())), display(pa.timestamp("us", "UTC")), display(pa.int32())
    ('list[str]', 'datetime[UTC]', 'int32')
    """
    for check, name in _SHORT:
        if check(type_):
            return name
    if pa.types.is_timestamp(type_):
        return f"datetime[{type_.tz}]" if type_.tz else "datetime"
    if pa.types.is_map(type_):
        return f"dict[{display(type_.key_type)}, {display(type_.item_type)}]"
    if is_list(type_):
        return f"list[{display(type_.value_type)}]"
    if pa.types.is_struct(type_):
        named = [field.name for field in type_] != [str(i) for i in range(type_.num_fields)]
        return f"tuple[{', '.join(f'{f.name}: ' * named + display(f.type) for f in type_)}]"
    return str(type_)


def unify(a: pa.Schema, b: pa.Schema, where: str) -> pa.Schema:
    """The schema that the batches of both can be cast to; a schema without columns unifies with any.

    Columns are compared by position; null < T at any depth and int64 < float64, nothing else.

    Raises `TypeConflict` naming `where`, the column and both types, or how names or kinds differ.

    >>> ints, floats = pa.schema([("n", pa.int64())]), pa.schema([("n", pa.float64())])
    >>> unify(ints, floats, "map at job.py:3").field("n").type
    DataType(double)
    """
    if not len(a):
        return b
    if not len(b):
        return a
    if kind_of(a) != kind_of(b):
        raise TypeConflict(f"{where}: some records are {kind_of(a)} ({_names(a)}), others {kind_of(b)} ({_names(b)})")
    if a.names != b.names:
        raise TypeConflict(
            f"{where}: some records have columns {_names(a)}, others {_names(b)}; state them with names="
        )
    fields = []
    for left, right in zip(a, b, strict=True):
        joined = join_types(left.type, right.type)
        if joined is None:
            types_ = f"{display(left.type)} in some records and {display(right.type)} in others"
            raise TypeConflict(
                f"{where}: column {left.name!r} is {types_}; make them one type, or declare it with names="
            )
        fields.append((left.name, joined))
    return with_kind(pa.schema(fields), kind_of(a))


def _names(schema: pa.Schema) -> str:
    return ", ".join(schema.names)


def join_types(a: pa.DataType, b: pa.DataType) -> pa.DataType | None:
    """The smallest type that holds the values of both exactly (given that ints are small enough); None if none does.

    >>> join_types(pa.large_list(pa.null()), pa.large_list(pa.int64()))
    LargeListType(large_list<item: int64>)
    """
    if a.equals(b) or pa.types.is_null(b):
        return a
    if pa.types.is_null(a):
        return b
    if {a, b} == {pa.int64(), pa.float64()}:
        return pa.float64()
    if pa.types.is_large_list(a) and pa.types.is_large_list(b):
        inner = join_types(a.value_type, b.value_type)
        return None if inner is None else pa.large_list(inner)
    if pa.types.is_map(a) and pa.types.is_map(b):
        key, item = join_types(a.key_type, b.key_type), join_types(a.item_type, b.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if pa.types.is_struct(a) and pa.types.is_struct(b) and [f.name for f in a] == [f.name for f in b]:
        inners = [join_types(left.type, right.type) for left, right in zip(a, b, strict=True)]
        return None if None in inners else pa.struct([(f.name, t) for f, t in zip(a, inners, strict=True)])
    return None


def cast(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """`batch` with the types of `schema`, a result of `unify` over its own; exact or an error.

    Raises `TypeConflict` naming the column when an int beyond 2**53 would have to become a float.

    >>> ints = pa.record_batch({"n": [1, 2]})
    >>> cast(ints, pa.schema([("n", pa.float64())])).column(0).to_pylist()
    [1.0, 2.0]
    """
    if batch.schema.equals(schema, check_metadata=True):
        return batch
    if batch.num_rows == 0:
        return pa.RecordBatch.from_arrays([nulls(0, field.type) for field in schema], schema=schema)
    columns = [cast_column(column, field.type, field.name) for column, field in zip(batch.columns, schema, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def cast_column(array: pa.Array, type_: pa.DataType, column: str) -> pa.Array:
    """`array` as `type_` (null < T, int64 < float64, encodings that `plain` widens), at any depth.

    Raises `TypeConflict` naming `column` where a value would change.

    >>> cast_column(pa.array([None, None]), pa.large_list(pa.int64()), "xs").type
    LargeListType(large_list<item: int64>)
    """
    if array.type.equals(type_):
        return array
    if pa.types.is_null(array.type):
        return nulls(len(array), type_)
    if pa.types.is_struct(type_) and pa.types.is_struct(array.type):
        inner = [cast_column(array.field(i), field.type, column) for i, field in enumerate(type_)]
        return pa.StructArray.from_arrays(inner, fields=list(type_), mask=array.is_null())
    if pa.types.is_large_list(type_) and pa.types.is_large_list(array.type):
        offsets, start, stop = list_bounds(array)
        values = cast_column(array.values[start:stop], type_.value_type, column)
        return pa.LargeListArray.from_arrays(offsets, values, type=type_, mask=array.is_null())
    if pa.types.is_map(type_) and pa.types.is_map(array.type):
        offsets, start, stop = list_bounds(array)
        keys = cast_column(array.keys[start:stop], type_.key_type, column)
        items = cast_column(array.items[start:stop], type_.item_type, column)
        return pa.MapArray.from_arrays(offsets, keys, items, type=type_, mask=array.is_null())
    try:
        return array.cast(type_, safe=True)
    except pa.ArrowInvalid as error:
        kinds = f"{display(array.type)} and {display(type_)}"
        raise TypeConflict(f"column {column!r} holds {kinds} values that differ when converted: {error}") from None


def list_bounds(array: pa.Array) -> tuple[pa.Array, int, int]:
    """Offsets of a list or map array counted from 0, and where its values start and end among its child's.

    >>> list_bounds(pa.array([[1], [2, 3]])[1:])[1:]
    (1, 3)
    """
    offsets = array.offsets.to_numpy()
    start, stop = int(offsets[0]), int(offsets[-1])
    return pa.array(offsets - start), start, stop


def nulls(rows: int, type_: pa.DataType) -> pa.Array:
    """`rows` nulls of `type_`, pickled objects included.

    >>> nulls(2, PICKLE).null_count
    2
    """
    if isinstance(type_, PickleType):
        return pa.ExtensionArray.from_storage(type_, pa.nulls(rows, type_.storage_type))
    return pa.nulls(rows, type_)
