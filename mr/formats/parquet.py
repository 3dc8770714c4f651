"""Parquet: read by row groups with only the needed columns; written so that equal rows give equal bytes."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from itertools import chain, islice
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final, Literal

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec.structs import replace

from mr.batch import Batch, kind_of, with_kind
from mr.errors import CorruptInput, InputError, PlanError, TypeConflict
from mr.formats.base import Cut, Reader, Writer
from mr.formats.blocks import needed, origins_of
from mr.formats.bounds import Bound
from mr.formats.columns import travelling
from mr.formats.parquet_footer import extremes
from mr.formats.parquet_pages import LongValues, PageWatch, rows_of_long_values
from mr.kernels.escapes import check_text
from mr.kernels.sizes import logical_bytes, rows_filling
from mr.kernels.types import cast_column, display, holds_objects, is_list, join_types
from mr.options import (
    DICTIONARY_SAMPLE_ROWS,
    PARQUET_GROUP_BYTES_MAX,
    PARQUET_READ_BYTES,
    READ_BLOCK_BYTES,
    ROW_GROUP_BYTES_MAX,
    ROW_GROUP_ROWS,
)

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

BATCH_ROWS_MAX = 131_072
DAMAGE = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What pyarrow raises for a damaged file."""
Compression = Literal["zstd", "snappy", "lz4", "none"]
_OPTIONS: Final = {"coerce_int96_timestamp_unit": "us", "page_checksum_verification": True, "pre_buffer": False}


def infer_parquet(file: BinaryIO, path: str) -> pa.Schema:
    """The schema in which a Parquet file's rows travel, with the metadata that the file has.

    Raises `InputError` naming `path` when `file` is no Parquet file, or has columns that cannot travel.
    """
    return travelling(_open(file, path).schema_arrow, path)


def _open(file: BinaryIO | PageWatch, path: str) -> pq.ParquetFile:
    try:
        found = pq.ParquetFile(file, **_OPTIONS)
        found.schema_arrow  # noqa: B018  (decodes the names)
    except DAMAGE as error:
        raise CorruptInput(path, 0, f"not a readable Parquet file: {error}") from error
    meta = found.metadata
    rows = [meta.row_group(i).num_rows for i in range(meta.num_row_groups)]
    if sum(rows) != meta.num_rows or min(rows, default=0) < 0:
        raise CorruptInput(path, 0, f"not a readable Parquet file: its {meta.num_rows} rows are in groups of {rows}")
    return found


