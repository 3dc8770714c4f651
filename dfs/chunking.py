"""Bytes -> chunks: content-defined cuts, moved to record ends. Pure; the rules are in docs/formats/chunk.md
("Cutting")."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from msgspec import Struct
from pyfastcdc import FastCDC

from dfs.options import KIB, MIB, RECORD_SEARCH_BYTES_MAX, SNIFF_BYTES, ChunkSizes

RecordsMode = Literal["lines", "none"]

_PIECE = ChunkSizes(1 * MIB, 4 * MIB, 16 * MIB)  # the largest sizes that pyfastcdc scans
_COUNT_BYTES = 256 * KIB  # numpy counts what is in the cache six times as fast as bytes.count
_GOLDEN = 0x9E3779B97F4A7C15
_BINARY_ENDINGS = (
    *(".gz", ".bz2", ".xz", ".zst", ".lz4", ".zip", ".tar", ".tgz", ".7z", ".warc"),
    *(".parquet", ".arrow", ".feather", ".orc", ".avro", ".npy", ".npz", ".pkl", ".db", ".sqlite"),
    *(".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf", ".mp3", ".mp4", ".so", ".whl"),
)


class Piece(Struct, frozen=True):
    """One chunk's bytes, how many records begin in it (None when the file has no records), and whether its last record
    goes on in the next chunk."""

    data: bytes | bytearray
    records: int | None
    continues: bool


def detect_records(head: bytes, name: str | None) -> RecordsMode:
    """What `records="auto"` means for a file that begins with `head` (its first 64 KiB): no NUL and no binary ending ->
    lines.

    >>> detect_records(b"a,b\\n1,2\\n", "t.csv"), detect_records(b"PK\\0\\0", None), detect_records(b"abc", "x.GZ")
    ('lines', 'none', 'none')
    """
    if name is not None and name.lower().endswith(_BINARY_ENDINGS):
        return "none"
    return "none" if b"\0" in head[:SNIFF_BYTES] else "lines"


def only_piece(data: bytes, records: RecordsMode) -> Piece:
    """The one chunk of a file that is no longer than the least size of a chunk; cheaper than a Cutter.

    >>> only_piece(b"a\\nb", "lines").records
    2
    """
    if records == "none":
        return Piece(data, None, False)
    return Piece(data, _newlines(data) + (0 if data.endswith(b"\n") else 1), False)


class Cutter:
    """Cuts a stream that is fed in blocks of any size; the cuts do not depend on the blocks.

    Holds at most max + 8 MiB + one block. Not for several threads.

    >>> cutter = Cutter(ChunkSizes.of_average(4096), "lines")
    >>> [piece.records for piece in [*cutter.feed(b"a\\nb"), *cutter.finish()]]
    [2]
    """

    def __init__(self, sizes: ChunkSizes, records: RecordsMode) -> None:
        self._sizes = sizes
        self._records = records
        if sizes.avg > _PIECE.avg:
            self._scan = FastCDC(_PIECE.avg, min_size=_PIECE.min, max_size=_PIECE.max)
        else:
            self._scan = FastCDC(sizes.avg, min_size=sizes.min, max_size=sizes.max)
        self._buffer = bytearray()
        self._at_record_start = True
        self._wanted = 0  # below this many bytes a new look cannot find a cut
        self._scanned = 0  # where the first piece begins that is not certain yet
        self._raw: int | None = None  # where the content says to cut, once that is certain

    def feed(self, block: bytes | bytearray | memoryview) -> Iterator[Piece]:
        """Take more bytes; yield the chunks that are now certain."""
        self._buffer += block
        yield from self._cut(final=False)

    def finish(self) -> Iterator[Piece]:
        """The stream has ended: yield what is left."""
        yield from self._cut(final=True)

    def _cut(self, final: bool) -> Iterator[Piece]:
        while self._buffer and (final or len(self._buffer) >= self._wanted):
            found = self._next_cut(final)
            if found is None:
                # Look again when a quarter more has come: scanning stays linear however small the blocks are.
                self._wanted = max(self._sizes.min, len(self._buffer) + max(len(self._buffer) // 4, 1))
                return
            length, continues = found
            data = self._take(length)
            self._wanted = self._scanned = 0
            self._raw = None
            yield Piece(data, self._count(data, continues), continues)

    def _take(self, length: int) -> bytes | bytearray:
        """The first bytes of the buffer, without copying them when they are most of it."""
        if length * 2 < len(self._buffer):
            data = bytes(memoryview(self._buffer)[:length])
            del self._buffer[:length]
            return data
        whole, self._buffer = self._buffer, self._buffer[length:]
        del whole[length:]
        return whole

    def _next_cut(self, final: bool) -> tuple[int, bool] | None:
        """(length, continues) of the next chunk, or None when more bytes are needed to tell."""
        end = len(self._buffer)
        if self._raw is None:
            raw = self._content_cut()
            if raw == end:
                return (end, False) if final else None
            self._raw = raw
        raw = self._raw
        if self._records == "none":
            return raw, False
        limit = raw + RECORD_SEARCH_BYTES_MAX
        newline = self._buffer.find(b"\n", raw - 1, limit)
        if newline >= 0:
            return newline + 1, False
        if end >= limit:
            return raw, True
        return (end, False) if final else None

    def _content_cut(self) -> int:
        """Where FastCDC cuts; the buffer's end when it finds nothing in it."""
        with memoryview(self._buffer) as view:
            if self._sizes.avg <= _PIECE.avg:
                return self._first(view)[0]
            return self._combined_cut(view)

    def _combined_cut(self, view: memoryview) -> int:
        """Pieces of at most 16 MiB joined to a chunk (docs/formats/chunk.md, step 1)."""
        factor = self._sizes.avg // _PIECE.avg
        length = self._scanned
        while length < len(view):
            with view[length:] as rest:
                size, gear = self._first(rest)
            length += size
            if length == len(view):
                return length
            if length + _PIECE.max > self._sizes.max:
                return length
            top = (gear * _GOLDEN) & 0xFFFFFFFFFFFFFFFF
            threshold = (1 << 64) if length < self._sizes.avg else (1 << 65)
            share = 2 * factor if length < self._sizes.avg else factor
            if length >= self._sizes.min and top * share < threshold:
                return length
            self._scanned = length
        return length

    def _first(self, view: memoryview) -> tuple[int, int]:
        piece = next(self._scan.cut_buf(view))
        return piece.length, piece.gear_hash

    def _count(self, data: bytes | bytearray, continues: bool) -> int | None:
        """Records that begin in the chunk."""
        if self._records == "none":
            return None
        begun = _newlines(data) + (0 if data.endswith(b"\n") else 1) - (0 if self._at_record_start else 1)
        self._at_record_start = not continues
        return begun


def _newlines(data: bytes | bytearray) -> int:
    if len(data) < _COUNT_BYTES:
        return data.count(b"\n")
    import numpy as np  # not needed for what is small

    values = np.frombuffer(data, np.uint8)
    blocks = range(0, len(values), _COUNT_BYTES)
    return sum(int(np.count_nonzero(values[at : at + _COUNT_BYTES] == 10)) for at in blocks)
