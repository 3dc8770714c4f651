"""Text: files cut into lines, whole files, and the writer of lines."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO, ClassVar, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mr.batch import Batch, Origins, with_kind
from mr.errors import PlanError, RecordError
from mr.formats.base import Cut, Reader, Writer
from mr.formats.blocks import (
    BOM,
    UNDECODABLE,
    Overlong,
    OverlongBegun,
    is_utf8,
    needed,
    origins_of,
    record_blocks,
    reject_too_long,
    whole_lines,
)
from mr.kernels.gather import bytes_of
from mr.kernels.lines import Lines, split_lines
from mr.kernels.types import display
from mr.task_context import counter

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

ENCODING_ERRORS = ("replace", "strict", "ignore")
_WRITE_BLOCK_BYTES: Final = 1 << 20  # stays in the processor's cache between joining and writing
_NEWLINE: Final = pa.scalar("\n", pa.large_string())
_NEWLINE_BYTE: Final = 10


class TextReader(Reader, frozen=True):
    r"""Lines as values, or as rows (text, path, offset) where `include_path` or `include_offset` ask for them.

    Lines end at `delimiter`; with "\n" also at "\r\n". `path` is as the piece names it, `offset` the line's first
    byte in the file. Bytes that are not `encoding` become U+FFFD ("replace"), are dropped ("ignore") or make the
    line a reject ("strict"). With `record_start`, a regular expression, a record is a line that it matches and the
    lines up to the next such one (a log entry with its stack trace); a file is then one split.

    Raises `PlanError` for an encoding that is unknown or whose newline is not one byte (UTF-16, UTF-32).

    >>> TextReader(include_path=True).schema().names
    ['text', 'path']
    """

    encoding: str = "utf-8"
    encoding_errors: str = "replace"
    delimiter: str = "\n"
    include_path: bool = False
    include_offset: bool = False
    record_start: str | None = None

    def __post_init__(self) -> None:
        _check_encoding(self.encoding, self.encoding_errors)
        if self.record_start is not None:
            self._starts()
        if not self.delimiter:
            raise PlanError("delimiter='' cuts nowhere: use read_text_files to read whole files")
        if not "a\n".encode(self.encoding).endswith(b"a\n"):
            raise PlanError(f"encoding={self.encoding!r} cannot be cut into lines: convert the files to UTF-8 first")

    @property
    def cut(self) -> Cut:
        return "lines" if self.delimiter == "\n" and self.record_start is None else "file"

    @property
    def uses_place(self) -> bool:
        return self.include_path or self.include_offset

    def schema(self) -> pa.Schema:
        if not (self.include_path or self.include_offset):
            return with_kind(pa.schema([("value", pa.large_string())]), "values")
        fields = [("text", pa.large_string())]
        fields += [("path", pa.large_string())] * self.include_path
        fields += [("offset", pa.int64())] * self.include_offset
        return with_kind(pa.schema(fields), "rows")

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        wanted = needed(self.schema(), columns)
        is_utf8_file = codecs.lookup(self.encoding).name == "utf-8"
        if is_utf8_file and self.cut == "lines" and wanted == ["value"]:
            yield from self._lines(piece, rejects, track)
            return
        for data, lines, origins in self._records(piece, rejects):
            if is_utf8_file and is_utf8(data):
                text = lines.view(pa.large_string())
            else:
                text, origins = _decoded(lines, origins, self.encoding, self.encoding_errors, rejects)
            if len(text):
                yield Batch(self._batch(text, origins, piece, wanted), origins if track else None)

    def _lines(self, piece: Piece, rejects: Rejects, track: bool) -> Iterator[Batch]:
        """Blocks that are cut into lines only where somebody looks at them."""
        schema, number = self.schema(), 0

        def too_long(at: int, raw: bytes) -> None:
            nonlocal number
            reject_too_long(rejects, at, number, raw)
            number += 1

        for data, start in record_blocks(piece, whole_lines, Overlong(too_long)):
            is_ascii = data.isascii()
            if is_ascii or is_utf8(data):
                lines = Lines(data, is_ascii, schema, offset=start, number=number, tracked=track)
                yield lines
                number += lines.rows
                continue
            binaries, offsets = split_lines(data)
            origins = origins_of(offsets + start, number)
            number += len(offsets)
            text, origins = _decoded(binaries, origins, self.encoding, self.encoding_errors, rejects)
            if len(text):
                yield Batch(pa.RecordBatch.from_arrays([text], schema=schema), origins if track else None)

    def _records(self, piece: Piece, rejects: Rejects) -> Iterator[tuple[bytes, pa.Array, Origins]]:
        """Blocks with their records (large_binary) and where these lie."""
        number = 0
        if self.record_start is not None:
            starts = self._starts()

            def begun(data: bytes) -> list[int]:
                return [match.start() for match in starts.finditer(data)]

            def begins(at: int, raw: bytes) -> None:
                reject_too_long(rejects, at, number, raw)

            def gone(data: bytes) -> None:
                nonlocal number
                number += data.count(b"\n")

            overlong = OverlongBegun(begins, starts, gone)
            for data, start in record_blocks(piece, lambda data: max(begun(data), default=0), overlong):
                offsets = np.unique([0, *begun(data)])
                ends = np.flatnonzero(np.frombuffer(data, np.uint8) == 10)
                bounds = [*offsets[1:].tolist(), len(data)]
                raws = [data[a:b].rstrip(b"\r\n") for a, b in zip(offsets.tolist(), bounds, strict=True)]
                numbers = number + np.searchsorted(ends, offsets)
                number += len(ends)
                yield data, pa.array(raws, pa.large_binary()), np.column_stack([offsets + start, numbers])
            return
        delimiter = self.delimiter.encode(self.encoding)
        whole = whole_lines if delimiter == b"\n" else lambda data: len(data) - len(data.split(delimiter)[-1])

        def too_long(at: int, raw: bytes) -> None:
            nonlocal number
            reject_too_long(rejects, at, number, raw)
            number += 1

        for data, start in record_blocks(piece, whole, Overlong(too_long, delimiter)):
            lines, offsets = split_lines(data, delimiter)
            yield data, lines, origins_of(offsets + start, number)
            number += len(lines)

    def _starts(self) -> re.Pattern[bytes]:
        """The pattern of `record_start` at the beginning of a line."""
        assert self.record_start is not None
        try:
            return re.compile(b"^(?:" + self.record_start.encode(self.encoding) + b")", re.MULTILINE)
        except re.error as error:
            raise PlanError(f"record_start={self.record_start!r} is no regular expression: {error}") from None

    def _batch(self, text: pa.Array, origins: Origins, piece: Piece, wanted: list[str]) -> pa.RecordBatch:
        schema = self.schema()
        arrays = {
            "value": lambda: text,
            "text": lambda: text,
            "path": lambda: pa.repeat(pa.scalar(piece.path, pa.large_string()), len(text)),
            "offset": lambda: pa.array(origins[:, 0] + piece.offset),
        }
        picked = with_kind(
            pa.schema([schema.field(name) for name in wanted]), "values" if "value" in wanted else "rows"
        )
        return pa.RecordBatch.from_arrays([arrays[name]() for name in wanted], schema=picked)


def _check_encoding(encoding: str, encoding_errors: str) -> None:
    if encoding_errors not in ENCODING_ERRORS:
        raise PlanError(f"encoding_errors={encoding_errors!r}: use one of {', '.join(ENCODING_ERRORS)}")
    try:
        codecs.lookup(encoding)
    except LookupError:
        raise PlanError(f"encoding={encoding!r} is unknown to Python") from None


def _decoded(
    lines: pa.Array, origins: Origins, encoding: str, errors: str, rejects: Rejects
) -> tuple[pa.Array, Origins]:
    """Lines as text one by one, for blocks that are not plain UTF-8; without those that `rejects` takes.

    What `errors` mends is counted.
    """
    raws: list[bytes] = lines.to_pylist()
    text: list[str] = []
    bad: list[int] = []
    causes: list[str] = []
    mended = 0
    for i, raw in enumerate(raws):
        try:
            text.append(raw.decode(encoding))
        except UnicodeDecodeError as error:
            if errors != "strict":
                text.append(raw.decode(encoding, errors))
                mended += 1
                continue
            bad.append(i)
            causes.append(f"not {encoding}: {error.reason} at byte {error.start} of the line")
    if mended:
        counter(UNDECODABLE).add(mended)
    if bad:
        rejects(origins[bad], [raws[i] for i in bad], causes)
        origins = np.delete(origins, bad, axis=0)
    return pa.array(text, pa.large_string()), origins


class TextFileReader(Reader, frozen=True):
    """Whole files as rows (path, text). A byte order mark is dropped, `encoding_errors` is as for `TextReader`.

    >>> TextFileReader().schema().names
    ['path', 'text']
    """

    encoding: str = "utf-8"
    encoding_errors: str = "replace"
    cut: ClassVar[Cut] = "file"

    def __post_init__(self) -> None:
        _check_encoding(self.encoding, self.encoding_errors)

    @property
    def uses_place(self) -> bool:
        return True

    def schema(self) -> pa.Schema:
        return with_kind(pa.schema([("path", pa.large_string()), ("text", pa.large_string())]), "rows")

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        raw = piece.buffer().to_pybytes()
        origins = np.zeros((1, 2), np.int64)
        body = raw.removeprefix(BOM) if codecs.lookup(self.encoding).name == "utf-8" else raw
        lone = pa.array([body], pa.large_binary())
        text, origins = _decoded(lone, origins, self.encoding, self.encoding_errors, rejects)
        if len(text):
            batch = pa.RecordBatch.from_arrays([pa.array([piece.path], pa.large_string()), text], schema=self.schema())
            yield Batch(batch.select(needed(batch.schema, columns)), origins if track else None)


class TextWriter(Writer, frozen=True):
    r"""One line a record, UTF-8, each ended by "\n"."""

    extension: ClassVar[str] = ".txt"

    def check(self, schema: pa.Schema) -> None:
        if len(schema) != 1:
            cure = "write one string column: .map(lambda row: ..., names='line'), or use write_csv or write_json"
            raise PlanError(f"write_text: there are {len(schema)} columns ({', '.join(schema.names)}); {cure}")
        if schema.field(0).type != pa.large_string():
            name, found = schema.names[0], display(schema.field(0).type)
            raise PlanError(f"write_text: column {name!r} is {found}, not str; use .map(str) or write_json")

    def write(self, batches: Iterator[pa.RecordBatch], schema: pa.Schema, out: BinaryIO) -> int:
        """Raises `RecordError` for a null, and for a text with a newline in it, which would be read back as two."""
        rows = 0
        for batch in batches:
            column = batch.column(0)
            if column.null_count:
                null = pc.index(column.is_null(), True).as_py()
                raise RecordError("write_text: a record is null; filter nulls out first", rows + null)
            for block in slices(column, _WRITE_BLOCK_BYTES):
                _refuse_newlines(block, rows)
                whole = pa.ListArray.from_arrays(pa.array([0, len(block)], pa.int32()), block)
                out.write(pc.binary_join(whole, _NEWLINE)[0].as_buffer())
                out.write(b"\n")
                rows += len(block)
        return rows


def slices(column: pa.LargeStringArray, bytes_max: int) -> Iterator[pa.LargeStringArray]:
    """`column` in slices of at most about `bytes_max` bytes, or of one value; none is empty.

    >>> [len(part) for part in slices(pa.array(["ab", "cd", "efghij"], pa.large_string()), 4)]
    [2, 1]
    """
    offsets, _ = bytes_of(column)
    start = 0
    while start < len(column):
        end = int(np.searchsorted(offsets, offsets[start] + bytes_max, "right")) - 1
        end = min(max(end, start + 1), len(column))
        yield column.slice(start, end - start)
        start = end


def _refuse_newlines(block: pa.LargeStringArray, rows_before: int) -> None:
    offsets, data = bytes_of(block)
    found = data == _NEWLINE_BYTE
    if found.any():
        row = int(np.searchsorted(offsets, int(found.argmax()), "right")) - 1
        cure = "replace it, or use write_json"
        text = f"write_text: a record has a newline in it: {block[row].as_py()!r:.60}; {cure}"
        raise RecordError(text, rows_before + row)
