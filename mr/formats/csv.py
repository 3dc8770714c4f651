"""CSV: a schema is inferred once and pinned, then every line fits it or is named.

Quotes follow RFC 4180: a field may begin with a quote, inside it two quotes are one; a quote elsewhere is itself. An
unquoted empty field is null, `""` is an empty text.
"""

from __future__ import annotations

import csv
import functools
import re
from collections.abc import Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.csv as pa_csv

from mr.batch import Batch, Origins, with_kind
from mr.errors import CorruptInput, InputError, PlanError
from mr.formats.base import Cut, Reader, Writer
from mr.formats.blocks import BOM, Overlong, is_utf8, needed, record_blocks, reject_too_long
from mr.formats.misfits import Lines, Parser, parse_lines
from mr.kernels.escapes import escaped_columns
from mr.kernels.frames import column
from mr.kernels.lines import Offsets, line_bounds
from mr.kernels.types import display, holds_objects, is_list

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

INFER_BYTES: Final = 1 << 20
"""Types are inferred from so many bytes of the first file."""


def infer_csv(
    head: bytes,
    path: str,
    header: bool = True,
    delimiter: str = ",",
    null_values: tuple[str, ...] = ("",),
    quoted_newlines: bool = False,
    declared: Mapping[str, pa.DataType] | None = None,
) -> pa.Schema:
    """The schema of a CSV file from its first `INFER_BYTES`, or all of it if it is shorter.

    `declared` fixes the types of some columns. Without a header the columns are those of `declared`, or c0, c1, ...
    Columns without a value are str, and so are numbers with leading zeros, which are rather codes.

    Raises `InputError` naming `path` for a header that is empty, repeats a name or is no text, `PlanError` for a
    declared column that the header lacks.

    >>> infer_csv(b"zip,n\\n01234,1\\n", "p.csv").types
    [DataType(large_string), DataType(int64)]
    """
    head = head.removeprefix(BOM)
    if len(head) >= INFER_BYTES - 3:
        head = head[: _whole_records(head, quoted_newlines)]
    names, body = _names(head, path, header, delimiter, declared or {}, quoted_newlines)
    unknown = [name for name in declared or {} if name not in names]
    if unknown:
        raise PlanError(f"schema= names the column {unknown[0]!r}; {path} has {', '.join(names)}")
    found = _inferred(body, names, delimiter, null_values, quoted_newlines) if body.strip() else {}
    types = {name: found.get(name, pa.large_string()) for name in names} | dict(declared or {})
    return with_kind(pa.schema(list(types.items())), "rows")


def _names(
    head: bytes, path: str, header: bool, delimiter: str, declared: Mapping[str, pa.DataType], quoted_newlines: bool
) -> tuple[list[str], bytes]:
    """The column names, and what of `head` is left for the records."""
    starts, ends = _bounds(head, quoted_newlines)
    if header and len(ends):
        _check_text(head[: ends[0]], path)
    first = _fields(head[: ends[0]], delimiter) if len(ends) else []
    if not header:
        return list(declared) or [f"c{i}" for i in range(len(first))], head
    if not first or not all(first) or len(set(first)) < len(first):
        cure = "each column needs its own name; with header=False they are c0, c1, ..."
        raise InputError(f"{path}, line 1: the header is {delimiter.join(first)!r}: {cure}")
    return first, head[starts[1] :] if len(starts) > 1 else b""


def _check_text(header: bytes, path: str) -> None:
    """Raise CorruptInput for a header that is no text: such a file is something else."""
    if b"\0" in header or not is_utf8(header):
        raise CorruptInput(path, 0, f"the header is no text in UTF-8: {_shown(header)}; is this CSV?")


def _fields(line: bytes, delimiter: str) -> list[str]:
    text = line.decode(errors="replace").replace("\r", " ")  # which Python's parser refuses
    return next(csv.reader([text], delimiter=delimiter), [])


