"""JSON lines: one object a line, read under a schema that is inferred once and pinned."""

from __future__ import annotations

import datetime as dt
import decimal
import json
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Any, BinaryIO, ClassVar, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.json as pa_json

from mr.batch import Batch, with_kind
from mr.errors import CorruptInput, InputError, PlanError, TypeConflict
from mr.formats.base import Cut, Reader, Writer
from mr.formats.blocks import BOM, Overlong, is_utf8, needed, origins_of, record_blocks, reject_too_long, whole_lines
from mr.formats.misfits import Lines, Parser, parse_lines
from mr.kernels.escapes import escaped_columns
from mr.kernels.frames import column
from mr.kernels.lines import line_bounds
from mr.kernels.rows import Row, to_python
from mr.kernels.types import cast_column, display, holds_objects, is_list, join_types

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

INFER_BYTES: Final = 1 << 20
"""Types are inferred from so many bytes of the first file."""


def infer_json(head: bytes, path: str, declared: Mapping[str, pa.DataType] | None = None) -> pa.Schema:
    """The schema of a file of JSON objects from its first `INFER_BYTES`, or all of it if it is shorter.

    Columns are the keys in the order of their first use; nested objects become structs, arrays lists. `declared`
    fixes the types of some columns and adds those that the head lacks. Lines that are no objects are passed over:
    the reader will name them.

    Raises `InputError` naming `path` and column where values of one column have no common type, `CorruptInput` where
    all lines are passed over and nothing is declared.

    >>> infer_json(b'{"a": 1}\\n{"a": 2.5, "b": ["x"]}\\n', "p.json").types
    [DataType(double), LargeListType(large_list<item: large_string>)]
    """
    if len(head) >= INFER_BYTES:
        head = head[: whole_lines(head)]
    lines = head.removeprefix(BOM).split(b"\n")
    records = [record for record in map(_object, lines) if record is not None]
    if not records and not declared and any(line.strip() for line in lines):
        raise CorruptInput(path, 0, "no line at its beginning is a JSON object; are these JSON lines?")
    names = dict.fromkeys(chain(chain.from_iterable(records), declared or ()))
    types = {name: (declared or {}).get(name) or _infer(_pick(records, name), name, path) for name in names}
    return with_kind(pa.schema(list(types.items())), "rows")


def _object(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) else None


def _pick(records: Sequence[Mapping[str, Any]], name: str) -> list[Any]:
    return [record.get(name) for record in records]


_JSON_TYPES: Final = {bool: pa.bool_(), int: pa.int64(), float: pa.float64(), str: pa.large_string()}


def _infer(values: Sequence[Any], column: str, path: str) -> pa.DataType:
    found = pa.null()
    kinds = {type(value): value for value in values if value is not None}
    for kind in kinds:
        some = [value for value in values if type(value) is kind]
        if kind is list:
            type_ = pa.large_list(_infer(list(chain.from_iterable(some)), f"{column}[]", path))
        elif kind is dict:
            names = dict.fromkeys(chain.from_iterable(some))
            type_ = pa.struct([(name, _infer(_pick(some, name), f"{column}.{name}", path)) for name in names])
        else:
            type_ = _JSON_TYPES[kind]
        joined = join_types(found, type_)
        if joined is None:
            raise InputError(f"{path}: column {column!r} holds {display(found)} and {display(type_)}; read it as text")
        found = joined
    return found


# --- reading ----------------------------------------------------------------------------------------------------------


