"""Python values to Arrow columns and back, under the round-trip law: a value comes back equal and of the same type
as it was given, or it is an error.

Values are told apart by their exact type: bool is not int, and a subclass of str is not str but an object that
travels pickled. The exceptions are those that make numeric work bearable: numpy scalars become Python ones, and ints
among floats become floats where no digit is lost.
"""

from __future__ import annotations

import datetime as dt
import decimal
import operator
import pickle
from collections.abc import Callable, Collection, Iterable, Sequence
from itertools import chain, pairwise
from types import NoneType
from typing import Any, Final

import numpy as np
import pyarrow as pa

from mr.errors import RecordError, TypeConflict
from mr.kernels.types import (
    DECIMAL,
    PICKLE,
    PickleType,
    cast_column,
    display,
    is_list,
    join_types,
    list_bounds,
    nulls,
)

PICKLE_PROTOCOL: Final = 5
"""Fixed, so that equal objects have equal bytes under every Python."""

_ARROW_ERRORS: Final = (pa.ArrowException, OverflowError, ValueError, TypeError)

_BOUNDS: Final[dict[pa.DataType, str]] = {
    pa.int64(): "a column of int has 64 bits; declare it as object, or keep the value as str or Decimal",
    DECIMAL: "a column of Decimal has 20 digits before and 18 behind the point, and no NaN; keep the value as str",
}
"""What to do about values that Python has and columns have not; Arrow's own words say no more."""


def from_list(values: Sequence[Any], declared: pa.DataType | None, column: str) -> pa.Array:
    """One column of Python values; of type `declared`, or else of the type that the values have.

    Raises `TypeConflict` where a value does not fit the others or `declared`, and `RecordError` where it cannot
    travel at all; both carry the value's index as `row`.

    >>> from_list([1, None, 2.5], None, "x").to_pylist()
    [1.0, None, 2.5]
    """
    kinds = _kinds(values)
    if any(issubclass(kind, np.generic) for kind in kinds):
        values = [_unboxed(value) for value in values]
        kinds = _kinds(values)
    has_nulls = NoneType in kinds
    kinds.discard(NoneType)
    if not kinds:
        return nulls(len(values), declared or pa.null())
    if isinstance(declared, PickleType):
        return _pickles(values, column)
    build = _builder(kinds)
    if build is None or not _fits(build, declared):
        raise _conflict(values, declared, column)
    array = build(values, has_nulls, declared, column)
    return array if declared is None or array.type.equals(declared) else _as_declared(array, declared, values, column)


def _kinds(values: Sequence[Any]) -> set[type]:
    """The types of `values`; where all have one, in half the time of a set."""
    first = type(values[0]) if values else NoneType
    return {first} if operator.countOf(map(type, values), first) == len(values) else set(map(type, values))


Builder = Callable[[Sequence[Any], bool, "pa.DataType | None", str], pa.Array]


def _builder(kinds: Collection[type]) -> Builder | None:
    """How to build a column of values that have exactly these types; None where they do not go together."""
    found = {_BUILDERS.get(kind) or (_tuples if _is_tuple(kind) else _objects) for kind in kinds}
    if len(found) == 1:
        return found.pop()
    return _floats if found == {_ints, _floats} else None


def _is_tuple(kind: type) -> bool:
    return issubclass(kind, tuple) and hasattr(kind, "_fields")


def _fits(build: Builder, declared: pa.DataType | None) -> bool:
    return declared is None or any(check(declared) for check in _ACCEPTS[build])


def _conflict(values: Sequence[Any], declared: pa.DataType | None, column: str) -> TypeConflict:
    """The error for the first value that does not go with `declared`, or with the first value."""
    first = next(value for value in values if value is not None)
    for row, value in enumerate(values):
        if value is None:
            continue
        build = _builder({type(value)} if declared is not None else {type(first), type(value)})
        if build is None or not _fits(build, declared):
            expected = f"declared {display(declared)}" if declared is not None else type(first).__name__ + " before"
            cure = "declare it as object to mix types" if declared is None else "change names= or the value"
            return TypeConflict(f"column {column!r} is {expected}, but {_named(value)} follows; {cure}", row)
    raise AssertionError(f"column {column!r}: no conflict found")


