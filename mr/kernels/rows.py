"""Records between Python and Arrow: what a user's function is given and what becomes of what it returns.

A `Shape` says of which kind and columns the records of an operator are. It is fixed by `names=`, else by the
function's return annotation, else by the first record, and never changes within a dataset.
"""

from __future__ import annotations

import collections.abc as abc
import dataclasses
import functools
import typing
from collections import namedtuple
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
from msgspec import Struct

from mr.batch import Kind, kind_of, with_kind
from mr.errors import PlanError, RecordError
from mr.kernels.columns import from_list, to_list
from mr.kernels.declared import arrow_type, fields_of
from mr.kernels.types import PICKLE

Names = str | Sequence[str] | Mapping[str, Any]


class Row(tuple[Any, ...]):
    """A record of named columns: a tuple whose items are also `row.host` and `row["any name"]`.

    >>> row = row_class(("host", "n"))(("a", 1))
    >>> row.host, row["n"], row[0], row == ("a", 1)
    ('a', 1, 'a', True)
    >>> row._replace(n=2)
    Row(host='a', n=2)
    """

    __slots__ = ()
    _fields: typing.ClassVar[tuple[str, ...]] = ()
    _index: typing.ClassVar[dict[str, int]] = {}

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            try:
                return tuple.__getitem__(self, self._index[key])
            except KeyError:
                raise KeyError(f"no column {key!r}; there are {', '.join(self._fields)}") from None
        return tuple.__getitem__(self, key)

    def __getattr__(self, name: str) -> Any:  # reached for unknown names only
        raise AttributeError(f"no column {name!r}; there are {', '.join(self._fields)}")

    def _asdict(self) -> dict[str, Any]:
        """The columns as a dict, in their order."""
        return dict(zip(self._fields, self, strict=True))

    def _replace(self, **changes: Any) -> Row:
        """A copy with some columns changed. Raises `ValueError` for a name that is no column."""
        unknown = changes.keys() - self._index.keys()
        if unknown:
            raise ValueError(f"no column {', '.join(sorted(unknown))}; there are {', '.join(self._fields)}")
        return type(self)(changes.get(name, value) for name, value in zip(self._fields, self, strict=True))

    def __repr__(self) -> str:
        return f"Row({', '.join(f'{name}={value!r}' for name, value in zip(self._fields, self, strict=True))})"

    def __reduce__(self) -> tuple[object, ...]:
        return _make_row, (self._fields, tuple(self))


def _make_row(names: tuple[str, ...], values: tuple[Any, ...]) -> Row:
    return row_class(names)(values)


@functools.lru_cache(maxsize=1024)
def row_class(names: tuple[str, ...]) -> type[Row]:
    """The `Row` class of these columns; call it with one iterable of their values. Cached.

    >>> row_class(("a b",))([1])["a b"]
    1
    """
    makers: Callable[..., type] = namedtuple  # named by place: column names may be anything
    kept = makers("kept", [f"c{i}" for i in range(len(names))])  # without the class its dict may be cleared
    getters = vars(kept)  # in C, past our slow __getitem__
    own = {"__slots__": (), "__match_args__": names, "_fields": names, "_index": {n: i for i, n in enumerate(names)}}
    columns = {name: getters[f"c{i}"] for i, name in enumerate(names) if not hasattr(Row, name) or name[0] != "_"}
    return type("Row", (Row,), {**columns, **own})


class Shape(Struct, frozen=True):
    """Kind, column names and, where known, column types of an operator's records.

    `declared`: the names come from `names=`, so that the field names of records give way to them.
    """

    kind: Kind
    names: tuple[str, ...]
    types: tuple[pa.DataType | None, ...]
    declared: bool = False

    def schema(self) -> pa.Schema | None:
        """The schema of every batch of this shape; None where only the data tells some type."""
        if None in self.types:
            return None
        return with_kind(pa.schema(list(zip(self.names, self.types, strict=True))), self.kind)


# --- the shape of what a function returns -----------------------------------------------------------------------------


def shape_of(names: Names | None, fn: Callable[..., Any], yields: bool) -> Shape | None:
    """The shape that `names=` or the return annotation of `fn` fixes; None where only the first record will tell.

    `yields`: `fn` returns an iterable of records (flat_map), not one record.
    Raises `PlanError` for names that are empty, repeated or no strings, and for a type that is none.

    >>> def parse(line) -> tuple[str, int]: ...
    >>> shape_of(None, parse, False).names, shape_of({"n": int}, len, False).types
    (('key', 'value'), (DataType(int64),))
    """
    result = _result_type(fn, yields)
    if names is None:
        return _annotated(result)
    if isinstance(names, str):
        return Shape("values", _checked([names]), (_annotated_type(result),), declared=True)
    columns = _checked(names)
    annotated = _annotated(result)
    types: Sequence[pa.DataType | None] = (None,) * len(columns)
    if isinstance(names, abc.Mapping):
        types = [arrow_type(declared) for declared in names.values()]
    elif annotated is not None and len(annotated.names) == len(columns) and fields_of(result) is None:
        types = annotated.types  # of a tuple, or of the one value that fills the one column
    return Shape("rows", columns, tuple(types), declared=True)