def _inferred(
    body: bytes, names: list[str], delimiter: str, null_values: tuple[str, ...], quoted_newlines: bool
) -> dict[str, pa.DataType]:
    def read(types: Mapping[str, pa.DataType]) -> pa.Table:
        skip_ragged = partial(_skip, "skip")
        return _read_csv(body, names, types, delimiter, null_values, quoted_newlines, skip_ragged)

    try:
        texts = read(dict.fromkeys(names, pa.large_string()))
        found = read({})
    except pa.ArrowInvalid:  # bytes that are not UTF-8 and the like: the reader will name the line
        return {}
    return {name: _travelling(found.schema.field(name).type, texts[name]) for name in names}


def _skip(answer: str, row: object) -> str:
    return answer


def _travelling(type_: pa.DataType, texts: pa.ChunkedArray) -> pa.DataType:
    if pa.types.is_integer(type_):
        codes = pl.from_arrow(texts).str.contains(r"^\s*[+-]?0[0-9]")  # type: ignore[union-attr]
        return pa.large_string() if codes.any() else pa.int64()
    if pa.types.is_timestamp(type_):
        return pa.timestamp("us", type_.tz)
    if pa.types.is_time(type_):
        return pa.time64("us")
    kept = pa.types.is_floating(type_) or pa.types.is_boolean(type_) or pa.types.is_date(type_)
    return type_ if kept else pa.large_string()


def _read_csv(
    data: bytes,
    names: list[str],
    types: Mapping[str, pa.DataType],
    delimiter: str,
    null_values: tuple[str, ...],
    quoted_newlines: bool,
    on_ragged: object = None,
) -> pa.Table:
    return pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(column_names=names, use_threads=False, block_size=len(data) + 1),
        parse_options=pa_csv.ParseOptions(
            delimiter=delimiter,
            newlines_in_values=quoted_newlines,
            ignore_empty_lines=len(names) > 1,
            invalid_row_handler=on_ragged,
        ),
        convert_options=pa_csv.ConvertOptions(
            column_types=types, null_values=null_values, strings_can_be_null=True, quoted_strings_can_be_null=False
        ),
    )


# --- records, which are lines unless quotes hold newlines -------------------------------------------------------------


def _bounds(data: bytes, quoted_newlines: bool) -> tuple[Offsets, Offsets]:
    """Where records begin and end; newlines after an odd number of quotes belong to a field."""
    if not quoted_newlines or b'"' not in data:
        return line_bounds(data)
    starts, ends = line_bounds(data)
    quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == ord('"'))
    inside = np.searchsorted(quotes, ends) % 2 == 1
    inside[-1:] = False
    begins = np.concatenate([[True], ~inside[:-1]])
    return starts[begins], ends[~inside]


def _whole_records(data: bytes, quoted_newlines: bool) -> int:
    """The bytes of `data`, which begins at a record, up to and with the last newline that ends one."""
    newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
    if quoted_newlines:
        quotes = np.flatnonzero(np.frombuffer(data, np.uint8) == ord('"'))
        newlines = newlines[np.searchsorted(quotes, newlines) % 2 == 0]
    return int(newlines[-1]) + 1 if len(newlines) else 0


@functools.lru_cache(maxsize=8)
def _closed_line(delimiter: str) -> re.Pattern[bytes]:
    """Matches a line at whose end no quoted field is still open."""
    end = re.escape(delimiter).encode()
    field = rb'(?:"(?:[^"]++|"")*+"[^D]*+|(?!")[^D]*+)'.replace(b"D", end)
    return re.compile(field + b"(?:" + end + field + b")*+", re.DOTALL)