class JsonReader(Reader, frozen=True):
    """JSON objects, one a line, as rows of the columns `pinned`; see `infer_json`.

    A key that a line lacks is null. Lines that are no object, have a key that is no column or a value that does not
    fit are rejects. Dates and times are read from ISO strings, decimals from numbers or strings.

    >>> JsonReader(pa.schema([("n", pa.int64())])).schema().names
    ['n']
    """

    pinned: pa.Schema
    cut: ClassVar[Cut] = "lines"

    def __post_init__(self) -> None:
        for field in self.pinned:
            inner_time = _holds(field.type, pa.types.is_time) and not pa.types.is_time(field.type)
            if _holds(field.type, pa.types.is_map) or inner_time or holds_objects(field.type):
                cure = "declare another type, or use read_text and json.loads"
                raise PlanError(f"read_json: column {field.name!r} cannot be {display(field.type)}: {cure}")

    def schema(self) -> pa.Schema:
        return with_kind(self.pinned, "rows")

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        parser = Parser(self._parse, lambda raw: not raw.strip(), self._blame)
        wanted = needed(self.pinned, columns)
        schema = with_kind(pa.schema([self.pinned.field(name) for name in wanted]), "rows")
        number = 0

        def too_long(at: int, raw: bytes) -> None:
            nonlocal number
            reject_too_long(rejects, at, number, raw)
            number += 1

        for data, offset in record_blocks(piece, whole_lines, Overlong(too_long)):
            lines = Lines(data, *line_bounds(data))
            places = origins_of(lines.starts + offset, number)
            number += len(lines.starts)
            tables, kept = [], []
            for parsed in parse_lines(lines, parser, np.flatnonzero(lines.ends > lines.starts)):
                if parsed.table is not None:
                    tables.append(parsed.table.select(wanted))
                    kept.append(parsed.numbers)
                else:
                    rejects(places[parsed.numbers], [lines.raw(int(parsed.numbers[0]))], [parsed.error])
            if tables:
                batch = pa.concat_tables(tables).combine_chunks().to_batches()[0]
                origins = places[np.concatenate(kept)] if track else None
                yield Batch(batch.replace_schema_metadata(schema.metadata), origins)

    def _parse(self, data: bytes) -> pa.Table:
        if not is_utf8(data):  # Arrow's parser does not look
            raise pa.ArrowInvalid("not UTF-8")
        table = _read_json(data, self.pinned)
        arrays = [_typed(table.column(field.name), field) for field in self.pinned]
        return pa.Table.from_arrays(arrays, schema=pa.schema([(field.name, field.type) for field in self.pinned]))

    def _blame(self, raw: bytes) -> str:
        try:
            record = json.loads(raw)
        except ValueError as error:
            return f"is not one JSON value a line: {error}"
        if not isinstance(record, dict):
            return f"is no JSON object but {type(record).__name__}; each line must be an object"
        for name, value in record.items():
            if name not in self.pinned.names:
                return f"the key {name!r} is no column; declare schema={{{name!r}: {type(value).__name__}}}"
            field = self.pinned.field(name)
            try:
                _typed(_read_json(json.dumps({name: value}).encode(), pa.schema([field])).column(0), field)
            except (pa.ArrowInvalid, UnicodeDecodeError):
                shown = json.dumps(value, ensure_ascii=False)
                cure = f"declare schema={{{name!r}: {type(value).__name__}}}"
                return f"column {name!r}: {shown:.60} is not {display(field.type)}; {cure}"
        return "does not parse as one record"


def _read_json(data: bytes, schema: pa.Schema) -> pa.Table:
    return pa_json.read_json(
        pa.BufferReader(data),
        read_options=pa_json.ReadOptions(use_threads=False, block_size=len(data) + 1),
        parse_options=pa_json.ParseOptions(
            explicit_schema=pa.schema([(field.name, _parsed_as(field.type)) for field in schema]),
            unexpected_field_behavior="error",
        ),
    )


def _parsed_as(type_: pa.DataType) -> pa.DataType:
    """The type to ask Arrow's JSON parser for: it knows neither large lists nor dates."""
    if pa.types.is_large_list(type_):
        return pa.list_(_parsed_as(type_.value_type))
    if pa.types.is_struct(type_):
        return pa.struct([(field.name, _parsed_as(field.type)) for field in type_])
    as_text = pa.types.is_date(type_) or pa.types.is_time(type_) or pa.types.is_large_binary(type_)
    return pa.large_string() if as_text else type_


def _typed(column: pa.ChunkedArray, field: pa.Field) -> pa.Array:
    array = column.combine_chunks()
    if pa.types.is_time(field.type):  # Arrow casts texts to timestamps, and these to times
        day, nothing = (pa.scalar(text, pa.large_string()) for text in ("1970-01-01T", ""))
        moments = pc.binary_join_element_wise(day, array, nothing)
        return moments.cast(pa.timestamp("us")).cast(field.type)
    try:
        return cast_column(array, field.type, field.name)
    except TypeConflict as error:
        raise pa.ArrowInvalid(str(error)) from None