def _named(value: Any) -> str:
    text = repr(value)
    return f"{type(value).__name__} {text if len(text) <= 60 else text[:57] + '...'}"


def _unboxed(value: Any) -> Any:
    if isinstance(value, np.datetime64 | np.timedelta64):
        exact = value.astype("M8[us]" if isinstance(value, np.datetime64) else "m8[us]")
        return exact.item() if exact == value or np.isnat(value) else value
    return value.item() if isinstance(value, np.generic) else value


# --- builders: (values, has_nulls, declared, column) -> array ---------------------------------------------------------


def _strings(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    return _array(values, pa.large_string(), column)


def _ints(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    if declared is not None and pa.types.is_floating(declared):
        return _floats(values, has_nulls, declared, column)
    if has_nulls:
        return _array(values, pa.int64(), column)
    try:
        return pa.array(np.fromiter(values, np.int64, len(values)))
    except OverflowError:
        return _array(values, pa.int64(), column)


def _floats(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    return _array(values, pa.float64(), column)  # refuses ints beyond 2**53, which NumPy would round


def _decimals(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    return _array(values, declared or DECIMAL, column)


def _datetimes(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    zones = {value.tzinfo for value in values if value is not None}
    try:
        names = {None if zone is None else pa.lib.tzinfo_to_string(zone) for zone in zones}
    except _ARROW_ERRORS:  # an offset with seconds, a tzinfo class of the user
        return _pickles(values, column)
    if len(names) > 1 and (declared is None or None in names):
        found = ", ".join(sorted(str(name) for name in names))
        raise TypeConflict(f"column {column!r} holds datetimes of different time zones: {found}; use .astimezone()")
    if declared is not None and (None in names) is not (declared.tz is None):
        raise TypeConflict(f"column {column!r} is declared {display(declared)}, but the time zone is {names.pop()}", 0)
    zone = names.pop() if declared is None or len(names) == 1 else declared.tz
    return _array(values, pa.timestamp("us", zone), column)


def _times(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    if any(value is not None and value.tzinfo is not None for value in values):  # Arrow would drop the zone
        return _pickles(values, column)
    return _array(values, pa.time64("us"), column)


def _lists(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    offsets, mask = _bounds(values, has_nulls)
    inner = list(chain.from_iterable(value for value in values if value))
    items = _nested(inner, None if declared is None else declared.value_type, f"{column}[]", offsets)
    return pa.LargeListArray.from_arrays(pa.array(offsets), items, mask=mask)


def _dicts(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    offsets, mask = _bounds(values, has_nulls)
    filled = [value for value in values if value]
    flat = list(chain.from_iterable(filled))
    if any(key is None for key in flat):
        row = next(row for row, value in enumerate(values) if value and None in value)
        raise TypeConflict(f"column {column!r} holds a dict with the key None, which no map can have", row)
    keys = _nested(flat, None if declared is None else declared.key_type, f"keys of {column}", offsets)
    flat = list(chain.from_iterable(value.values() for value in filled))
    items = _nested(flat, None if declared is None else declared.item_type, f"values of {column}", offsets)
    return pa.MapArray.from_arrays(pa.array(offsets, pa.int32()), keys, items, mask=mask)


def _tuples(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    names = _tuple_names(next(value for value in values if value is not None))
    if declared is not None:
        names = tuple(field.name for field in declared)
    for row, value in enumerate(values):
        if value is not None and (len(value) != len(names) or (declared is None and _tuple_names(value) != names)):
            expected = f"tuples of {len(names)} items ({', '.join(names)})"
            raise TypeConflict(f"column {column!r} holds {expected}, but {_named(value)} follows; use lists", row)
    if not names:
        return _pickles(values, column)
    mask = pa.array([value is None for value in values]) if has_nulls else None
    blank = (None,) * len(names)
    parts = zip(*(blank if value is None else value for value in values), strict=True)
    types = [None] * len(names) if declared is None else [field.type for field in declared]
    inner = [from_list(p, t, f"{column}.{n}") for p, t, n in zip(parts, types, names, strict=True)]
    return pa.StructArray.from_arrays(inner, names=names, mask=mask)


def _tuple_names(value: tuple[Any, ...]) -> tuple[str, ...]:
    names: tuple[str, ...] = getattr(value, "_fields", None) or tuple(map(str, range(len(value))))
    return names


def _objects(values: Sequence[Any], has_nulls: bool, declared: pa.DataType | None, column: str) -> pa.Array:
    return _pickles(values, column)


def _typed(type_: pa.DataType) -> Builder:
    return lambda values, has_nulls, declared, column: _array(values, type_, column)


_BUILDERS: Final[dict[type, Builder]] = {
    str: _strings,
    int: _ints,
    float: _floats,
    bool: _typed(pa.bool_()),
    bytes: _typed(pa.large_binary()),
    dt.datetime: _datetimes,
    dt.date: _typed(pa.date32()),
    dt.time: _times,
    dt.timedelta: _typed(pa.duration("us")),
    decimal.Decimal: _decimals,
    list: _lists,
    tuple: _tuples,
    dict: _dicts,
}

_ACCEPTS: Final[dict[Builder, tuple[Callable[[pa.DataType], bool], ...]]] = {
    _strings: (pa.types.is_large_string,),
    _ints: (pa.types.is_integer, pa.types.is_floating),
    _floats: (pa.types.is_floating,),
    _BUILDERS[bool]: (pa.types.is_boolean,),
    _BUILDERS[bytes]: (pa.types.is_large_binary,),
    _datetimes: (pa.types.is_timestamp,),
    _BUILDERS[dt.date]: (pa.types.is_date,),
    _times: (pa.types.is_time,),
    _BUILDERS[dt.timedelta]: (pa.types.is_duration,),
    _decimals: (pa.types.is_decimal,),
    _lists: (pa.types.is_large_list,),
    _tuples: (pa.types.is_struct,),
    _dicts: (pa.types.is_map,),
    _objects: (),
}


def _bounds(values: Sequence[Any], has_nulls: bool) -> tuple[np.ndarray[Any, np.dtype[np.int64]], pa.Array | None]:
    """Offsets (int64, one more than values) and the null mask of a column of lists or dicts."""
    offsets = np.zeros(len(values) + 1, np.int64)
    sizes: Iterable[int] = (0 if value is None else len(value) for value in values) if has_nulls else map(len, values)
    np.cumsum(np.fromiter(sizes, np.int64, len(values)), out=offsets[1:])
    return offsets, pa.array([value is None for value in values]) if has_nulls else None


def _nested(flat: list[Any], declared: pa.DataType | None, column: str, offsets: Any) -> pa.Array:
    """`from_list` of the items of all lists; an error carries the index of the list, not of the item."""
    try:
        return from_list(flat, declared, column)
    except RecordError as error:
        row = None if error.row is None else int(np.searchsorted(offsets, error.row, side="right")) - 1
        raise type(error)(error.message, row) from None


def _array(values: Sequence[Any], type_: pa.DataType, column: str) -> pa.Array:
    try:
        return pa.array(values, type_)
    except _ARROW_ERRORS:
        for row, value in enumerate(values):
            try:
                pa.array([value], type_)
            except _ARROW_ERRORS as error:
                text = f"column {column!r}: {_named(value)} cannot be held as {display(type_)}"
                raise TypeConflict(f"{text}: {_BOUNDS.get(type_, error)}", row) from None
        raise


def _pickles(values: Sequence[Any], column: str) -> pa.Array:
    stored: list[bytes | None] = []
    for row, value in enumerate(values):
        try:
            stored.append(None if value is None else pickle.dumps(value, PICKLE_PROTOCOL))
        except Exception as error:  # a user's __reduce__ may raise anything
            raise RecordError(f"column {column!r}: {type(value).__name__} cannot be pickled: {error}", row) from None
    return pa.ExtensionArray.from_storage(PICKLE, pa.array(stored, pa.large_binary()))


def _as_declared(array: pa.Array, declared: pa.DataType, values: Sequence[Any], column: str) -> pa.Array:
    """`array` as a declared type of the same family; every value must survive the way there and back."""
    if join_types(declared, array.type) == declared:
        return cast_column(array, declared, column)
    try:
        narrowed = array.cast(declared, safe=True)
        back = narrowed.cast(array.type, safe=True)
        if back.equals(array) or (pa.types.is_floating(declared) and _same_floats(back, array)):
            return narrowed
    except pa.ArrowInvalid:
        pass
    if len(values) > 1:
        for row, value in enumerate(values):
            _only(value, declared, column, row)
    raise TypeConflict(f"column {column!r} is declared {display(declared)}, which cannot hold {_named(values[0])}", 0)


def _only(value: Any, declared: pa.DataType, column: str, row: int) -> None:
    try:
        from_list([value], declared, column)
    except RecordError as error:
        raise type(error)(error.message, row) from None


def _same_floats(a: pa.Array, b: pa.Array) -> bool:
    return np.array_equal(a.to_numpy(zero_copy_only=False), b.to_numpy(zero_copy_only=False), equal_nan=True)


# --- and back ---------------------------------------------------------------------------------------------------------


def to_list(array: pa.Array, row_of: Callable[[tuple[str, ...]], Callable[[Any], Any]]) -> list[Any]:
    """The Python values of a column; `row_of(names)` makes the values of named structs out of tuples.

    Raises `TypeConflict` for timestamps with nanoseconds, which no Python datetime can hold.

    >>> to_list(pa.array([[1], None]), lambda names: tuple)
    [[1], None]
    """
    type_ = array.type
    if isinstance(type_, PickleType):
        return [None if stored is None else pickle.loads(stored) for stored in array.storage.to_pylist()]
    if pa.types.is_struct(type_):
        return _to_tuples(array, row_of)
    if pa.types.is_map(type_) or is_list(type_):
        return _to_lists(array, row_of)
    if (pa.types.is_timestamp(type_) or pa.types.is_duration(type_)) and type_.unit == "ns":
        return _in_microseconds(array)
    plain_numbers = not array.null_count and (pa.types.is_integer(type_) or pa.types.is_floating(type_))
    values: list[Any] = array.to_numpy().tolist() if plain_numbers else array.to_pylist()  # the former is 5 x faster
    return values


def _to_tuples(array: pa.Array, row_of: Callable[[tuple[str, ...]], Callable[[Any], Any]]) -> list[Any]:
    names = tuple(field.name for field in array.type)
    columns = [to_list(array.field(i), row_of) for i in range(len(names))]
    make = tuple if names == tuple(map(str, range(len(names)))) else row_of(names)
    tuples = list(map(make, zip(*columns, strict=True))) if columns else [make(())] * len(array)
    if not array.null_count:
        return tuples
    return [value if valid else None for value, valid in zip(tuples, array.is_valid().to_pylist(), strict=True)]


def _to_lists(array: pa.Array, row_of: Callable[[tuple[str, ...]], Callable[[Any], Any]]) -> list[Any]:
    if not (pa.types.is_map(array.type) or pa.types.is_large_list(array.type)):
        array = array.cast(pa.large_list(array.type.value_type))
    offsets, start, stop = list_bounds(array)
    bounds = offsets.to_pylist()
    if pa.types.is_map(array.type):
        keys = to_list(array.keys[start:stop], row_of)
        items = to_list(array.items[start:stop], row_of)
        found: list[Any] = [dict(zip(keys[a:b], items[a:b], strict=True)) for a, b in pairwise(bounds)]
    else:
        inner = to_list(array.values[start:stop], row_of)
        found = [inner[a:b] for a, b in pairwise(bounds)]
    if not array.null_count:
        return found
    return [value if valid else None for value, valid in zip(found, array.is_valid().to_pylist(), strict=True)]


def _in_microseconds(array: pa.Array) -> list[Any]:
    type_ = array.type
    micros = pa.timestamp("us", type_.tz) if pa.types.is_timestamp(type_) else pa.duration("us")
    try:
        values: list[Any] = array.cast(micros, safe=True).to_pylist()
    except pa.ArrowInvalid as error:
        raise TypeConflict(f"{display(type_)} in nanoseconds has no Python value; cast it first: {error}") from None
    return values