class CsvReader(Reader, frozen=True):
    """Records as rows of the columns `pinned`, whose types every line must fit; see `infer_csv`.

    With `header` the first line of each file must name just these columns. A field that equals one of `null_values`
    and is not quoted is null. Newlines in quotes need `quoted_newlines`, which makes each file one split.
    Lines that are ragged or do not fit a type are rejects; a quote left open is an `InputError`, because what
    follows could be anything.

    >>> CsvReader(pa.schema([("n", pa.int64())]), quoted_newlines=True).cut
    'file'
    """

    pinned: pa.Schema
    header: bool = True
    delimiter: str = ","
    null_values: tuple[str, ...] = ("",)
    quoted_newlines: bool = False

    def __post_init__(self) -> None:
        if len(self.delimiter.encode()) != 1:
            raise PlanError(f"delimiter={self.delimiter!r}: a CSV delimiter is one ASCII character")
        _refuse_unwritable(self.pinned, "read_csv", "declare it as str and parse it in a map")

    @property
    def cut(self) -> Cut:
        return "file" if self.quoted_newlines else "lines"

    def schema(self) -> pa.Schema:
        return with_kind(self.pinned, "rows")

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        parser = Parser(self._parse, lambda raw: False, self._blame)
        wanted = needed(self.pinned, columns)
        schema = with_kind(pa.schema([self.pinned.field(name) for name in wanted]), "rows")
        number, has_header = 0, self.header and piece.offset == 0

        def too_long(at: int, raw: bytes) -> None:
            nonlocal number
            reject_too_long(rejects, at, number, raw)
            number += 1

        whole = partial(_whole_records, quoted_newlines=self.quoted_newlines)
        for data, offset in record_blocks(piece, whole, None if self.quoted_newlines else Overlong(too_long)):
            lines = Lines(data, *_bounds(data, self.quoted_newlines))
            if has_header:
                self._check_header(lines.raw(0), piece.path)
            newlines = np.flatnonzero(np.frombuffer(data, np.uint8) == ord("\n"))
            places = np.column_stack([lines.starts + offset, np.searchsorted(newlines, lines.starts) + number])
            some = lines.ends > lines.starts if len(self.pinned) > 1 else np.ones(len(lines.ends), np.bool_)
            some[: int(has_header)] = False
            number, has_header = number + len(newlines), False
            tables, kept = [], []
            for parsed in parse_lines(lines, parser, np.flatnonzero(some)):
                if parsed.table is not None:
                    tables.append(parsed.table.select(wanted))
                    kept.append(parsed.numbers)
                    continue
                raw, origins = lines.raw(int(parsed.numbers[0])), places[parsed.numbers]
                if not self._is_closed(raw):
                    raise InputError(self._left_open(piece, origins, raw))
                rejects(origins, [raw], [parsed.error])
            if tables:
                batch = pa.concat_tables(tables).combine_chunks().cast(schema).to_batches()[0]
                yield Batch(batch, places[np.concatenate(kept)] if track else None)

    def _parse(self, data: bytes) -> pa.Table:
        if not self._is_closed(data):
            raise pa.ArrowInvalid("a quoted field is not closed")
        names, types = self.pinned.names, dict(zip(self.pinned.names, self.pinned.types, strict=True))
        return _read_csv(data, names, types, self.delimiter, self.null_values, self.quoted_newlines)

    def _is_closed(self, data: bytes) -> bool:
        """Whether no quoted field is open at the end of `data`; Arrow would close it there itself."""
        if b'"' not in data:
            return True
        if self.quoted_newlines:
            return data.count(b'"') % 2 == 0
        line = data.removesuffix(b"\n")
        return _closed_line(self.delimiter).fullmatch(line[line.rfind(b"\n") + 1 :]) is not None

    def _left_open(self, piece: Piece, origins: Origins, raw: bytes) -> str:
        (at, line), place = origins[0].tolist(), f"{piece.path}, byte {piece.offset + origins[0, 0]}"
        if piece.offset == 0:
            place = f"{piece.path}, line {line + 1}, byte {at}"
        cure = "it is never closed" if self.quoted_newlines else "if fields hold newlines, pass quoted_newlines=True"
        return f"{place}: a quote is left open at the end of the record {_shown(raw)}; {cure}"

    def _check_header(self, line: bytes, path: str) -> None:
        _check_text(line, path)
        found = _fields(line, self.delimiter)
        if found != self.pinned.names:
            expected = f"the columns are {self.delimiter.join(self.pinned.names)}"
            cure = "read files with other columns separately, or pass header=False if they have no header"
            raise InputError(f"{path}, line 1: the header is {_shown(line)}, but {expected}; {cure}")

    def _blame(self, raw: bytes) -> str:
        try:
            fields = len(_fields(raw, self.delimiter))
        except csv.Error as error:
            return f"does not parse: {error}"
        if fields != len(self.pinned):
            return f"has {fields} fields, there are {len(self.pinned)} columns: {', '.join(self.pinned.names)}"
        try:
            self._parse(raw)
        except (pa.ArrowInvalid, UnicodeDecodeError) as error:
            if b"\r" in raw and "column #" not in str(error):
                return "holds a carriage return, which ends a record unless it is quoted"
            return self._misfit(str(error))
        return "does not parse as one record"

    def _misfit(self, error: str) -> str:
        where = re.search(r"column #(\d+):", error)
        if where is None:
            return f"does not parse: {error}"
        field = self.pinned.field(int(where[1]))
        value = re.search(r"invalid value '(.*)'", error, re.DOTALL)
        if value is None:
            return f"column {field.name!r} does not fit {display(field.type)}: {error.rpartition(': ')[2]}"
        better = "float" if pa.types.is_integer(field.type) and _is_float(value[1]) else "str"
        cure = f"declare schema={{{field.name!r}: {better}}}"
        if better == "str" and not any(character.isdigit() for character in value[1]):
            cure += f", or null_values={[*self.null_values, value[1]]!r} if it means nothing"
        return f"column {field.name!r}: {value[1]!r} is not {display(field.type)}; {cure}"