def _holds(type_: pa.DataType, check: Any) -> bool:
    return bool(check(type_)) or any(_holds(type_.field(i).type, check) for i in range(type_.num_fields))


# --- writing ----------------------------------------------------------------------------------------------------------


class JsonWriter(Writer, frozen=True):
    """One JSON object a line, UTF-8; values are written as {"value": ...}.

    Dates and times are ISO strings, decimals strings, NaN and infinities null (JSON has no such numbers). Tuples are
    objects with the keys "0", "1", ..., as which they are read back. Bytes are text with escapes, see
    `mr.kernels.escapes`; within lists, tuples and dicts they are refused.
    """

    extension: ClassVar[str] = ".jsonl"
    also: ClassVar[tuple[str, ...]] = (".json",)

    def check(self, schema: pa.Schema) -> None:
        if not len(schema):
            raise PlanError("write_json: there are no columns; state them with names=")
        for field in schema:
            inner_bytes = not pa.types.is_large_binary(field.type) and _holds(field.type, pa.types.is_large_binary)
            if inner_bytes or holds_objects(field.type) or _holds(field.type, pa.types.is_duration):
                cure = "turn it into str or numbers first, or use write_parquet"
                raise PlanError(
                    f"write_json: column {field.name!r} is {display(field.type)}, which JSON cannot hold; {cure}"
                )
            if _holds(field.type, lambda t: pa.types.is_map(t) and t.key_type not in (pa.large_string(), pa.null())):
                cure = "make its keys str first, or use write_parquet"
                raise PlanError(f"write_json: column {field.name!r} is a dict whose keys are not str; {cure}")

    def write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, out: BinaryIO) -> int:
        through_python = any(type_.num_fields and not _encodable(type_) for type_ in schema.types)
        rows = 0
        for batch in batches:
            if batch.num_rows:
                plain = escaped_columns(batch)
                out.write(_nested_lines(plain) if through_python else _flat_lines(plain))
                rows += batch.num_rows
        return rows


def _encodable(type_: pa.DataType) -> bool:
    """Whether Polars encodes nested values of `type_` as we do: it has no maps, and its own spelling of times."""
    if pa.types.is_map(type_):
        return False
    if pa.types.is_struct(type_):
        return all(_encodable(field.type) for field in type_)
    if is_list(type_):
        return _encodable(type_.value_type)
    checks = (pa.types.is_large_string, pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)
    return any(check(type_) for check in checks)


def _flat_lines(batch: pa.RecordBatch) -> bytes:
    frame = pl.DataFrame(pl.from_arrow(batch))
    fields = [_flat(column(name), type_) for name, type_ in frame.schema.items()]
    lines = frame.select(pl.struct(fields).struct.json_encode().str.join("\n")).item()
    return f"{lines}\n".encode()


def _flat(column: pl.Expr, type_: pl.DataType) -> pl.Expr:
    if type_ == pl.Time:
        return column.dt.to_string("%H:%M:%S%.6f")
    if type_ in (pl.Datetime, pl.Date):
        return column.dt.to_string("iso:strict")
    return column.cast(pl.String) if type_ == pl.Decimal else column


def _nested_lines(batch: pa.RecordBatch) -> bytes:
    """Values that are not `_encodable`, through Python."""
    rows = to_python(batch.replace_schema_metadata(None))
    lines = [json.dumps(_jsonable(row), ensure_ascii=False, separators=(",", ":")) for row in rows]
    return "".join(f"{line}\n" for line in lines).encode()


def _jsonable(value: Any) -> Any:
    if isinstance(value, Row):
        return {name: _jsonable(item) for name, item in zip(value._fields, value, strict=True)}
    if isinstance(value, dict):
        return {key: _jsonable(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return {str(place): _jsonable(item) for place, item in enumerate(value)}
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, float):
        return value if value - value == 0.0 else None
    if isinstance(value, dt.datetime | dt.time):
        return value.isoformat(timespec="microseconds")
    if isinstance(value, dt.date):
        return value.isoformat()
    return str(value) if isinstance(value, decimal.Decimal) else value
