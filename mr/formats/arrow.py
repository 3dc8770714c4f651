"""Arrow IPC: files and streams, read by ranges of record batches; written so that equal rows give equal bytes."""

from __future__ import annotations

from collections.abc import Iterator
from io import SEEK_END
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final, Literal, NamedTuple

import numpy as np
import pyarrow as pa

from mr.batch import Batch, kind_of, with_kind
from mr.errors import CorruptInput, InputError, PlanError, TypeConflict
from mr.formats.base import Cut, Reader, Writer
from mr.formats.blocks import needed, origins_of
from mr.formats.columns import travelling
from mr.kernels.canonical import canonical
from mr.kernels.frames import concat
from mr.kernels.types import cast_column, display, holds_objects, join_types
from mr.options import ARROW_BATCH_ROWS, ARROW_DECODED_BYTES_MAX, DECOMPRESSED_RATIO_MAX

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

MAGIC: Final = b"ARROW1"
DAMAGE: Final = (pa.ArrowException, OSError, ValueError, MemoryError)
"""What pyarrow raises for a damaged file; a damaged length asks for more memory than there is."""
Compression = Literal["lz4", "zstd"]
_SCHEMA: Final = 1
_RECORD_BATCH: Final = 3
"""Kinds of messages."""


def infer_arrow(file: BinaryIO, path: str) -> pa.Schema:
    """The schema in which the rows of an IPC file or stream travel, with the metadata that the file has.

    Raises `InputError` naming `path` when `file` is neither, or has columns that cannot travel.
    """
    with _open(file, path) as reader:
        return travelling(reader.schema, path)


def batch_sizes(file: BinaryIO, path: str) -> list[int]:
    """The stored bytes of every record batch, in order. Reads what describes them, not the columns themselves.

    Raises `InputError` for a damaged file, and for a batch that becomes far larger when it is decompressed.
    """
    start = 8 if _is_file(file) else 0  # a file is a stream between its magic and a footer
    try:
        sizes = []
        for number, message in enumerate(_messages(file, start)):
            if not number and message.kind != _SCHEMA:
                raise pa.ArrowInvalid("it does not begin with a schema")
            if message.kind == _RECORD_BATCH:
                sizes.append(len(message.meta) + message.body_bytes)
                _check_decompressed(message, file, path)
        if start and len(sizes) != pa.ipc.open_file(file).num_record_batches:
            raise pa.ArrowInvalid("its footer names another number of record batches")
        return sizes
    except DAMAGE as error:
        raise CorruptInput(path, 0, f"not a readable Arrow IPC file or stream: {error}") from error


class _Message(NamedTuple):
    """What describes a schema, a dictionary or a record batch, and where its body lies."""

    meta: bytes
    body_at: int
    body_bytes: int

    @property
    def kind(self) -> int:
        """Message.header_type, field 1 of its FlatBuffer."""
        place = _field(self.meta, _u32(self.meta, 0), 1)
        return int.from_bytes(self.meta[place : place + 1]) if place else 0


def _messages(file: BinaryIO, start: int) -> Iterator[_Message]:
    """The messages of a stream that begins at `start`, their bodies passed over.

    Each is: 4 bytes FF (files before 2019 lack them), the length of what describes it, that, and a body whose length
    is Message.bodyLength, field 3 of its FlatBuffer. A length of 0, or the end of the file, is the end
    (https://arrow.apache.org/docs/format/Columnar.html). Raises pa.ArrowInvalid where one is cut short.
    """
    end, at = file.seek(0, SEEK_END), start
    while at < end:
        file.seek(at)
        head = file.read(8)
        prefix = 8 if head[:4] == b"\xff\xff\xff\xff" else 4
        length = _u32(head, prefix - 4)
        if not length and len(head) >= prefix and at > start:
            return
        file.seek(at + prefix)
        meta = file.read(length) if length <= end - at else b""
        place = _field(meta, _u32(meta, 0), 3)
        body_bytes = int.from_bytes(meta[place : place + 8], "little", signed=True) if place else 0
        body_at = at + prefix + length
        at = body_at + body_bytes
        if not body_at <= at <= end or len(head) < prefix:
            raise pa.ArrowInvalid(f"it has {end:,} bytes, which end within a message")
        yield _Message(meta, body_at, body_bytes)


def _check_decompressed(message: _Message, file: BinaryIO, path: str) -> None:
    """Raise CorruptInput for buffers that are small but large when decompressed, as their first 8 bytes say.

    Where the buffers lie is in a FlatBuffer (https://arrow.apache.org/docs/format/Columnar.html): Message.header is its
    field 2, RecordBatch.buffers field 2 of that and .compression field 3.
    """
    meta, root = message.meta, _u32(message.meta, 0)
    header = _field(meta, root, 2)
    batch = header + _u32(meta, header)
    buffers = _field(meta, batch, 2)
    if not header or not buffers or not _field(meta, batch, 3):
        return
    vector = buffers + _u32(meta, buffers)
    places = np.frombuffer(meta, "<i8", 2 * _u32(meta, vector), vector + 4).reshape(-1, 2)
    size = 0
    for place in (place for place, stored in places.tolist() if stored >= 8):
        file.seek(message.body_at + place)
        size += max(0, int.from_bytes(file.read(8), "little", signed=True))
    if size > max(ARROW_DECODED_BYTES_MAX, DECOMPRESSED_RATIO_MAX * message.body_bytes):
        held = f"a record batch of {message.body_bytes:,} bytes has {size:,} when decompressed"
        raise CorruptInput(path, message.body_at, f"{held}; is it a decompression bomb?")


