"""A piece's bytes as blocks of whole records: what the formats made of lines have in common.

Blocks end where the piece's own bytes say, at the last record end before each multiple of `READ_BLOCK_BYTES`,
never where a file system or a decompressor happened to return: batches, and what a job makes of them, depend on
the bytes alone.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

import numpy as np
import pyarrow as pa

from mr.errors import CorruptInput
from mr.options import READ_BLOCK_BYTES, RECORD_BYTES_MAX, REJECT_RAW_BYTES_MAX

if TYPE_CHECKING:
    from mr.batch import Origins
    from mr.formats.base import Piece, Rejects

BOM = b"\xef\xbb\xbf"
_START_BYTES_MAX: Final = 64 * 1024
"""Within a record that is too long, the line that begins the next one is known by so many of its bytes."""
UNDECODABLE = "undecodable records"
"""The counter of records whose bytes are no text of their encoding and were mended."""


def record_blocks(
    piece: Piece, whole_bytes: Callable[[bytes], int], overlong: Overlong | None = None
) -> Iterator[tuple[bytes, int]]:
    """Blocks of whole records and their byte offsets in the piece; a byte order mark that begins a file is left out.

    `whole_bytes(data)` says how many bytes of `data`, which begins at a record, make whole records. What remains at
    the end of the piece is a record too. Memory: a block and a record.

    A record longer than `RECORD_BYTES_MAX` is taken out by `overlong`; without it `CorruptInput` is raised, naming path
    and offset.
    """
    rest, offset = b"", 0
    blocks = _even_blocks(piece)
    block = next(blocks, None)
    if block is not None and piece.offset == 0 and block.startswith(BOM):
        block, offset = block[len(BOM) :], len(BOM)
    while block is not None:
        following: bytes | None = b""
        damage = None
        try:
            following = next(blocks, None)
        except CorruptInput as error:  # what was read before is as good as it was
            damage = error
        if overlong is not None:
            rest, block, offset = overlong.taken_out(rest, block, offset, last=following is None)
        data, rest = _cut(rest, block, whole_bytes, last=following is None)
        if overlong is None and len(data) > RECORD_BYTES_MAX and not whole_bytes(data[: RECORD_BYTES_MAX + 1]):
            raise _too_long(piece, offset)
        if data:
            yield data, offset
        if damage is not None:
            raise damage
        offset, block = offset + len(data), following
        if overlong is None and len(rest) > RECORD_BYTES_MAX:
            raise _too_long(piece, offset)


def _too_long(piece: Piece, offset: int) -> CorruptInput:
    text = f"a record is longer than {RECORD_BYTES_MAX} bytes; is this the right format?"
    return CorruptInput(piece.path, offset, text, piece.offset)


class Overlong:
    r"""Takes records that are too long out of a stream of blocks; all that is behind goes on.

    Records end with `delimiter`. `too_long(offset, raw)` is told of each, `raw` being how it begins.
    """

    def __init__(self, too_long: Callable[[int, bytes], None], delimiter: bytes = b"\n") -> None:
        self._too_long = too_long
        self._delimiter = delimiter
        self._inside = False  # of such a record

    def first(self, data: bytes) -> tuple[int, int] | None:
        """The length of the record that `data` begins with or within, and where the next begins; None: it goes on."""
        end = data.find(self._delimiter)
        return None if end < 0 else (end, end + len(self._delimiter))

    def open_bytes(self, data: bytes) -> int:
        """How many bytes at the end of `data`, in which no record ends, may turn out to belong to such an end."""
        return min(len(data), len(self._delimiter) - 1)

    def passed(self, data: bytes) -> None:
        """Bytes of a record that is too long, which nobody will see."""

    def taken_out(self, rest: bytes, block: bytes, offset: int, last: bool) -> tuple[bytes, bytes, int]:
        """`rest`, which begins at `offset`, and `block`, which follows it, without what is of a record too long."""
        if not self._inside and len(rest) + len(block) <= RECORD_BYTES_MAX:
            return rest, block, offset
        data = rest + block
        end = self.first(data)
        length, after = end or (len(data) - (0 if last else self.open_bytes(data)),) * 2
        if not self._inside:
            if length <= RECORD_BYTES_MAX:
                return rest, block, offset
            self._too_long(offset, data[:REJECT_RAW_BYTES_MAX])
        self._inside = end is None
        self.passed(data[:after])
        return (data[after:], b"", offset + after) if end is None else (b"", data[after:], offset + after)


class OverlongBegun(Overlong):
    """As `Overlong`, for records that begin where `starts` matches, behind a newline; `passed` is told what is gone."""

    def __init__(
        self,
        too_long: Callable[[int, bytes], None],
        starts: re.Pattern[bytes],
        passed: Callable[[bytes], None],
    ) -> None:
        super().__init__(too_long)
        self._starts = starts
        self._passed = passed

    def first(self, data: bytes) -> tuple[int, int] | None:
        begins = next((match.start() for match in self._starts.finditer(data) if match.start()), None)
        return None if begins is None else (begins, begins)

    def open_bytes(self, data: bytes) -> int:
        """The last newline and the line behind it, unless so much of it is here that it would match."""
        line = len(data) - data.rfind(b"\n")
        return line if line <= min(len(data), _START_BYTES_MAX) else 0

    def passed(self, data: bytes) -> None:
        self._passed(data)


def reject_too_long(rejects: Rejects, offset: int, number: int, raw: bytes) -> None:
    """Leave record `number` out, which is too long. Raises what `rejects` raises."""
    text = f"a record is longer than {RECORD_BYTES_MAX} bytes; is this the right format?"
    rejects(np.array([[offset, number]], dtype=np.int64), [raw], [text])


def _cut(rest: bytes, block: bytes, whole_bytes: Callable[[bytes], int], last: bool) -> tuple[bytes, bytes]:
    """`rest` and `block`, which follow each other, cut behind the last whole record."""
    if last:
        return rest + block, b""
    if whole_bytes is whole_lines:  # which needs no look at `rest`, and so no copy of all to look at
        whole = whole_lines(block)
        return (b"".join((rest, memoryview(block)[:whole])), block[whole:]) if whole else (b"", rest + block)
    data = rest + block
    whole = whole_bytes(data)
    return data[:whole], data[whole:]


def whole_lines(data: bytes) -> int:
    r"""The bytes of `data` up to and with its last newline.

    >>> whole_lines(b"a\nbc\nd")
    5
    """
    return data.rfind(b"\n") + 1


def is_utf8(data: bytes) -> bool:
    r"""Whether all of `data` is UTF-8; 30 GB/s where it is ASCII.

    >>> is_utf8("é".encode()), is_utf8(b"\xe9")
    (True, False)
    """
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _even_blocks(piece: Piece) -> Iterator[bytes]:
    """The piece's bytes, cut at every multiple of `READ_BLOCK_BYTES`; all that came before damage, then its error."""
    parts: list[bytes] = []
    missing = READ_BLOCK_BYTES
    damage = None
    try:
        for block in piece.blocks(READ_BLOCK_BYTES):
            while len(block) >= missing:
                yield b"".join([*parts, block[:missing]]) if parts or len(block) > missing else block
                block, parts, missing = block[missing:], [], READ_BLOCK_BYTES
            if block:
                parts.append(block)
                missing -= len(block)
    except CorruptInput as error:
        damage = error
    if parts:
        yield b"".join(parts)
    if damage is not None:
        raise damage


def origins_of(offsets: np.ndarray[tuple[int], np.dtype[np.int64]], first: int) -> Origins:
    """Origins (n, 2) of consecutive records that begin at `offsets` of the piece, numbered from `first`.

    >>> origins_of(np.array([0, 5]), 7).tolist()
    [[0, 7], [5, 8]]
    """
    return np.column_stack([offsets, np.arange(first, first + len(offsets), dtype=np.int64)])


def needed(schema: pa.Schema, columns: tuple[str, ...] | None) -> list[str]:
    """The columns of `schema` to deliver, in its order: those asked for, and never none, for the number of rows.

    >>> needed(pa.schema([("a", "int8"), ("b", "int8")]), ())
    ['a']
    """
    if columns is None:
        return list(schema.names)
    return [name for name in schema.names if name in columns] or list(schema.names[:1])