def _checked(names: Iterable[Any]) -> tuple[str, ...]:
    columns = tuple(names) if isinstance(names, abc.Iterable) else (names,)
    if not columns or not all(isinstance(name, str) and name for name in columns):
        raise PlanError(f"names={list(columns)!r}: column names are strings that are not empty, at least one")
    if len(set(columns)) < len(columns):
        raise PlanError(f"names={list(columns)!r}: a column name is repeated")
    return columns


def _result_type(fn: Callable[..., Any], yields: bool) -> Any:
    """The annotated type of one record, `Any` where nothing is said."""
    while isinstance(fn, functools.partial):
        fn = fn.func
    if isinstance(fn, type):
        calls = [base.__dict__["__call__"] for base in fn.__mro__ if "__call__" in base.__dict__]
        if not calls:
            return Any if yields else fn  # a converter such as `int`, or the class of the record itself
        fn = calls[0]
    elif not hasattr(fn, "__annotations__"):
        fn = getattr(type(fn), "__call__", fn)  # noqa: B004 -- its annotations are wanted, not whether it can be called
    try:
        result = typing.get_type_hints(fn).get("return", Any)
    except (NameError, TypeError, AttributeError):  # builtins, and forward references only a type checker can follow
        return Any
    return _without_none(_item_type(result) if yields else result)


def _item_type(result: Any) -> Any:
    result = _without_none(result)
    origin, args = typing.get_origin(result), typing.get_args(result)
    if origin is tuple:
        return args[0] if len(args) == 2 and args[1] is Ellipsis else Any
    one_item = isinstance(origin, type) and issubclass(origin, abc.Iterable) and not issubclass(origin, abc.Mapping)
    return args[0] if one_item and args else Any


def _without_none(result: Any) -> Any:
    if result is type(None):
        return Any
    members = [arg for arg in typing.get_args(result) if arg is not type(None)]
    return members[0] if len(members) == 1 and type(None) in typing.get_args(result) else result


def _annotated_type(result: Any) -> pa.DataType | None:
    """The column type of an annotation; None for classes whose values tell more than the annotation does."""
    try:
        type_ = arrow_type(result)
    except PlanError:
        return None
    return None if type_ == PICKLE else type_


def _annotated(result: Any) -> Shape | None:
    fields = fields_of(result)
    if fields is not None:
        if not fields:
            return None
        return Shape("rows", tuple(fields), tuple(_annotated_type(field) for field in fields.values()))
    if typing.get_origin(result) is tuple:
        args = typing.get_args(result)
        if not args or Ellipsis in args or args == ((),):
            return None
        return Shape("rows", _tuple_columns(len(args)), tuple(_annotated_type(arg) for arg in args))
    if result is dict or typing.get_origin(result) is dict:
        return None  # one column for each key of the first record
    type_ = _annotated_type(result)
    if type_ is None and result is not list and typing.get_origin(result) is not list:
        return None
    return Shape("values", ("value",), (type_,))


def _tuple_columns(width: int) -> tuple[str, ...]:
    return ("key", "value") if width == 2 else tuple(f"c{i}" for i in range(width))


# --- from Python ------------------------------------------------------------------------------------------------------


def from_python(records: Sequence[Any], shape: Shape | None) -> tuple[pa.RecordBatch, Shape | None]:
    """One batch of `records`, and the shape to pass with the next: `shape`, or else what the first record says.

    Without records and shape the batch has no columns and the shape stays None. Types that the shape leaves open
    are those of this batch's values: join batches with `types.unify` and `types.cast`.

    Raises `RecordError` (its `row` is the record's index) for a record that does not have the columns of the
    shape or cannot travel, and `TypeConflict` where a value's type does not fit its column.

    >>> batch, shape = from_python([("a", 1), ("b", 2)], None)
    >>> batch.to_pydict(), shape.kind
    ({'key': ['a', 'b'], 'value': [1, 2]}, 'rows')
    """
    if shape is None:
        shape = _first_shape(records)
    if shape is None:
        return pa.RecordBatch.from_arrays([], names=[]), None
    columns = [records] if shape.kind == "values" else _columns(records, shape)
    arrays = [from_list(c, t, n) for c, t, n in zip(columns, shape.types, shape.names, strict=True)]
    schema = with_kind(pa.schema([(n, array.type) for n, array in zip(shape.names, arrays, strict=True)]), shape.kind)
    return pa.RecordBatch.from_arrays(arrays, schema=schema), shape


