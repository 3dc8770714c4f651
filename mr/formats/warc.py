"""WARC files, the archives of web crawlers (ISO 28500): a row a record.

Records are found here, by their stated lengths, so that a damaged one is named and passed over; what is in them is
parsed by warcio, which also undoes the transfer and content encodings of HTTP.
"""

from __future__ import annotations

import datetime as dt
import io
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
import pyarrow as pa

from mr.batch import Batch, Origins, with_kind
from mr.errors import CorruptInput, PlanError
from mr.formats.base import Cut, Reader
from mr.formats.blocks import needed
from mr.options import READ_BLOCK_BYTES, RECORD_BYTES_MAX

if TYPE_CHECKING:
    from mr.formats.base import Piece, Rejects

HEADER_BYTES_MAX: Final = 1 << 20
"""A longer header of a record is damage."""

SHOWN_BYTES_MAX: Final = 4096
"""So much of a rejected record is kept."""

_HEADER: Final = re.compile(rb"WARC/\d+\.\d+\r\n")
_BLANK: Final = re.compile(rb"[\r\n]+")
_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)

TYPES: Final = {
    "type": pa.large_string(),
    "url": pa.large_string(),
    "date": pa.timestamp("us", "UTC"),
    "status": pa.int64(),
    "content_type": pa.large_string(),
    "payload": pa.large_binary(),
}


class WarcReader(Reader, frozen=True):
    """Records as rows: type (response, request, ...), url, date, status, content_type, payload.

    For HTTP messages `payload` is the body, decoded, and `content_type` that of the message; for other records both
    are the record's own. `status` is that of HTTP responses. Damaged records are rejects; a file that ends within a
    record is a `CorruptInput`. Offsets count decompressed bytes.

    >>> WarcReader().schema().names
    ['type', 'url', 'date', 'status', 'content_type', 'payload']
    """

    cut: ClassVar[Cut] = "file"

    def schema(self) -> pa.Schema:
        return with_kind(pa.schema(list(TYPES.items())), "rows")

    def read(self, piece: Piece, rejects: Rejects, columns: tuple[str, ...] | None, track: bool) -> Iterator[Batch]:
        """Raises `PlanError` where warcio is not installed."""
        try:
            from warcio.recordloader import ArcWarcRecordLoader
        except ImportError:
            raise PlanError("read_warc needs warcio: pip install 'millrace[jobs]'") from None
        loader = ArcWarcRecordLoader()
        wanted = needed(self.schema(), columns)
        rows: list[dict[str, Any]] = []
        origins: list[tuple[int, int]] = []
        held_bytes = 0
        for number, (offset, raw, error) in enumerate(_records(_Stream(piece))):
            row, error = (None, error) if error else _row(loader, raw)
            if row is None:
                rejects(np.array([[offset, number]]), [raw[:SHOWN_BYTES_MAX]], [error])
                continue
            rows.append(row)
            origins.append((offset, number))
            held_bytes += len(raw) + len(row["payload"])
            if held_bytes >= READ_BLOCK_BYTES:
                yield _batch(rows, np.array(origins), wanted, track)
                rows, origins, held_bytes = [], [], 0
        if rows:
            yield _batch(rows, np.array(origins), wanted, track)


def _batch(rows: list[dict[str, Any]], origins: Origins, wanted: list[str], track: bool) -> Batch:
    schema = with_kind(pa.schema([(name, TYPES[name]) for name in wanted]), "rows")
    arrays = [pa.array([row[name] for row in rows], TYPES[name]) for name in wanted]
    return Batch(pa.RecordBatch.from_arrays(arrays, schema=schema), origins if track else None)


def _row(loader: Any, raw: bytes) -> tuple[dict[str, Any] | None, str]:
    try:
        record = loader.parse_record_stream(io.BytesIO(raw), known_format="warc")
        payload = record.content_stream().read(RECORD_BYTES_MAX + 1)
    except Exception as error:  # warcio and its decoders raise many kinds; each means that this record is damaged
        return None, f"not a readable WARC record: {type(error).__name__}: {error}"
    if len(payload) > RECORD_BYTES_MAX:
        return None, f"the payload is longer than {RECORD_BYTES_MAX} bytes when decoded"
    headers = record.rec_headers
    content_type = headers.get_header("Content-Type")
    status = None
    if record.http_headers is not None:
        content_type = record.http_headers.get_header("Content-Type")
        code = str(record.http_headers.get_statuscode())
        status = int(code) if record.rec_type == "response" and re.fullmatch(r"[0-9]{3}", code) else None
    row = {
        "type": record.rec_type,
        "url": headers.get_header("WARC-Target-URI"),
        "date": _date(headers.get_header("WARC-Date") or ""),
        "status": status,
        "content_type": content_type,
        "payload": payload,
    }
    return row, ""


