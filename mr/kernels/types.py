"""Types of columns: from all of Arrow's to the few that travel between operators.

Operators exchange plain columns only: large_string, large_binary and large_list instead of their small, view and
dictionary forms, and nothing that Polars would give back as something else, so that any two batches of one dataset can
be concatenated. Python objects that Arrow cannot hold
travel as the extension type `mr.pickle`, between tasks only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.batch import kind_of, with_kind
from mr.errors import TypeConflict

DECIMAL: Final = pa.decimal128(38, 18)
"""One decimal type for all of them: a scale taken from the data would differ from batch to batch."""


_DIGITS_MAX: Final = 38
"""Of a decimal: Polars has no more."""


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


def plain(type_: pa.DataType) -> pa.DataType:
    """The form in which a type travels, also when nested: small, view and dictionary encodings are widened, and so is
    what Polars has in a wider form only; an extension type is its storage.

    >>> plain(pa.list_(pa.dictionary(pa.int8(), pa.string()))), plain(pa.timestamp("s"))
    (LargeListType(large_list<item: large_string>), TimestampType(timestamp[ms]))
    """
    t = pa.types
    if isinstance(type_, pa.BaseExtensionType):
        return type_ if isinstance(type_, PickleType) else plain(type_.storage_type)
    if t.is_string(type_) or t.is_string_view(type_):
        return pa.large_string()
    if t.is_binary(type_) or t.is_binary_view(type_) or t.is_fixed_size_binary(type_):
        return pa.large_binary()
    if t.is_dictionary(type_) or t.is_run_end_encoded(type_):
        return plain(type_.value_type)
    if t.is_decimal(type_) and type_.precision <= _DIGITS_MAX:
        return pa.decimal128(type_.precision, type_.scale)
    if t.is_time(type_) or t.is_date64(type_):
        return pa.time64("us") if t.is_time(type_) else pa.date32()
    if (t.is_timestamp(type_) or t.is_duration(type_)) and type_.unit == "s":
        return pa.timestamp("ms", type_.tz) if t.is_timestamp(type_) else pa.duration("ms")
    if t.is_map(type_):
        return pa.map_(plain(type_.key_type), plain(type_.item_type))
    if is_list(type_):
        return pa.large_list(plain(type_.value_type))
    if t.is_struct(type_):
        return pa.struct([(field.name, plain(field.type)) for field in type_])
    return type_


def homeless(type_: pa.DataType) -> pa.DataType | None:
    """The first type in `type_` whose values no operator takes, at any depth: unions, intervals of months, structs of
    nothing, decimals of more than 38 digits.

    >>> homeless(pa.list_(pa.month_day_nano_interval()))
    DataType(month_day_nano_interval)
    """
    if isinstance(type_, pa.BaseExtensionType):
        return homeless(type_.storage_type)
    if pa.types.is_dictionary(type_) or pa.types.is_run_end_encoded(type_):
        return homeless(type_.value_type)
    large = pa.types.is_decimal(type_) and type_.precision > _DIGITS_MAX
    if large or pa.types.is_union(type_) or type_ in (pa.month_day_nano_interval(), pa.struct([])):
        return type_
    inner = (homeless(type_.field(i).type) for i in range(type_.num_fields))
    return next((found for found in inner if found is not None), None)


def decoded(array: pa.Array) -> pa.Array:
    """`array` without dictionary, run-end or extension type of its own; its values may still be of small or view types.

    >>> decoded(pa.array(["a"]).dictionary_encode()).type
    DataType(string)
    """
    if isinstance(array, pa.ExtensionArray) and not isinstance(array.type, PickleType):
        return decoded(array.storage)
    if pa.types.is_dictionary(array.type):
        return decoded(array.dictionary_decode())
    if pa.types.is_run_end_encoded(array.type):
        return decoded(pc.run_end_decode(array))
    return array


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
    """`converted`, with an error that a user can read: raises `TypeConflict` naming `column`.

    >>> cast_column(pa.array([None, None]), pa.large_list(pa.int64()), "xs").type
    LargeListType(large_list<item: int64>)
    """
    try:
        return converted(array, type_)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        kinds = f"{display(array.type)} and {display(type_)}"
        raise TypeConflict(f"column {column!r} holds {kinds} values that differ when converted: {error}") from None


def converted(array: pa.Array, type_: pa.DataType) -> pa.Array:
    """`array` as `type_` (null < T, int64 < float64, encodings that `plain` widens), at any depth.

    Raises `pa.ArrowInvalid` where a value would change, `pa.ArrowNotImplementedError` where there is no way.

    >>> converted(pa.array(["a"]).dictionary_encode(), pa.large_string()).to_pylist()
    ['a']
    """
    if array.type.equals(type_):
        return array
    if pa.types.is_null(array.type):
        return nulls(len(array), type_)
    array = decoded(array)
    if pa.types.is_struct(type_) and pa.types.is_struct(array.type):
        inner = [converted(child, field.type) for child, field in zip(array.flatten(), type_, strict=True)]
        return pa.StructArray.from_arrays(inner, fields=list(type_), mask=array.is_null())
    if pa.types.is_large_list(type_) and is_list(array.type):  # pyarrow's own cast of a list view loses items
        sizes = pc.if_else(array.is_valid(), pc.list_value_length(array), 0).to_numpy(zero_copy_only=False)
        offsets = pa.array(np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes, dtype=np.int64)]))
        values = converted(array.flatten(), type_.value_type)
        return pa.LargeListArray.from_arrays(offsets, values, type=type_, mask=array.is_null())
    if pa.types.is_map(type_) and pa.types.is_map(array.type):
        offsets, start, stop = list_bounds(array)
        keys = converted(array.keys[start:stop], type_.key_type)
        items = converted(array.items[start:stop], type_.item_type)
        return pa.MapArray.from_arrays(offsets, keys, items, type=type_, mask=array.is_null())
    return array if array.type.equals(type_) else array.cast(type_, safe=True)


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