def _is_float(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace")
    return repr(text if len(text) <= 80 else text[:77] + "...")


# --- writing ----------------------------------------------------------------------------------------------------------


def _refuse_unwritable(schema: pa.Schema, call: str, cure: str) -> None:
    for field in schema:
        type_ = field.type
        nested = is_list(type_) or pa.types.is_struct(type_) or pa.types.is_map(type_)
        if nested or holds_objects(type_) or pa.types.is_duration(type_):
            raise PlanError(f"{call}: column {field.name!r} is {display(type_)}, which CSV cannot hold; {cure}")


class CsvWriter(Writer, frozen=True):
    """A header line, then a line a record; fields are quoted where they must be, null is an empty field.

    Bytes are written as text with escapes, see `mr.kernels.escapes`.
    """

    delimiter: str = ","
    extension: ClassVar[str] = ".csv"

    def check(self, schema: pa.Schema) -> None:
        if not len(schema):
            raise PlanError("write_csv: there are no columns; state them with names=")
        _refuse_unwritable(schema, "write_csv", "turn it into str or numbers first, or use write_parquet or write_json")

    def write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, out: BinaryIO) -> int:
        if len(schema):
            out.write(self._lines(pl.DataFrame({name: [name] for name in schema.names})))
        rows = 0
        for batch in batches:
            if batch.num_rows:
                out.write(self._lines(pl.DataFrame(pl.from_arrow(escaped_columns(batch)))))
                rows += batch.num_rows
        return rows

    def _lines(self, frame: pl.DataFrame) -> bytes:
        fields = [self._field(column(name), type_).fill_null("") for name, type_ in frame.schema.items()]
        lines = frame.select(pl.concat_str(fields, separator=self.delimiter).str.join("\n")).item()
        return f"{lines}\n".encode()

    def _field(self, column: pl.Expr, type_: pl.DataType) -> pl.Expr:
        if type_ == pl.Time:
            return column.dt.to_string("%H:%M:%S%.6f")
        if type_ in (pl.Datetime, pl.Date):
            return column.dt.to_string("iso:strict")
        if type_ != pl.String:
            return column.cast(pl.String)
        special = column.str.contains(f'["\r\n{re.escape(self.delimiter)}]') | (column == "")
        quoted = pl.concat_str(pl.lit('"'), column.str.replace_all('"', '""', literal=True), pl.lit('"'))
        return pl.when(special).then(quoted).otherwise(column)