def _first_shape(records: Sequence[Any]) -> Shape | None:
    """The shape that the first record which is not None has."""
    if not records:
        return None
    row, record = next(((row, record) for row, record in enumerate(records) if record is not None), (0, None))
    names = _field_names(type(record))
    if isinstance(record, dict):
        names = tuple(record)
    elif names is None and type(record) is tuple:
        names = _tuple_columns(len(record))
    if names is None:
        return Shape("values", ("value",), (None,))
    if not names or not all(type(name) is str and name for name in names):
        cure = 'columns are named by non-empty strings; use names="value" to keep such a record as one value'
        raise RecordError(f"the record {record!r} has no usable column names: {cure}", row)
    return Shape("rows", names, (None,) * len(names))


def _field_names(kind: type) -> tuple[str, ...] | None:
    """Column names of a record class; None for plain tuples, dicts and values."""
    if issubclass(kind, tuple):
        return getattr(kind, "_fields", None)
    if dataclasses.is_dataclass(kind):
        return tuple(field.name for field in dataclasses.fields(kind))
    return None


def _columns(records: Sequence[Any], shape: Shape) -> Sequence[Sequence[Any]]:
    """The records' values column by column: at once where all records are alike, else record by record."""
    kinds = set(map(type, records))
    if all(issubclass(kind, dict) for kind in kinds) and set().union(*records) <= set(shape.names):
        return [[record.get(name) for record in records] for name in shape.names]
    if all(kind is tuple or (issubclass(kind, tuple) and _agrees(_field_names(kind), shape)) for kind in kinds):
        columns = _transposed(records, len(shape.names))
        if columns is not None:
            return columns
    return list(zip(*(_values(record, row, shape) for row, record in enumerate(records)), strict=True))


def _transposed(tuples: Sequence[tuple[Any, ...]], width: int) -> Sequence[Sequence[Any]] | None:
    """Tuples as columns; None unless each has `width` items."""
    try:
        if width == 2:  # what mappers emit: unpacking is twice as fast as zip
            return [[key for key, _ in tuples], [value for _, value in tuples]]
        columns = list(zip(*tuples, strict=True))
    except ValueError:
        return None
    return columns if len(columns) == width else None


def _agrees(fields: tuple[str, ...] | None, shape: Shape) -> bool:
    """Whether records with these names may be taken by position: never where that would swap columns."""
    return fields == shape.names or (fields is not None and shape.declared and set(fields) != set(shape.names))


def _values(record: Any, row: int, shape: Shape) -> Sequence[Any]:
    """The values of one record, one for each column of the shape."""
    columns, fields = ", ".join(shape.names), _field_names(type(record))
    if isinstance(record, dict):
        unknown = [repr(key) for key in record if key not in shape.names]
        if unknown:
            raise RecordError(f"a record has the new key {', '.join(unknown)}; columns are {columns}; use names=", row)
        return [record.get(name) for name in shape.names]
    if fields is not None:
        if not _agrees(fields, shape):
            raise RecordError(f"a record has the columns {', '.join(fields)}; expected are {columns}; use names=", row)
        values = record if isinstance(record, tuple) else [getattr(record, name) for name in fields]
    elif type(record) is tuple or (type(record) is list and shape.declared and len(shape.names) > 1):
        values = record
    elif shape.declared and len(shape.names) == 1:
        values = (record,)
    else:
        cure = "; leave it out with flat_map or filter" if record is None else "; return a tuple, or a dict"
        raise RecordError(f"a record is {type(record).__name__} {record!r:.60}, columns are {columns}{cure}", row)
    if len(values) != len(shape.names):
        raise RecordError(f"a record has {len(values)} items, there are {len(shape.names)} columns: {columns}", row)
    return values


# --- to Python --------------------------------------------------------------------------------------------------------


def to_python(data: pa.RecordBatch) -> list[Any]:
    """The records of a batch: plain values or `Row`s, as the kind in the schema says.

    Raises `TypeConflict` for timestamps with nanoseconds, which no Python datetime can hold.

    >>> to_python(pa.record_batch({"n": [1, None]}))
    [Row(n=1), Row(n=None)]
    """
    columns = [to_list(column, row_class) for column in data.columns]
    if kind_of(data.schema) == "values":
        return columns[0]
    make = row_class(tuple(data.schema.names))
    return list(map(make, zip(*columns, strict=True))) if columns else [make(())] * data.num_rows