class ParquetReader(Reader, frozen=True):
    """Row groups as rows, or as values where values were written.

    `pinned`: the schema that all files of the dataset must have (null < T, int64 < float64 allowed); None takes each
    file as it is. Origins have offset 0 and the row's number in the piece. Row groups in which no row passes all of
    `bounds`, as their statistics say, are left out.
    """

    pinned: pa.Schema | None = None
    bounds: tuple[Bound, ...] = ()
    cut: ClassVar[Cut] = "row_groups"
    decompress: ClassVar[bool] = False

    def group_bytes(self, file: BinaryIO, path: str) -> list[int]:
        metadata = _open(file, path).metadata
        return [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]

    def schema(self) -> pa.Schema | None:
        return self.pinned

    def skipping(self, bounds: tuple[Bound, ...]) -> ParquetReader:
        return replace(self, bounds=bounds)

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        with piece.file() as stored:
            yield from self._rows(stored, piece, columns, track)

    def _rows(self, stored: BinaryIO, piece: Piece, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        watch = PageWatch(stored, piece.path)
        file = _open(watch, piece.path)
        schema = self._schema_for(travelling(file.schema_arrow, piece.path), piece.path)
        wanted = needed(schema, columns)
        schema = with_kind(pa.schema([schema.field(name) for name in wanted]), kind_of(schema))
        groups = range(file.num_row_groups) if piece.row_groups is None else piece.row_groups
        needless = self._needless(file, stored, schema)
        number = 0
        for group in groups:
            if group in needless:
                number += file.metadata.row_group(group).num_rows
                continue
            for data in _batches(file, watch, group, wanted, piece.path):
                arrays = [_cast(data.column(name), schema.field(name), piece.path) for name in wanted]
                origins = origins_of(np.zeros(data.num_rows, np.int64), number) if track else None
                number += data.num_rows
                yield Batch(pa.RecordBatch.from_arrays(arrays, schema=schema), origins)

    def _needless(self, file: pq.ParquetFile, stored: BinaryIO, schema: pa.Schema) -> Collection[int]:
        """The row groups in which no row passes all bounds. Floats are left alone: integers may have become some."""
        exact = {field.name for field in schema if not pa.types.is_floating(field.type)}
        asked = [bound for bound in self.bounds if bound.column in exact]
        if not asked:
            return ()
        known = extremes(stored, file.schema_arrow, {bound.column for bound in asked})
        if len(known) != file.num_row_groups:
            return ()
        passed = [all(b.possible(*group[b.column]) for b in asked if b.column in group) for group in known]
        return [group for group, may_pass in enumerate(passed) if not may_pass]

    def _schema_for(self, found: pa.Schema, path: str) -> pa.Schema:
        """The pinned schema, if a file with the schema `found` has all its columns in fitting types."""
        if self.pinned is None:
            return found
        for field in self.pinned:
            if field.name not in found.names:
                raise InputError(f"{path}: has no column {field.name!r}; the first file has. Read them separately")
            has = found.field(field.name).type
            if join_types(field.type, has) != field.type:
                types = f"{display(has)} here and {display(field.type)} in the first file"
                raise InputError(f"{path}: column {field.name!r} is {types}. Read them separately, then cast")
        return self.pinned


def _batches(
    file: pq.ParquetFile, watch: PageWatch, group: int, columns: list[str], path: str
) -> Iterator[pa.RecordBatch]:
    metadata = file.metadata.row_group(group)
    read_bytes = PARQUET_READ_BYTES if metadata.total_byte_size > PARQUET_GROUP_BYTES_MAX else 0
    if read_bytes:
        file = pq.ParquetFile(watch, metadata=file.metadata, buffer_size=read_bytes, **_OPTIONS)
    row_bytes = max(1, metadata.total_byte_size // max(1, metadata.num_rows))
    rows = max(1, min(BATCH_ROWS_MAX, READ_BLOCK_BYTES // row_bytes))
    missing = metadata.num_rows
    try:
        try:
            watch.begin(careful=True, read_bytes=read_bytes)
            batches = _decoded(file, group, columns, rows)
        except LongValues as error:
            rows = min(rows, rows_of_long_values(file, watch, group, columns, error.bytes))
            watch.begin(careful=False, read_bytes=read_bytes)
            batches = _decoded(file, group, columns, rows)
        for batch in batches:
            missing -= batch.num_rows
            if batch.num_rows:
                yield batch
        if missing:  # Arrow passes over a page of an unknown kind
            raise pa.ArrowInvalid(f"it has {metadata.num_rows - missing} rows where {metadata.num_rows} are promised")
    except DAMAGE as error:
        # where reading had got to; to ask damaged metadata for the column's offset may abort the process
        raise CorruptInput(path, watch.tell(), f"row group {group} is corrupt: {error}") from error


def _decoded(file: pq.ParquetFile, group: int, columns: list[str], rows: int) -> Iterator[pa.RecordBatch]:
    """The batches of a group; its first pages, and so its dictionaries, have been read when this returns."""
    batches = file.iter_batches(rows, row_groups=[group], columns=columns, use_threads=False)
    first = next(batches, None)
    return chain([] if first is None else [first], batches)


def _cast(array: pa.Array, field: pa.Field, path: str) -> pa.Array:
    try:
        check_text(array)
    except pa.ArrowInvalid as error:
        raise CorruptInput(path, 0, f"column {field.name!r} holds bytes that are not text: {error}") from error
    try:
        return cast_column(array, field.type, field.name)
    except (TypeConflict, pa.ArrowException) as error:
        raise InputError(f"{path}: {error}") from error


class ParquetWriter(Writer, frozen=True):
    """Row groups of exactly `ROW_GROUP_ROWS` rows (fewer where rows are wide), each handed to pyarrow as one table.

    The bytes depend on the rows, the schema and pyarrow's version only. There is no content-defined chunking: see
    docs/decisions/0031.
    """

    compression: Compression = "zstd"
    extension: ClassVar[str] = ".parquet"

    def check(self, schema: pa.Schema) -> None:
        if not len(schema):
            raise PlanError("write_parquet: there are no columns; state them with names=")
        for field in schema:
            if holds_objects(field.type):
                cure = "turn it into str, list, dict or a tuple first, or select the other columns"
                raise PlanError(f"write_parquet: column {field.name!r} holds Python objects; {cure}")

    def write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, out: BinaryIO) -> int:
        rows = 0
        groups = _row_groups(batches)
        first = list(islice(groups, 1))
        options = {"compression": self.compression, "use_dictionary": _repeating(first), "write_page_checksum": True}
        with pq.ParquetWriter(out, schema, **options) as writer:
            for table in chain(first, groups):
                writer.write_table(table.replace_schema_metadata(schema.metadata), row_group_size=ROW_GROUP_ROWS)
                rows += table.num_rows
        return rows


def _repeating(tables: Sequence[pa.Table]) -> list[str]:
    """The leaf columns that get a dictionary: not those whose first rows hardly repeat a value, where it would cost
    half the time of the whole writer and enlarge the file. Nested ones always do."""
    leaves: list[str] = []
    for column in (field for table in tables for field in table.schema):
        if column.type.num_fields:
            leaves += _leaves(column.name, column.type)
            continue
        sample = tables[0].column(column.name).slice(0, DICTIONARY_SAMPLE_ROWS)
        if pl.Series(sample).n_unique() * 2 <= len(sample):
            leaves.append(column.name)
    return leaves


def _leaves(path: str, type_: pa.DataType) -> list[str]:
    """The paths of the columns in which Parquet holds a value of `type_`."""
    if pa.types.is_map(type_):
        inner = [(f"{path}.key_value.key", type_.key_type), (f"{path}.key_value.value", type_.item_type)]
    elif is_list(type_):
        inner = [(f"{path}.list.element", type_.value_type)]
    else:
        inner = [(f"{path}.{field.name}", field.type) for field in type_] if type_.num_fields else []
    return [leaf for name, below in inner for leaf in _leaves(name, below)] if inner else [path]


def _row_groups(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.Table]:
    """The rows of `batches` as contiguous tables: each ends with the row that fills ROW_GROUP_ROWS or
    ROW_GROUP_BYTES_MAX, wherever batches end."""
    pending: list[pa.RecordBatch] = []
    rows_left, bytes_left = ROW_GROUP_ROWS, ROW_GROUP_BYTES_MAX
    for batch in batches:
        while batch.num_rows:
            part = batch.slice(0, rows_filling(batch.slice(0, rows_left), bytes_left))
            batch = batch.slice(part.num_rows)
            pending.append(part)
            rows_left, bytes_left = rows_left - part.num_rows, bytes_left - logical_bytes(part)
            if not rows_left or bytes_left <= 0:
                yield pa.Table.from_batches(pending).combine_chunks()
                pending, rows_left, bytes_left = [], ROW_GROUP_ROWS, ROW_GROUP_BYTES_MAX
    if pending:
        yield pa.Table.from_batches(pending).combine_chunks()