def _date(text: str) -> dt.datetime | None:
    try:
        date = dt.datetime.fromisoformat(text)
    except ValueError:
        return None
    return date.replace(tzinfo=dt.UTC) if date.tzinfo is None else date.astimezone(dt.UTC)


# --- finding records --------------------------------------------------------------------------------------------------


class _Stream:
    """The bytes of a piece from `offset` on; some of them are held in memory. Nothing is copied to drop a record."""

    def __init__(self, piece: Piece) -> None:
        self.path = piece.path
        self.offset = 0
        self._blocks = piece.blocks(READ_BLOCK_BYTES)
        self._data = b""
        self._at = 0

    def __len__(self) -> int:
        """How many bytes are held."""
        return len(self._data) - self._at

    def fill(self, size: int) -> bool:
        """Hold at least `size` bytes; False where there are fewer left."""
        parts, length = [self._data[self._at :]] if len(self) < size else [], len(self)
        while length < size:
            block = next(self._blocks, None)
            if block is None:
                break
            parts.append(block)
            length += len(block)
        if parts:
            self._data, self._at = b"".join(parts), 0
        return length >= size

    def head(self, size: int) -> bytes:
        """The next `size` bytes, as far as they are held."""
        return self._data[self._at : self._at + size]

    def drop(self, size: int) -> bytes:
        dropped = self.head(size)
        self._at += len(dropped)
        self.offset += len(dropped)
        return dropped

    def drop_blank_lines(self) -> None:
        while self.fill(1) and (blank := _BLANK.match(self._data, self._at)):
            self.drop(blank.end() - self._at)

    def find(self, pattern: bytes, start: int, stop: int) -> int:
        """Where `pattern` begins among the next `stop` bytes, from `start` on; -1 if it does not."""
        size = start
        while True:
            more = self.fill(min(size + (1 << 16), stop))
            at = self._data.find(pattern, self._at + max(start, size - len(pattern)), self._at + stop)
            size = len(self)
            if at >= 0:
                return at - self._at
            if not more or size >= stop:
                return -1


def _records(stream: _Stream) -> Iterator[tuple[int, bytes, str]]:
    """Offset and bytes of each record, and what is wrong with it. Raises `CorruptInput` for a file cut short."""
    while True:
        stream.drop_blank_lines()
        if not len(stream):
            return
        offset = stream.offset
        header_bytes = stream.find(b"\r\n\r\n", 0, HEADER_BYTES_MAX) + 4
        header = stream.head(header_bytes) if header_bytes >= 4 else b""
        length = _LENGTH.search(header)
        if _HEADER.match(header) is None or length is None:
            damaged = _skip_to_next(stream)
            yield offset, damaged, "not a WARC record: its header is damaged"
            continue
        size = header_bytes + int(length[1])
        if size > RECORD_BYTES_MAX:
            _drop(stream, size)
            yield offset, header, f"the record is longer than {RECORD_BYTES_MAX} bytes"
            continue
        if not stream.fill(size):
            raise _cut_short(stream, offset)
        yield offset, stream.drop(size), ""


def _skip_to_next(stream: _Stream) -> bytes:
    """Drop the bytes up to the next record; what of them is worth showing."""
    shown = b""
    while True:
        at = stream.find(b"\nWARC/", 1, RECORD_BYTES_MAX)
        found = at >= 0 or len(stream) < RECORD_BYTES_MAX
        dropped = stream.drop(at + 1 if at >= 0 else len(stream))
        shown += dropped[: SHOWN_BYTES_MAX - len(shown)]
        if found:
            return shown


def _drop(stream: _Stream, size: int) -> None:
    start = stream.offset
    while size:
        if not stream.fill(1):
            raise _cut_short(stream, start)
        size -= len(stream.drop(size))


def _cut_short(stream: _Stream, offset: int) -> CorruptInput:
    return CorruptInput(stream.path, offset, "the file ends within this record; was it cut short?")