def _u32(data: bytes, at: int) -> int:
    return int.from_bytes(data[at : at + 4], "little")


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a FlatBuffer's table lies, 0 if it is not there."""
    layout = table - int.from_bytes(data[table : table + 4], "little", signed=True)
    slot = 4 + 2 * number
    if slot >= int.from_bytes(data[layout : layout + 2], "little"):
        return 0
    found = int.from_bytes(data[layout + slot : layout + slot + 2], "little")
    return table + found if found else 0


def _is_file(file: BinaryIO) -> bool:
    file.seek(0)
    found = file.read(len(MAGIC)) == MAGIC
    file.seek(0)
    return found


def _open(file: BinaryIO, path: str) -> pa.RecordBatchFileReader | pa.RecordBatchStreamReader:
    try:
        reader = pa.ipc.open_file(file) if _is_file(file) else pa.ipc.open_stream(file)
        reader.schema.names  # noqa: B018  (decodes them)
        return reader
    except DAMAGE as error:
        raise CorruptInput(path, 0, f"not a readable Arrow IPC file or stream: {error}") from error


class ArrowReader(Reader, frozen=True):
    """Record batches as rows, or as values where values were written.

    `pinned`: the schema that all files must have (null < T, int64 < float64 allowed). Origins have offset 0 and the
    row's number in the piece; `Piece.row_groups` numbers record batches.
    """

    pinned: pa.Schema
    cut: ClassVar[Cut] = "row_groups"
    decompress: ClassVar[bool] = False

    def group_bytes(self, file: BinaryIO, path: str) -> list[int]:
        return batch_sizes(file, path)

    def schema(self) -> pa.Schema:
        return self.pinned

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        wanted = needed(self.pinned, columns)
        schema = with_kind(pa.schema([self.pinned.field(name) for name in wanted]), kind_of(self.pinned))
        number = 0
        for found in _batches(piece):
            self._check(found.schema, piece.path)
            for start in range(0, found.num_rows, ARROW_BATCH_ROWS):
                part = found.slice(start, ARROW_BATCH_ROWS)
                arrays = [_cast(part.column(name), schema.field(name), piece.path) for name in wanted]
                origins = origins_of(np.zeros(part.num_rows, np.int64), number) if track else None
                number += part.num_rows
                yield Batch(pa.RecordBatch.from_arrays(arrays, schema=schema), origins)

    def _check(self, found: pa.Schema, path: str) -> None:
        given = travelling(found, path)
        for field in self.pinned:
            if field.name not in given.names:
                raise InputError(f"{path}: has no column {field.name!r}; the first file has. Read them separately")
            has = given.field(field.name).type
            if join_types(field.type, has) != field.type:
                types = f"{display(has)} here and {display(field.type)} in the first file"
                raise InputError(f"{path}: column {field.name!r} is {types}. Read them separately, then cast")


def _batches(piece: Piece) -> Iterator[pa.RecordBatch]:
    """The chosen record batches of a file; those of a stream are found by reading past the others."""
    with piece.file() as file:
        if piece.row_groups is None:  # else it was looked at when it was cut
            batch_sizes(file, piece.path)
        yield from _chosen(file, piece)


def _chosen(file: BinaryIO, piece: Piece) -> Iterator[pa.RecordBatch]:
    with _open(file, piece.path) as reader:
        try:
            if isinstance(reader, pa.RecordBatchFileReader):
                chosen = range(reader.num_record_batches) if piece.row_groups is None else piece.row_groups
                yield from (_valid(reader.get_batch(number)) for number in chosen)
                return
            for number, batch in enumerate(reader):
                if piece.row_groups is None or number in piece.row_groups:
                    yield _valid(batch)
        except DAMAGE as error:
            raise CorruptInput(piece.path, file.tell(), f"a record batch is corrupt: {error}") from error


def _valid(batch: pa.RecordBatch) -> pa.RecordBatch:
    """`batch`, whose offsets lie within its buffers and whose text is UTF-8: Arrow takes that on trust."""
    batch.validate(full=True)
    return batch


def _cast(array: pa.Array, field: pa.Field, path: str) -> pa.Array:
    try:
        return cast_column(array, field.type, field.name)
    except (TypeConflict, pa.ArrowException) as error:
        raise InputError(f"{path}: {error}") from error


class ArrowWriter(Writer, frozen=True):
    """An IPC file of record batches of exactly `ARROW_BATCH_ROWS` rows.

    The bytes depend on the rows, the schema and pyarrow's version only.
    """

    compression: Compression | None = None
    extension: ClassVar[str] = ".arrow"

    def check(self, schema: pa.Schema) -> None:
        if not len(schema):
            raise PlanError("write_arrow: there are no columns; state them with names=")
        for field in schema:
            if holds_objects(field.type):
                cure = "turn it into str, list, dict or a tuple first, or select the other columns"
                raise PlanError(f"write_arrow: column {field.name!r} holds Python objects; {cure}")

    def write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, out: BinaryIO) -> int:
        rows = 0
        options = pa.ipc.IpcWriteOptions(compression=self.compression, use_threads=False)
        with pa.ipc.new_file(pa.PythonFile(out, mode="w"), schema, options=options) as writer:
            for batch in _even(batches, schema):
                writer.write_batch(canonical(batch))
                rows += batch.num_rows
        return rows


def _even(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """The rows as contiguous batches of `ARROW_BATCH_ROWS`, the last one shorter."""
    pending: list[pa.RecordBatch] = []
    missing = ARROW_BATCH_ROWS
    for batch in batches:
        while batch.num_rows >= missing:
            yield concat([*pending, batch.slice(0, missing)], schema)
            batch, pending, missing = batch.slice(missing), [], ARROW_BATCH_ROWS
        if batch.num_rows:
            pending.append(batch)
            missing -= batch.num_rows
    if pending:
        yield concat(pending, schema)
